"""Checkpoints of the turns: one before each call that may write, where something changed since the last, and one at
the end of a turn. While the model thinks, the next one is taken ahead, so that the call seldom waits for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from runner.sessions.timeline import CALL, END, START

PAUSE = 0.01  # by then the request is on its way, and a model on this machine has answered


class Take(Protocol):
    """Takes a checkpoint, of which `label` and `before` (the call it is for) tell when."""

    def __call__(self, label: str, *, before: str = "") -> Awaitable[None]:
        """Nothing is kept where nothing changed."""
        ...


class Ahead:
    """One session's. `before_write`, `between` and `after_turn` are the loop's to call, in the order of its work.
    Never two are taken at once; what one that was taken ahead raised, the next call gets.
    """

    def __init__(self, take: Take, *, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        self._take = take
        self._sleep = sleep
        self._wrote = False
        self._waiting: asyncio.Task[None] | None = None
        self._begun = False

    async def before_write(self, call: str) -> None:
        """The present is kept before a call changes it."""
        first, self._wrote = not self._wrote, True
        await self.settle()
        await self._take(START if first else CALL, before=call)

    def between(self) -> None:
        """A round's calls have ended, and the model is asked next: begin, unless it answers at once."""
        if self._wrote and self._waiting is None:
            self._waiting = asyncio.create_task(self._ahead(), name="checkpoint ahead")

    async def after_turn(self) -> None:
        """What the turn made is kept."""
        wrote, self._wrote = self._wrote, False
        try:
            await self.settle()
        finally:
            if wrote:
                await self._take(END)

    async def settle(self) -> None:
        """One that has not begun need not; one that has is waited for. Raises what it raised."""
        waiting = self._waiting
        if waiting is None:
            return
        if not self._begun:
            waiting.cancel()
        await asyncio.wait({waiting})
        self._waiting, self._begun = None, False
        if not waiting.cancelled() and (error := waiting.exception()) is not None:
            raise error

    async def _ahead(self) -> None:
        await self._sleep(PAUSE)
        self._begun = True
        await self._take(CALL)
