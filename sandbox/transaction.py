"""Steps on files of the host that happen all or not at all, a kill or power loss at any point included.

A log of its own (a `Store` file, `NNNN.open` while it is under way) says beforehand what will be done
and keeps what was there. New contents lie beside their targets first. After the note `ready` an
interrupted transaction goes forward; before it, or where the host stands in the way, it goes back.
Nothing of the host's is removed before all is done (`sandbox.steps`).
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sandbox import confined
from sandbox.errors import DiskFullError, StoreError, WorkspaceError
from sandbox.kept import Kept, keep
from sandbox.manifest import Stamp
from sandbox.selection import Action, ApplyConflictError
from sandbox.steps import JUST_NOW, STAGED, Steps, alike, row_remark, same_entry, told
from sandbox.transaction_log import Order, Result, Row, TransactionLog, stamp_json

_FEW = 32
_REMOVES = (Action.DELETE, Action.RMDIR)


def nothing(step: str) -> None:
    """For who need not know of each step."""


class Transaction:
    """Open one: a new file begins it, an existing one goes on with it. `tops`: root name → its place.
    `reached` is called before each single thing that is done. A context manager.
    """

    def __init__(
        self, file: Path, tops: Mapping[str, Path], *, session: str, reached: Callable[[str], None] = nothing
    ) -> None:
        self.file = file
        self._prefix = f".fumehood-{session[:8]}-{file.stem}-".encode()
        self._reached = reached
        self._log = TransactionLog(file)
        try:
            self._steps = Steps(self._log, tops, reached)
        except BaseException:
            self._log.close()
            raise

    def close(self) -> None:
        """Give the descriptors back; what is under way stays so."""
        self._steps.close()
        self._log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def header(self) -> dict[str, Any]:
        """What it is: kind, and what its maker wrote down."""
        return self._log.header

    @property
    def kept(self) -> Mapping[tuple[str, str], Kept]:
        """(root, path) → what was there before."""
        return self._log.kept

    def stage(self, orders: Sequence[Order], header: Mapping[str, Any]) -> None:
        """Write down what will be done, keep what is there, and lay new contents beside their targets.
        Nothing else is touched. Raises DiskFullError, WorkspaceError.
        """
        going = {(o.root, o.path) for o in orders if o.action is Action.RMDIR}
        self._log.note({"type": "header", **header})
        for number, order in enumerate(orders):
            place = self._steps.place(order, going)
            name = self._prefix + b"%d" % number
            row = Row(
                root=order.root,
                path=order.path,
                action=order.action,
                expect=order.expect,
                mode=order.mode,
                mtime_ns=order.mtime_ns,
                temporary=place + b"/" + name if place else name,
            )
            self._log.note(row.to_json())
        self._keep_old()
        self._note_around()
        self._log.store.sync()
        sync_path(self.file.parent)
        few = len(orders) <= _FEW
        for order, row in zip(orders, self._log.rows, strict=True):
            if row.action in STAGED:
                with told(row.root, row.path):
                    self._steps.stage(order, row, sync=few)
        for root in {row.root for row in self._log.rows}:
            if not few:
                confined.sync_file_system(self._steps.tops[root].directory)

    def check(self) -> None:
        """Raise ApplyConflictError when the host is not what the orders expect."""
        self._steps.forget()
        moved, removed = [], set()
        for row in self._log.rows:
            if (row.root, row.path) not in removed and not same_entry(self._steps.stat(row), row.expect):
                moved.append(row_remark(row, JUST_NOW))
            if row.action in _REMOVES:
                removed.add((row.root, row.path))
        if moved:
            raise ApplyConflictError(moved)

    @property
    def under_way(self) -> bool:
        """Whether steps were taken, or may have been: the log is needed then."""
        return "ready" in self._log.marks

    def commit(self) -> tuple[Result, ...]:
        """Take the steps. Raises ApplyConflictError, WorkspaceError, DiskFullError when something stands in
        the way: all is as it was then.
        """
        self._mark("ready")
        return self._forward_or_back()

    def recover(self) -> tuple[Result, ...] | None:
        """Bring an interrupted one to an end: its results, or None when it was taken back. Raises
        WorkspaceError where a part can be neither.
        """
        marks = self._log.marks
        if "taken" not in marks:
            self._log.results.clear()
            self._steps.open_made()
        if "taken" in marks:
            self._steps.clean()
            return self.results
        if "ready" in marks and "back" not in marks:
            with contextlib.suppress(ApplyConflictError):
                return self._forward_or_back()
            return None
        self._back()
        return None

    @property
    def results(self) -> tuple[Result, ...]:
        """Every path as we left it, in the order of the steps; once all were taken."""
        return tuple(self._log.results)

    def put_back(self) -> list[Result]:
        """What stands as it was, but for a ctime that our going back moved."""
        found = {}
        for row in self._log.rows:
            now = self._steps.stat(row)
            if (
                row.expect is not None
                and now is not None
                and not same_entry(now, row.expect)
                and alike(now, row.expect)
            ):
                found[row.root, row.path] = Result(root=row.root, path=os.fsdecode(row.path), stamp=now.stamp)
        return list(found.values())

    def abandon(self) -> None:
        """Take away what was staged, and the log: nothing happened."""
        self._steps.clean()
        self.close()
        self.file.unlink(missing_ok=True)

    def finish(self, name: Path) -> None:
        """All is done and told elsewhere: the log gets its final name."""
        for row in self._log.around:
            now = self._steps.tops[row["root"]].stat(os.fsencode(row["path"]))
            self._log.note({"type": "around after", **row, "mtime_ns": now.mtime_ns if now else 0})
        self._log.store.sync()
        self._reached("name")
        self.file.replace(name)
        sync_path(name.parent)

    def restore_around(self, before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]) -> None:
        """Give directories their times back where nobody else touched them."""
        was = {(row["root"], row["path"]): row["mtime_ns"] for row in self._log.around}
        left = {(row["root"], row["path"]): row["mtime_ns"] for row in after}
        for row in before:
            key = (row["root"], row["path"])
            if key in was and was[key] != left.get(key):
                continue
            with contextlib.suppress(OSError, KeyError):
                opened = self._steps.tops[key[0]].open(os.fsencode(key[1]), os.O_RDONLY | os.O_DIRECTORY)
                try:
                    os.utime(opened, ns=(row["mtime_ns"], row["mtime_ns"]))
                finally:
                    os.close(opened)

    def _mark(self, mark: str) -> None:
        self._reached(f"mark {mark}")
        self._log.mark(mark)

    def _forward_or_back(self) -> tuple[Result, ...]:
        self._steps.forget()
        try:
            closing = [row for row in self._log.rows if row.action is Action.CHMOD and row.expect is None]
            for row in self._log.rows:
                if row not in closing:
                    with told(row.root, row.path):
                        self._steps.take(row)
            self._steps.flush()
            self._steps.forget()
            self._note_results()
            for row in closing:
                with told(row.root, row.path):
                    self._steps.take(row)
            self._mark("taken")
        except (ApplyConflictError, WorkspaceError, DiskFullError, OSError):
            if "taken" in self._log.marks:
                raise
            with contextlib.suppress(OSError):  # of a log that cannot grow: going back needs it not
                self._mark("back")
            self._back()
            raise
        self._steps.clean()
        return self.results

    def _back(self) -> None:
        """Undo what was taken, last step first, and take away what is ours. What the host changed since
        stays, and is named by an error: its old content is in the log.
        """
        self._steps.forget()
        problems = []
        if "ready" in self._log.marks:
            for row in reversed(self._log.rows):
                self._reached(f"back {row.action.value} {row.path!r}")
                with contextlib.suppress(OSError):
                    if self._steps.untake(row):
                        continue
                problems.append(row_remark(row, "changed on the host in the middle of an apply"))
            self._steps.flush()
            self._log.marks.discard("ready")
        self._steps.clean()
        if problems:
            self.file.replace(self.file.with_suffix(".left"))
            more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
            name = os.fsencode(problems[0].path).decode("utf-8", "backslashreplace")
            raise WorkspaceError(
                f"{name} changed in the middle of an apply and could not be put back{more}",
                hint=f"all other paths are as they were; what was there is kept in {self.file.with_suffix('.left')}",
            )

    def _keep_old(self) -> None:
        """Every path's state before the first step on it."""
        for row in self._log.rows:
            key = (row.root, os.fsdecode(row.path))
            if row.expect is None or key in self._log.kept:
                continue
            tree = self._steps.tops[row.root]
            try:
                entry = tree.stat(row.path)
                if entry is None or not same_entry(entry, row.expect):
                    raise ApplyConflictError([row_remark(row, JUST_NOW)])
                self._reached(f"keep {row.path!r}")
                content = row.action is not Action.CHMOD
                self._log.kept[key] = keep(self._log.store, row.root, entry, tree, content=content)
            except (StoreError, OSError) as error:
                raise WorkspaceError(f"{key[1]} on the host cannot be read: {error}") from error

    def _note_around(self) -> None:
        """The times of directories whose names will change."""
        parents = dict.fromkeys((row.root, row.path.rpartition(b"/")[0]) for row in self._log.rows)
        parents |= dict.fromkeys((row.root, row.temporary.rpartition(b"/")[0]) for row in self._log.rows)
        for root, path in parents:
            now = self._steps.tops[root].stat(path)
            if now is not None and now.is_directory:
                self._log.note({"type": "around", "root": root, "path": os.fsdecode(path), "mtime_ns": now.mtime_ns})

    def _note_results(self) -> None:
        """What we leave. Where a new file was changed meanwhile, what it was: so it counts as changed."""
        found: dict[tuple[str, bytes], Stamp | None] = {}
        for row in self._log.rows:
            if row.action is Action.CHMOD and row.expect is None:
                continue
            now = self._steps.stat(row)
            stamp = None if now is None else now.stamp
            if row.action in STAGED and not alike(now, self._log.staged[row.temporary]):
                stamp = self._log.staged[row.temporary]
            found[row.root, row.path] = stamp
        for row in self._log.rows:  # a directory's own mode is set last: it may close what it holds
            was = found.get((row.root, row.path))
            if row.action is Action.CHMOD and row.expect is None and was is not None:
                found[row.root, row.path] = replace(was, mode=stat.S_IFMT(was.mode) | row.mode)
        for (root, path), stamp in found.items():
            body = None if stamp is None else stamp_json(stamp)
            self._log.note({"type": "result", "root": root, "path": os.fsdecode(path), "stamp": body})


def sync_path(directory: Path) -> None:
    """Return when a directory of ours will survive a power loss."""
    opened = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
