"""Single steps on files of the host, forward and back, each harmless when it was taken before. A file that gives
way changes places with the new one (renameat2 RENAME_EXCHANGE), and is compared once more after it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from sandbox import confined
from sandbox.beneath import Beneath
from sandbox.errors import DiskFullError, WorkspaceError
from sandbox.kept import dress, set_owner
from sandbox.manifest import Stamp
from sandbox.selection import Action, ApplyConflictError, Remark
from sandbox.transaction_log import Order, Row, TransactionLog, stamp_json
from sandbox.trees import Entry

PERMISSIONS = 0o777
STAGED = (Action.WRITE, Action.LINK)
_CANNOT_EXCHANGE = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)
JUST_NOW = "changed on the host just now"


class Steps:
    """Takes the steps of a log. `tops`: root name → its place. `reached` is called before each single thing that is
    done. Close it.
    """

    def __init__(self, log: TransactionLog, tops: Mapping[str, Path], reached: Callable[[str], None]) -> None:
        """Raises OSError where a root is gone."""
        self.tops: dict[str, Beneath] = {}
        self._log = log
        self._reached = reached
        self._names: Counter[int] = Counter()
        try:
            for name, top in tops.items():
                self.tops[name] = Beneath(top)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Give the descriptors back."""
        for top in self.tops.values():
            top.close()
        self.tops = {}

    def forget(self) -> None:
        """Names mean what they mean from here on, where the host moved directories."""
        for top in self.tops.values():
            top.forget()

    def take(self, row: Row) -> None:
        """One step, or nothing where it was taken already."""
        now = self.stat(row)
        top = self.tops[row.root]
        self._reached(f"{row.action.value} {row.path!r}")
        match row.action:
            case Action.DELETE:
                held = self.tops[row.root].stat(row.temporary)
                if held is not None and row.expect is not None and held.inode == row.expect.inode:
                    return
                self._must(row, self._unmoved(row, now))
                top.rename(row.path, row.temporary)
                held = self.tops[row.root].stat(row.temporary)
                if not alike(held, row.expect):
                    top.rename(row.temporary, row.path)
                    self._must(row, False)
            case Action.RMDIR:
                if now is not None and now.is_directory:
                    top.rmdir(row.path)
            case Action.MKDIR:
                if now is None:
                    self._make_directory(row)
                self._must(row, now is None or now.is_directory)
            case Action.CHMOD:
                self._must(row, now is not None and not now.is_link)
                self._set_mode(row)
            case Action.WRITE | Action.LINK:
                self._put(row, now)

    def _put(self, row: Row, now: Entry | None) -> None:
        top = self.tops[row.root]
        ours = self._log.staged[row.temporary]
        if now is not None and now.inode == ours.inode:
            return
        if row.expect is None or now is None:
            aside = top.stat(_aside(row)) if now is None else None
            self._must(row, now is None and (row.expect is None or aside is not None))
            top.rename(row.temporary, row.path)
            return
        self._must(row, self._unmoved(row, now))
        try:
            top.exchange(row.temporary, row.path)
            old = row.temporary
        except OSError as error:
            if error.errno not in _CANNOT_EXCHANGE:
                raise
            old = _aside(row)
            top.rename(row.path, old)
            self._reached("aside")
            top.rename(row.temporary, row.path)
        self._must(row, alike(top.stat(old), row.expect))

    def untake(self, row: Row) -> bool:
        """Whether the path is as it was before this step."""
        now, top = self.stat(row), self.tops[row.root]
        match row.action:
            case Action.DELETE:
                held = top.stat(row.temporary)
                if held is None or row.expect is None or held.inode != row.expect.inode:
                    return now is not None
                top.rename(row.temporary, row.path)
            case Action.RMDIR:
                if now is None:
                    self._remake(row)
                    return True
                return now.is_directory
            case Action.MKDIR:
                if now is not None and now.is_directory:
                    top.rmdir(row.path)
            case Action.CHMOD:
                if row.expect is not None and now is not None and not now.is_link:
                    self._set_mode(replace(row, mode=row.expect.mode))
            case Action.WRITE | Action.LINK:
                return self._unput(row, now)
        return True

    def _unput(self, row: Row, now: Entry | None) -> bool:
        top = self.tops[row.root]
        aside = top.stat(_aside(row))
        if now is None and aside is not None:
            top.rename(_aside(row), row.path)
            return True
        ours = self._log.staged.get(row.temporary)
        if now is None or ours is None or now.inode != ours.inode:
            held = aside or top.stat(row.temporary)
            return row.expect is None or held is None or held.inode != row.expect.inode
        if not alike(now, ours):
            return False
        if aside is not None:
            top.rename(_aside(row), row.path, replace=True)
        elif row.expect is None:
            top.rename(row.path, row.temporary)
        else:
            top.exchange(row.temporary, row.path)
        return True

    def stage(self, order: Order, row: Row, *, sync: bool) -> None:
        """Lay new content beside its target; `sync`: it is on the disk when this returns."""
        self._reached(f"stage {row.path!r}")
        top = self.tops[row.root]
        if row.action is Action.LINK:
            top.symlink(row.temporary, order.target, order.mtime_ns)
        else:
            assert order.fill is not None
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
            out = top.open(row.temporary, flags, 0o600)
            try:
                order.fill(out)
                if sync:
                    os.fsync(out)
            finally:
                os.close(out)
        now = self.tops[row.root].stat(row.temporary)
        assert now is not None
        self._log.note({"type": "staged", "temporary": os.fsdecode(row.temporary), "stamp": stamp_json(now.stamp)})

    def _make_directory(self, row: Row) -> None:
        """Ours alone at first; its mode is set when all that it is to hold is in it."""
        top = self.tops[row.root]
        top.mkdir(row.path, 0o700)
        opened = top.open(row.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            kept = self._log.kept.get((row.root, os.fsdecode(row.path)))
            parent = self.tops[row.root].stat(row.path.rpartition(b"/")[0])
            if kept is not None and kept.is_directory:
                set_owner(opened, kept.uid, kept.gid)
            elif os.geteuid() == 0 and parent is not None:
                os.fchown(opened, parent.uid, parent.gid)
        finally:
            os.close(opened)

    def open_made(self) -> None:
        """Directories that we made may be closed by their final modes already: open them for what is left."""
        for row in self._log.rows:
            if row.action is Action.MKDIR and "ready" in self._log.marks:
                with contextlib.suppress(OSError):
                    now = self.stat(row)
                    if now is not None and now.is_directory:
                        self._set_mode(replace(row, mode=stat.S_IRWXU, mtime_ns=0))

    def _remake(self, row: Row) -> None:
        """A directory that was there before."""
        top, kept = self.tops[row.root], self._log.kept[row.root, os.fsdecode(row.path)]
        top.mkdir(row.path, 0o700)
        opened = top.open(row.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            dress(opened, replace(kept, mode=kept.mode | stat.S_IRWXU))
        finally:
            os.close(opened)

    def _set_mode(self, row: Row) -> None:
        opened = self.tops[row.root].open(row.path, os.O_PATH | os.O_NOFOLLOW)
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

    def place(self, order: Order, going: set[tuple[str, bytes]]) -> bytes:
        """The nearest directory above that is there and stays."""
        parent = order.path.rpartition(b"/")[0]
        while parent:
            entry = self.tops[order.root].stat(parent)
            if entry is not None and entry.is_directory and (order.root, parent) not in going:
                return parent
            parent = parent.rpartition(b"/")[0]
        return b""

    def clean(self) -> None:
        """Take away our own names."""
        for row in self._log.rows:
            if row.action in STAGED or row.action is Action.DELETE:
                self._reached(f"clean {row.path!r}")
                for name in (row.temporary, _aside(row)):
                    with contextlib.suppress(OSError):
                        self.tops[row.root].unlink(name)

    def flush(self) -> None:
        """Names that were changed are on the disk when this returns, as far as it can be told."""
        for root, path in dict.fromkeys((row.root, row.path.rpartition(b"/")[0]) for row in self._log.rows):
            with contextlib.suppress(OSError):
                confined.sync_directory(self.tops[root].directory, path)

    def stat(self, row: Row) -> Entry | None:
        """The host's entry of a step's path."""
        return self.tops[row.root].stat(row.path)

    def _unmoved(self, row: Row, now: Entry | None) -> bool:
        """Whether the host's entry is what was expected. Another step on a name of the same file moved its ctime."""
        if not self._names:
            named = {(other.expect.inode, other.path) for other in self._log.rows if other.expect is not None}
            self._names = Counter(inode for inode, _ in named)
        shared = row.expect is not None and self._names[row.expect.inode] > 1
        return alike(now, row.expect) if shared else same_entry(now, row.expect)

    def _must(self, row: Row, holds: bool) -> None:
        if not holds:
            raise ApplyConflictError([row_remark(row, JUST_NOW)])


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


def _aside(row: Row) -> bytes:
    return row.temporary + b"-o"


def same_entry(now: Entry | None, was: Stamp | None) -> bool:
    """Whether nothing happened to a path."""
    if now is None or was is None:
        return now is None and was is None
    return now.stamp.same(was)


def alike(now: Entry | None, was: Stamp | None) -> bool:
    """As `same_entry` after a rename, which moves ctime."""
    return now is not None and was is not None and same_entry(now, replace(was, ctime_ns=now.ctime_ns))


def row_remark(row: Row, why: str) -> Remark:
    """What is to be said of a step's path."""
    return Remark(root=row.root, path=os.fsdecode(row.path), why=why)
