"""Checkpoints: states of a box's writable places, taken and gone back to.

What changed goes into a log (`sandbox.points`); where much did, the layer is frozen instead, if it can be
(`sandbox.freezing`). `sandbox.taking` finds what changed, `sandbox.restoring` goes back. Everything blocks; one caller
at a time.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from sandbox.capture import UnsteadyError
from sandbox.compaction import Stop, abandon, beside, by_path, follow, rewrite, take_place, wants_packing
from sandbox.errors import DiskFullError, WorkspaceError
from sandbox.forks import Forks
from sandbox.freezing import AtRest, Freezing, Swap
from sandbox.keeper import Keeper
from sandbox.places import Places
from sandbox.points import Checkpoint, Log
from sandbox.pool import Pool
from sandbox.refill import Refill
from sandbox.restoring import Restoring
from sandbox.states import Payload, State, update, whole
from sandbox.store import Store
from sandbox.system import NAME, System
from sandbox.taking import Freeze, Present, Taken, Taking, summary


class Checkpoints:
    """The checkpoints of one session. `places` must have its layers made before `take`. Close it."""

    def __init__(
        self,
        places: Places,
        keeper: Keeper,
        *,
        directory: Path,
        pool: Pool | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`directory`: where the log and the intents lie (`state/store`); made when first needed. `pool`: of the
        frozen layers; the session's own without one.
        """
        self.pool = pool or Pool(directory / "frozen")
        self._places = places
        self._keeper = keeper
        self._directory = directory
        self._freezing = Freezing(places, self.pool, keeper, directory=directory)
        self._refill = Refill(places, keeper)
        self._clock = clock
        self._log: Log | None = None
        self._taking = Taking(places, keeper, self._freezing)
        self._restoring = Restoring(
            self._taking,
            self._freezing,
            self._refill,
            places=places,
            pool=self.pool,
            keeper=keeper,
            directory=directory,
        )
        self._lock = threading.RLock()

    def close(self) -> None:
        """Give the log back."""
        with self._lock:
            if self._log is not None:
                self._log.close()
                self._log = None
            self._taking.present = Present()

    @property
    def system(self) -> System | None:
        """The root file system, where it is writable; set by whoever runs the box."""
        return self._taking.system

    @system.setter
    def system(self, system: System | None) -> None:
        self._taking.system = system

    def list(self) -> tuple[Checkpoint, ...]:
        """All of them, oldest first."""
        with self._lock:
            return self._open().checkpoints

    @property
    def present(self) -> str:
        """Id of the checkpoint that was last taken or gone back to; "" before the first."""
        with self._lock:
            return self._open().present

    def find(self, prefix: str) -> Checkpoint:
        """The one whose id is or begins so. Raises WorkspaceError."""
        with self._lock:
            return self._open().find(prefix)

    def state(self, checkpoint: str) -> dict[str, State]:
        """The rows of all layers at a checkpoint, frozen ones merged in. Raises StoreError."""
        with self._lock:
            return self._open().flat(checkpoint)

    def pieces(self, payload: Payload) -> Iterator[bytes | int]:
        """A file's content, from its row's payload in a `state`, holes as numbers. Raises StoreError; OSError for a
        frozen layer.
        """
        with self._lock:
            log = self._open()
        for piece in log.pieces(payload):
            if isinstance(piece, str):
                with self._lock:
                    piece = self._open().get(piece)  # noqa: PLW2901 - the lock is not held while a reader has its turn
            yield piece

    @property
    def wants_packing(self) -> bool:
        """Whether `pack` is worth it by now."""
        with self._lock:
            return self._log is not None and wants_packing(self._log.store)

    def pack(self, stop: Stop) -> None:
        """Compress what was kept so far; checkpoints may be taken meanwhile. In the background. Raises StoreError,
        OSError, StoppedError; nothing changed then.
        """
        with self._lock:
            log = self._open()
            store = log.store
            store.flush()
            source = Store(store.file, writable=False)
        with source:
            notes = list(source.notes())
            target = rewrite(source, by_path(source, notes), notes, stop=stop)
            try:
                with self._lock:
                    if self._log is log:
                        follow(store, target, len(source.records))
                        take_place(target, store.file)
                        log.store = target
                        store.close()
            finally:
                if log.store is not target:
                    abandon(target)

    def take(
        self,
        label: str,
        *,
        busy: bool = False,
        freeze: Freeze = nullcontext,
        durable: bool = False,
        swap: Swap | None = None,
    ) -> Checkpoint | None:
        """Keep the present state; None where nothing changed since the last one (nothing is stored then).
        `busy`: something else may run in the box, which `freeze` then holds still. `durable`: also
        against a loss of power. `swap`: how layers in which much changed can be frozen; None: they cannot.
        Raises WorkspaceError, DiskFullError, StoreError.
        """
        with self._at_work() as log, self._taking.sure():
            self._taking.load(log)
            before, taken = log.store.size, Taken()
            self._taking.find(log, taken, busy=busy, freeze=freeze, swap=swap)
            if not (taken.deltas or taken.frozen) and taken.image == log.image(log.present):
                return None
            way = swap.way if swap is not None and taken.frozen else "log"
            return self._keep(log, label, taken, before=before, durable=durable, way=way)

    def rest(self) -> bool:
        """Nothing stands on the layers any more: freeze what has grown large, if all of it is in the last checkpoint.
        Raises as `take`.
        """
        with suppress(UnsteadyError), self._at_work() as log, self._taking.sure():
            self._taking.load(log)
            if not log.present or not any(map(self._taking.is_large, self._taking.present.states.values())):
                return False
            taken = Taken()
            self._taking.capture(log, taken, settle=False, bounded=False, rotate=True)
            if taken.deltas or not taken.much:
                return False
            self._taking.freeze(log, taken, AtRest())
            if taken.frozen and not taken.deltas:
                log.restack(self._taking.present.states)
            return bool(taken.frozen)
        return False

    def restore(
        self, checkpoint: str, *, note: Mapping[str, Any] | None = None, swap: Swap | None = None
    ) -> tuple[str, ...]:
        """Go back to a checkpoint; the present state must have been taken. `swap`: how what stands on the layers comes
        to stand on others; None: nothing does. Returns the names of the layers that were made anew. `note` goes
        into the intent: see `pending`. Raises SwapError, WorkspaceError, DiskFullError, StoreError; nothing
        happened then (a SwapError that says `dead` comes after all of it is done).
        """
        with self._at_work() as log:
            return self._restoring.restore(log, checkpoint, note=note or {}, swap=swap)

    def fork(self, checkpoint: str, targets: Iterable[tuple[str, Path]]) -> tuple[str, ...]:
        """Fill the empty state directories of new sessions (id, directory) with what this one was at a checkpoint: see
        `sandbox.forks`. Raises WorkspaceError, DiskFullError, StoreError.
        """
        with self._at_work() as log:
            tools = (self._places, self.pool, self._keeper, self._freezing, self._refill)
            forks = Forks(*tools, directory=self._directory)
            return forks.make(log, checkpoint, targets, most=self._taking.most)

    @property
    def image(self) -> str:
        """The image of the root file system as it stands, "" for the session's own."""
        with self._lock:
            return self._taking.image(self._open())

    def image_differs(self, checkpoint: str) -> bool:
        """Whether going back to a checkpoint takes another root file system than there is."""
        with self._lock:
            log = self._open()
            return self._taking.image(log) != log.image(checkpoint)

    @property
    def pending(self) -> dict[str, Any] | None:
        """The note of a restore that is done in the layers and was not yet `settle`d."""
        return self._restoring.pending

    def settle(self) -> None:
        """What went with the restore is done too."""
        self._restoring.settle()

    def finish(self) -> None:
        """Finish what an intent on record decided; remove what one without left behind."""
        self._restoring.finish()

    def empty_trash(self) -> None:
        """Remove the directories and volumes that were replaced. Slow where they are large: in the background."""
        self._restoring.empty_trash()

    @property
    def most(self) -> tuple[int, int]:
        """How many entries and bytes a layer may hold before it is frozen."""
        return self._taking.most

    @most.setter
    def most(self, most: tuple[int, int]) -> None:
        self._taking.most = most

    @contextmanager
    def _at_work(self) -> Iterator[Log]:
        """The log, and nobody else at it. An OSError becomes ours."""
        with self._lock:
            try:
                yield self._open()
            except OSError as error:
                raise _translated(error) from error

    def _open(self) -> Log:
        if self._log is None:
            beside(self._directory / "checkpoints").unlink(missing_ok=True)
            self._log = Log(self._directory / "checkpoints", self.pool, self._keeper, clock=self._clock)
        return self._log

    def _keep(self, log: Log, label: str, taken: Taken, *, before: int, durable: bool, way: str) -> Checkpoint:
        present, system = self._taking.present, self.system
        update(present.states, taken.deltas)
        deltas = taken.deltas | {name: whole(present.states[name]) for name in taken.frozen}
        files, changed = summary(taken.deltas, taken.frozen)
        grown = 0
        if system is not None and taken.image != log.image(log.present):
            files, changed = files + 1, [NAME, *changed]
            grown = system.size(taken.image) if taken.image else 0
        made = log.keep(
            deltas,
            present.states,
            label=label,
            before=before,
            summary=(files, changed),
            way=way,
            image=taken.image,
            grown=grown,
        )
        if durable:
            log.store.sync()
        if system is not None:
            system.kept()
        present.owed = {}
        return made


def _translated(error: OSError) -> WorkspaceError | DiskFullError:
    what = os.fsencode(error.filename or "").decode("utf-8", "backslashreplace")
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFullError("no space left for a checkpoint")
    return WorkspaceError(f"the session's files cannot be kept: {what} {error.strerror}")
