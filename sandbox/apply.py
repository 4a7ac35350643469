"""From a plan to a transaction on the host, from a finished one back (`undo`), and to the end of one that
was interrupted (`recover`). No link is followed, nothing of the repository is run.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from sandbox.bases import Bases, attributes_digest
from sandbox.changes import Base
from sandbox.dataclass import dataclass
from sandbox.disk import free_space
from sandbox.errors import DiskFullError, WorkspaceError
from sandbox.kept import pour, set_owner
from sandbox.plan import Plan
from sandbox.reversal import Record, reverse
from sandbox.selection import Action, Remark, Step
from sandbox.steps import PERMISSIONS
from sandbox.store import Store
from sandbox.transaction import Transaction, nothing
from sandbox.transaction_log import Order, Result, stamp_json
from sandbox.trees import Entry, LocalTree, Tree

_SPARE = 16 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """A path that was written on the host, and how. `new`: nothing was there before."""

    root: str
    path: str
    action: Action
    new: bool = False


def applied(step: Step) -> Applied:
    """What a step comes to."""
    change = step.change
    return Applied(root=change.root, path=change.path, action=step.action, new=step.expect is None)


@dataclass(frozen=True, slots=True, kw_only=True)
class AppliedReport:
    """What an apply did, and what it left out: `held_back` until named, `dropped` always, `kept` where the
    host's own stays (--ours). `pointed_out` was applied and deserves a look; `merged` holds both sides'
    changes. `dry`: nothing was written.
    """

    applied: tuple[Applied, ...] = ()
    held_back: tuple[Remark, ...] = ()
    dropped: tuple[Remark, ...] = ()
    pointed_out: tuple[Remark, ...] = ()
    merged: tuple[Remark, ...] = ()
    kept: tuple[Remark, ...] = ()
    conflicts: tuple[Remark, ...] = ()
    dry: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """The plan of one root, and what it reads from."""

    top: Path
    plan: Plan
    upper: Tree
    bases: Bases


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovered:
    """An interrupted apply or undo that was brought to its end. `done`: it went through; else all is as
    it was before.
    """

    kind: str
    done: bool
    paths: int


class Applies:
    """The applies of one session, by number, in `directory` (made when first needed). `tops`: root name → place."""

    def __init__(
        self,
        directory: Path,
        tops: Mapping[str, Path],
        *,
        session: str,
        reached: Callable[[str], None] = nothing,
    ) -> None:
        self._directory = directory
        self._tops = tops
        self._session = session
        self._reached = reached

    def begin(self, parts: Sequence[Part]) -> Apply:
        """Ready an apply of these plans. Close it."""
        return Apply(self._new(), parts)

    def undo(self, bases: Mapping[str, Bases]) -> tuple[Applied, ...]:
        """Take the latest apply back: contents, modes and times as the host had them. () when there is none.
        Raises UndoRefusedError naming what the host changed since; WorkspaceError, DiskFullError.
        """
        last = max(self._directory.glob("*.done"), default=None)
        if last is None:
            return ()
        with Store(last, writable=False) as log, self._new() as transaction:
            record = Record.read(log)
            try:
                orders = reverse(record, log, self._tops)
                header = {"kind": "undo", "undoes": last.name}
                transaction.stage(orders, header)
                transaction.check()
                results = transaction.commit()
            except BaseException as error:
                if isinstance(error, Exception) and not transaction.under_way:
                    self._still_applied(transaction, bases)
                    transaction.abandon()
                raise
            self._end_undo(transaction, record, results, bases)
        made = {(order.root, order.path) for order in orders if order.action is Action.MKDIR}
        return tuple(
            Applied(root=order.root, path=os.fsdecode(order.path), action=order.action, new=order.expect is None)
            for order in orders
            if order.action is not Action.CHMOD or (order.root, order.path) not in made
        )

    @property
    def interrupted(self) -> bool:
        """Whether something waits for `recover`. Costs one look into a directory."""
        return any(self._directory.glob("*.open"))

    def recover(self, bases: Mapping[str, Bases]) -> list[Recovered]:
        """Bring what was interrupted to an end. Raises WorkspaceError where a part of it cannot be."""
        found = []
        for file in sorted(self._directory.glob("*.open")):
            with Transaction(file, self._tops, session=self._session, reached=self._reached) as transaction:
                kind = str(transaction.header.get("kind", "apply"))
                results = transaction.recover()
                if results is None:
                    if kind == "undo":
                        self._still_applied(transaction, bases)
                    else:
                        _keep_known(transaction, bases)
                    transaction.abandon()
                elif kind == "undo":
                    original = self._directory / str(transaction.header["undoes"])
                    if original.exists():
                        with Store(original, writable=False) as log:
                            self._end_undo(transaction, Record.read(log), results, bases)
                    else:
                        transaction.abandon()
                else:
                    end_apply(transaction, results, bases)
                found.append(Recovered(kind=kind, done=results is not None, paths=len(results or ())))
        return found

    def _end_undo(
        self, transaction: Transaction, record: Record, results: Sequence[Result], bases: Mapping[str, Bases]
    ) -> None:
        transaction.restore_around(record.around, record.around_after)
        marks = {(row["root"], row["path"]): row for row in record.header.get("bases", ())}
        for result in results:
            row = marks.get((result.root, result.path), {})
            bases[result.root].taken_back(result.path, result.stamp, row)
        for each in bases.values():
            each.sync()
        self._reached("forget")
        self._pass_on(str(transaction.header["undoes"]), record, results)
        (self._directory / str(transaction.header["undoes"])).unlink(missing_ok=True)
        transaction.abandon()

    def _still_applied(self, transaction: Transaction, bases: Mapping[str, Bases]) -> None:
        """After an undo that went back: what was applied stands there again, with ctimes that our going back moved. It
        can be undone yet, and is no change of the host's. Where that cannot be noted it counts as one.
        """
        file = self._directory / str(transaction.header.get("undoes"))
        results = transaction.put_back()
        if not results or not file.exists():
            return
        with contextlib.suppress(OSError):
            with Store(file, writable=True) as log:
                _note_results(log, results)
                rows = Record.read(log).header.get("bases", ())
            _note_applied(rows, results, bases)

    def _pass_on(self, undone: str, record: Record, results: Sequence[Result]) -> None:
        """What stands there again is what an earlier apply left, in a new file: so that one can be undone too."""
        now = {(result.root, result.path): result for result in results}
        for file in self._directory.glob("*.done"):
            if file.name >= undone:
                continue
            with Store(file, writable=True) as log:
                there = Record.read(log).results.items()
                again = {key for key, stamp in there if stamp is not None and record.expected.get(key) == stamp}
                _note_results(log, [each for key, each in now.items() if key in again])

    def _new(self) -> Transaction:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        numbers = [int(file.stem) for file in self._directory.iterdir() if file.stem.isdigit()]
        file = self._directory / f"{max(numbers, default=0) + 1:06d}.open"
        return Transaction(file, self._tops, session=self._session, reached=self._reached)


class Apply:
    """Carries out plans: `stage`, `check`, `commit`, in this order. A context manager: without a commit
    nothing of it is left.
    """

    def __init__(self, transaction: Transaction, parts: Sequence[Part]) -> None:
        self._transaction = transaction
        self._parts = {part.bases.root: part for part in parts}
        self._steps = [(name, step) for name, part in self._parts.items() for step in part.plan.steps]
        self._done = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        harmless = error is None or isinstance(error, Exception)
        if not self._done and harmless and not self._transaction.under_way:
            _keep_known(self._transaction, {name: part.bases for name, part in self._parts.items()})
            self._transaction.abandon()
        self._transaction.close()

    def stage(self) -> None:
        """Raises DiskFullError, WorkspaceError; nothing is visible yet but our own temporary names."""
        for part in self._parts.values():
            _need_space(part)
        orders: list[Order] = []
        removed: set[tuple[str, bytes]] = set()
        made: list[Order] = []
        for name, step in self._steps:
            gone = (name, step.path) in removed
            orders.append(self._order(name, step, gone=gone))
            if step.action in (Action.DELETE, Action.RMDIR):
                removed.add((name, step.path))
            if step.action is Action.MKDIR:
                assert step.change.new is not None
                mode = step.change.new.mode & PERMISSIONS
                made.append(Order(root=name, path=step.path, action=Action.CHMOD, expect=None, mode=mode))
        self._transaction.stage([*orders, *reversed(made)], {"kind": "apply", "bases": self._known()})

    def check(self) -> None:
        """Raise ApplyConflictError when the host changed any of the paths since the plan was made."""
        self._transaction.check()

    def commit(self) -> tuple[Applied, ...]:
        """All steps or, when this raises (ApplyConflictError, WorkspaceError, DiskFullError), none."""
        results = self._transaction.commit()
        end_apply(self._transaction, results, {name: part.bases for name, part in self._parts.items()})
        self._done = True
        return tuple(applied(step) for _, step in self._steps)

    def _known(self) -> list[dict[str, Any]]:
        """What was known of each path's base, for an undo; and which content of the box was taken in."""
        rows = []
        for name, step in self._steps:
            row: dict[str, Any] = {"root": name, "path": step.change.path, "base": step.change.base.value}
            row["drifted"] = step.change.drifted
            if step.change.base is Base.STORED:
                row |= self._parts[name].bases.kept_json(step.change.path)
            if step.taken is not None:
                row["merged"] = self._parts[name].bases.put(step.taken)
                row["mode"] = step.change.new.mode if step.change.new else 0
                row["attributes"] = attributes_digest(self._parts[name].upper, step.path)
            rows.append(row)
        return rows

    def _order(self, name: str, step: Step, *, gone: bool) -> Order:
        expect = None if gone or step.expect is None else step.expect.stamp
        new = step.change.new
        fill: Callable[[int], None] | None = None
        target = b""
        if step.action is Action.WRITE:
            fill = self._fill(name, step)
        elif step.action is Action.LINK:
            target = self._parts[name].upper.readlink(step.path)
        mode = new.mode & PERMISSIONS if new is not None and step.action is Action.CHMOD else 0
        return Order(root=name, path=step.path, action=step.action, expect=expect, mode=mode, target=target, fill=fill)

    def _fill(self, name: str, step: Step) -> Callable[[int], None]:
        part = self._parts[name]

        def fill(out: int) -> None:
            entry = step.change.new
            assert entry is not None
            if step.content is not None:
                pour(out, [step.content])
            elif pour(out, part.upper.chunks(step.path)) != entry.size:
                raise WorkspaceError(f"{step.change.path} changes in the box while it is applied")
            _dress(out, step, part)

        return fill


def _keep_known(transaction: Transaction, bases: Mapping[str, Bases]) -> None:
    """After going back: what was put back is no change of the host's. Where that cannot be noted it counts as one."""
    known = {(row["root"], row["path"]): not row["drifted"] for row in transaction.header.get("bases", ())}
    with contextlib.suppress(OSError):
        for result in transaction.put_back():
            if known.get((result.root, result.path)):
                bases[result.root].taken_back(result.path, result.stamp, {})
        for each in bases.values():
            each.sync()


def end_apply(transaction: Transaction, results: Sequence[Result], bases: Mapping[str, Bases]) -> None:
    """What was applied is the base of what comes; the log is kept for an undo."""
    _note_applied(transaction.header.get("bases", ()), results, bases)
    transaction.finish(transaction.file.with_suffix(".done"))


def _note_applied(known: Iterable[dict[str, Any]], results: Sequence[Result], bases: Mapping[str, Bases]) -> None:
    rows = {(row["root"], row["path"]): row for row in known}
    for result in results:
        row = rows.get((result.root, result.path), {})
        merged, mode, attributes = row.get("merged", ""), row.get("mode", 0), row.get("attributes", "")
        bases[result.root].applied(result.path, result.stamp, merged=merged, mode=mode, attributes=attributes)
    for each in bases.values():
        each.sync()


def _note_results(log: Store, results: Iterable[Result]) -> None:
    """Later stamps of what a finished apply left."""
    for result in results:
        if result.stamp is not None:
            stamp = stamp_json(result.stamp)
            log.note({"type": "result", "root": result.root, "path": result.path, "stamp": stamp})
    log.sync()


def _need_space(part: Part) -> None:
    steps = [step for step in part.plan.steps if step.action is Action.WRITE and step.change.new]
    need = sum(step.change.new.size for step in steps if step.change.new)
    free = free_space(part.top)
    if need + _SPARE <= free:
        return
    dense = sum(len(p) for step in steps for p in part.upper.chunks(step.path) if isinstance(p, bytes))
    if min(dense, need) + _SPARE > free:
        raise DiskFullError(f"{part.top} has no space for {min(dense, need) >> 20} MiB of changes")


def _dress(out: int, step: Step, part: Part) -> None:
    """Owner as the host's file has it (a new file: as the directory that it goes to), attributes of the
    user namespace (of both sides, where the content is), and the mode without its special bits.
    """
    old, new = step.expect, step.change.new
    assert new is not None
    if old is not None and old.is_file:
        set_owner(out, old.uid, old.gid)
    elif os.geteuid() == 0:
        with LocalTree(part.top) as host:
            parent = _nearest(host, step.path)
        os.fchown(out, parent.uid, parent.gid)
    attributes = part.upper.attributes(step.path)
    if step.content is not None and old is not None and old.is_file:
        with LocalTree(part.top) as host:
            attributes = host.attributes(step.path) | attributes
    for name, value in attributes.items():
        if not name.startswith("user.overlay."):
            with contextlib.suppress(OSError):
                os.setxattr(out, name, value)
    os.fchmod(out, (new.mode if step.mode is None else step.mode) & PERMISSIONS)


def _nearest(host: LocalTree, path: bytes) -> Entry:
    """The nearest directory above that is there already."""
    while path:
        path = path.rpartition(b"/")[0]
        entry = host.stat(path)
        if entry is not None and entry.is_directory:
            return entry
    raise WorkspaceError("the root is gone")
