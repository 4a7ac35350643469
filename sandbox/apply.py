"""Writing a plan onto a root of the host: staged beside its targets first, checked again, then put in
place by renames. No link is followed, nothing of the repository is run.

What the host loses (overwritten or deleted contents) is kept in the store, and each step is noted
there: an apply that was cut off can simply be run again.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from sandbox import confined
from sandbox.bases import CAPTURE_FILE, Bases, filled
from sandbox.disk import free_space
from sandbox.errors import DiskFullError, StoreError, WorkspaceError
from sandbox.plan import Action, ApplyConflictError, Plan, Remark, Step
from sandbox.store import Store
from sandbox.trees import LocalTree, Tree

_PERMISSIONS = 0o777
_SPARE = 16 << 20
_FEW = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """A path that was written on the host, and how."""

    root: str
    path: str
    action: Action


@dataclass(frozen=True, slots=True, kw_only=True)
class AppliedReport:
    """What an apply did, and what it left out: `held_back` until named, `dropped` always. `pointed_out`
    was applied and deserves a look. `dry`: nothing was written.
    """

    applied: tuple[Applied, ...] = ()
    held_back: tuple[Remark, ...] = ()
    dropped: tuple[Remark, ...] = ()
    pointed_out: tuple[Remark, ...] = ()
    conflicts: tuple[Remark, ...] = ()
    dry: bool = False


class Applier:
    """Carries out the plan of one root: `stage`, `check`, `commit`, in this order. A context manager:
    what was staged and not put in place is removed at the end.
    """

    def __init__(self, root: Path, plan: Plan, *, upper: Tree, bases: Bases, store: Store, session: str) -> None:
        self._root = root
        self._plan = plan
        self._upper = upper
        self._bases = bases
        self._store = store
        self._prefix = f".fumehood-{session[:8]}-".encode()
        self._host = LocalTree(root)
        self._top = confined.open_root(root)
        self._staged: dict[bytes, bytes] = {}
        self._number = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for temporary in self._staged.values():
            with contextlib.suppress(OSError):
                confined.unlink_beneath(self._top, temporary)
        os.close(self._top)
        self._host.close()

    def stage(self) -> None:
        """Write every new content beside its target (above it, where that directory is yet to be made).
        Raises DiskFullError, WorkspaceError; nothing is visible yet but our own temporary names.
        """
        need = sum(s.change.new.size for s in self._plan.steps if s.action is Action.WRITE and s.change.new)
        if need + _SPARE > free_space(self._root) and self._dense(need) > free_space(self._root):
            raise DiskFullError(f"{self._root} has no space for {need >> 20} MiB of changes")
        places = {step.path: self._nearest(step.path) for step in self._plan.steps if step.action in _STAGED}
        self._sweep(set(places.values()))
        self._keep_old()
        self._store.note({"type": "apply", "state": "begin", "root": str(self._root), "places": _names(places)})
        self._store.sync()
        for step in self._plan.steps:
            if step.action in _STAGED:
                with self._told(step):
                    self._stage(step, places[step.path], sync=len(places) <= _FEW)
        if len(places) > _FEW:
            confined.sync_file_system(self._top)

    def check(self) -> None:
        """Raise ApplyConflictError when the host changed any of the paths since the plan was made."""
        moved = [
            Remark(root=step.change.root, path=step.change.path, why="changed on the host just now")
            for step in self._plan.steps
            if not self._as_expected(step)
        ]
        if moved:
            raise ApplyConflictError(moved)

    def commit(self) -> tuple[Applied, ...]:
        """Take the steps. Raises ApplyConflictError or WorkspaceError in the middle only where the host
        changes under our hands; what was done then stands, and is noted.
        """
        done: list[Applied] = []
        touched: set[bytes] = set()
        removed: set[bytes] = set()
        made: list[Step] = []
        for step in self._plan.steps:
            with self._told(step):
                if step.path not in removed:
                    self._still(step, len(done))
                self._take(step)
            if step.action in (Action.DELETE, Action.RMDIR):
                removed.add(step.path)
            if step.action is Action.MKDIR:
                made.append(step)
            done.append(Applied(root=step.change.root, path=step.change.path, action=step.action))
            touched.add(step.path.rpartition(b"/")[0])
            self._bases.applied(step.change.path, self._host.stat(step.path))
        for directory in touched:
            self._flush(directory)
        for step in reversed(made):
            with self._told(step):
                self._set_mode(step.path, step)
                self._bases.applied(step.change.path, self._host.stat(step.path))
        self._store.note({"type": "apply", "state": "end", "root": str(self._root)})
        self._store.sync()
        return tuple(done)

    def _take(self, step: Step) -> None:
        match step.action:
            case Action.DELETE:
                confined.unlink_beneath(self._top, step.path)
            case Action.RMDIR:
                confined.rmdir_beneath(self._top, step.path)
            case Action.MKDIR:
                self._make_directory(step)
            case Action.CHMOD:
                self._set_mode(step.path, step)
            case Action.WRITE | Action.LINK:
                confined.rename_beneath(
                    self._top, self._staged[step.path], step.path, replace=self._host.stat(step.path) is not None
                )
                del self._staged[step.path]

    def _stage(self, step: Step, place: bytes, *, sync: bool) -> None:
        entry = step.change.new
        assert entry is not None
        self._number += 1
        name = self._prefix + b"%d-%d" % (os.getpid(), self._number)
        temporary = place + b"/" + name if place else name
        self._staged[step.path] = temporary
        if step.action is Action.LINK:
            confined.symlink_beneath(self._top, temporary, self._upper.readlink(step.path))
            return
        out = confined.open_beneath(self._top, temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        try:
            size = _pour(out, self._upper.chunks(step.path))
            if size != entry.size:
                raise WorkspaceError(f"{step.change.path} changes in the box while it is applied")
            self._dress(out, step)
            if sync:
                os.fsync(out)
        finally:
            os.close(out)

    def _dress(self, out: int, step: Step) -> None:
        """Owner as the host's file has it (a new file: as the directory that it goes to), attributes of
        the user namespace, and the mode without its special bits.
        """
        old, new = step.expect, step.change.new
        assert new is not None
        owner = old if old is not None and old.is_file else self._host.stat(self._nearest(step.path))
        if owner is not None and os.geteuid() == 0:
            os.fchown(out, owner.uid, owner.gid)
        elif owner is old and old is not None and old.gid != os.fstat(out).st_gid:
            with contextlib.suppress(PermissionError):
                os.fchown(out, -1, old.gid)
        for name, value in self._upper.attributes(step.path).items():
            if not name.startswith("user.overlay."):
                with contextlib.suppress(OSError):
                    os.setxattr(out, name, value)
        changed = step.change.old is None or (step.change.old.mode ^ new.mode) & _PERMISSIONS
        mode = new.mode if changed or old is None else old.mode
        os.fchmod(out, mode & _PERMISSIONS)

    def _make_directory(self, step: Step) -> None:
        """Ours alone at first; its mode is set when all that it is to hold is in it."""
        confined.mkdir_beneath(self._top, step.path, 0o700)
        opened = confined.open_beneath(self._top, step.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            if os.geteuid() == 0:
                parent = self._host.stat(step.path.rpartition(b"/")[0])
                assert parent is not None
                os.fchown(opened, parent.uid, parent.gid)
        finally:
            os.close(opened)

    def _set_mode(self, path: bytes, step: Step) -> None:
        assert step.change.new is not None
        opened = confined.open_beneath(self._top, path, os.O_PATH | os.O_NOFOLLOW)
        try:
            now = os.fstat(opened).st_mode
            if stat.S_ISLNK(now):
                raise OSError(errno.ELOOP, "a link")
            kept = stat.S_IMODE(now) & ~_PERMISSIONS if stat.S_ISDIR(now) else 0
            os.chmod(f"/proc/self/fd/{opened}", kept | step.change.new.mode & _PERMISSIONS)  # noqa: PTH101 - a descriptor
        finally:
            os.close(opened)

    def _nearest(self, path: bytes) -> bytes:
        """The nearest directory above that is there already."""
        parent = path.rpartition(b"/")[0]
        while parent:
            entry = self._host.stat(parent)
            if entry is not None and entry.is_directory:
                return parent
            parent = parent.rpartition(b"/")[0]
        return b""

    def _sweep(self, places: Iterable[bytes]) -> None:
        """Remove what an apply of this session left when it was cut off."""
        earlier = {
            os.fsencode(place)
            for note in self._store.notes()
            if note.get("type") == "apply" and note.get("root") == str(self._root)
            for place in note.get("places", ())
        }
        for place in earlier | set(places):
            with contextlib.suppress(OSError):
                for entry in self._host.scan(place):
                    if entry.path.rpartition(b"/")[2].startswith(self._prefix):
                        confined.unlink_beneath(self._top, entry.path)

    def _keep_old(self) -> None:
        """Store what will be overwritten or deleted; what is too large for that stays in nobody's hands but git's."""
        for step in self._plan.steps:
            old = step.expect
            if old is None or not old.is_file or step.action is Action.CHMOD or old.size > CAPTURE_FILE:
                continue
            try:
                digest = self._store.put(filled(self._host.chunks(step.path)), old.size)
            except (StoreError, OSError) as error:
                raise WorkspaceError(f"{step.change.path} on the host cannot be read: {error}") from error
            self._store.note(
                {
                    "type": "before",
                    "root": step.change.root,
                    "path": step.change.path,
                    "mode": old.mode,
                    "digest": digest,
                }
            )

    def _as_expected(self, step: Step) -> bool:
        now = self._host.stat(step.path)
        if step.expect is None or now is None:
            return step.expect is None and now is None
        return now.stamp.same(step.expect.stamp)

    def _still(self, step: Step, done: int) -> None:
        if not self._as_expected(step):
            remark = Remark(root=step.change.root, path=step.change.path, why="changed on the host just now")
            raise ApplyConflictError([remark], applied=done)

    def _dense(self, need: int) -> int:
        """What the new contents really take, holes left out."""
        total = 0
        for step in self._plan.steps:
            if step.action is Action.WRITE:
                total += sum(len(p) for p in self._upper.chunks(step.path) if isinstance(p, bytes))
        return min(total, need)

    def _flush(self, directory: bytes) -> None:
        with contextlib.suppress(OSError):
            opened = confined.open_beneath(self._top, directory, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(opened)
            finally:
                os.close(opened)

    @contextlib.contextmanager
    def _told(self, step: Step) -> Iterator[None]:
        """OSError as an error that names the path."""
        try:
            yield
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise DiskFullError(f"no space on the host for {step.change.path}") from error
            raise WorkspaceError(
                f"{step.change.path} cannot be written on the host: {error.strerror}",
                hint="see its owner and mode; `apply` can be run again",
            ) from error


_STAGED = (Action.WRITE, Action.LINK)


def _names(places: dict[bytes, bytes]) -> list[str]:
    return sorted({os.fsdecode(place) for place in places.values()})


def _pour(out: int, pieces: Iterable[bytes | int]) -> int:
    """Write pieces, holes as holes; the size."""
    at = 0
    for piece in pieces:
        if isinstance(piece, int):
            at += piece
            continue
        view = memoryview(piece)
        while view:
            count = os.pwrite(out, view, at)
            view, at = view[count:], at + count
    os.ftruncate(out, at)
    return at
