"""The session's box as the gate sees it: awaited at the first need, and started again when lost."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from runner.events import BoxEnded
from sandbox.errors import BoxLostError, DiskFullError, EngineLostError, ProtocolError, SandboxError
from sandbox.spec import Box

LOST = (BoxLostError, ProtocolError, EngineLostError)


class BoxHandle:
    """`start` gives the box (the same one each time it is called); `restart` gives a new one over the same
    layers, None where that cannot be done. A box is started again once per turn.
    """

    def __init__(
        self,
        start: Callable[[], Awaitable[Box]],
        restart: Callable[[], Awaitable[Box]] | None,
        record: Callable[[BoxEnded], object],
    ) -> None:
        self._start = start
        self._restart = restart
        self._record = record
        self._box: asyncio.Future[Box] | None = None
        self._restarts_left = 1

    async def get(self) -> Box:
        """The box, waiting until it answers. Raises what its start raised."""
        if self._box is None:
            self._box = asyncio.ensure_future(self._start())
        # An interrupted call must not take the start down with it.
        return await asyncio.shield(self._box)

    @property
    def ready(self) -> bool:
        """Whether `get` would answer at once."""
        return self._box is not None and self._box.done() and self._box.exception() is None

    def renew(self) -> None:
        """A new turn: one more restart is granted."""
        self._restarts_left = 1

    def lost(self, box: Box, error: SandboxError) -> bool:
        """Told of an error of `box`; says whether the next `get` gives another one. Only the first of
        several calls that fail together counts.
        """
        if isinstance(error, DiskFullError):
            return True
        if self._box is None or not self.ready or self._box.result() is not box:
            return True
        self._record(BoxEnded(reason="lost", detail=str(error)))
        if self._restart is None or self._restarts_left <= 0:
            return False
        self._restarts_left -= 1
        self._box = asyncio.ensure_future(self._restart())
        return True
