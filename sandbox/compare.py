"""The places of a box as they were at a checkpoint, or are now: to read a file of then, and to tell what
changed between two such moments. Nothing here writes; everything blocks.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Iterator
from contextlib import ExitStack, aclosing
from dataclasses import replace
from functools import partial

from sandbox.addresses import find_layer
from sandbox.bases import Bases, filled
from sandbox.changes import Change, classify, listed_pairs
from sandbox.checkpoints import Checkpoints
from sandbox.dataclass import dataclass
from sandbox.diff import FileDiff, Sides, with_renames
from sandbox.errors import WorkspaceError
from sandbox.gitpatch import format_patch
from sandbox.layers import Layer
from sandbox.pasttree import Merged, StateTree
from sandbox.places import Places
from sandbox.selection import Selection
from sandbox.spec import Rung
from sandbox.states import Row, State
from sandbox.threads import from_thread
from sandbox.trees import Tree
from sandbox.views import Views

NOW = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """One place at one moment: all of it, and what had been written there, by path."""

    tree: Merged
    rows: State


class Past:
    """Opens the places of a session at a moment: a checkpoint, or NOW. Paths are absolute, as the box sees them or the
    host's of a root.
    """

    def __init__(self, places: Places, checkpoints: Checkpoints, views: Views) -> None:
        self._places = places
        self._checkpoints = checkpoints
        self._views = views

    def content_at(self, checkpoint: str, path: str) -> Iterator[bytes]:
        """A file of the box as it was at a checkpoint. What the session had not touched then is as it was when the
        session began, where that was kept, else as the host has it now. Raises WorkspaceError. Blocks.
        """
        name = self._checkpoints.find(checkpoint).id
        found = self._file(*find_layer(self._layers, path), name)
        if found is None:
            raise WorkspaceError(f"{path} was no file at {checkpoint}")
        return filled(found)

    async def compare(
        self, old: str, new: str = NOW, paths: Iterable[str] = (), *, git: bool = False
    ) -> AsyncIterator[FileDiff]:
        """What changed in all writable places from one checkpoint to another, or to now; as `Workspace.diffs` gives it,
        but paths of places that are no root begin with where the box has them. Raises WorkspaceError, StoreError.
        """
        moments = [await asyncio.to_thread(self._moment, name) for name in (old, new)]
        pairs = tuple((layer.name, path) for layer, path in (find_layer(self._layers, each) for each in paths))
        chosen = Selection(paths=pairs or None)

        def takes(layer: Layer, change: Change) -> bool:
            masked = self._places.covers.names(layer, change.path)
            return (git or not change.in_git) and not masked and chosen.takes(change)

        for layer in self._layers:
            async with aclosing(from_thread(self._diffs(layer, *moments, takes=partial(takes, layer)))) as found:
                async for item in found:
                    yield item

    def named(self, item: FileDiff) -> FileDiff:
        """One of `compare` with its paths as the texts have them, for `format_stat`."""
        change, prefix = item.change, next(_name(la) for la in self._layers if la.name == item.change.root)
        source = prefix + change.source if change.source else ""
        return replace(item, change=replace(change, path=prefix + change.path, source=source))

    @property
    def _layers(self) -> tuple[Layer, ...]:
        return self._places.table.layers if self._places.table else ()

    def _moment(self, name: str) -> str:
        """A checkpoint's whole id, or NOW."""
        return self._checkpoints.find(name).id if name else NOW

    def _file(self, layer: Layer, path: str, moment: str) -> Iterator[bytes | int] | None:
        """A file's content at a moment; None where none was (or something else). Close it."""
        name = os.fsencode(path)
        with ExitStack() as stack:
            lower = self._lower(layer, stack)
            tree = self._open(layer, moment, lower, stack).tree
            found = tree.stat(name)
            if found is None or not found.is_file:
                return None
            return _until_closed(tree.chunks(name), stack.pop_all())

    def _diffs(
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
                yield _shown(change, sides, _name(layer))

    def _lower(self, layer: Layer, stack: ExitStack) -> Tree | None:
        return self._views.beneath(layer, stack) if layer.rung is Rung.OVERLAY else None

    def _open(self, layer: Layer, moment: str, lower: Tree | None, stack: ExitStack) -> Moment:
        upper: Tree
        if moment == NOW:
            upper = self._views.written(layer, stack)
            return Moment(tree=Merged(upper, lower), rows=_rows(upper))
        state = self._checkpoints.state(moment).get(layer.name, State())
        return Moment(tree=Merged(StateTree(state, self._checkpoints.pieces), lower), rows=state)


def _name(layer: Layer) -> str:
    """What stands before a place's paths in texts: nothing for a root, as in every diff; else where the box
    has it, without the first slash.
    """
    return "" if layer.host is not None else f"{layer.at}/".lstrip("/")


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
