"""What stands on the layers of a session, nothing or a box, and what can be done to them therefore: states are
taken and gone back to with the box alive where that can be, without it where not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from sandbox.checkpoints import Checkpoints
from sandbox.dataclass import dataclass
from sandbox.errors import WorkspaceError
from sandbox.freezer import Freezer
from sandbox.freezing import AtRest, Swap, SwapError
from sandbox.places import Places
from sandbox.points import Checkpoint
from sandbox.remount import Remount


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """What going back came to. `layers`: the names of those that were made anew; `alive`: the box stands on them."""

    layers: tuple[str, ...]
    alive: bool


class Footing:
    """For one session. `freezer`: of the box, once there is one. `stands`: whether a box may stand on the layers;
    None: it cannot be told.
    """

    def __init__(self, places: Places, checkpoints: Checkpoints) -> None:
        self._places = places
        self._checkpoints = checkpoints
        self._cleaning: asyncio.Task[None] | None = None
        self.freezer: Freezer | None = None
        self.stands: bool | None = None

    async def checkpoint(self, label: str, *, first: Callable[[], object]) -> Checkpoint | None:
        """See Workspace.checkpoint. `first` is done before, in the same thread."""

        def take() -> Checkpoint | None:
            first()
            freezer = self.freezer
            if freezer is None:
                return self._checkpoints.take(label, swap=self._swap())
            return self._checkpoints.take(label, busy=freezer.busy(), freeze=freezer.frozen, swap=self._swap())

        return await asyncio.shield(asyncio.to_thread(take))

    async def restore(self, checkpoint: str, note: Mapping[str, Any] | None = None) -> Restored | None:
        """See Workspace.restore."""
        restored = await asyncio.shield(asyncio.to_thread(self._restore, checkpoint, note))
        if restored is not None and (self._cleaning is None or self._cleaning.done()):
            self._cleaning = asyncio.create_task(asyncio.to_thread(self._checkpoints.empty_trash), name="old layers")
        return restored

    def _restore(self, checkpoint: str, note: Mapping[str, Any] | None) -> Restored | None:
        if not self.stands:
            return Restored(layers=self._checkpoints.restore(checkpoint, note=note), alive=False)
        freezer, swap = self.freezer, Remount.of(self.freezer)
        if freezer is None or swap is None or not freezer.end_others():
            return None
        try:
            with freezer.frozen():
                return Restored(layers=self._checkpoints.restore(checkpoint, note=note, swap=swap), alive=True)
        except SwapError as error:
            if error.dead:
                raise WorkspaceError(f"the files are back, the box had to be ended: {error}") from error
            return None

    async def ended(self) -> None:
        """The box is gone; what it left is frozen where it is much. Raises as a checkpoint does."""
        self.freezer, self.stands = None, False
        if self._places.table is not None:
            await asyncio.shield(asyncio.to_thread(self._checkpoints.rest))

    async def close(self) -> None:
        """Wait for what goes on in the background."""
        if self._cleaning is not None:
            await asyncio.gather(self._cleaning, return_exceptions=True)

    def _swap(self) -> Swap | None:
        if self.stands is False:
            return AtRest()
        return Remount.of(self.freezer) if self.stands else None
