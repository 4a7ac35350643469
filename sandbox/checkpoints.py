"""Checkpoints: states of a box's writable places, taken and gone back to.

What changed goes into a log (`sandbox.points`); where much did, the layer is frozen instead, if it can be
(`sandbox.freezing`). Going back builds new directories beside the old ones, then an intent record, then
renames (`sandbox.intents`): before the record nothing happened, after it whoever comes next finishes.
Everything blocks; one caller at a time.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sandbox.capture import Capture, MuchError, UnsteadyError
from sandbox.compaction import Stop, abandon, beside, by_path, follow, rewrite, take_place, wants_packing
from sandbox.copies import remove_tree
from sandbox.errors import DiskFullError, WorkspaceError
from sandbox.forks import Forks
from sandbox.freezing import AtRest, Freezing, Stack, Swap, SwapError
from sandbox.intents import RESTORE, TRASH, Intent, discard, finish, finish_restore
from sandbox.keeper import Keeper
from sandbox.layers import Layer
from sandbox.places import Places
from sandbox.points import Checkpoint, Log
from sandbox.pool import Pool
from sandbox.rebuild import Rebuild
from sandbox.spec import Rung
from sandbox.states import Delta, Payload, State, same_state, update, whole
from sandbox.store import Store

__all__ = ["Checkpoint", "Checkpoints", "Freeze", "finish_restore"]

# A layer is frozen when its upper directory holds, or will hold, more entries or bytes than these.
MOST_ENTRIES = 500
MOST_BYTES = 16 << 20
_TRIES = 3
Freeze = Callable[[], AbstractContextManager[object]]


@dataclass(slots=True)
class _Present:
    """The states of all layers as of the last checkpoint or restore, once they are loaded."""

    states: dict[str, State] = field(default_factory=dict)
    owed: dict[str, State] = field(default_factory=dict)
    loaded: bool = False


@dataclass(slots=True)
class _Taken:
    """What one `take` found. `frozen`: what had changed in the layers that were frozen."""

    deltas: dict[str, Delta] = field(default_factory=dict)
    frozen: dict[str, Delta] = field(default_factory=dict)
    much: list[Layer] = field(default_factory=list)


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
        self._clock = clock
        self._log: Log | None = None
        self._present = _Present()
        self._lock = threading.RLock()
        self.most = (MOST_ENTRIES, MOST_BYTES)

    def close(self) -> None:
        """Give the log back."""
        with self._lock:
            if self._log is not None:
                self._log.close()
                self._log = None
            self._present = _Present()

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
                    yield self._open().get(piece)
            else:
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
        with self._lock:
            try:
                log = self._open()
                self._load(log)
                before, taken = log.store.size, _Taken()
                self._find(log, taken, busy=busy, freeze=freeze, swap=swap)
                if not (taken.deltas or taken.frozen):
                    return None
                way = swap.way if swap is not None and taken.frozen else "log"
                return self._keep(log, label, taken, before=before, durable=durable, way=way)
            except BaseException as error:
                self._present.loaded = False
                if isinstance(error, OSError):
                    raise _translated(error) from error
                raise

    def rest(self) -> bool:
        """Nothing stands on the layers any more: freeze what has grown large, if all of it is in the last checkpoint.
        Raises as `take`.
        """
        with self._lock:
            try:
                log = self._open()
                self._load(log)
                if not log.present or not any(self._is_large(state) for state in self._present.states.values()):
                    return False
                taken = _Taken()
                self._capture(log, taken, settle=False, bounded=False, rotate=True)
                if taken.deltas or not taken.much:
                    return False
                self._freeze(log, taken, AtRest())
                if taken.frozen and not taken.deltas:
                    log.restack(self._present.states)
                return bool(taken.frozen)
            except UnsteadyError:
                self._present.loaded = False
                return False
            except BaseException as error:
                self._present.loaded = False
                if isinstance(error, OSError):
                    raise _translated(error) from error
                raise

    def restore(
        self, checkpoint: str, *, note: Mapping[str, Any] | None = None, swap: Swap | None = None
    ) -> tuple[str, ...]:
        """Go back to a checkpoint; the present state must have been taken. `swap`: how what stands on the layers comes
        to stand on others; None: nothing does. Returns the names of the layers that were made anew. `note` goes
        into the intent: see `pending`. Raises SwapError, WorkspaceError, DiskFullError, StoreError; nothing
        happened then (a SwapError that says `dead` comes after all of it is done).
        """
        with self._lock:
            try:
                log = self._open()
                wanted = log.state(checkpoint)
                self._load(log)
                layers = [la for la in self._layers() if not same_state(self._state(la), wanted[la.name])]
                if swap is not None and any(layer.rung is not Rung.OVERLAY for layer in layers):
                    raise SwapError("a whole copy cannot be replaced under a box")
                with ExitStack() as after:
                    stacks = {la.at: self._build(la, wanted[la.name], log) for la in layers}
                    staged = (swap or AtRest()).stage(stacks)
                    after.callback(staged.close)
                    intent = Intent(
                        layers={layer.name: self._places.top(layer).name for layer in layers},
                        lowers={layer.name: wanted[layer.name].lowers for layer in layers},
                        checkpoint=checkpoint,
                        note=dict(note or {}),
                    )
                    intent.write(self._intent)
                    dead: SwapError | None = None
                    try:
                        staged.swap()
                    except SwapError as error:
                        if not error.dead:
                            self._intent.unlink()
                            raise
                        dead = error
                    finish(self._places.directory, intent)
                self._places.reload()
                made = {layer.name for layer in layers}
                kept = {la.name: self._state(la) for la in self._layers() if la.name not in made}
                self._present = _Present(states=wanted | kept, loaded=True)
                log.go(checkpoint)
                if dead is not None:
                    raise dead
                return tuple(layer.name for layer in layers)
            except OSError as error:
                raise _translated(error) from error

    def fork(self, checkpoint: str, targets: Iterable[tuple[str, Path]]) -> tuple[str, ...]:
        """Fill the empty state directories of new sessions (id, directory) with what this one was at a checkpoint: see
        `sandbox.forks`. Raises WorkspaceError, DiskFullError, StoreError.
        """
        with self._lock:
            try:
                log = self._open()
                forks = Forks(self._places, self.pool, self._keeper, self._freezing, directory=self._directory)
                return forks.make(log, checkpoint, targets, most=self.most)
            except OSError as error:
                raise _translated(error) from error

    @property
    def pending(self) -> dict[str, Any] | None:
        """The note of a restore that is done in the layers and was not yet `settle`d."""
        intent = Intent.read(self._intent)
        return None if intent is None else dict(intent.note)

    def settle(self) -> None:
        """What went with the restore is done too."""
        self._intent.unlink(missing_ok=True)

    def finish(self) -> None:
        """Finish what an intent on record decided; remove what one without left behind."""
        finish_restore(self._places.directory, self._intent)
        self._places.reload()

    def empty_trash(self) -> None:
        """Remove the directories that were replaced. Slow where they are large: in the background."""
        for place in self._places.directory.glob(f"*/{TRASH}*"):
            for path in remove_tree(place):
                with suppress(OSError, WorkspaceError):
                    self._keeper.remove(path)
            remove_tree(place)

    @property
    def _intent(self) -> Path:
        return self._directory / RESTORE

    def _layers(self) -> tuple[Layer, ...]:
        if self._places.table is None:
            raise WorkspaceError("this session has no layers yet")
        return self._places.table.layers

    def _open(self) -> Log:
        if self._log is None:
            beside(self._directory / "checkpoints").unlink(missing_ok=True)
            self._log = Log(self._directory / "checkpoints", self.pool, self._keeper, clock=self._clock)
        return self._log

    def _load(self, log: Log) -> None:
        if not self._present.loaded:
            self._present = _Present(states=log.state(log.present) if log.present else {}, loaded=True)

    def _state(self, layer: Layer) -> State:
        """What is known of a layer; nothing where it stands on others by now (a crash came after it was frozen)."""
        state = self._present.states.setdefault(layer.name, State(lowers=layer.lowers))
        if state.lowers != layer.lowers:
            state = State(lowers=layer.lowers)
        return state

    def _is_large(self, state: Mapping[str, Any]) -> bool:
        entries, size = self.most
        return len(state) > entries or sum(row.size for row in state.values() if row.is_file) > size

    def _find(self, log: Log, taken: _Taken, *, busy: bool, freeze: Freeze, swap: Swap | None) -> None:
        """All that changed; what is much is frozen where it can be."""
        for _ in range(_TRIES):
            try:
                with ExitStack() as still:
                    if busy:
                        still.enter_context(freeze())
                    self._capture(log, taken, settle=busy, bounded=swap is not None, rotate=swap is not None)
                    if taken.much and swap is not None:
                        if not busy:
                            still.enter_context(freeze())
                        self._freeze(log, taken, swap)
                    return
            except UnsteadyError:
                busy = True
        raise WorkspaceError("the box writes faster than a checkpoint can be taken")

    def _capture(self, log: Log, taken: _Taken, *, settle: bool, bounded: bool, rotate: bool) -> None:
        """Find what is new, layer by layer. `bounded`: what is too much to be read is only told (`much`); `rotate`: so
        is what has become too much little by little.
        """
        taken.deltas, taken.much = {}, []
        for layer in self._layers():
            try:
                self._capture_one(log, layer, taken, settle=settle, most=self.most if bounded else None, rotate=rotate)
            except MuchError:
                taken.much.append(layer)
        for name, owed in self._present.owed.items() if taken.deltas or taken.frozen else ():
            rows, gone, lowers = taken.deltas.get(name, Delta(rows={}, gone=[]))
            late = {path: row for path, row in owed.items() if path not in rows and path not in gone}
            if late and lowers is None:
                taken.deltas[name] = Delta(rows=late | rows, gone=gone)

    def _capture_one(
        self,
        log: Log,
        layer: Layer,
        taken: _Taken,
        *,
        settle: bool,
        most: tuple[int, int] | None = None,
        rotate: bool = False,
    ) -> None:
        state = self._state(layer)
        known, can = self._present.states[layer.name], not self._freezing.impossible(layer)
        most = most if can else None
        capture = Capture(
            self._places.top(layer),
            log.store,
            self._keeper,
            settle=settle,
            local=not layer.remote,
            most=most,
        )
        delta = capture.run(state)
        self._present.owed.setdefault(layer.name, State()).update(capture.owed)
        if state.lowers != known.lowers:
            taken.deltas[layer.name] = Delta(rows=delta.rows, gone=[], lowers=state.lowers)
        elif delta:
            taken.deltas[layer.name] = delta
        if rotate and can and (delta or most is None) and self._is_large({**state, **delta.rows}):
            taken.much.append(layer)

    def _freeze(self, log: Log, taken: _Taken, swap: Swap) -> None:
        """Freeze the layers in which much is, those that cannot be are read after all. Nothing moves meanwhile."""
        for layer in taken.much:
            frozen = not self._freezing.refused(layer, swap) and self._frozen(log, layer, taken, swap)
            if not frozen and layer.name not in taken.deltas:
                self._capture_one(log, layer, taken, settle=True)
        taken.much = []

    def _frozen(self, log: Log, layer: Layer, taken: _Taken, swap: Swap) -> bool:
        """Freeze one layer, if it turns out that it can be."""
        try:
            state, delta = self._freezing.freeze(layer, self._state(layer), swap, log)
        except SwapError as error:
            if error.dead:
                raise WorkspaceError(f"the box had to be ended: {error}") from error
            return False
        earlier = taken.frozen.get(layer.name, Delta(rows={}, gone=[]))
        taken.frozen[layer.name] = Delta(rows={**earlier.rows, **delta.rows}, gone=earlier.gone + delta.gone)
        self._present.states[layer.name] = state
        self._present.owed.pop(layer.name, None)
        taken.deltas.pop(layer.name, None)
        return True

    def _keep(self, log: Log, label: str, taken: _Taken, *, before: int, durable: bool, way: str) -> Checkpoint:
        update(self._present.states, taken.deltas)
        deltas = taken.deltas | {name: whole(self._present.states[name]) for name in taken.frozen}
        summary = _summary(taken.deltas, taken.frozen)
        made = log.keep(deltas, self._present.states, label=label, before=before, summary=summary, way=way)
        if durable:
            log.store.sync()
        self._present.owed = {}
        return made

    def _build(self, layer: Layer, state: State, log: Log) -> Stack:
        if layer.remote:
            raise WorkspaceError("going back is not possible yet where the layers are on another machine")
        place = self._places.path(layer)
        target, work = place / "new", place / "new.work"
        discard(target)
        discard(work)
        target.mkdir(mode=0o700)
        work.mkdir()
        now = self._present.states.get(layer.name, State())
        Rebuild(target, log, self._keeper, old=self._places.top(layer), now=now).run(state)
        return self._freezing.stack(layer, state.lowers, target, work)


def _summary(*found: Mapping[str, Delta]) -> tuple[int, list[str]]:
    """How many paths that are no directories, and the first of their names, layer and path."""
    paths = set()
    for deltas in found:
        for name, delta in deltas.items():
            paths |= {f"{name}/{path}" for path, row in delta.rows.items() if not row.is_directory}
            paths |= {f"{name}/{path}" for path in delta.gone}
    return len(paths), sorted(paths)[:20]


def _translated(error: OSError) -> WorkspaceError | DiskFullError:
    what = os.fsencode(error.filename or "").decode("utf-8", "backslashreplace")
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFullError("no space left for a checkpoint")
    return WorkspaceError(f"the session's files cannot be kept: {what} {error.strerror}")
