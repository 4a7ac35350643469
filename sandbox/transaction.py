"""Steps on files of the host that happen all or not at all, a kill or power loss at any point included.

A log of its own (a `Store` file, `NNNN.open` while it is under way) says beforehand what will be done
and keeps what was there. New contents lie beside their targets first. After the note `ready` an
interrupted transaction goes forward; before it, or where the host stands in the way, it goes back.
Nothing of the host's is removed before all is done: a file that gives way changes places with the
new one (renameat2 RENAME_EXCHANGE), and is compared once more after it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sandbox import confined
from sandbox.errors import DiskFullError, StoreError, WorkspaceError
from sandbox.kept import Kept, contents, dress, keep, pour, set_owner
from sandbox.manifest import Stamp
from sandbox.plan import Action, ApplyConflictError, Remark
from sandbox.store import Store
from sandbox.trees import Entry, LocalTree

PERMISSIONS = 0o777
_FEW = 32
_REMOVES = (Action.DELETE, Action.RMDIR)
_STAGED = (Action.WRITE, Action.LINK)
_CANNOT_EXCHANGE = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)
JUST_NOW = "changed on the host just now"


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One step that is wanted. `expect`: the host's stamp (None: nothing there). `fill` writes a new
    file's content and dresses it; `target` is a new link's text; `mode` is for CHMOD and MKDIR;
    `mtime_ns` for a directory or link that is made again.
    """

    root: str
    path: bytes
    action: Action
    expect: Stamp | None
    mode: int = 0
    mtime_ns: int = 0
    target: bytes = b""
    fill: Callable[[int], None] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """An order as the log has it. `temporary`: our own name, for the new content first and the old one then."""

    root: str
    path: bytes
    action: Action
    expect: Stamp | None
    mode: int
    mtime_ns: int
    temporary: bytes

    def to_json(self) -> dict[str, Any]:
        return {
            "type": "step",
            "root": self.root,
            "path": os.fsdecode(self.path),
            "action": self.action.value,
            "expect": None if self.expect is None else stamp_json(self.expect),
            "mode": self.mode,
            "mtime_ns": self.mtime_ns,
            "temporary": os.fsdecode(self.temporary),
        }

    @classmethod
    def from_json(cls, body: dict[str, Any]) -> _Row:
        return cls(
            root=body["root"],
            path=os.fsencode(body["path"]),
            action=Action(body["action"]),
            expect=None if body["expect"] is None else Stamp(**body["expect"]),
            mode=body["mode"],
            mtime_ns=body["mtime_ns"],
            temporary=os.fsencode(body["temporary"]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A path as a transaction left it."""

    root: str
    path: str
    stamp: Stamp | None


@dataclass(slots=True)
class _State:
    """What the log says so far."""

    header: dict[str, Any] = field(default_factory=dict)
    rows: list[_Row] = field(default_factory=list)
    staged: dict[bytes, Stamp] = field(default_factory=dict)
    kept: dict[tuple[str, str], Kept] = field(default_factory=dict)
    around: list[dict[str, Any]] = field(default_factory=list)
    marks: set[str] = field(default_factory=set)
    results: list[Result] = field(default_factory=list)


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
        self.log = Store(file, writable=True)
        self._prefix = f".fumehood-{session[:8]}-{file.stem}-".encode()
        self._reached = reached
        self._state = _State()
        self._trees: dict[str, LocalTree] = {}
        self._tops: dict[str, int] = {}
        self._names: Counter[int] = Counter()
        try:
            for name, top in tops.items():
                self._trees[name] = LocalTree(top)
                self._tops[name] = confined.open_root(top)
            self._load()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Give the descriptors back; what is under way stays so."""
        for tree in self._trees.values():
            tree.close()
        for top in self._tops.values():
            os.close(top)
        self._tops = {}
        self.log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def header(self) -> dict[str, Any]:
        """What it is: kind, and what its maker wrote down."""
        return self._state.header

    @property
    def kept(self) -> Mapping[tuple[str, str], Kept]:
        """(root, path) → what was there before."""
        return self._state.kept

    def stage(self, orders: Sequence[Order], header: Mapping[str, Any]) -> None:
        """Write down what will be done, keep what is there, and lay new contents beside their targets.
        Nothing else is touched. Raises DiskFullError, WorkspaceError.
        """
        going = {(o.root, o.path) for o in orders if o.action is Action.RMDIR}
        self._note({"type": "header", **header})
        for number, order in enumerate(orders):
            place = self._place(order, going)
            name = self._prefix + b"%d" % number
            row = _Row(
                root=order.root,
                path=order.path,
                action=order.action,
                expect=order.expect,
                mode=order.mode,
                mtime_ns=order.mtime_ns,
                temporary=place + b"/" + name if place else name,
            )
            self._note(row.to_json())
        self._keep_old()
        self._note_around()
        self.log.sync()
        sync_path(self.file.parent)
        few = len(orders) <= _FEW
        for order, row in zip(orders, self._state.rows, strict=True):
            if row.action in _STAGED:
                with told(row.root, row.path):
                    self._stage(order, row, sync=few)
        for root in {row.root for row in self._state.rows}:
            if not few:
                confined.sync_file_system(self._tops[root])

    def check(self) -> None:
        """Raise ApplyConflictError when the host is not what the orders expect."""
        moved, removed = [], set()
        for row in self._state.rows:
            if (row.root, row.path) not in removed and not _same(self._stat(row), row.expect):
                moved.append(_remark(row, JUST_NOW))
            if row.action in _REMOVES:
                removed.add((row.root, row.path))
        if moved:
            raise ApplyConflictError(moved)

    @property
    def under_way(self) -> bool:
        """Whether steps were taken, or may have been: the log is needed then."""
        return "ready" in self._state.marks

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
        marks = self._state.marks
        if "taken" not in marks:
            self._state.results.clear()
            self._open_made()
        if "taken" in marks:
            self._clean()
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
        return tuple(self._state.results)

    def put_back(self) -> list[Result]:
        """What stands as it was, but for a ctime that our going back moved."""
        found = {}
        for row in self._state.rows:
            now = self._stat(row)
            if row.expect is not None and now is not None and not _same(now, row.expect) and _alike(now, row.expect):
                found[row.root, row.path] = Result(root=row.root, path=os.fsdecode(row.path), stamp=now.stamp)
        return list(found.values())

    def abandon(self) -> None:
        """Take away what was staged, and the log: nothing happened."""
        self._clean()
        self.close()
        self.file.unlink(missing_ok=True)

    def finish(self, name: Path) -> None:
        """All is done and told elsewhere: the log gets its final name."""
        for row in self._state.around:
            now = self._trees[row["root"]].stat(os.fsencode(row["path"]))
            self._note({"type": "around after", **row, "mtime_ns": now.mtime_ns if now else 0})
        self.log.sync()
        self._reached("name")
        self.file.replace(name)
        sync_path(name.parent)

    def restore_around(self, before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]) -> None:
        """Give directories their times back where nobody else touched them."""
        was = {(row["root"], row["path"]): row["mtime_ns"] for row in self._state.around}
        left = {(row["root"], row["path"]): row["mtime_ns"] for row in after}
        for row in before:
            key = (row["root"], row["path"])
            if key in was and was[key] != left.get(key):
                continue
            with contextlib.suppress(OSError, KeyError):
                opened = confined.open_beneath(
                    self._tops[key[0]], os.fsencode(key[1]), os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
                )
                try:
                    os.utime(opened, ns=(row["mtime_ns"], row["mtime_ns"]))
                finally:
                    os.close(opened)

    def _forward_or_back(self) -> tuple[Result, ...]:
        try:
            closing = [row for row in self._state.rows if row.action is Action.CHMOD and row.expect is None]
            for row in self._state.rows:
                if row not in closing:
                    with told(row.root, row.path):
                        self._take(row)
            self._flush()
            self._note_results()
            for row in closing:
                with told(row.root, row.path):
                    self._take(row)
            self._mark("taken")
        except (ApplyConflictError, WorkspaceError, DiskFullError, OSError):
            if "taken" in self._state.marks:
                raise
            with contextlib.suppress(OSError):  # of a log that cannot grow: going back needs it not
                self._mark("back")
            self._back()
            raise
        self._clean()
        return self.results

    def _take(self, row: _Row) -> None:
        """One step, or nothing where it was taken already."""
        now = self._stat(row)
        top = self._tops[row.root]
        self._reached(f"{row.action.value} {row.path!r}")
        match row.action:
            case Action.DELETE:
                held = self._trees[row.root].stat(row.temporary)
                if held is not None and row.expect is not None and held.inode == row.expect.inode:
                    return
                self._must(row, self._unmoved(row, now))
                confined.rename_beneath(top, row.path, row.temporary, replace=False)
                held = self._trees[row.root].stat(row.temporary)
                if not _alike(held, row.expect):
                    confined.rename_beneath(top, row.temporary, row.path, replace=False)
                    self._must(row, False)
            case Action.RMDIR:
                if now is not None and now.is_directory:
                    confined.rmdir_beneath(top, row.path)
            case Action.MKDIR:
                if now is None:
                    self._make_directory(row)
                self._must(row, now is None or now.is_directory)
            case Action.CHMOD:
                self._must(row, now is not None and not now.is_link)
                self._set_mode(row)
            case Action.WRITE | Action.LINK:
                self._put(row, now)

    def _put(self, row: _Row, now: Entry | None) -> None:
        top, tree = self._tops[row.root], self._trees[row.root]
        ours = self._state.staged[row.temporary]
        if now is not None and now.inode == ours.inode:
            return
        if row.expect is None or now is None:
            aside = tree.stat(_aside(row)) if now is None else None
            self._must(row, now is None and (row.expect is None or aside is not None))
            confined.rename_beneath(top, row.temporary, row.path, replace=False)
            return
        self._must(row, self._unmoved(row, now))
        try:
            confined.exchange_beneath(top, row.temporary, row.path)
            old = row.temporary
        except OSError as error:
            if error.errno not in _CANNOT_EXCHANGE:
                raise
            old = _aside(row)
            confined.rename_beneath(top, row.path, old, replace=False)
            self._reached("aside")
            confined.rename_beneath(top, row.temporary, row.path, replace=False)
        self._must(row, _alike(tree.stat(old), row.expect))

    def _back(self) -> None:
        """Undo what was taken, last step first, and take away what is ours. What the host changed since
        stays, and is named by an error: its old content is in the log.
        """
        problems = []
        if "ready" in self._state.marks:
            for row in reversed(self._state.rows):
                self._reached(f"back {row.action.value} {row.path!r}")
                with contextlib.suppress(OSError):
                    if self._untake(row):
                        continue
                problems.append(_remark(row, "changed on the host in the middle of an apply"))
            self._flush()
            self._state.marks.discard("ready")
        self._clean()
        if problems:
            self.file.replace(self.file.with_suffix(".left"))
            more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
            name = os.fsencode(problems[0].path).decode("utf-8", "backslashreplace")
            raise WorkspaceError(
                f"{name} changed in the middle of an apply and could not be put back{more}",
                hint=f"all other paths are as they were; what was there is kept in {self.file.with_suffix('.left')}",
            )

    def _untake(self, row: _Row) -> bool:
        """Whether the path is as it was before this step."""
        now, top, tree = self._stat(row), self._tops[row.root], self._trees[row.root]
        match row.action:
            case Action.DELETE:
                held = tree.stat(row.temporary)
                if held is None or row.expect is None or held.inode != row.expect.inode:
                    return now is not None
                confined.rename_beneath(top, row.temporary, row.path, replace=False)
            case Action.RMDIR:
                if now is None:
                    self._remake(row)
                    return True
                return now.is_directory
            case Action.MKDIR:
                if now is not None and now.is_directory:
                    confined.rmdir_beneath(top, row.path)
            case Action.CHMOD:
                if row.expect is not None and now is not None and not now.is_link:
                    self._set_mode(replace(row, mode=row.expect.mode))
            case Action.WRITE | Action.LINK:
                return self._unput(row, now)
        return True

    def _unput(self, row: _Row, now: Entry | None) -> bool:
        top, tree = self._tops[row.root], self._trees[row.root]
        aside = tree.stat(_aside(row))
        if now is None and aside is not None:
            confined.rename_beneath(top, _aside(row), row.path, replace=False)
            return True
        ours = self._state.staged.get(row.temporary)
        if now is None or ours is None or now.inode != ours.inode:
            held = aside or tree.stat(row.temporary)
            return row.expect is None or held is None or held.inode != row.expect.inode
        if not _alike(now, ours):
            return False
        if aside is not None:
            confined.rename_beneath(top, _aside(row), row.path)
        elif row.expect is None:
            confined.rename_beneath(top, row.path, row.temporary, replace=False)
        else:
            confined.exchange_beneath(top, row.temporary, row.path)
        return True

    def _stage(self, order: Order, row: _Row, *, sync: bool) -> None:
        self._reached(f"stage {row.path!r}")
        top = self._tops[row.root]
        if row.action is Action.LINK:
            confined.symlink_beneath(top, row.temporary, order.target)
            if order.mtime_ns:
                confined.utime_beneath(top, row.temporary, order.mtime_ns)
        else:
            assert order.fill is not None
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
            out = confined.open_beneath(top, row.temporary, flags, 0o600)
            try:
                order.fill(out)
                if sync:
                    os.fsync(out)
            finally:
                os.close(out)
        now = self._trees[row.root].stat(row.temporary)
        assert now is not None
        self._note({"type": "staged", "temporary": os.fsdecode(row.temporary), "stamp": stamp_json(now.stamp)})

    def _make_directory(self, row: _Row) -> None:
        """Ours alone at first; its mode is set when all that it is to hold is in it."""
        top = self._tops[row.root]
        confined.mkdir_beneath(top, row.path, 0o700)
        opened = confined.open_beneath(top, row.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            kept = self._state.kept.get((row.root, os.fsdecode(row.path)))
            parent = self._trees[row.root].stat(row.path.rpartition(b"/")[0])
            if kept is not None and kept.is_directory:
                set_owner(opened, kept.uid, kept.gid)
            elif os.geteuid() == 0 and parent is not None:
                os.fchown(opened, parent.uid, parent.gid)
        finally:
            os.close(opened)

    def _open_made(self) -> None:
        """Directories that we made may be closed by their final modes already: open them for what is left."""
        for row in self._state.rows:
            if row.action is Action.MKDIR and "ready" in self._state.marks:
                with contextlib.suppress(OSError):
                    now = self._stat(row)
                    if now is not None and now.is_directory:
                        self._set_mode(replace(row, mode=stat.S_IRWXU, mtime_ns=0))

    def _remake(self, row: _Row) -> None:
        """A directory that was there before."""
        top, kept = self._tops[row.root], self._state.kept[row.root, os.fsdecode(row.path)]
        confined.mkdir_beneath(top, row.path, 0o700)
        opened = confined.open_beneath(top, row.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            dress(opened, replace(kept, mode=kept.mode | stat.S_IRWXU))
        finally:
            os.close(opened)

    def _set_mode(self, row: _Row) -> None:
        opened = confined.open_beneath(self._tops[row.root], row.path, os.O_PATH | os.O_NOFOLLOW)
        try:
            now = os.fstat(opened).st_mode
            if stat.S_ISLNK(now):
                raise OSError(errno.ELOOP, "a link")
            path = f"/proc/self/fd/{opened}"
            kept = stat.S_IMODE(now) & ~PERMISSIONS if stat.S_ISDIR(now) else 0
            os.chmod(path, kept | stat.S_IMODE(row.mode))  # noqa: PTH101 - a descriptor
            if row.mtime_ns:
                os.utime(path, ns=(row.mtime_ns, row.mtime_ns))
        finally:
            os.close(opened)

    def _keep_old(self) -> None:
        """Every path's state before the first step on it."""
        for row in self._state.rows:
            key = (row.root, os.fsdecode(row.path))
            if row.expect is None or key in self._state.kept:
                continue
            tree = self._trees[row.root]
            try:
                entry = tree.stat(row.path)
                if entry is None or not _same(entry, row.expect):
                    raise ApplyConflictError([_remark(row, JUST_NOW)])
                self._reached(f"keep {row.path!r}")
                content = row.action is not Action.CHMOD
                self._state.kept[key] = keep(self.log, row.root, entry, tree, content=content)
            except (StoreError, OSError) as error:
                raise WorkspaceError(f"{key[1]} on the host cannot be read: {error}") from error

    def _note_around(self) -> None:
        """The times of directories whose names will change."""
        parents = dict.fromkeys((row.root, row.path.rpartition(b"/")[0]) for row in self._state.rows)
        parents |= dict.fromkeys((row.root, row.temporary.rpartition(b"/")[0]) for row in self._state.rows)
        for root, path in parents:
            now = self._trees[root].stat(path)
            if now is not None and now.is_directory:
                self._note({"type": "around", "root": root, "path": os.fsdecode(path), "mtime_ns": now.mtime_ns})

    def _place(self, order: Order, going: set[tuple[str, bytes]]) -> bytes:
        """The nearest directory above that is there and stays."""
        parent = order.path.rpartition(b"/")[0]
        while parent:
            entry = self._trees[order.root].stat(parent)
            if entry is not None and entry.is_directory and (order.root, parent) not in going:
                return parent
            parent = parent.rpartition(b"/")[0]
        return b""

    def _clean(self) -> None:
        """Take away our own names."""
        for row in self._state.rows:
            if row.action in _STAGED or row.action is Action.DELETE:
                self._reached(f"clean {row.path!r}")
                for name in (row.temporary, _aside(row)):
                    with contextlib.suppress(OSError):
                        confined.unlink_beneath(self._tops[row.root], name)

    def _note_results(self) -> None:
        """What we leave. Where a new file was changed meanwhile, what it was: so it counts as changed."""
        found: dict[tuple[str, bytes], Stamp | None] = {}
        for row in self._state.rows:
            if row.action is Action.CHMOD and row.expect is None:
                continue
            now = self._stat(row)
            stamp = None if now is None else now.stamp
            if row.action in _STAGED and not _alike(now, self._state.staged[row.temporary]):
                stamp = self._state.staged[row.temporary]
            found[row.root, row.path] = stamp
        for row in self._state.rows:  # a directory's own mode is set last: it may close what it holds
            was = found.get((row.root, row.path))
            if row.action is Action.CHMOD and row.expect is None and was is not None:
                found[row.root, row.path] = replace(was, mode=stat.S_IFMT(was.mode) | row.mode)
        for (root, path), stamp in found.items():
            body = None if stamp is None else stamp_json(stamp)
            self._note({"type": "result", "root": root, "path": os.fsdecode(path), "stamp": body})

    def _flush(self) -> None:
        for root, path in dict.fromkeys((row.root, row.path.rpartition(b"/")[0]) for row in self._state.rows):
            with contextlib.suppress(OSError):
                confined.sync_directory(self._tops[root], path)

    def _stat(self, row: _Row) -> Entry | None:
        return self._trees[row.root].stat(row.path)

    def _unmoved(self, row: _Row, now: Entry | None) -> bool:
        """Whether the host's entry is what was expected. Another step on a name of the same file moved its ctime."""
        if not self._names:
            named = {(other.expect.inode, other.path) for other in self._state.rows if other.expect is not None}
            self._names = Counter(inode for inode, _ in named)
        shared = row.expect is not None and self._names[row.expect.inode] > 1
        return _alike(now, row.expect) if shared else _same(now, row.expect)

    def _must(self, row: _Row, holds: bool) -> None:
        if not holds:
            raise ApplyConflictError([_remark(row, JUST_NOW)])

    def _mark(self, mark: str) -> None:
        self._reached(f"mark {mark}")
        self._note({"type": "mark", "mark": mark})
        self.log.sync()

    def _note(self, body: dict[str, Any]) -> None:
        """It is on the disk with the next sync: none of these counts before the mark that comes after it."""
        self.log.note(body, later=True)
        self._read(body)

    def _load(self) -> None:
        for body in self.log.notes():
            self._read(body)

    def _read(self, body: dict[str, Any]) -> None:
        state = self._state
        match body["type"]:
            case "header":
                state.header = body
            case "step":
                state.rows.append(_Row.from_json(body))
            case "staged":
                state.staged[os.fsencode(body["temporary"])] = Stamp(**body["stamp"])
            case "result":
                stamp = None if body["stamp"] is None else Stamp(**body["stamp"])
                state.results.append(Result(root=body["root"], path=body["path"], stamp=stamp))
            case "kept":
                kept = Kept.from_json(body)
                state.kept[kept.root, kept.path] = kept
            case "around":
                state.around.append({name: body[name] for name in ("root", "path", "mtime_ns")})
            case "mark":
                state.marks.add(body["mark"])


@contextlib.contextmanager
def told(root: str, path: bytes) -> Iterator[None]:
    """OSError as an error that names the path."""
    try:
        yield
    except OSError as error:
        name = os.fsdecode(path)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFullError(f"no space on the host for {name}") from error
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
            raise ApplyConflictError([Remark(root=root, path=name, why=JUST_NOW)]) from error
        raise WorkspaceError(
            f"{name} cannot be written on the host: {error.strerror}",
            hint="see its owner and mode; nothing was applied",
        ) from error


def fill_kept(log: Store, kept: Kept) -> Callable[[int], None]:
    """What makes a kept file again."""

    def fill(out: int) -> None:
        pour(out, contents(log, kept))
        dress(out, kept)

    return fill


def stamp_json(stamp: Stamp) -> dict[str, int]:
    """As notes have it."""
    return {name: getattr(stamp, name) for name in ("mode", "size", "mtime_ns", "ctime_ns", "inode")}


def sync_path(directory: Path) -> None:
    """Return when a directory of ours will survive a power loss."""
    opened = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _aside(row: _Row) -> bytes:
    return row.temporary + b"-o"


def _same(now: Entry | None, was: Stamp | None) -> bool:
    if now is None or was is None:
        return now is None and was is None
    return now.stamp.same(was)


def _alike(now: Entry | None, was: Stamp | None) -> bool:
    """As `_same` after a rename, which moves ctime."""
    return now is not None and was is not None and _same(now, replace(was, ctime_ns=now.ctime_ns))


def _remark(row: _Row, why: str) -> Remark:
    return Remark(root=row.root, path=os.fsdecode(row.path), why=why)
