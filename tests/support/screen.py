"""A pseudo-terminal with a screen behind it, to see what a user would."""

from __future__ import annotations

import fcntl
import os
import struct
import termios
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TextIO

import pyte

from runner.ui.glyphs import UNICODE


@dataclass(slots=True)
class Terminal:
    """A pseudo-terminal with a screen that understands what is written to it."""

    out: TextIO
    master: int
    screen: pyte.HistoryScreen
    stream: pyte.ByteStream
    raw: bytearray = field(default_factory=bytearray)

    def read(self) -> list[str]:
        """Everything since the start: what scrolled away, then the screen, without empty ends."""
        while True:
            try:
                data = os.read(self.master, 1 << 16)
            except BlockingIOError:
                break
            self.raw += data
            self.stream.feed(data)
        past = ["".join(row[x].data for x in range(self.screen.columns)) for row in self.screen.history.top]
        still = str.maketrans(dict.fromkeys(UNICODE.spin, UNICODE.spin[0]))
        lines = [line.rstrip().translate(still) for line in [*past, *self.screen.display]]
        while lines and not lines[-1]:
            lines.pop()
        return lines

    def resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self.out.fileno(), termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.screen.resize(rows, columns)

    def press(self, keys: str) -> None:
        os.write(self.master, keys.encode())


Opener = Callable[..., Terminal]


def text_of(fd: int, encoding: str) -> TextIO:
    return open(fd, "w", encoding=encoding)
