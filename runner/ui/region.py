"""The bottom lines of a terminal that are drawn again and again while finished lines scroll away above.

Owns the cursor between `draw` and `close` and nothing else. Each draw is one write. Rows are counted
again for the width of the moment, since most terminals fold old lines anew when they are made narrower.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TextIO

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from runner.ui.safe import encodable

_HIDE, _SHOW = "\x1b[?25l", "\x1b[?25h"
_BEGIN, _END = "\x1b[?2026h", "\x1b[?2026l"  # one frame; terminals that do not know it ignore it


class Region:
    """Draws on `out`, which is a terminal. Colours follow the terminal, NO_COLOR and TERM."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._console = Console(file=out, highlight=False, markup=False, emoji=False, force_terminal=True)
        self._drawn: list[int] = []

    @property
    def size(self) -> tuple[int, int]:
        """Columns and rows of the terminal now; at least 10 by 3."""
        try:
            columns, rows = os.get_terminal_size(self._out.fileno())
        except (OSError, ValueError):
            columns, rows = 80, 24
        return max(columns, 10), max(rows, 3)

    def draw(self, above: Sequence[Text], lines: Sequence[Text]) -> None:
        """Print `above` for good, and put `lines` below it in place of the last ones. Lines are cut to the
        terminal's width; when there are more than fit, the last ones are shown.
        """
        width, height = self.size
        self._console.width = width
        cut = [_cut(line, width - 1) for line in lines[-(height - 1) :]]
        printed = self._render(above)
        body = self._render([Text("\n").join(cut)])[:-1] if cut else ""
        if not printed and not body and not self._drawn:
            return
        frame = self._erase(width) + printed + body + (_HIDE if cut else _SHOW)
        self._drawn = [line.cell_len for line in cut]
        self._write(_BEGIN + frame + _END)

    def close(self) -> None:
        """Take the lines away and show the cursor. May be called twice."""
        self.draw((), ())

    def _render(self, renderables: Sequence[Text]) -> str:
        with self._console.capture() as capture:
            for renderable in renderables:
                self._console.print(renderable, no_wrap=renderable.no_wrap, overflow=renderable.overflow)
        return capture.get()

    def _erase(self, width: int) -> str:
        if not self._drawn:
            return ""
        rows = sum(max(1, -(-cells // width)) for cells in self._drawn)
        # Line by line: clearing the screen from its first line on makes tmux keep what was there as history.
        return "\r\x1b[2K" + "\x1b[1A\x1b[2K" * (rows - 1)

    def _write(self, frame: str) -> None:
        self._out.write(encodable(frame, self._out.encoding or "ascii"))
        self._out.flush()


def _cut(line: Text, width: int) -> Text:
    short = line.copy()
    if cell_len(short.plain) > width:
        short.truncate(width, overflow="ellipsis")
    return short
