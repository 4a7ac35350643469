"""The log of a session's checkpoints: contents, an index for each (what it changed against its parent, now and
then all of it), and a note that makes it count. A fork's log goes on from those of its origin, which lie
beside it under names of their own (hard links) and are only read.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from sandbox.dataclass import dataclass
from sandbox.errors import StoreError, WorkspaceError
from sandbox.intents import RESTORE, Intent
from sandbox.keeper import Keeper
from sandbox.kepttree import KeptTree
from sandbox.pool import Pool
from sandbox.states import Delta, Frozen, Payload, State, decode, encode, flatten, update, whole
from sandbox.store import Store
from sandbox.system import Record, record_file

_WHOLE_AFTER = 1000
_LONGEST_CHAIN = 100
_HOLE = 1 << 20
INHERITED = "checkpoints.from-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A state that can be gone back to. `files`: paths that changed against its parent, directories not
    counted; `size`: bytes that the log grew by, and the engine's images; `at`: seconds since the epoch.
    `way`: how it was kept: log (contents were copied), live or rest (layers were frozen, under the running
    box or without one). `system`: the image of the root file system, "" for the session's own.
    """

    id: str
    parent: str
    label: str
    at: float
    files: int
    size: int
    changed: tuple[str, ...] = ()
    way: str = "log"
    system: str = ""


@dataclass(slots=True)
class _Kept:
    """A checkpoint's place in the log. `again`: an index of the same state over other frozen layers."""

    checkpoint: Checkpoint
    index: str
    whole: bool
    weight: int = 0
    depth: int = 0
    again: str = ""


class Log:
    """Opens (and makes) the log `file`. `pool`: the frozen layers that states stand on. Close it."""

    def __init__(self, file: Path, pool: Pool, keeper: Keeper, *, clock: Callable[[], float] = time.time) -> None:
        """Raises StoreError, OSError."""
        self._pool = pool
        self._keeper = keeper
        self._clock = clock
        self._kept: dict[str, _Kept] = {}
        self.present = ""
        file.parent.mkdir(exist_ok=True, mode=0o700)
        self.store = Store(file, writable=True)
        self._inherited = [Store(each, writable=False) for each in sorted(file.parent.glob(INHERITED + "*"))]
        self._take_up()
        intent = Intent.read(file.with_name(RESTORE))
        if intent is not None:
            self.present = intent.checkpoint

    def _take_up(self) -> None:
        """What the notes tell, oldest first."""
        inherited = [note for store in self._inherited for note in store.notes()]
        noted = {note["id"]: note for note in inherited if note["type"] == "checkpoint"}
        again = {note["id"]: note["index"] for note in inherited if note["type"] == "restacked"}
        for note in self.store.notes():
            match note["type"]:
                case "checkpoint":
                    self._remember(note)
                case "restored":
                    self.present = note["id"]
                case "restacked" if note["id"] in self._kept:
                    self._kept[note["id"]].again = note["index"]
                case "forked":
                    for each in _ancestors(noted, note["id"]):
                        self._remember(each)
                        self._kept[each["id"]].again = again.get(each["id"], "")

    def close(self) -> None:
        """Give the files back."""
        for store in (self.store, *self._inherited):
            store.close()

    @property
    def checkpoints(self) -> tuple[Checkpoint, ...]:
        """All of them, oldest first."""
        return tuple(kept.checkpoint for kept in self._kept.values())

    def find(self, prefix: str) -> Checkpoint:
        """The one whose id is or begins so. Raises WorkspaceError."""
        found = [kept.checkpoint for name, kept in self._kept.items() if name.startswith(prefix)]
        exact = [each for each in found if each.id == prefix]
        if len(exact or found) != 1 or not prefix:
            why = f"fits {len(found)} checkpoints" if found else "is no checkpoint of this session"
            raise WorkspaceError(f"{prefix!r} {why}", hint="see: fumehood checkpoints")
        return (exact or found)[0]

    def state(self, checkpoint: str) -> dict[str, State]:
        """The states of all layers at a checkpoint, each over its frozen ones. Raises StoreError."""
        chain: list[str] = []
        at, first = checkpoint, True
        while True:
            kept = self._kept.get(at)
            if kept is None:
                raise StoreError(f"checkpoint {at or checkpoint!r} is missing")
            if first and kept.again:
                chain.append(kept.again)
                break
            chain.append(kept.index)
            if kept.whole:
                break
            at, first = kept.checkpoint.parent, False
        states: dict[str, State] = {}
        for index in reversed(chain):
            update(states, decode(self.get(index)))
        return states

    def first(self) -> dict[str, State]:
        """The states at the first checkpoint with the stamps of then, where they are still kept: in a fork, and after
        a restore, they are told anew with later ones. Raises StoreError.
        """
        oldest = next(iter(self._kept.values()))
        if not oldest.whole or not any(oldest.index in store for store in (self.store, *self._inherited)):
            return self.state(oldest.checkpoint.id)
        states: dict[str, State] = {}
        update(states, decode(self.get(oldest.index)))
        return states

    def flat(self, checkpoint: str) -> dict[str, State]:
        """The same as if there were no frozen layers: what an upper directory alone would hold. Raises StoreError."""
        return {name: flatten(state, self._pool.rows) for name, state in self.state(checkpoint).items()}

    def get(self, digest: str) -> bytes:
        """A content, verified. Raises StoreError."""
        for store in self._inherited:
            if digest not in self.store and digest in store:
                return store.get(digest)
        return self.store.get(digest)

    def content(self, payload: Payload) -> Iterator[bytes]:
        """A file's content, from its row's payload, holes filled. Raises StoreError; OSError for a frozen layer."""
        for piece in self.pieces(payload):
            yield from _filled(self.get(piece) if isinstance(piece, str) else piece)

    def pieces(self, payload: Payload) -> Iterator[bytes | int | str]:
        """The same in pieces: bytes, numbers for holes, and digests of what `get` has. Raises as `content`."""
        match payload:
            case None:
                raise StoreError("this content was not read when it was frozen")
            case str():
                yield payload
            case Frozen(layer=layer, path=path):
                yield from self.frozen(layer, path)
            case _:
                for digest, length in payload:
                    yield digest or length

    def frozen(self, layer: str, path: str) -> Iterator[bytes | int]:
        """A file of a frozen layer in pieces, holes as numbers."""
        tree = KeptTree(self._pool.tree(layer), self._keeper)
        try:
            yield from tree.chunks(os.fsencode(path))
        finally:
            tree.close()

    def image(self, checkpoint: str) -> str:
        """Of a checkpoint's root file system, "" for the session's own."""
        kept = self._kept.get(checkpoint)
        return "" if kept is None else kept.checkpoint.system

    def attributes(self, layer: str, path: str) -> dict[str, str]:
        """The attributes of a file of a frozen layer, as a row keeps them."""
        tree = KeptTree(self._pool.tree(layer), self._keeper)
        try:
            found = tree.attributes(os.fsencode(path))
        finally:
            tree.close()
        return {name: value.hex() for name, value in found.items() if name.startswith("user.")}

    def keep(
        self,
        deltas: Mapping[str, Delta],
        states: Mapping[str, State],
        *,
        label: str,
        before: int,
        summary: tuple[int, list[str]],
        way: str,
        image: str = "",
        grown: int = 0,
    ) -> Checkpoint:
        """Append a checkpoint that follows the present one. `states`: those after it; `before`: the log's size when
        its contents were begun; `image`: of the root file system, for which the engine took `grown` bytes more.
        Raises OSError.
        """
        parent = self._kept.get(self.present)
        rows = sum(len(delta.rows) + len(delta.gone) for delta in deltas.values())
        total = sum(map(len, states.values()))
        entire = (
            parent is None
            or bool(parent.again)
            or parent.weight + rows > max(_WHOLE_AFTER, 2 * total)
            or parent.depth + 1 > _LONGEST_CHAIN
        )
        index = self.store.add(encode({name: whole(state) for name, state in states.items()} if entire else deltas))
        files, changed = summary
        note: dict[str, Any] = {
            "type": "checkpoint",
            "id": uuid.uuid4().hex[:12],
            "parent": self.present,
            "label": label,
            "at": self._clock(),
            "files": files,
            "changed": changed,
            "size": self.store.size - before + grown,
            "rows": rows,
            "whole": entire,
            "index": index,
            "way": way,
            "system": image,
        }
        self.store.note(note)
        self._remember(note)
        return self._kept[note["id"]].checkpoint

    def restack(self, states: Mapping[str, State]) -> None:
        """The present checkpoint's state stands on other frozen layers now: the same tree, told anew."""
        index = self.store.add(encode({name: whole(state) for name, state in states.items()}))
        self.store.note({"type": "restacked", "id": self.present, "index": index})
        self._kept[self.present].again = index

    def go(self, checkpoint: str) -> None:
        """The layers are at another checkpoint now."""
        self.present = checkpoint
        self.store.note({"type": "restored", "id": checkpoint, "at": self._clock()})

    def _remember(self, note: Mapping[str, Any]) -> None:
        made = Checkpoint(
            **{name: note[name] for name in ("id", "parent", "label", "at", "files", "size")},
            changed=tuple(note["changed"]),
            way=note.get("way", "log"),
            system=note.get("system", ""),
        )
        parent = self._kept.get(made.parent)
        weight = 0 if note["whole"] or parent is None else parent.weight + note["rows"]
        depth = 0 if note["whole"] or parent is None else parent.depth + 1
        self._kept[made.id] = _Kept(made, note["index"], note["whole"], weight, depth)
        self.present = made.id


def _ancestors(notes: Mapping[str, Mapping[str, Any]], checkpoint: str) -> list[Mapping[str, Any]]:
    """The notes from the first to the checkpoint, each the parent of the next. Raises StoreError."""
    found = []
    while checkpoint:
        note = notes.get(checkpoint)
        if note is None:
            raise StoreError(f"checkpoint {checkpoint} of the session's origin is missing")
        found.append(note)
        checkpoint = note["parent"]
    return found[::-1]


def images_named(state: Path) -> frozenset[str]:
    """The images of root file systems that a session at rest can still go to. Raises StoreError, OSError."""
    found = {Record.read(record_file(state)).image}
    log = state / "store" / "checkpoints"
    for file in (log, *log.parent.glob(INHERITED + "*")):
        if file.exists():
            with Store(file, writable=False) as store:
                found |= {note.get("system", "") for note in store.notes()}
    return frozenset(found)


def images_named_by_others(state: Path) -> frozenset[str]:
    """The same of all sessions beside one: a fork goes on from images of its origin. Raises StoreError, OSError."""
    others = [each for each in state.parent.iterdir() if each != state and (each / "store").is_dir()]
    return frozenset(image for each in others for image in images_named(each))


def _filled(piece: bytes | int) -> Iterator[bytes]:
    if isinstance(piece, bytes):
        yield piece
        return
    for at in range(0, piece, _HOLE):
        yield bytes(min(_HOLE, piece - at))
