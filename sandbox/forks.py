"""Forks: the layers and checkpoints that new sessions begin with, made from one checkpoint of another session.

What is frozen is shared, the rest is small and written anew; the manifests and bases go along, so that drift
and merges are judged as in the origin. The log of checkpoints is not copied: a fork reads its origin's, under
hard links of its own, and goes on in one of its own.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from sandbox.capture import Capture
from sandbox.containers import session_labels
from sandbox.errors import WorkspaceError
from sandbox.freezing import Freezing
from sandbox.intents import TRASH
from sandbox.keeper import Keeper
from sandbox.layers import FILLED, Layer, LayerTable
from sandbox.places import Places
from sandbox.points import INHERITED, Log
from sandbox.pool import Pool
from sandbox.rebuild import Rebuild
from sandbox.refill import Filling, Refill
from sandbox.remade import forget, note
from sandbox.remote import default_volume
from sandbox.spec import Rung
from sandbox.states import State, encode, stamped, whole
from sandbox.store import Store
from sandbox.system import STATE_LABEL, state_mark

_CARRIED = ("manifest", "copy.manifest")


class Forks:
    """Of one session. The caller holds its checkpoints still."""

    def __init__(
        self, places: Places, pool: Pool, keeper: Keeper, freezing: Freezing, refill: Refill, *, directory: Path
    ) -> None:
        """`directory`: where the session's stores lie."""
        self._places = places
        self._pool = pool
        self._keeper = keeper
        self._freezing = freezing
        self._refill = refill
        self._directory = directory

    def make(
        self, log: Log, checkpoint: str, targets: Iterable[tuple[str, Path]], *, most: tuple[int, int]
    ) -> tuple[str, ...]:
        """Fill the empty state directories of new sessions (id, directory). What is more than `most` entries and bytes
        and could not be frozen is written once, into a frozen layer that all of them share: the names of the
        layers for which that was needed. Raises OSError, StoreError, WorkspaceError.
        """
        table = self._places.table
        if table is None:
            raise WorkspaceError("this session has no layers yet")
        with self._pool.shared():
            states, planted = log.state(checkpoint), dict[str, str]()
            for layer in table.layers:
                skip = self._places.covers.skipping(layer)
                state = states[layer.name]
                if skip is not None:
                    state = State(((path, row) for path, row in state.items() if not skip(path)), state.lowers)
                    states[layer.name] = state
                if layer.rung is Rung.OVERLAY and _is_large(state, most):
                    planted[layer.name] = name = self._freezing.plant(state, log)
                    lowers = (name, *self._freezing.room(layer, state.lowers, log))
                    states[layer.name] = State({"": state[""]} if "" in state else {}, lowers)
            for session, directory in targets:
                self._make(session, directory, states, log, checkpoint)
            for name in planted.values():  # it is the forks' now
                self._places.unrefer(name)
        return tuple(planted)

    def _make(self, session: str, directory: Path, states: dict[str, State], log: Log, checkpoint: str) -> None:
        table = self._places.table
        assert table is not None
        layers = tuple(replace(layer, lowers=states[layer.name].lowers) for layer in table.layers)
        made = LayerTable(
            session=session, began_ns=table.began_ns, owner=table.owner, layers=layers, frozen=table.frozen
        )
        (directory / "layers").mkdir(mode=0o700)
        made.write(directory / "layers" / "layers.json")
        if any(layer.remote for layer in layers):  # what its volumes hide is what the origin's did
            with suppress(FileNotFoundError):
                shutil.copyfile(self._places.directory / "masks.json", directory / "layers" / "masks.json")
        places = {layer.name: self._begin(layer) for layer in layers}
        labels = session_labels(session) | {STATE_LABEL: state_mark(directory.with_name(session))}
        now = self._refill.fill(
            [
                Filling(
                    layer=layer,
                    state=states[layer.name],
                    volume=default_volume(session, layer.name),
                    mark=places[layer.name] / FILLED,
                )
                for layer in layers
                if layer.remote
            ],
            log,
            labels=labels,
        )
        for layer in layers:
            place = places[layer.name]
            if not layer.remote:
                now[layer.name] = self._written(layer, states[layer.name], place, log)
            if layer.rung is not Rung.OVERLAY:  # by stamp, no file of a copy that was made again is what it was
                forget(place)
                note(place, now[layer.name], log.first().get(layer.name, State()))
            place.rename(directory / "layers" / layer.name)
        self._stores(directory / "store", now, checkpoint)

    def _begin(self, layer: Layer) -> Path:
        """Where one layer is made: beside the origin's, so that the keeper sees it."""
        origin = self._places.path(layer)
        place = origin / f"{TRASH}fork-{uuid.uuid4().hex[:8]}"
        place.mkdir(mode=0o700)
        lower = origin / "lower"
        if lower.is_symlink():
            (place / "lower").symlink_to(lower.readlink())
        else:
            self._places.copy_skeleton(lower, place / "lower")
        for name in _CARRIED:
            with suppress(FileNotFoundError):
                _share(origin / name, place / name)
        return place

    def _written(self, layer: Layer, state: State, place: Path, log: Log) -> State:
        """A layer on this machine. Its state, with the stamps that it has now."""
        top = place / self._places.top(layer).name
        top.mkdir(mode=0o700)
        if layer.rung is Rung.OVERLAY:
            (place / "work").mkdir()
        old = None if layer.rung is Rung.OVERLAY else self._places.top(layer)
        Rebuild(top, log, self._keeper, old=old, now=state, clone=True).run(state)
        return stamped(state, Capture(top, None, self._keeper).run(State()).rows)

    def _stores(self, store: Path, states: dict[str, State], checkpoint: str) -> None:
        store.mkdir(mode=0o700)
        if (self._directory / "log").exists():
            shutil.copyfile(self._directory / "log", store / "log")
            (store / "log").chmod(0o600)
        logs = [*sorted(self._directory.glob(INHERITED + "*")), self._directory / "checkpoints"]
        for number, log in enumerate(logs):
            os.link(log, store / f"{INHERITED}{number:03}")
        with Store(store / "checkpoints", writable=True) as new:
            new.note({"type": "forked", "id": checkpoint})
            index = new.add(encode({name: whole(state) for name, state in states.items()}))
            new.note({"type": "restacked", "id": checkpoint, "index": index})
            new.sync()


def _share(source: Path, target: Path) -> None:
    """A file that nobody writes to any more."""
    try:
        os.link(source, target)
    except OSError:
        if not source.exists():
            raise
        shutil.copyfile(source, target)


def _is_large(state: State, most: tuple[int, int]) -> bool:
    return len(state) > most[0] or sum(row.size for row in state.values() if row.is_file) > most[1]
