"""Writing a store anew: what was appended is packed, what nobody needs any more is left out.

The new file is made beside the old one and takes its name when it is whole and on the disk: a crash
leaves the old one, readers that have the old one open go on with it. Checkpoint logs are packed while
they are written to, and thinned while nobody owns the session. Everything blocks.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from sandbox.dataclass import dataclass
from sandbox.errors import SandboxError
from sandbox.packs import PACK_BYTES, pack_contents, pack_notes
from sandbox.states import Row, State, decode, encode, update, whole
from sandbox.store import CONTENT, NOTES, PACK, Store, digest_of

SUFFIX = ".packed"
PLAIN_ENOUGH = 1 << 20
_NOTES_AT_ONCE = 2000
_NICE = 10
Stop = Callable[[], bool]


class StoppedError(Exception):
    """Packing was told to stop; nothing changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Thinned:
    """What became of a store: bytes before and after."""

    before: int
    after: int


def beside(file: Path) -> Path:
    """Where the new file is made."""
    return file.with_name(file.name + SUFFIX)


def never() -> bool:
    """For who need not stop."""
    return False


def wants_packing(store: Store) -> bool:
    """Whether so much is plain that packing it is worth a rewrite: the work stays in proportion to what is kept."""
    return store.plain > max(PLAIN_ENOUGH, (store.size - store.plain) // 2)


def rewrite(
    source: Store, wanted: Sequence[str], notes: Iterable[Mapping[str, Any]], *, more: Iterable[bytes] = (), stop: Stop
) -> Store:
    """Write `wanted` contents (in this order), `more` new ones, and notes into a new file beside the source's; it
    comes back open. Packs of which all is wanted are taken over as they are. Raises StoreError, OSError, StoppedError.
    """
    beside(source.file).unlink(missing_ok=True)
    target = Store(beside(source.file), writable=True)
    try:
        _write_contents(source, target, wanted, more, stop)
        waiting: list[Mapping[str, Any]] = []
        for note in notes:
            waiting.append(note)
            if len(waiting) >= _NOTES_AT_ONCE:
                target.append(NOTES, pack_notes(waiting))
                waiting = []
        if waiting:
            target.append(NOTES, pack_notes(waiting))
    except BaseException:
        abandon(target)
        raise
    return target


def _write_contents(source: Store, target: Store, wanted: Sequence[str], more: Iterable[bytes], stop: Stop) -> None:
    needed = dict.fromkeys(wanted)
    for record, names in source.packs():
        if all(name in needed for name in names):
            target.append(PACK, source.body(record))
    left = [name for name in needed if name not in target]
    for group in _groups((source.get(name) for name in left), more):
        if stop():
            raise StoppedError
        put_packed(target, group)


def put_packed(target: Store, group: Sequence[bytes]) -> None:
    """Contents as one pack, or as they are where they do not shrink."""
    from_digest = [(digest_of(data), data) for data in group]
    body = pack_contents(from_digest)
    if body is None:
        for data in group:
            target.add(data)
    else:
        target.append(PACK, body)


def _groups(*runs: Iterable[bytes]) -> Iterator[list[bytes]]:
    """Contents that fill a pack together; a large one stands alone."""
    group: list[bytes] = []
    size = 0
    for run in runs:
        for data in run:
            if group and size + len(data) > PACK_BYTES:
                yield group
                group, size = [], 0
            group.append(data)
            size += len(data)
    if group:
        yield group


def follow(source: Store, target: Store, since: int) -> None:
    """Take over the records that came after the first `since`."""
    for record in source.records[since:]:
        data = source.body(record)
        if record.kind == CONTENT:
            target.add(data)
        else:
            target.append(record.kind, data)


def take_place(target: Store, file: Path) -> None:
    """The new file becomes the store, durably; it stays open."""
    target.sync()
    target.file.replace(file)
    target.file = file
    with suppress(OSError):  # a power loss may bring the old one back, which holds the same
        directory = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def abandon(target: Store) -> None:
    """The new file goes, unless it took its place."""
    target.close()
    if target.file.name.endswith(SUFFIX):
        target.file.unlink(missing_ok=True)


def by_path(source: Store, notes: Iterable[Mapping[str, Any]]) -> list[str]:
    """All contents of a checkpoint log, versions of one path side by side, then those that no index names."""
    paths: dict[str, str] = {}
    for note in notes:
        if "index" in note and note["index"] in source:
            paths.setdefault(note["index"], "")
            for name, delta in decode(source.get(note["index"])).items():
                for path, row in delta.rows.items():
                    for digest in contents_of(row):
                        paths.setdefault(digest, f"{name}/{path}")
    order = [name for name, _ in source.digests()]
    return sorted(order, key=lambda name: paths.get(name, "\U0010ffff"))


def contents_of(row: Row) -> Iterator[str]:
    """The digests that a row names: none where the content lies in a frozen layer."""
    match row.payload:
        case str() as digest if row.is_file:
            yield digest
        case list() as pieces:
            yield from (piece[0] for piece in pieces if isinstance(piece, list) and piece[0])
        case _:
            return


def frozen_in(file: Path) -> set[str]:
    """The frozen layers that the states in a checkpoint log stand on. Raises StoreError."""
    with Store(file, writable=False) as source:
        return {
            layer
            for note in source.notes()
            if "index" in note
            for delta in decode(source.get(note["index"])).values()
            for layer in delta.lowers or ()
        }


def thin(file: Path, drop: frozenset[str], *, stop: Stop = never) -> Thinned:
    """Write a checkpoint log anew without some checkpoints and what only they needed. The present one must stay.
    Nobody may own the session. Raises StoreError, OSError, StoppedError; nothing changed then.
    """
    with Store(file, writable=False) as source:
        before = source.size + source.torn
        notes = [note for note in source.notes() if note.get("id") not in drop]
        indexes, notes = _without(source, drop, notes)
        needed = _needed(source, notes, indexes)
        wanted = [name for name in by_path(source, notes) if name in needed]
        target = rewrite(source, wanted, notes, more=indexes.values(), stop=stop)
        return Thinned(before=before, after=_settled(target, file))


def _settled(target: Store, file: Path) -> int:
    """The size of what was written anew, in its place and closed."""
    try:
        take_place(target, file)
    except BaseException:
        abandon(target)
        raise
    with target:
        return target.size


def _without(
    source: Store, drop: frozenset[str], notes: list[dict[str, Any]]
) -> tuple[dict[str, bytes], list[dict[str, Any]]]:
    """New indexes, by digest, for checkpoints that lose one that they built on, and the notes with them."""
    if not drop:
        return {}, notes
    every = {note["id"]: note for note in source.notes() if note["type"] == "checkpoint"}
    indexes: dict[str, bytes] = {}
    changed = []
    for note in notes:
        if note["type"] != "checkpoint" or note["parent"] not in drop:
            changed.append(note)
            continue
        parent = note["parent"]
        while parent in drop:
            parent = every[parent]["parent"]
        new = {**note, "parent": parent}
        if not note["whole"]:
            states = _state(source, every, note["id"])
            data = encode({name: whole(state) for name, state in states.items()})
            name = digest_of(data).hex()
            indexes[name] = data
            new |= {"whole": True, "index": name}
        changed.append(new)
    return indexes, changed


def _state(source: Store, every: Mapping[str, Mapping[str, Any]], checkpoint: str) -> dict[str, State]:
    chain = [every[checkpoint]]
    while not chain[-1]["whole"]:
        chain.append(every[chain[-1]["parent"]])
    states: dict[str, State] = {}
    for note in reversed(chain):
        update(states, decode(source.get(note["index"])))
    return states


def _needed(source: Store, notes: Iterable[Mapping[str, Any]], indexes: Mapping[str, bytes]) -> set[str]:
    """The digests of all that is needed of the source for these notes."""
    needed: set[str] = set()
    for note in notes:
        if "index" not in note:
            continue
        index = note["index"]
        if index not in indexes:
            needed.add(index)
        for delta in decode(indexes.get(index) or source.get(index)).values():
            for row in delta.rows.values():
                needed.update(contents_of(row))
    return needed


def repack(file: Path, wanted: Callable[[Store], Sequence[str]] | None = None, *, stop: Stop = never) -> Thinned:
    """Write any other store anew, packed. `wanted`: the contents to keep; None: all. Nobody may write to it.
    Raises as `thin`.
    """
    with Store(file, writable=False) as source:
        before = source.size + source.torn
        names = [name for name, _ in source.digests()] if wanted is None else wanted(source)
        target = rewrite(source, names, source.notes(), stop=stop)
        return Thinned(before=before, after=_settled(target, file))


class Background:
    """Does `work` in a thread of its own that stands back behind all others, one at a time. `work` gets a function
    that tells whether to stop; what goes wrong is left as it was.
    """

    def __init__(self, work: Callable[[Stop], object]) -> None:
        self._work = work
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin, unless it is under way."""
        if self._thread is None or not self._thread.is_alive():
            self._stop.clear()
            self._thread = threading.Thread(target=self._run, name="packing", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Return when it has stopped."""
        self._stop.set()
        self.wait()

    def wait(self) -> None:
        """Return when it is done."""
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
        with suppress(OSError, SandboxError, StoppedError):
            self._work(self._stop.is_set)
