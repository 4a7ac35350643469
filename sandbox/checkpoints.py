"""Checkpoints: states of a box's writable places, taken and gone back to.

What changed goes into a log (`sandbox.points`); where much did, the layer is frozen instead, if it can be
(`sandbox.freezing`). Going back builds new directories beside the old ones (`sandbox.rebuild`; on another machine
new volumes: `sandbox.refill`), then an intent record, then
renames (`sandbox.intents`): before the record nothing happened, after it whoever comes next finishes.
Everything blocks; one caller at a time.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, nullcontext, suppress
from pathlib import Path
from typing import Any

from sandbox.capture import Capture, UnsteadyError
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
from sandbox.refill import Refill
from sandbox.remade import note
from sandbox.spec import Rung
from sandbox.states import Payload, State, same_state, stamped, update, whole
from sandbox.store import Store
from sandbox.system import NAME, System
from sandbox.taking import Freeze, Present, Taken, Taking, summary

__all__ = ["Checkpoint", "Checkpoints", "Freeze", "finish_restore"]


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
        with self._lock:
            try:
                log = self._open()
                self._taking.load(log)
                before, taken = log.store.size, Taken()
                self._taking.find(log, taken, busy=busy, freeze=freeze, swap=swap)
                if not (taken.deltas or taken.frozen) and taken.image == log.image(log.present):
                    return None
                way = swap.way if swap is not None and taken.frozen else "log"
                return self._keep(log, label, taken, before=before, durable=durable, way=way)
            except BaseException as error:
                self._taking.present.loaded = False
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
                self._taking.load(log)
                if not log.present or not any(
                    self._taking.is_large(state) for state in self._taking.present.states.values()
                ):
                    return False
                taken = Taken()
                self._taking.capture(log, taken, settle=False, bounded=False, rotate=True)
                if taken.deltas or not taken.much:
                    return False
                self._taking.freeze(log, taken, AtRest())
                if taken.frozen and not taken.deltas:
                    log.restack(self._taking.present.states)
                return bool(taken.frozen)
            except UnsteadyError:
                self._taking.present.loaded = False
                return False
            except BaseException as error:
                self._taking.present.loaded = False
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
                wanted = {name: self._unmasked(name, state) for name, state in log.state(checkpoint).items()}
                self._taking.load(log)
                layers = [la for la in self._taking.layers if not same_state(self._taking.state(la), wanted[la.name])]
                if swap is not None and any(layer.rung is not Rung.OVERLAY for layer in layers):
                    raise SwapError("a whole copy cannot be replaced under a box")
                image = log.image(checkpoint)
                again = ("system",) if image != self._taking.image(log) else ()
                if again and swap is not None:
                    raise SwapError("a root file system cannot be replaced under a box")
                if self.system is not None:
                    self.system.require(image)
                    self.system.forget()
                with ExitStack() as after:
                    afar = self._refill.beside((la for la in layers if la.remote), wanted, log)
                    stacks = {la.at: self._build(la, wanted[la.name], log) for la in layers if not la.remote}
                    staged = (swap or AtRest()).stage(stacks)
                    after.callback(staged.close)
                    intent = Intent(
                        layers={layer.name: self._places.switch(layer) for layer in layers},
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
                self._arrive(checkpoint, layers, wanted | afar, log)
                if dead is not None:
                    raise dead
                return (*(layer.name for layer in layers), *again)
            except OSError as error:
                raise _translated(error) from error

    def fork(self, checkpoint: str, targets: Iterable[tuple[str, Path]]) -> tuple[str, ...]:
        """Fill the empty state directories of new sessions (id, directory) with what this one was at a checkpoint: see
        `sandbox.forks`. Raises WorkspaceError, DiskFullError, StoreError.
        """
        with self._lock:
            try:
                log = self._open()
                tools = (self._places, self.pool, self._keeper, self._freezing, self._refill)
                forks = Forks(*tools, directory=self._directory)
                return forks.make(log, checkpoint, targets, most=self._taking.most)
            except OSError as error:
                raise _translated(error) from error

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
        """Remove the directories and volumes that were replaced. Slow where they are large: in the background."""
        self._empty("*")

    def _empty(self, layer: str) -> None:
        for place in self._places.directory.glob(f"{layer}/{TRASH}*"):
            if place.is_file():
                self._refill.remove(place)
                continue
            for path in remove_tree(place):
                with suppress(OSError, WorkspaceError):
                    self._keeper.remove(path)
            remove_tree(place)

    @property
    def most(self) -> tuple[int, int]:
        """How many entries and bytes a layer may hold before it is frozen."""
        return self._taking.most

    @most.setter
    def most(self, most: tuple[int, int]) -> None:
        self._taking.most = most

    @property
    def _intent(self) -> Path:
        return self._directory / RESTORE

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

    def _unmasked(self, name: str, state: State) -> State:
        """A state without what is masked by now: a rule may be newer than a checkpoint."""
        layer = next((each for each in self._taking.layers if each.name == name), None)
        skip = self._places.covers.skipping(layer) if layer is not None else None
        if skip is None:
            return state
        return State(((path, row) for path, row in state.items() if not skip(path)), state.lowers)

    def _arrive(self, checkpoint: str, layers: Sequence[Layer], states: dict[str, State], log: Log) -> None:
        """These layers were made anew: know what they hold. `states`: of all."""
        afar = any(layer.remote for layer in layers)
        if afar:
            self._keeper.close()  # it stands on what was replaced
        for layer in layers:
            if layer.rung is not Rung.OVERLAY:
                states[layer.name] = self._as_made(layer, states[layer.name], log)
        made = {layer.name for layer in layers}
        kept = {la.name: self._taking.state(la) for la in self._taking.layers if la.name not in made}
        self._taking.present = Present(states=states | kept, loaded=True)
        log.go(checkpoint)
        if afar:  # else whoever comes next would have all of it read again
            log.restack(self._taking.present.states)

    def _as_made(self, layer: Layer, state: State, log: Log) -> State:
        """The state of a whole copy that was made again, with the stamps that it has now, which are noted. What was
        replaced goes first: it has links to the same files, and their ctime moves with each.
        """
        self._empty(layer.name)
        if not layer.remote:
            top, skip = self._places.top(layer), self._places.covers.skipping(layer)
            state = stamped(state, Capture(top, None, self._keeper, skip=skip).run(State()).rows)
        note(self._places.path(layer), state, log.first().get(layer.name, State()))
        return state

    def _build(self, layer: Layer, state: State, log: Log) -> Stack:
        place = self._places.path(layer)
        target, work = place / "new", place / "new.work"
        discard(target)
        discard(work)
        target.mkdir(mode=0o700)
        work.mkdir()
        now = self._taking.present.states.get(layer.name, State())
        Rebuild(target, log, self._keeper, old=self._places.top(layer), now=now).run(state)
        self._places.covers.shade(layer, target, (self.pool.tree(each) for each in state.lowers))
        return self._freezing.stack(layer, state.lowers, target, work)


def _translated(error: OSError) -> WorkspaceError | DiskFullError:
    what = os.fsencode(error.filename or "").decode("utf-8", "backslashreplace")
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFullError("no space left for a checkpoint")
    return WorkspaceError(f"the session's files cannot be kept: {what} {error.strerror}")
