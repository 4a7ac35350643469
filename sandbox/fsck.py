"""Checking the stores of a session: every record, every content that an index or a note names. Reads only, and
beside a live owner too; names what is damaged, and which checkpoints and paths it takes with it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import field
from pathlib import Path
from typing import Any

from sandbox.compaction import contents_of
from sandbox.dataclass import dataclass
from sandbox.errors import StoreError
from sandbox.kept import Kept
from sandbox.layers import FILLED, LayerTable
from sandbox.manifest import Manifest
from sandbox.packs import directory_size, read_directory, unpack_contents, unpack_notes
from sandbox.points import INHERITED
from sandbox.pool import Pool
from sandbox.remote import read_mark
from sandbox.states import Delta, decode
from sandbox.store import NOTE, NOTES, PACK, Record, Store, digest_of

MOST = 1000
_AGAIN = "~"


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """A damaged object: the file (relative to the session's directory), what is wrong, and what cannot be had
    any more: checkpoints by id, paths as LAYER/PATH (MOST of each at most).
    """

    file: str
    what: str
    checkpoints: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()


@dataclass(slots=True)
class Checked:
    """What was looked at. `torn`: file → bytes after its last whole record, which the next writer cuts off."""

    records: int = 0
    damages: list[Damage] = field(default_factory=list)
    torn: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class _Read:
    """A store's notes, as far as they can be read, and what is wrong with its contents, by digest."""

    notes: list[dict[str, Any]] = field(default_factory=list)
    bad: dict[str, str] = field(default_factory=dict)
    have: set[str] = field(default_factory=set)
    store: Store | None = None


@dataclass(slots=True)
class _Known:
    """What the logs of a fork's origin hold: checkpoints and digests that its own log builds on."""

    points: set[str] = field(default_factory=set)
    contents: set[str] = field(default_factory=set)


def check_stores(directory: Path, *, pool: Pool) -> Checked:
    """All stores and tables of the session in `directory`, and the frozen layers of the pool that it needs."""
    checked = Checked()
    known = _Known()
    own = directory / "store" / "checkpoints"
    for file in (*sorted(own.parent.glob(INHERITED + "*")), own):
        if file.exists():
            _checkpoints(checked, directory, file, known)
    for file in sorted((directory / "store").glob("log")):
        _bases(checked, directory, file)
    for file in sorted((directory / "store" / "applies").glob("*")):
        _applies(checked, directory, file)
    for file in sorted(directory.glob("net.*")):
        _exchanges(checked, directory, file)
    _frozen(checked, directory, pool, _tables(checked, directory))
    return checked


def _checkpoints(checked: Checked, directory: Path, file: Path, known: _Known) -> None:
    name = str(file.relative_to(directory))
    read = _read(checked, name, file)
    store = read.store
    if store is None:
        return
    with store:
        points = {note["id"]: note for note in read.notes if note["type"] == "checkpoint"}
        for note in read.notes:
            if note["type"] == "restacked":  # the same state, told anew
                points[note["id"] + _AGAIN] = {"index": note["index"], "whole": True}
        deltas = _deltas(points, read, store)
    known.points |= points.keys()
    known.contents |= read.have
    read.have = known.contents
    children: dict[str, list[str]] = {}
    by_index: dict[str, list[str]] = {}
    for point, note in points.items():
        by_index.setdefault(note["index"], []).append(point)
        if not note["whole"]:
            children.setdefault(note["parent"], []).append(point)
    for parent in children.keys() - known.points:
        lost = [each for child in children[parent] for each in _onward(child, children)]
        what = f"checkpoint {parent or '?'}, which others build on, is missing"
        checked.damages.append(Damage(file=name, what=what, checkpoints=tuple(lost)[:MOST]))
    touched = _rows_of(deltas, read)
    for digest, why in read.bad.items():
        lost = [each for point in by_index.get(digest, ()) for each in _onward(point, children)]
        paths: dict[str, None] = {}
        for point, layer, path in touched.get(digest, ()):
            paths[f"{layer}/{path}"] = None
            lost += _while_same(point, layer, path, children, deltas)
        found = tuple(dict.fromkeys(point.removesuffix(_AGAIN) for point in lost))[:MOST]
        checked.damages.append(Damage(file=name, what=why, checkpoints=found, paths=tuple(paths)[:MOST]))


def _deltas(points: dict[str, dict[str, Any]], read: _Read, store: Store) -> dict[str, dict[str, Delta]]:
    """What each checkpoint changed, as far as it can be read."""
    deltas: dict[str, dict[str, Delta]] = {}
    for point, note in points.items():
        index = note["index"]
        if index in read.bad:
            continue
        try:
            deltas[point] = decode(store.get(index))
        except StoreError as error:
            read.bad[index] = f"the index {index[:12]}: {error}"
    return deltas


def _rows_of(deltas: dict[str, dict[str, Delta]], read: _Read) -> dict[str, list[tuple[str, str, str]]]:
    """Digest → (checkpoint, layer, path) of the rows that need a content which is bad; missing ones become bad."""
    touched: dict[str, list[tuple[str, str, str]]] = {}
    for point, layers in deltas.items():
        for layer, delta in layers.items():
            for path, row in delta.rows.items():
                for digest in contents_of(row):
                    if digest not in read.have:
                        read.bad.setdefault(digest, f"the content {digest[:12]} is missing")
                    if digest in read.bad:
                        touched.setdefault(digest, []).append((point, layer, path))
    return touched


def _onward(point: str, children: dict[str, list[str]]) -> Iterator[str]:
    """A checkpoint and all that build on it."""
    left = [point]
    while left:
        at = left.pop()
        yield at
        left += children.get(at, ())


def _while_same(
    point: str, layer: str, path: str, children: dict[str, list[str]], deltas: dict[str, dict[str, Delta]]
) -> list[str]:
    """A checkpoint and those that build on it with the same row of a path."""
    found, left = [], [point]
    while left:
        at = left.pop()
        found.append(at)
        for child in children.get(at, ()):
            delta = deltas.get(child, {}).get(layer)
            if delta is None or (path not in delta.rows and path not in delta.gone):
                left.append(child)
    return found


def _bases(checked: Checked, directory: Path, file: Path) -> None:
    name = str(file.relative_to(directory))
    read = _read(checked, name, file)
    paths: dict[str, list[str]] = {}
    for note in read.notes:
        for digest in (note.get("digest"), note.get("merged")):
            if digest:
                paths.setdefault(digest, []).append(f"{note.get('root', '?')}/{note.get('path', '?')}")
    _by_path(checked, name, read, paths, "a base")


def _applies(checked: Checked, directory: Path, file: Path) -> None:
    name = str(file.relative_to(directory))
    read = _read(checked, name, file)
    paths: dict[str, list[str]] = {}
    for note in read.notes:
        if note["type"] == "kept":
            kept = Kept.from_json(note)
            for _, digest in kept.pieces:
                if digest:
                    paths.setdefault(digest, []).append(f"{kept.root}/{kept.path}")
    _by_path(checked, name, read, paths, "what an apply overwrote")


def _exchanges(checked: Checked, directory: Path, file: Path) -> None:
    name = str(file.relative_to(directory))
    read = _read(checked, name, file)
    requests: dict[str, list[str]] = {}
    for note in read.notes:
        for body in (note.get("sent"), note.get("answer")):
            for digest in body["pieces"] if body else ():
                requests.setdefault(digest, []).append(note["request"])
    _by_path(checked, name, read, requests, "what was exchanged")


def _by_path(checked: Checked, name: str, read: _Read, paths: dict[str, list[str]], kind: str) -> None:
    if read.store is None:
        return
    read.store.close()
    for digest in paths:
        if digest not in read.have:
            read.bad.setdefault(digest, f"the content {digest[:12]} ({kind}) is missing")
    for digest, why in read.bad.items():
        found = tuple(dict.fromkeys(paths.get(digest, ())))[:MOST]
        checked.damages.append(Damage(file=name, what=why, paths=found))


def _frozen(checked: Checked, directory: Path, pool: Pool, table: LayerTable | None) -> None:
    """The frozen layers that the session names: what differs from how they were frozen, and who stands on them."""
    users: dict[str, dict[str, None]] = {}
    log = directory / "store" / "checkpoints"
    names = set(table.frozen) if table else set()
    damaged = {name: problems for name in sorted(names) if (problems := pool.problems(name))}
    if damaged and log.exists():
        with suppress(StoreError), Store(log, writable=False) as store:
            users = _standing(store, set(damaged))
    for name, problems in damaged.items():
        whats = dict.fromkeys(problem.what for problem in problems)
        checked.damages.append(
            Damage(
                file=f"frozen layer {name}",
                what=f"{len(problems)} paths are not as they were: {', '.join(whats)}",
                checkpoints=tuple(users.get(name, ()))[:MOST],
                paths=tuple(problem.path for problem in problems if problem.path)[:MOST],
            )
        )


def _standing(store: Store, layers: set[str]) -> dict[str, dict[str, None]]:
    """Frozen layer → the checkpoints whose states stand on it."""
    users: dict[str, dict[str, None]] = {}
    lowers: dict[str, dict[str, tuple[str, ...]]] = {"": {}}
    for note in store.notes():
        if note["type"] != "checkpoint":
            continue
        here = {} if note["whole"] else dict(lowers.get(note["parent"], {}))
        for name, delta in decode(store.get(note["index"])).items():
            if delta.lowers is not None:
                here[name] = delta.lowers
        lowers[note["id"]] = here
        for each in {layer for stack in here.values() for layer in stack} & layers:
            users.setdefault(each, {})[note["id"]] = None
    return users


def _tables(checked: Checked, directory: Path) -> LayerTable | None:
    """The records of the layers, and of what the host's directories looked like."""
    layers = directory / "layers"
    try:
        table = LayerTable.read(layers / "layers.json")
    except StoreError as error:
        checked.damages.append(Damage(file="layers/layers.json", what=str(error)))
        return None
    for layer in table.layers if table else ():
        place = layers / layer.name
        if not layer.remote and not any((place / top).is_dir() for top in ("upper", "copy")):
            what = "the directory that holds what was written is missing"
            checked.damages.append(Damage(file=f"layers/{layer.name}", what=what, paths=(layer.name,)))
        try:
            read_mark(place / FILLED)
        except StoreError as error:
            checked.damages.append(Damage(file=f"layers/{layer.name}/{FILLED}", what=str(error), paths=(layer.name,)))
        try:
            Manifest(place / "manifest").close()
        except FileNotFoundError:
            continue
        except StoreError as error:
            checked.damages.append(Damage(file=f"layers/{layer.name}/manifest", what=str(error), paths=(layer.name,)))
    return table


def _read(checked: Checked, name: str, file: Path) -> _Read:
    """Verify every record of a store."""
    try:
        store = Store(file, writable=False)
    except (StoreError, OSError) as error:
        checked.damages.append(Damage(file=name, what=str(error)))
        return _Read()
    read = _Read(store=store, have={digest for digest, _ in store.digests()})
    checked.records += len(store.records)
    if store.broken:
        what = f"the record at {store.broken} is damaged; {store.torn} bytes from there on cannot be read"
        checked.damages.append(Damage(file=name, what=what))
    elif store.torn:
        checked.torn[name] = store.torn
    plain = {at: digest for digest, at in store.places()}
    packed = {record.at: names for record, names in store.packs()}
    for record in store.records:
        try:
            _verify(read, record, store.body(record))
        except (StoreError, ValueError) as error:
            named = plain.get(record.at)
            if named is not None:
                read.bad[named] = f"the content {named[:12]}, in the record at {record.at}, is damaged"
            else:
                checked.damages.append(Damage(file=name, what=f"the record at {record.at} is damaged: {error}"))
                for digest in packed.get(record.at, ()):
                    read.bad[digest] = f"the content {digest[:12]}, in the pack at {record.at}, is damaged"
    return read


def _verify(read: _Read, record: Record, body: bytes) -> None:
    if record.kind == NOTE:
        read.notes.append(json.loads(body))
    elif record.kind == NOTES:
        read.notes += unpack_notes(body)
    elif record.kind == PACK:
        data = unpack_contents(body)
        for digest, at, size in read_directory(body[: directory_size(body[:4])]):
            if digest_of(data[at : at + size]).hex() != digest:
                read.bad[digest] = f"the content {digest[:12]}, in the pack at {record.at}, is damaged"


def cut_torn(directory: Path, names: Iterable[str]) -> None:
    """Cut the torn ends off these files. Nobody may own the session. Raises StoreError."""
    for name in names:
        Store(directory / name, writable=True).close()
