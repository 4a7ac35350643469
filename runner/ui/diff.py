"""A git-format diff made fit for a terminal: what it holds made visible, lines coloured by what they are.

Lines are told apart by counting a hunk's lines, not by their first characters alone: a removed line
`-- x` is no header.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from runner.ui.safe import visible

_HUNK = re.compile(r"@@ -\d+(?:,(\d+))? \+\d+(?:,(\d+))? @@")
_RESET = "\x1b[0m"
_BOLD, _CYAN, _GREEN, _RED, _DIM = "\x1b[1m", "\x1b[36m", "\x1b[32m", "\x1b[31m", "\x1b[2m"


def wants_colour(environ: Mapping[str, str], *, terminal: bool) -> bool:
    """Whether to colour. Source: no-color.org; TERM=dumb knows no colours."""
    return terminal and not environ.get("NO_COLOR") and environ.get("TERM", "") not in ("", "dumb")


class DiffPainter:
    """Feed it a diff in pieces of any size; it gives back whole lines. `close` gives the last one."""

    def __init__(self, *, colour: bool) -> None:
        self._colour = colour
        self._rest = ""
        self._old = self._new = 0

    def feed(self, piece: str) -> str:
        """The lines that are complete now."""
        *lines, self._rest = (self._rest + piece).split("\n")
        return "".join(self._paint(line) + "\n" for line in lines)

    def close(self) -> str:
        """What had no newline."""
        rest, self._rest = self._rest, ""
        return self._paint(rest) + "\n" if rest else ""

    def _paint(self, line: str) -> str:
        style = self._style(line)
        shown = visible(line)
        return f"{style}{shown}{_RESET}" if style and self._colour else shown

    def _style(self, line: str) -> str:
        if self._old > 0 or self._new > 0:
            return self._inside(line)
        if hunk := _HUNK.match(line):
            old, new = (1 if number is None else int(number) for number in hunk.groups())
            self._old, self._new = old, new
            return _CYAN
        return _DIM if line.startswith("\\") else _BOLD if line else ""

    def _inside(self, line: str) -> str:
        mark = line[:1]
        if mark == "\\":
            return _DIM
        self._old -= mark != "+"
        self._new -= mark != "-"
        return {"+": _GREEN, "-": _RED}.get(mark, "")
