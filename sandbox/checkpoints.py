"""Checkpoints: states of a box's writable places in one append-only log, and going back to them.

The log is a store (`sandbox.store`) of its own: contents, an index for each checkpoint (what it
changed against its parent, now and then all of it), and a note that makes it count. Going back
builds new directories beside the old ones, then an intent record, then renames: before the record
nothing happened, after it whoever comes next finishes. Everything blocks; one caller at a time.
"""

from __future__ import annotations

import errno
import json
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sandbox.capture import Capture, UnsteadyError
from sandbox.copies import remove_tree
from sandbox.errors import DiskFullError, StoreError, WorkspaceError
from sandbox.keeper import Keeper
from sandbox.layers import Layer
from sandbox.places import Places
from sandbox.rebuild import Rebuild
from sandbox.states import Delta, State, decode, encode, same_state, update
from sandbox.store import Store
from sandbox.system import NAME, Record, System, record_file

INTENT_VERSION = 1
_WHOLE_AFTER = 1000
_LONGEST_CHAIN = 100
_TRIES = 3
_TRASH = ".trash-"
Freeze = Callable[[], AbstractContextManager[object]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A state that can be gone back to. `files`: paths that changed against its parent, directories not
    counted; `size`: bytes that the log grew by, and the engine's images; `at`: seconds since the epoch;
    `system`: the image of the root file system, "" for the session's own.
    """

    id: str
    parent: str
    label: str
    at: float
    files: int
    size: int
    changed: tuple[str, ...] = ()
    system: str = ""


@dataclass(slots=True)
class _Kept:
    """A checkpoint's place in the log."""

    checkpoint: Checkpoint
    index: str
    whole: bool
    weight: int = 0
    depth: int = 0


@dataclass(slots=True)
class _Present:
    """The state as of the last checkpoint or restore: which it is, and its rows, once they are loaded."""

    id: str = ""
    states: dict[str, State] = field(default_factory=dict)
    owed: dict[str, State] = field(default_factory=dict)
    loaded: bool = False


class Checkpoints:
    """The checkpoints of one session. `places` must have its layers made before `take`. Close it."""

    def __init__(
        self, places: Places, keeper: Keeper, *, directory: Path, clock: Callable[[], float] = time.time
    ) -> None:
        """`directory`: where the log and the intent lie (`state/store`); made when first needed."""
        self._places = places
        self._keeper = keeper
        self._file = directory / "checkpoints"
        self._clock = clock
        self._store: Store | None = None
        self._kept: dict[str, _Kept] = {}
        self._present = _Present()
        self._lock = threading.RLock()
        self.system: System | None = None

    def close(self) -> None:
        """Give the log back."""
        with self._lock:
            if self._store is not None:
                self._store.close()
                self._store = None
            self._kept, self._present = {}, _Present()

    def list(self) -> tuple[Checkpoint, ...]:
        """All of them, oldest first."""
        with self._lock:
            self._open()
            return tuple(kept.checkpoint for kept in self._kept.values())

    @property
    def present(self) -> str:
        """Id of the checkpoint that was last taken or gone back to; "" before the first."""
        with self._lock:
            self._open()
            return self._present.id

    def find(self, prefix: str) -> Checkpoint:
        """The one whose id is or begins so. Raises WorkspaceError."""
        with self._lock:
            self._open()
            found = [kept.checkpoint for name, kept in self._kept.items() if name.startswith(prefix)]
        exact = [each for each in found if each.id == prefix]
        if len(exact or found) != 1 or not prefix:
            why = f"fits {len(found)} checkpoints" if found else "is no checkpoint of this session"
            raise WorkspaceError(f"{prefix!r} {why}", hint="see: fumehood checkpoints")
        return (exact or found)[0]

    def take(
        self, label: str, *, busy: bool = False, freeze: Freeze = nullcontext, durable: bool = False
    ) -> Checkpoint | None:
        """Keep the present state; None where nothing changed since the last one (nothing is stored then).
        `busy`: something else may run in the box, which `freeze` then holds still. `durable`: also
        against a loss of power. Raises WorkspaceError, DiskFullError, StoreError.
        """
        with self._lock:
            try:
                return self._take(label, busy=busy, freeze=freeze, durable=durable)
            except OSError as error:
                raise _translated(error) from error

    def _take(self, label: str, *, busy: bool, freeze: Freeze, durable: bool) -> Checkpoint | None:
        store, system = self._open(), self.system
        self._load()
        before = store.size
        for _ in range(_TRIES):
            changed = system is not None and system.look()
            try:
                if system is not None and changed:
                    system.watch()
                with freeze() if busy or changed else nullcontext():
                    deltas = self._capture(store, settle=busy)
                    image = system.commit() if system is not None and changed else self._image()
            except UnsteadyError:
                busy = True
                continue
            # what had not changed before the files were taken in must not have changed meanwhile either
            if changed or system is None or not system.look():
                break
        else:
            raise WorkspaceError("the box writes faster than a checkpoint can be taken")
        if not deltas and image == self._image_of(self._present.id):
            return None
        made = self._keep(store, label, deltas, before=before, durable=durable, image=image)
        if system is not None:
            system.kept()
        return made

    def state(self, checkpoint: str) -> dict[str, State]:
        """The rows of all layers at a checkpoint. Raises StoreError."""
        with self._lock:
            store = self._open()
            chain: list[_Kept] = []
            at = checkpoint
            while True:
                kept = self._kept.get(at)
                if kept is None:
                    raise StoreError(f"checkpoint {at or checkpoint!r} is missing")
                chain.append(kept)
                if kept.whole:
                    break
                at = kept.checkpoint.parent
            states: dict[str, State] = {}
            for kept in reversed(chain):
                update(states, decode(store.get(kept.index)))
            return states

    def content(self, row_payload: Any) -> Iterable[bytes]:
        """A file's content, from its row's payload."""
        store = self._open()
        if isinstance(row_payload, str):
            yield store.get(row_payload)
            return
        for digest, length in row_payload:
            if digest:
                yield store.get(digest)
            else:
                for at in range(0, length, 1 << 20):
                    yield bytes(min(1 << 20, length - at))

    def restore(self, checkpoint: str, *, note: Mapping[str, Any] | None = None) -> tuple[str, ...]:
        """Go back to a checkpoint; no box may stand on the layers. The present state must have been taken.
        Returns the names of the layers that were made anew. `note` goes into the intent: see `pending`.
        Raises WorkspaceError, DiskFullError, StoreError; nothing happened then.
        """
        with self._lock:
            try:
                wanted, store = self.state(checkpoint), self._open()
                self._load()
                again = self.image_differs(checkpoint)
                if self.system is not None:
                    self.system.require(self._image_of(checkpoint))
                    self.system.forget()
                layers = [
                    la
                    for la in self._layers()
                    if not same_state(self._present.states.get(la.name, {}), wanted[la.name])
                ]
                for layer in layers:
                    self._build(layer, wanted[layer.name], store)
                intent = {
                    "version": INTENT_VERSION,
                    "layers": {layer.name: self._places.top(layer).name for layer in layers},
                    "checkpoint": checkpoint,
                    "note": dict(note or {}),
                }
                write_intent(self._intent, intent)
                self.finish()
                self._present = _Present(id=checkpoint, states=wanted, loaded=True)
                store.note({"type": "restored", "id": checkpoint, "at": self._clock()})
                return (*(layer.name for layer in layers), *(("system",) if again else ()))
            except OSError as error:
                raise _translated(error) from error

    @property
    def image(self) -> str:
        """The image of the root file system as it stands, "" for the session's own."""
        with self._lock:
            self._open()
            return self._image()

    def image_differs(self, checkpoint: str) -> bool:
        """Whether going back to a checkpoint takes another root file system than there is."""
        with self._lock:
            self._open()
            return self._image() != self._image_of(checkpoint)

    def images(self) -> frozenset[str]:
        """All that a checkpoint names."""
        return frozenset(made.system for made in self.list() if made.system)

    def _image(self) -> str:
        kept = self._image_of(self._present.id)
        return kept if self.system is None else self.system.present(kept, after=self._present.id)

    def _image_of(self, checkpoint: str) -> str:
        kept = self._kept.get(checkpoint)
        return kept.checkpoint.system if kept is not None else ""

    @property
    def pending(self) -> dict[str, Any] | None:
        """The note of a restore that is done in the layers and was not yet `settle`d."""
        intent = read_intent(self._intent)
        return None if intent is None else dict(intent["note"])

    def settle(self) -> None:
        """What went with the restore is done too."""
        self._intent.unlink(missing_ok=True)

    def finish(self) -> None:
        """Finish the renames of a restore whose intent is on record; remove what one without left behind."""
        finish_restore(self._places.directory, self._intent)

    def empty_trash(self) -> None:
        """Remove the directories that were replaced. Slow where they are large: in the background."""
        for place in self._places.directory.glob(f"*/{_TRASH}*"):
            for path in remove_tree(place):
                with suppress(OSError, WorkspaceError):
                    self._keeper.remove(path)
            remove_tree(place)

    @property
    def _intent(self) -> Path:
        return self._file.with_name("restore.json")

    def _layers(self) -> tuple[Layer, ...]:
        if self._places.table is None:
            raise WorkspaceError("this session has no layers yet")
        return self._places.table.layers

    def _open(self) -> Store:
        if self._store is None:
            self._file.parent.mkdir(exist_ok=True, mode=0o700)
            self._store = Store(self._file, writable=True)
            for note in self._store.notes():
                if note["type"] == "checkpoint":
                    self._remember(note)
                elif note["type"] == "restored":
                    self._present.id = note["id"]
            intent = read_intent(self._intent)
            if intent is not None:
                self._present.id = intent["checkpoint"]
        return self._store

    def _remember(self, note: Mapping[str, Any]) -> None:
        made = Checkpoint(
            **{name: note[name] for name in ("id", "parent", "label", "at", "files", "size")},
            changed=tuple(note["changed"]),
            system=note.get("system", ""),
        )
        parent = self._kept.get(made.parent)
        weight = 0 if note["whole"] or parent is None else parent.weight + note["rows"]
        depth = 0 if note["whole"] or parent is None else parent.depth + 1
        self._kept[made.id] = _Kept(made, note["index"], note["whole"], weight, depth)
        self._present.id = made.id

    def _load(self) -> None:
        if not self._present.loaded:
            self._present.states = self.state(self._present.id) if self._present.id else {}
            self._present.owed = {}
            self._present.loaded = True

    def _capture(self, store: Store, *, settle: bool) -> dict[str, Delta]:
        found = {}
        for layer in self._layers():
            top = self._places.top(layer)
            capture = Capture(top, store, self._keeper, settle=settle, local=not layer.remote)
            delta = capture.run(self._present.states.setdefault(layer.name, {}))
            owed = self._present.owed.setdefault(layer.name, {})
            owed.update(capture.owed)
            if delta:
                found[layer.name] = delta
        for name, owed in self._present.owed.items() if found else ():
            rows, gone = found.get(name, Delta(rows={}, gone=[]))
            late = {path: row for path, row in owed.items() if path not in rows and path not in gone}
            if late:
                found[name] = Delta(rows=late | rows, gone=gone)
        return found

    def _keep(
        self, store: Store, label: str, deltas: dict[str, Delta], *, before: int, durable: bool, image: str
    ) -> Checkpoint:
        parent = self._kept.get(self._present.id)
        rows = sum(len(delta.rows) + len(delta.gone) for delta in deltas.values())
        files, changed = _summary(deltas)
        grown = 0
        if image != self._image_of(self._present.id) and self.system is not None:
            files, changed, grown = files + 1, [NAME, *changed], self.system.size(image) if image else 0
        update(self._present.states, deltas)
        total = sum(map(len, self._present.states.values()))
        whole = (
            parent is None or parent.weight + rows > max(_WHOLE_AFTER, 2 * total) or parent.depth + 1 > _LONGEST_CHAIN
        )
        try:
            if whole:
                deltas = {name: Delta(rows=state, gone=[]) for name, state in self._present.states.items()}
            index = store.add(encode(deltas))
            note: dict[str, Any] = {
                "type": "checkpoint",
                "id": uuid.uuid4().hex[:12],
                "parent": self._present.id,
                "label": label,
                "at": self._clock(),
                "files": files,
                "changed": changed,
                "size": store.size - before + grown,
                "system": image,
                "rows": rows,
                "whole": whole,
                "index": index,
            }
            store.note(note)
            if durable:
                store.sync()
        except BaseException:
            self._present.loaded = False
            raise
        self._remember(note)
        self._present.owed = {}
        return self._kept[note["id"]].checkpoint

    def _build(self, layer: Layer, state: State, store: Store) -> None:
        if layer.remote:
            raise WorkspaceError("going back is not possible yet where the layers are on another machine")
        place = self._places.path(layer)
        target = place / "new"
        self._discard(target)
        target.mkdir(mode=0o700)
        now = self._present.states.get(layer.name, {})
        Rebuild(target, store, self._keeper, old=self._places.top(layer), now=now).run(state)

    def _discard(self, target: Path) -> None:
        if target.exists():
            target.rename(target.with_name(_TRASH + uuid.uuid4().hex[:8]))


def images_named(state: Path) -> frozenset[str]:
    """The images of root file systems that a session at rest can still go to. Raises StoreError, OSError."""
    record = Record.read(record_file(state))
    file = state / "store" / "checkpoints"
    if not file.exists():
        return frozenset({record.image})
    with Store(file, writable=False) as store:
        return frozenset({record.image, *(note.get("system", "") for note in store.notes())})


def write_intent(file: Path, intent: Mapping[str, Any]) -> None:
    """Whole or not at all, and durable."""
    new = file.with_suffix(".new")
    with new.open("w") as opened:
        json.dump(intent, opened)
        opened.flush()
        os.fsync(opened.fileno())
    new.replace(file)


def read_intent(file: Path) -> dict[str, Any] | None:
    """None where there is none. Raises StoreError."""
    try:
        intent = json.loads(file.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise StoreError(f"{file}: {error}") from error
    if not isinstance(intent, dict) or intent.get("version") != INTENT_VERSION:
        raise StoreError(f"{file} is of a version that is not known")
    return intent


def finish_restore(layers: Path, file: Path) -> dict[str, Any] | None:
    """Carry out the renames of a restore whose intent is in `file`, in the directory of all layers; move what
    one without left behind to the trash. No box may stand on the layers. The intent, if there is one.
    """
    intent = read_intent(file)
    wanted: dict[str, str] = intent["layers"] if intent else {}
    for new in layers.glob("*/new"):
        place = new.parent
        name = wanted.get(place.name)
        if name is None:
            new.rename(place / (_TRASH + uuid.uuid4().hex[:8]))
            continue
        for old in (place / name, place / "work"):
            if old.exists():
                old.rename(place / (_TRASH + uuid.uuid4().hex[:8]))
        if name == "upper":
            (place / "work").mkdir()
        new.rename(place / name)
    return intent


def _summary(deltas: Mapping[str, Delta]) -> tuple[int, list[str]]:
    """How many paths that are no directories, and the first of their names, layer and path."""
    paths = []
    for name, delta in deltas.items():
        paths += [f"{name}/{path}" for path, row in delta.rows.items() if not row.is_directory]
        paths += [f"{name}/{path}" for path in delta.gone]
    return len(paths), sorted(paths)[:20]


def _translated(error: OSError) -> WorkspaceError | DiskFullError:
    what = os.fsencode(error.filename or "").decode("utf-8", "backslashreplace")
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFullError("no space left for a checkpoint")
    return WorkspaceError(f"the session's files cannot be kept: {what} {error.strerror}")
