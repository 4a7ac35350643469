"""The git state for the first request: asked in the box, told when it is known, never waited for long."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from runner.loop.context import git_block
from sandbox.errors import SandboxError

PATIENCE = 0.15


class GitState:
    """`ask` gives the state as text; it waits for the box if need be."""

    def __init__(self, ask: Callable[[str], Awaitable[str]]) -> None:
        self._ask = ask
        self._task: asyncio.Task[str] | None = None

    async def begin(self, *, box_ready: bool) -> None:
        """Ask; wait a moment only when the box could answer in it."""
        self._task = asyncio.create_task(self._state())
        if box_ready:
            await asyncio.wait({self._task}, timeout=PATIENCE)

    async def _state(self) -> str:
        with suppress(SandboxError):
            return await self._ask("git_state")
        return ""

    def news(self) -> list[dict[str, Any]]:
        """Blocks for the next request: the state, once, when it is known by now."""
        task = self._task
        if task is None or not task.done():
            return []
        self._task = None
        state = "" if task.cancelled() or task.exception() is not None else task.result().strip()
        return [git_block(state)] if state else []

    def cancel(self) -> None:
        """Nobody will ask any more."""
        if self._task is not None:
            self._task.cancel()
