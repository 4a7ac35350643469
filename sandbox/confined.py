"""File access that cannot leave a directory: no link is followed, no `..` is taken, at any depth.

Every path is relative to a directory descriptor that the caller opened. The kernel's openat2
(man 2 openat2, Linux 5.6) checks all of it at once; where it is missing, the same is done one
component at a time. Raises OSError: ELOOP for a link, EXDEV for a way out, else as open(2).
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_SYS_OPENAT2 = 437
_SYS_RENAMEAT2 = 316 if os.uname().machine == "x86_64" else 276
_NO_MAGICLINKS, _NO_SYMLINKS, _BENEATH = 0x02, 0x04, 0x08
_RENAME_NOREPLACE, _RENAME_EXCHANGE = 1, 2
_HOW = struct.Struct("=QQQ")
_O_PATH = os.O_PATH | os.O_CLOEXEC | os.O_NOFOLLOW

_libc = ctypes.CDLL(None, use_errno=True)
_missing: set[int] = set()


def _syscall(number: int, *arguments: int | bytes) -> int:
    """A raw system call; raises OSError."""
    passed = [ctypes.c_char_p(a) if isinstance(a, bytes) else ctypes.c_long(a) for a in arguments]
    while True:
        result = int(_libc.syscall(ctypes.c_long(number), *passed))
        if result >= 0:
            return result
        code = ctypes.get_errno()
        if code not in (errno.EINTR, errno.EAGAIN):
            raise OSError(code, os.strerror(code))


def open_beneath(directory: int, path: str | bytes, flags: int, mode: int = 0) -> int:
    """Open `path` beneath the directory descriptor; the caller closes what it gets.

    `path` may be "." or "" (the directory itself). A link as the last name opens only with
    O_PATH | O_NOFOLLOW, and then it is the link.
    """
    name = os.fsencode(path) or b"."
    if b"\0" in name:
        raise OSError(errno.EINVAL, "NUL in a path")
    flags |= os.O_CLOEXEC
    if _SYS_OPENAT2 not in _missing:
        permissions = mode if flags & os.O_CREAT or flags & os.O_TMPFILE == os.O_TMPFILE else 0
        how = _HOW.pack(flags, permissions, _NO_MAGICLINKS | _NO_SYMLINKS | _BENEATH)
        try:
            return _syscall(_SYS_OPENAT2, directory, name, how, len(how))
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.EPERM):
                raise
            # A seccomp filter answers EPERM for calls that it does not know.
            if error.errno == errno.ENOSYS or not _can_openat2():
                _missing.add(_SYS_OPENAT2)
            else:
                raise
    return _open_by_steps(directory, name, flags, mode)


def _can_openat2() -> bool:
    try:
        os.close(_syscall(_SYS_OPENAT2, -100, b"/", _HOW.pack(_O_PATH, 0, 0), _HOW.size))
    except OSError:
        return False
    return True


def _open_by_steps(directory: int, name: bytes, flags: int, mode: int) -> int:
    """What openat2 does, one component at a time; `..` is refused altogether."""
    if name.startswith(b"/"):
        raise OSError(errno.EXDEV, "absolute path")
    parts = [part for part in name.split(b"/") if part not in (b"", b".")]
    if b".." in parts:
        raise OSError(errno.EXDEV, "way out of the directory")
    if not parts:
        return os.open(b".", flags | os.O_NOFOLLOW, mode, dir_fd=directory)
    current = os.dup(directory)
    try:
        for part in parts[:-1]:
            if stat.S_ISLNK(os.stat(part, dir_fd=current, follow_symlinks=False).st_mode):
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
            step = os.open(part, _O_PATH | os.O_DIRECTORY, dir_fd=current)
            os.close(current)
            current = step
        if name.endswith(b"/"):
            flags |= os.O_DIRECTORY
        return os.open(parts[-1], flags | os.O_NOFOLLOW, mode, dir_fd=current)
    finally:
        os.close(current)


def open_root(root: Path | str | bytes) -> int:
    """A descriptor of a trusted directory, to pass as `directory`; links in *this* path are followed."""
    return os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


@contextmanager
def parent_beneath(directory: int, path: str | bytes) -> Iterator[tuple[int, bytes]]:
    """The open parent of `path` and its last name, for calls that take dir_fd and a single name."""
    name = os.fsencode(path).rstrip(b"/")
    head, _, tail = name.rpartition(b"/")
    if tail in (b"", b".", b"..") or name.startswith(b"/"):
        raise OSError(errno.EXDEV, "not a name beneath the directory")
    parent = open_beneath(directory, head, os.O_PATH | os.O_DIRECTORY)
    try:
        yield parent, tail
    finally:
        os.close(parent)


def stat_beneath(directory: int, path: str | bytes) -> os.stat_result:
    """Lstat beneath the directory."""
    opened = open_beneath(directory, path, os.O_PATH | os.O_NOFOLLOW)
    try:
        return os.fstat(opened)
    finally:
        os.close(opened)


def open_file_beneath(directory: int, path: str | bytes) -> int:
    """A regular file for reading. Nothing else is ever opened: a device or FIFO is EINVAL."""
    found = open_beneath(directory, path, os.O_PATH | os.O_NOFOLLOW)
    try:
        if not stat.S_ISREG(os.fstat(found).st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        return os.open(f"/proc/self/fd/{found}", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    finally:
        os.close(found)


def readlink_beneath(directory: int, path: str | bytes) -> bytes:
    """The target of a link, as it stands."""
    with parent_beneath(directory, path) as (parent, name):
        return os.readlink(name, dir_fd=parent)


def mkdir_beneath(directory: int, path: str | bytes, mode: int = 0o777) -> None:
    """Make one directory; its parent exists."""
    with parent_beneath(directory, path) as (parent, name):
        os.mkdir(name, mode, dir_fd=parent)


def unlink_beneath(directory: int, path: str | bytes) -> None:
    """Remove a name that is no directory."""
    with parent_beneath(directory, path) as (parent, name):
        os.unlink(name, dir_fd=parent)


def rename_beneath(directory: int, old: str | bytes, new: str | bytes, *, replace: bool = True) -> None:
    """Rename beneath the directory. Without `replace` an existing target is EEXIST."""
    with parent_beneath(directory, old) as (source, name), parent_beneath(directory, new) as (target, other):
        if replace:
            os.rename(name, other, src_dir_fd=source, dst_dir_fd=target)
        else:
            rename_names(source, name, target, other, exchange=False)


def rename_names(source: int, name: bytes, target: int, other: bytes, *, exchange: bool) -> None:
    """Rename a name of one open directory to one of another where none is there; or let the two change places."""
    _syscall(_SYS_RENAMEAT2, source, name, target, other, _RENAME_EXCHANGE if exchange else _RENAME_NOREPLACE)


def sync_directory(directory: int, path: str | bytes) -> None:
    """Return when the directory's names will survive a power loss."""
    opened = open_beneath(directory, path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def sync_file_system(directory: int) -> None:
    """Return when all that was written to the directory's file system will survive a power loss."""
    opened = open_beneath(directory, ".", os.O_RDONLY | os.O_DIRECTORY)
    try:
        if _libc.syncfs(opened) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
    finally:
        os.close(opened)


def read_beneath(root: Path, relative: str | bytes, limit: int) -> bytes | None:
    """At most `limit` bytes of a regular file beneath the root.

    None where there is no such file or root, where a link stands in the way beneath the root,
    where it is no regular file or may not be read. Never raises OSError.
    """
    try:
        directory = open_root(root)
    except OSError:
        return None
    try:
        with os.fdopen(open_file_beneath(directory, relative), "rb") as file:
            return file.read(limit)
    except OSError:
        return None
    finally:
        os.close(directory)
