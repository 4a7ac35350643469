"""The session's box as the gate sees it: awaited at the first need, and started again when lost."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from runner.events import BoxEnded
from sandbox.errors import BoxLostError, DiskFullError, EngineLostError, ProtocolError, SandboxError
from sandbox.spec import Box

LOST = (BoxLostError, ProtocolError, EngineLostError)


class BoxHandle:
    """`start` gives the box; `restart` gives a new one over the same layers, None where that cannot be done.
    A lost box is started again once in a turn, and again at the first need of the next.
    """

    def __init__(
        self,
        start: Callable[[], Awaitable[Box]],
        restart: Callable[[], Awaitable[Box]] | None,
        record: Callable[[BoxEnded], object],
    ) -> None:
        self._next = start
        self._restart = restart
        self._record = record
        self._box: asyncio.Future[Box] | None = None
        self._restarts_left = 1

    async def get(self) -> Box:
        """The box, waiting until it answers. Raises what its start raised."""
        if self._box is None:
            self._box = asyncio.ensure_future(self._next())
        # An interrupted call must not take the start down with it.
        return await asyncio.shield(self._box)

    @property
    def ready(self) -> bool:
        """Whether `get` would answer at once."""
        box = self._box
        return box is not None and box.done() and not box.cancelled() and box.exception() is None

    def renew(self) -> None:
        """A new turn: a start that failed is tried again, and one more restart is granted."""
        self._restarts_left = 1
        if self._box is not None and self._box.done() and not self.ready:
            self._box, self._next = None, self._restart or self._next

    def ended(self) -> None:
        """The box was ended on purpose; the next need starts another."""
        self._box, self._next = None, self._restart or self._next

    def lost(self, box: Box, error: SandboxError) -> bool:
        """Told of an error of `box`; says whether this turn may go on with what the next `get` gives. Of
        several calls that fail together only the first counts.
        """
        if isinstance(error, DiskFullError) or not self.ready or self._box is None or self._box.result() is not box:
            return True
        self._record(BoxEnded(reason="lost", detail=str(error)))
        self._box, self._next = None, self._restart or self._next
        self._restarts_left -= 1
        return self._restart is not None and self._restarts_left >= 0
