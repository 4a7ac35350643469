"""The places of a box as they were at a checkpoint, or are now: to read a file of then, and to tell what
changed between two such moments. Nothing here writes; everything blocks.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import replace

from sandbox.bases import Bases
from sandbox.changes import Change, classify, listed_pairs
from sandbox.checkpoints import Checkpoints
from sandbox.dataclass import dataclass
from sandbox.diff import FileDiff, Sides, with_renames
from sandbox.gitpatch import format_patch
from sandbox.layers import Layer
from sandbox.manifest import Stamp
from sandbox.marks import OPAQUE
from sandbox.spec import Rung
from sandbox.states import Payload, Row, State
from sandbox.trees import Entry, Tree

NOW = ""
Read = Callable[[Payload], Iterator[bytes | int]]


class StateTree:
    """What a layer held at a checkpoint, as a Tree. `read` gives a row's content."""

    def __init__(self, state: State, read: Read) -> None:
        self._state = state
        self._read = read
        self._children: dict[str, list[str]] | None = None

    def scan(self, path: bytes) -> list[Entry]:
        """What a directory held, sorted by name."""
        if self._children is None:
            self._children = {}
            for name in self._state:
                if name:
                    self._children.setdefault(name.rpartition("/")[0], []).append(name)
        found = [_entry(name, self._state[name]) for name in self._children.get(os.fsdecode(path), [])]
        return sorted(found, key=lambda entry: entry.path)

    def stat(self, path: bytes) -> Entry | None:
        """The row of a path."""
        row = self._state.get(os.fsdecode(path))
        return None if row is None else _entry(os.fsdecode(path), row)

    def chunks(self, path: bytes, limit: int | None = None) -> Iterator[bytes | int]:
        """A file's content out of the store."""
        return cut_at(self._read(self._row(path).payload), limit)

    def readlink(self, path: bytes) -> bytes:
        """A link's text."""
        payload = self._row(path).payload
        assert isinstance(payload, str)
        return os.fsencode(payload)

    def attributes(self, path: bytes) -> dict[str, bytes]:
        """Attributes of the user namespace."""
        found = self._row(path).attributes
        return {name: bytes.fromhex(value) for name, value in found.items() if name.startswith("user.")}

    def _row(self, path: bytes) -> Row:
        row = self._state.get(os.fsdecode(path))
        if row is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return row


class Began:
    """A root's own directory as it was when the session began, as far as that is known: what the host changed
    since comes out of the store where it was kept, else it is as it is now.
    """

    def __init__(self, host: Tree, bases: Bases) -> None:
        self._host = host
        self._bases = bases

    def scan(self, path: bytes) -> list[Entry]:
        """What is there now and was there then."""
        return [then for entry in self._host.scan(path) if (then := self._then(entry.path, entry)) is not None]

    def stat(self, path: bytes) -> Entry | None:
        """As it was."""
        return self._then(path, self._host.stat(path))

    def chunks(self, path: bytes, limit: int | None = None) -> Iterator[bytes | int]:
        """The content that was kept, else the host's."""
        kept = self._kept(path, self._host.stat(path))
        return cut_at(iter([self._bases.content(kept[1])]), limit) if kept else self._host.chunks(path, limit)

    def readlink(self, path: bytes) -> bytes:
        """The host's."""
        return self._host.readlink(path)

    def attributes(self, path: bytes) -> dict[str, bytes]:
        """The host's."""
        return self._host.attributes(path)

    def _kept(self, path: bytes, now: Entry | None) -> tuple[Stamp, str] | None:
        kept = self._bases.first(os.fsdecode(path))
        return None if kept is None or (now is not None and now.stamp.same(kept[0])) else kept

    def _then(self, path: bytes, now: Entry | None) -> Entry | None:
        kept = self._kept(path, now)
        if kept:
            return _stamped(path, kept[0])
        return None if now is not None and self._bases.was_absent(os.fsdecode(path)) else now


class Merged:
    """An upper directory over a lower one, as the box sees them. `lower` None: a whole copy."""

    def __init__(self, upper: Tree, lower: Tree | None) -> None:
        self._upper = upper
        self._lower = lower
        self._shown: dict[bytes, bool] = {b"": lower is not None}

    def shows(self, directory: bytes) -> bool:
        """Whether what lies beneath shows through in a directory."""
        known = self._shown.get(directory)
        if known is None:
            known = self.shows(directory.rpartition(b"/")[0])
            above = self._upper.stat(directory) if known else None
            if above is not None:
                known = above.is_directory and self._upper.attributes(directory).get(OPAQUE) not in (b"y", b"x")
            self._shown[directory] = known
        return known

    def scan(self, path: bytes) -> list[Entry]:
        """What a directory holds."""
        above = self._upper.stat(path)
        found = {e.path: e for e in self._upper.scan(path)} if above is not None and above.is_directory else {}
        if self._lower is not None and self.shows(path):
            found = {entry.path: entry for entry in self._lower.scan(path)} | found
        return [found[name] for name in sorted(found) if not found[name].is_whiteout]

    def stat(self, path: bytes) -> Entry | None:
        """Lstat; None where nothing is."""
        above = self._upper.stat(path)
        if above is not None:
            return None if above.is_whiteout else above
        return self._lower.stat(path) if self._lower is not None and self.shows(path.rpartition(b"/")[0]) else None

    def chunks(self, path: bytes, limit: int | None = None) -> Iterator[bytes | int]:
        """A file's content."""
        return self._holder(path).chunks(path, limit)

    def readlink(self, path: bytes) -> bytes:
        """A link's text."""
        return self._holder(path).readlink(path)

    def attributes(self, path: bytes) -> dict[str, bytes]:
        """Attributes of the user namespace."""
        return self._holder(path).attributes(path)

    def _holder(self, path: bytes) -> Tree:
        if self._lower is None or self._upper.stat(path) is not None:
            return self._upper
        return self._lower


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """One place at one moment: all of it, and what had been written there, by path."""

    tree: Merged
    rows: State


class Past:
    """Opens the places of a session at a moment: a checkpoint's whole id, or NOW. `written` opens what a place
    has written in it now, `beneath` what lies beneath it (None: nothing), until the stack closes.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        *,
        written: Callable[[Layer, ExitStack], Tree],
        beneath: Callable[[Layer, ExitStack], Tree],
    ) -> None:
        self._checkpoints = checkpoints
        self._written = written
        self._beneath = beneath

    def file(self, layer: Layer, path: str, moment: str) -> Iterator[bytes | int] | None:
        """A file's content at a moment; None where none was (or something else). Close it."""
        name = os.fsencode(path)
        with ExitStack() as stack:
            lower = self._lower(layer, stack)
            tree = self._open(layer, moment, lower, stack).tree
            found = tree.stat(name)
            if found is None or not found.is_file:
                return None
            return _until_closed(tree.chunks(name), stack.pop_all())

    def diffs(
        self, layer: Layer, old: str, new: str, *, takes: Callable[[Change], bool]
    ) -> Generator[FileDiff, None, None]:
        """What changed in a place from one moment to another, by path, renames found."""
        with ExitStack() as stack:
            lower = self._lower(layer, stack)
            before, after = self._open(layer, old, lower, stack), self._open(layer, new, lower, stack)
            pairs = listed_pairs(sorted(_touched(before, after, lower)), after.tree, before.tree)
            found = [
                change
                for pair in pairs
                if (change := classify(layer.name, pair, after.tree, before.tree)) is not None and takes(change)
            ]
            sides = Sides(after.tree, before.tree, Bases(layer.name, None, None, began_ns=0))
            for change in with_renames(found, after.tree, before.tree):
                yield _shown(change, sides, name_of(layer))

    def _lower(self, layer: Layer, stack: ExitStack) -> Tree | None:
        return self._beneath(layer, stack) if layer.rung is Rung.OVERLAY else None

    def _open(self, layer: Layer, moment: str, lower: Tree | None, stack: ExitStack) -> Moment:
        upper: Tree
        if moment == NOW:
            upper = self._written(layer, stack)
            return Moment(tree=Merged(upper, lower), rows=_rows(upper))
        state = self._checkpoints.state(moment).get(layer.name, State())
        return Moment(tree=Merged(StateTree(state, self._checkpoints.pieces), lower), rows=state)


def name_of(layer: Layer) -> str:
    """What stands before a place's paths in texts: nothing for a root, as in every diff; else where the box
    has it, without the first slash.
    """
    return "" if layer.host is not None else f"{layer.at}/".lstrip("/")


def named(item: FileDiff, prefix: str) -> FileDiff:
    """With the place's name in its paths, for `format_stat`."""
    change = item.change
    source = prefix + change.source if change.source else ""
    return replace(item, change=replace(change, path=prefix + change.path, source=source))


def cut_at(pieces: Iterable[bytes | int], limit: int | None) -> Iterator[bytes | int]:
    """The first `limit` bytes of pieces."""
    for piece in pieces:
        length = piece if isinstance(piece, int) else len(piece)
        if limit is not None:
            length = min(length, limit)
            limit -= length
        yield length if isinstance(piece, int) else piece[:length]
        if limit == 0:
            return


def _until_closed(pieces: Iterator[bytes | int], stack: ExitStack) -> Generator[bytes | int, None, None]:
    with stack:
        yield from pieces


def _touched(before: Moment, after: Moment, lower: Tree | None) -> set[bytes]:
    """All paths that may differ: whose rows do, and what shows through in one moment only."""
    names = [
        os.fsencode(name)
        for name in before.rows.keys() | after.rows.keys()
        if name and not _same(before.rows.get(name), after.rows.get(name))
    ]
    touched = set(names)
    for name in names:
        there = lower.stat(name) if lower is not None else None
        if lower is None or there is None or not there.is_directory:
            continue
        if before.tree.shows(name) != after.tree.shows(name):
            touched |= set(_below(lower, name))
    return touched


def _same(one: Row | None, other: Row | None) -> bool:
    return one is other or (one is not None and other is not None and one[:5] == other[:5])


def _below(tree: Tree, path: bytes) -> Iterator[bytes]:
    for entry in tree.scan(path):
        yield entry.path
        if entry.is_directory:
            yield from _below(tree, entry.path)


def _rows(tree: Tree) -> State:
    """Stamps of all that a tree holds; no contents."""
    rows = State()

    def visit(path: bytes) -> None:
        for e in tree.scan(path):
            rows[os.fsdecode(e.path)] = Row(
                e.inode, e.size, e.mtime_ns, e.ctime_ns, e.mode, e.uid, e.gid, e.device, e.links, "", {}
            )
            if e.is_directory:
                visit(e.path)

    visit(b"")
    return rows


def _shown(change: Change, sides: Sides, prefix: str) -> FileDiff:
    both = sides.old(change), sides.new(change)
    text = sides.patch(change)
    if prefix and text.text:
        before, after = (os.fsencode(prefix + path) for path in (change.source or change.path, change.path))
        text = format_patch(before, after, *both, similarity=change.similarity)
    return FileDiff(change=change, patch=text, sides=both)


def _entry(name: str, row: Row) -> Entry:
    return Entry(
        path=os.fsencode(name),
        mode=row.mode,
        size=row.size,
        mtime_ns=row.mtime_ns,
        ctime_ns=row.ctime_ns,
        inode=row.inode,
        device=row.device,
        uid=row.uid,
        gid=row.gid,
        links=row.links,
    )


def _stamped(path: bytes, stamp: Stamp) -> Entry:
    return Entry(
        path=path,
        mode=stamp.mode,
        size=stamp.size,
        mtime_ns=stamp.mtime_ns,
        ctime_ns=stamp.ctime_ns,
        inode=stamp.inode,
        device=0,
        uid=0,
        gid=0,
        links=1,
    )
