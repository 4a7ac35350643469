"""Single keys from a terminal, without echo, while something is drawn on it. Ctrl-C keeps its meaning;
Ctrl-Z gives the terminal back first. Leaving restores it. What is typed while nobody waits for a key stays in
the terminal, for the shell that reads it next.
"""

from __future__ import annotations

import asyncio
import os
import signal
import termios
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, Self, TextIO


class Keys:
    """A context manager over a terminal's input; on anything else it does nothing and no key ever comes.
    `before_stop` is called when the process is about to be stopped by Ctrl-Z.
    """

    def __init__(self, source: TextIO, before_stop: Callable[[], None]) -> None:
        self._source = source
        self._before_stop = before_stop
        self._saved: list[Any] | None = None
        self._waiting: asyncio.Future[str] | None = None

    def __enter__(self) -> Self:
        try:
            fd = self._source.fileno()
            if not os.isatty(fd) or os.tcgetpgrp(fd) != os.getpgrp():
                return self
            saved = termios.tcgetattr(fd)
        except (OSError, ValueError, termios.error):
            return self
        self._saved = saved
        self._quieten(saved)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTSTP, self._stop)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._saved is None:
            return
        asyncio.get_running_loop().remove_signal_handler(signal.SIGTSTP)
        self._give_back(self._saved)
        self._saved = None

    @property
    def usable(self) -> bool:
        """Whether keys can come at all."""
        return self._saved is not None

    async def key(self) -> str:
        """The next key pressed from now on; what was typed before is dropped."""
        loop, fd = asyncio.get_running_loop(), self._source.fileno()
        with suppress(termios.error):  # the terminal may be gone
            termios.tcflush(fd, termios.TCIFLUSH)
        self._waiting = loop.create_future()
        loop.add_reader(fd, self._read)
        try:
            return await self._waiting
        finally:
            loop.remove_reader(fd)
            self._waiting = None

    def _quieten(self, saved: list[Any]) -> None:
        quiet = [*saved]
        quiet[3] &= ~(termios.ECHO | termios.ICANON)
        termios.tcsetattr(self._source.fileno(), termios.TCSADRAIN, quiet)

    def _give_back(self, saved: list[Any]) -> None:
        with suppress(termios.error):  # the terminal may be gone
            termios.tcsetattr(self._source.fileno(), termios.TCSADRAIN, saved)

    def _stop(self) -> None:
        """Ctrl-Z: leave the terminal to the shell, stop, and take it back when we go on."""
        if self._saved is None:
            return
        self._before_stop()
        self._give_back(self._saved)
        os.kill(os.getpid(), signal.SIGSTOP)
        self._quieten(self._saved)

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
