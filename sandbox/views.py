"""The layers of a session opened for reading: each root's layer, what lies beneath it, and its bases.
Changes, diffs and applies are computed here; everything blocks.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path

from sandbox.apply import Applied, AppliedReport, Applies, Part, Recovered, applied
from sandbox.bases import Bases
from sandbox.changes import Change, Pair, classify, listed_pairs, other_attributes, overlay_pairs, user_attributes
from sandbox.dataclass import dataclass
from sandbox.diff import PATCH_BYTES, FileDiff, Sides, with_renames
from sandbox.errors import DiskFullError, StoreError, WorkspaceError
from sandbox.gitdir import is_git_dir
from sandbox.gitrefs import RefMove, ref_moves
from sandbox.held import HeldBack
from sandbox.keeper import Keeper
from sandbox.kepttree import KeptTree
from sandbox.layers import REMADE, Layer
from sandbox.manifest import Drifted, Manifest
from sandbox.pasttree import Began
from sandbox.places import Places
from sandbox.plan import Plan, leaves, make_plan
from sandbox.remade import Remade
from sandbox.selection import ApplyConflictError, PlanError, Selection
from sandbox.spec import Rung
from sandbox.stacks import StackTree
from sandbox.store import Store
from sandbox.transaction import nothing
from sandbox.trees import Entry, Tree, content
from sandbox.walk import encode


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """One root, open."""

    layer: Layer
    host: Path
    upper: Tree
    lower: Tree
    bases: Bases


class Views:
    """Opens the roots of a session. `store`: the session's store file, made by the first writer."""

    def __init__(
        self,
        places: Places,
        keeper: Keeper,
        *,
        store: Path,
        held: HeldBack,
        reached: Callable[[str], None] = nothing,
    ) -> None:
        self._places = places
        self._keeper = keeper
        self._file = store
        self._held = held
        self._reached = reached

    @property
    def roots(self) -> list[Layer]:
        """The layers that lie over roots."""
        return [layer for layer in (self._places.table.layers if self._places.table else ()) if layer.host is not None]

    def written(self, layer: Layer, stack: ExitStack) -> Tree:
        """What was written in a place of the box, until the stack closes."""
        return self._layer(layer, stack)

    def beneath(self, layer: Layer, stack: ExitStack) -> Tree:
        """What lies beneath a place, as it was when the session began."""
        lower = KeptTree(layer.host or self._places.path(layer) / "lower", self._keeper)
        stack.enter_context(closing(lower))
        if layer.host is None:
            return lower
        store = stack.enter_context(self._store(writable=False))
        return Began(lower, self._bases(layer, stack, store))

    def changes(self, layer: Layer, touched: Iterable[bytes]) -> list[Change]:
        """A root's changes, sorted by path. `touched`: the paths to look at in a whole copy."""
        with self._errors(), ExitStack() as stack:
            view = self._open(layer, stack)
            overlay = layer.rung is Rung.OVERLAY
            pairs = overlay_pairs(view.upper, view.lower) if overlay else listed_pairs(touched, view.upper, view.lower)
            git, skip = is_git_dir(view.host), self._places.covers.skipping(layer)
            found = [
                view.bases.judge(change)
                for pair in pairs
                if not (_is_planted(layer, pair, view.upper) or (skip is not None and skip(os.fsdecode(pair[0]))))
                and (change := classify(layer.name, pair, view.upper, view.lower, git=git)) is not None
                and not view.bases.is_taken(change, view.upper)
            ]
        found = found if skip is None else [c for c in found if not self._holds_masked(layer, c)]
        return sorted(found, key=lambda change: os.fsencode(change.path))

    def _holds_masked(self, layer: Layer, change: Change) -> bool:
        """Whether a directory of the host that is to go holds what is masked: it stays, and so does all of that."""
        old, new = change.old, change.new
        gone = old is not None and old.is_directory and not (new is not None and new.is_directory)
        return gone and self._places.covers.holds(layer, change.path)

    def note_remote(self, layer: Layer, file: Path) -> None:
        """Write the manifest of a copy that only the keeper can read."""
        with self._errors(), ExitStack() as stack:
            tree = self._layer(layer, stack)
            top = tree.stat(b"")
            assert top is not None
            entries = [replace(top, path=b"."), *_below(tree, b"")]
        rows = sorted((e.path, e.mode, e.size, e.mtime_ns, e.ctime_ns, e.inode) for e in entries)
        new = file.with_suffix(".new")
        new.write_bytes(encode(rows, time.time_ns()))
        new.replace(file)

    def touched_beneath(self, layer: Layer, closed: Iterable[bytes]) -> set[bytes]:
        """The paths of a whole copy that were changed beneath directories which only the keeper may read."""
        touched: dict[bytes, Entry | None] = {}
        with self._errors(), ExitStack() as stack:
            manifest = stack.enter_context(closing(Manifest(self._places.path(layer) / "copy.manifest")))
            copy = self._layer(layer, stack)
            for directory in closed:
                there = set()
                for entry in _below(copy, directory):
                    there.add(entry.path)
                    if not entry.stamp.same(manifest.stamp(entry.path)):
                        touched[entry.path] = entry
                touched |= dict.fromkeys(set(manifest.beneath(directory)) - there)
        return self.without_remade(layer, touched, touched)

    def without_remade(
        self, layer: Layer, touched: Iterable[bytes], seen: Mapping[bytes, Entry | None] | None = None
    ) -> set[bytes]:
        """Without the paths of a whole copy that only a restore made again, as they were at first. `seen`: what is
        known to be there.
        """
        if not (self._places.path(layer) / REMADE).exists():
            return set(touched)
        seen = seen or {}
        with self._errors(), ExitStack() as stack:
            manifest = stack.enter_context(closing(Manifest(self._places.path(layer) / "copy.manifest")))
            copy = self._layer(layer, stack)
            assert layer.host is not None
            host = stack.enter_context(closing(KeptTree(layer.host, self._keeper)))
            remade = Remade.read(self._places.path(layer))
            if remade is not None:
                stack.enter_context(closing(remade))
            return {
                path
                for path in touched
                if (now := seen[path] if path in seen else copy.stat(path)) is None
                or not now.stamp.alike(manifest.stamp(path))
                or (remade is not None and remade.touched(path, now.stamp))
                or (now.is_file and not (layer.remote and remade is not None) and _own_attributes(copy, host, path))
            }

    def diffs(self, layer: Layer, changes: Sequence[Change]) -> Generator[FileDiff, None, None]:
        """The changes of one root with their texts, renames found."""
        with self._errors(), ExitStack() as stack:
            view = self._open(layer, stack)
            sides = Sides(view.upper, view.lower, view.bases)
            for change in with_renames(changes, view.upper, view.lower):
                held = self._held.why(change, sides.texts)
                both = sides.old(change), sides.new(change)
                yield FileDiff(change=change, patch=sides.patch(change), held=held, sides=both)

    def patch(self, layer: Layer, changes: Sequence[Change], selection: Selection) -> Generator[bytes, None, None]:
        """What is not held back, as git's whole patches."""
        with self._errors(), ExitStack() as stack:
            view = self._open(layer, stack)
            sides = Sides(view.upper, view.lower, view.bases)
            whole = Sides(view.upper, view.lower, view.bases, limit=PATCH_BYTES)
            for change in changes:
                why = self._held.why(change, sides.texts) or leaves(change, view.upper)
                if change.special or (why and not selection.names(change, self._held)):
                    continue
                both = whole.old(change), whole.new(change)
                if any(side is not None and side.content is None for side in both):
                    raise PlanError(f"{change.path} is too large for a patch", hint="leave it out, or use `apply`")
                text = whole.patch(change, binary=True).text
                if text:
                    yield text

    def commits(self, layer: Layer, changes: Sequence[Change]) -> list[RefMove]:
        """The refs that changes inside git directories moved."""
        with self._errors(), ExitStack() as stack:
            view = self._open(layer, stack)
            return ref_moves(layer.name, changes, view.upper, view.lower)

    def capture(self, changes: Sequence[Change]) -> int:
        """Keep base contents; how many."""
        count = 0
        with self._errors(), self._store(writable=True) as store:
            for layer in self.roots:
                with ExitStack() as stack:
                    view = self._open(layer, stack, store)
                    count += view.bases.capture((c for c in changes if c.root == layer.name), view.lower)
        return count

    def not_ours(self, layer: Layer, found: Iterable[Drifted]) -> list[Drifted]:
        """Without the paths that we applied and nobody touched since."""
        with self._errors(), ExitStack() as stack:
            view = self._open(layer, stack)
            return [d for d in found if not view.bases.untouched(d.path, view.lower.stat(os.fsencode(d.path)))]

    def apply(self, changes: Sequence[Change], selection: Selection, *, dry: bool) -> AppliedReport:
        """Plan for all roots, then stage, check and commit. See Workspace.apply."""
        with self._errors(), ExitStack() as stack:
            store = stack.enter_context(self._store(writable=not dry))
            plans: list[tuple[View, Plan]] = []
            for layer in self.roots:
                mine = [change for change in changes if change.root == layer.name]
                if mine:
                    view = self._open(layer, stack, store)
                    plan = make_plan(
                        mine, selection, upper=view.upper, host=view.lower, bases=view.bases, held=self._held
                    )
                    plans.append((view, plan))
            report = _report([plan for _, plan in plans], dry=dry)
            if dry:
                return report
            if report.conflicts:
                raise ApplyConflictError(report.conflicts, merging=selection.merge)
            parts = [
                Part(top=view.host, plan=plan, upper=view.upper, bases=view.bases) for view, plan in plans if plan.steps
            ]
            if not parts:
                return report
            with self._applies().begin(parts) as work:
                work.stage()
                work.check()
                return replace(report, applied=work.commit())

    def undo_apply(self) -> tuple[Applied, ...]:
        """See Workspace.undo_apply."""
        with self._errors(), ExitStack() as stack:
            return self._applies().undo(self._all_bases(stack))

    def recover(self) -> list[Recovered]:
        """See Workspace.recover."""
        if not self._applies().interrupted:
            return []
        with self._errors(), ExitStack() as stack:
            return self._applies().recover(self._all_bases(stack))

    def _applies(self) -> Applies:
        tops = {layer.name: layer.host for layer in self.roots if layer.host is not None}
        return Applies(self._file.parent / "applies", tops, session=self._places.session, reached=self._reached)

    def _all_bases(self, stack: ExitStack) -> dict[str, Bases]:
        store = stack.enter_context(self._store(writable=True))
        return {layer.name: self._bases(layer, stack, store) for layer in self.roots}

    def _open(self, layer: Layer, stack: ExitStack, store: Store | None = None) -> View:
        """Both trees and the bases of a root, until the stack closes."""
        assert layer.host is not None
        if store is None:
            store = stack.enter_context(self._store(writable=False))
        return View(
            layer=layer,
            host=layer.host,
            upper=self._layer(layer, stack),
            lower=stack.enter_context(closing(KeptTree(layer.host, self._keeper))),
            bases=self._bases(layer, stack, store),
        )

    def _layer(self, layer: Layer, stack: ExitStack) -> Tree:
        """What was written in a place of the box."""
        trees = [
            stack.enter_context(closing(KeptTree(top, self._keeper, local=not layer.remote)))
            for top in (self._places.top(layer), *self._places.trees(layer))
        ]
        return StackTree(trees) if layer.lowers else trees[0]

    def _bases(self, layer: Layer, stack: ExitStack, store: Store | None) -> Bases:
        table = self._places.table
        assert table is not None
        manifest: Manifest | None
        try:
            manifest = stack.enter_context(closing(Manifest(self._places.path(layer) / "manifest")))
        except (FileNotFoundError, StoreError):
            manifest = None
        return Bases(layer.name, manifest, store, began_ns=table.began_ns)

    @contextmanager
    def _store(self, *, writable: bool) -> Iterator[Store | None]:
        if writable:
            self._file.parent.mkdir(exist_ok=True, mode=0o700)
        elif not self._file.exists():
            yield None
            return
        with Store(self._file, writable=writable) as store:
            yield store

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """OSError of the trees as an error that can be shown."""
        try:
            yield
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise DiskFullError("no space left for the session's files") from error
            what = os.fsencode(error.filename or "").decode("utf-8", "backslashreplace")
            raise WorkspaceError(f"the session's files cannot be read: {what} {error.strerror}") from error


def _below(tree: Tree, path: bytes) -> Iterator[Entry]:
    for entry in tree.scan(path):
        yield entry
        if entry.is_directory:
            yield from _below(tree, entry.path)


def _own_attributes(copy: Tree, host: Tree, path: bytes) -> bool:
    """Whether a file of a copy has other attributes than the host's; where the host has none by now, any."""
    if host.stat(path) is None:
        return bool(user_attributes(copy, path))
    return other_attributes(copy, host, path)


def _is_planted(layer: Layer, pair: Pair, upper: Tree) -> bool:
    """Whether a path holds what we wrote there ourselves."""
    path, _, above = pair
    text = layer.planted.get(os.fsdecode(path)) if layer.planted else None
    if text is None or above is None or not above.is_file:
        return False
    return content(upper, path, len(text) * 4 + 1) == os.fsencode(text)


def _report(plans: list[Plan], *, dry: bool) -> AppliedReport:
    planned = tuple(applied(step) for plan in plans for step in plan.steps if dry)
    return AppliedReport(
        applied=planned,
        held_back=tuple(remark for plan in plans for remark in plan.held_back),
        dropped=tuple(remark for plan in plans for remark in plan.dropped),
        pointed_out=tuple(remark for plan in plans for remark in plan.pointed_out),
        merged=tuple(remark for plan in plans for remark in plan.merged),
        kept=tuple(remark for plan in plans for remark in plan.kept),
        conflicts=tuple(remark for plan in plans for remark in plan.conflicts),
        dry=dry,
    )
