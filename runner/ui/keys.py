"""Single keys from a terminal, without echo, while something is drawn on it. Ctrl-C and Ctrl-Z keep
their meaning. Leaving restores the terminal.
"""

from __future__ import annotations

import asyncio
import os
import termios
from types import TracebackType
from typing import Self, TextIO


class Keys:
    """A context manager over a terminal's input; on anything else it does nothing and no key ever comes."""

    def __init__(self, source: TextIO) -> None:
        self._source = source
        self._saved: list[object] | None = None
        self._waiting: asyncio.Future[str] | None = None

    def __enter__(self) -> Self:
        try:
            fd = self._source.fileno()
            if not os.isatty(fd) or os.tcgetpgrp(fd) != os.getpgrp():
                return self
            saved = termios.tcgetattr(fd)
        except (OSError, ValueError, termios.error):
            return self
        quiet = [*saved]
        quiet[3] &= ~(termios.ECHO | termios.ICANON)
        termios.tcsetattr(fd, termios.TCSADRAIN, quiet)
        self._saved = saved
        asyncio.get_running_loop().add_reader(fd, self._read)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._saved is None:
            return
        fd = self._source.fileno()
        asyncio.get_running_loop().remove_reader(fd)
        termios.tcsetattr(fd, termios.TCSADRAIN, self._saved)  # type: ignore[arg-type]
        self._saved = None

    @property
    def usable(self) -> bool:
        """Whether keys can come at all."""
        return self._saved is not None

    async def key(self) -> str:
        """The next key pressed from now on; what was typed before is dropped."""
        self._waiting = asyncio.get_running_loop().create_future()
        try:
            return await self._waiting
        finally:
            self._waiting = None

    def _read(self) -> None:
        fd = self._source.fileno()
        try:
            typed = os.read(fd, 1024).decode(errors="replace")
        except OSError:
            typed = ""
        if not typed:  # the terminal is gone
            asyncio.get_running_loop().remove_reader(fd)
        # More than one character at once is a paste or an arrow key, never an answer.
        if len(typed) == 1 and self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(typed)
