"""A terminal for the tests of what is drawn."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pyte
import pytest

from tests.support.screen import Opener, Terminal, text_of


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Opener]:
    monkeypatch.setenv("TERM", "xterm-256color")
    made: list[Terminal] = []

    def open_terminal(columns: int = 80, rows: int = 24, encoding: str = "utf-8") -> Terminal:
        master, slave = os.openpty()
        os.set_blocking(master, False)
        screen = pyte.HistoryScreen(columns, rows, history=1000, ratio=1)
        terminal = Terminal(
            out=text_of(slave, encoding),
            master=master,
            screen=screen,
            stream=pyte.ByteStream(screen),
        )
        terminal.resize(columns, rows)
        made.append(terminal)
        return terminal

    yield open_terminal
    for terminal in made:
        terminal.out.close()
        os.close(terminal.master)
