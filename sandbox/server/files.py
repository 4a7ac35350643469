"""File requests, served by process 1 with the owner's fsuid and fsgid and no other right of its own.

Every path is opened by openat2 through no link; `resolve` is what follows links, one by one and with
a limit. The server's own entries in /proc are out of reach: to the kernel the asker is the server.
"""

from __future__ import annotations

import errno
import os
import stat

from sandbox.server import linux
from sandbox.wire import PathCode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

LINKS = 40
PARTS = 512
READ_LIMIT = 64 << 20
CHUNK = 1 << 20
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY
_WRITE = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY
_LOOK = os.O_PATH | os.O_NOFOLLOW

_CODES = {
    errno.ENOENT: PathCode.NOT_FOUND,
    errno.EACCES: PathCode.DENIED,
    errno.EPERM: PathCode.DENIED,
    errno.ELOOP: PathCode.LINK,
    errno.ENOTDIR: PathCode.NOT_DIRECTORY,
    errno.EISDIR: PathCode.NOT_FILE,
    errno.ENXIO: PathCode.NOT_FILE,
    errno.EEXIST: PathCode.EXISTS,
    errno.ENOSPC: PathCode.NO_SPACE,
    errno.EDQUOT: PathCode.NO_SPACE,
    errno.EROFS: PathCode.READ_ONLY,
    errno.EFBIG: PathCode.TOO_LARGE,
    errno.E2BIG: PathCode.TOO_LARGE,
    errno.ENAMETOOLONG: PathCode.INVALID,
    errno.EINVAL: PathCode.INVALID,
    errno.ENOEXEC: PathCode.NOT_EXECUTABLE,
    errno.ETXTBSY: PathCode.BUSY,
}
_KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "link",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "device",
    stat.S_IFBLK: "device",
}


class RefusedError(Exception):
    """A request that ends in a code."""

    def __init__(self, code: str, detail: str = "") -> None:
        super().__init__(code)
        self.code = code
        self.detail = detail


def code_of(error: OSError) -> str:
    """The code of the closed set for a system error."""
    return _CODES.get(error.errno or 0, PathCode.FAILED)


def told(found: os.stat_result, link: str = "") -> dict[str, Any]:
    """A stat as it goes over the wire."""
    return {
        "kind": _KINDS.get(stat.S_IFMT(found.st_mode), "device"),
        "mode": stat.S_IMODE(found.st_mode),
        "size": found.st_size,
        "mtime_ns": found.st_mtime_ns,
        "uid": found.st_uid,
        "gid": found.st_gid,
        "link": link,
    }


def checked(path: object) -> bytes:
    """An absolute, normalised path as bytes."""
    if type(path) is not str or not path.startswith("/") or "\0" in path:
        raise RefusedError(PathCode.INVALID, "not an absolute path")
    return os.fsencode(path)


class Files:
    """The requests. Methods take the request's arguments and return (result, body)."""

    def __init__(self) -> None:
        self._proc = os.stat("/proc").st_dev

    def look(self, request: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
        """Lstat."""
        fd = linux.open_path(checked(request["path"]), _LOOK)
        try:
            found = os.fstat(fd)
            link = os.readlink(b"", dir_fd=fd) if stat.S_ISLNK(found.st_mode) else b""
        finally:
            os.close(fd)
        return told(found, os.fsdecode(link)), b""

    def open_for_reading(self, request: dict[str, Any]) -> tuple[int, os.stat_result]:
        """A descriptor of a regular file, and its stat."""
        path = checked(request["path"])
        fd = linux.open_path(path, _READ)
        try:
            found = os.fstat(fd)
            self._regular(found, path, writing=False)
        except BaseException:
            os.close(fd)
            raise
        return fd, found

    def read(self, fd: int, found: os.stat_result, request: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
        """Bytes from `offset`, at most `limit`; closes the descriptor."""
        try:
            offset, limit = int(request["offset"]), min(int(request["limit"]), READ_LIMIT)
            if offset:
                os.lseek(fd, offset, os.SEEK_SET)
            data = os.read(fd, min(limit, max(found.st_size - offset, 0) or CHUNK))
            if 0 < len(data) < limit and (len(data) < found.st_size - offset or not found.st_size):
                data = self._rest(fd, data, limit)
            return told(found), data
        finally:
            os.close(fd)

    @staticmethod
    def _rest(fd: int, data: bytes, limit: int) -> bytes:
        parts, size = [data], len(data)
        while size < limit:
            more = os.read(fd, min(limit - size, CHUNK))
            if not more:
                break
            parts.append(more)
            size += len(more)
        return b"".join(parts)

    def write(self, request: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
        """Replace or create, in place. Space is reserved before the old content goes."""
        path = checked(request["path"])
        mode, expect = request.get("mode"), request.get("expect")
        fd, created = self._open_for_writing(path, mode, create=expect is None)
        try:
            found = os.fstat(fd)
            self._regular(found, path, writing=True)
            if expect is not None and (found.st_size, found.st_mtime_ns) != (expect[0], expect[1]):
                raise RefusedError(PathCode.CHANGED, "the file changed since it was looked at")
            if created and mode is not None:
                os.fchmod(fd, mode & 0o7777)
            self._fill(fd, data, found.st_size)
            return told(os.fstat(fd)), b""
        finally:
            os.close(fd)

    @staticmethod
    def _fill(fd: int, data: bytes, old: int) -> None:
        if len(data) > max(old, 4096):
            try:
                os.posix_fallocate(fd, 0, len(data))
            except OSError as error:
                if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
                    os.ftruncate(fd, old)
                    raise
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        os.ftruncate(fd, len(data))

    def _open_for_writing(self, path: bytes, mode: int | None, *, create: bool) -> tuple[int, bool]:
        for _ in range(2):
            try:
                return linux.open_path(path, _WRITE), False
            except OSError as error:
                if error.errno != errno.ENOENT:
                    raise
                if not create:
                    raise RefusedError(PathCode.CHANGED, "the file is gone") from None
            make_parents(path)
            try:
                new = 0o666 if mode is None else 0o600
                return linux.open_path(path, _WRITE | os.O_CREAT | os.O_EXCL, new), True
            except FileExistsError:
                continue
        raise RefusedError(PathCode.CHANGED, "the path keeps changing")

    def _regular(self, found: os.stat_result, path: bytes, *, writing: bool) -> None:
        if not stat.S_ISREG(found.st_mode):
            raise RefusedError(PathCode.NOT_FILE, "not a regular file")
        if found.st_dev == self._proc:
            parts = [part for part in path.split(b"/") if part not in {b"", b"."}]
            if writing or b".." in parts or len(parts) < 2 or not parts[1].isalpha():
                raise RefusedError(PathCode.DENIED, "processes are looked at by commands only")

    def resolve(self, request: dict[str, Any]) -> tuple[dict[str, Any], list[list[str]]]:
        """Rows of (link, target, kind, error), one per path, in order."""
        return {}, [self._resolution(path) for path in request["paths"]]

    def _resolution(self, path: object) -> list[str]:
        try:
            raw = checked(path)
            kind = self._straight(raw)
            if kind:
                text = os.fsdecode(raw)
                return [text, text, kind, ""]
            link, target, kind = follow(raw)
            return [os.fsdecode(link), os.fsdecode(target), kind, ""]
        except RefusedError as error:
            return [str(path), str(path), "", error.code]
        except OSError as error:
            return [str(path), str(path), "", code_of(error)]

    @staticmethod
    def _straight(path: bytes) -> str:
        """The kind of a path in its simplest form that exists and has no link in it; "" for others."""
        if b"/." in path or b"//" in path or (path[-1:] == b"/" and len(path) > 1):
            return ""
        try:
            fd = linux.open_path(path, _LOOK)
        except OSError:
            return ""
        try:
            kind = _KINDS.get(stat.S_IFMT(os.fstat(fd).st_mode), "device")
        finally:
            os.close(fd)
        return "" if kind == "link" else kind


def follow(path: bytes) -> tuple[bytes, bytes, str]:
    """(link, target, kind of the target): `link` has its parents resolved and its last name kept.
    What does not exist resolves through its nearest existing parent; its kind is "".
    """
    parts = _parts(path)
    parent, _ = _walk(parts[:-1])
    last = parts[-1] if parts else b""
    if last in {b"", b".", b".."}:
        target, kind = _walk(parts)
        return target, target, kind
    link = parent.rstrip(b"/") + b"/" + last
    target, kind = _walk(parts)
    return link, target, kind


def _parts(path: bytes) -> list[bytes]:
    return [part for part in path.split(b"/") if part not in {b"", b"."}]


def _walk(parts: list[bytes]) -> tuple[bytes, str]:
    waiting = parts[::-1]
    done: list[bytes] = []
    links = 0
    kind = "directory"
    while waiting:
        part = waiting.pop()
        if part == b"..":
            del done[-1:]
            kind = kind and "directory"
            continue
        here = b"/" + b"/".join((*done, part))
        kind = kind and _kind(here)
        if kind != "link":
            done.append(part)
            continue
        text = os.readlink(here)
        links += 1
        if links > LINKS:
            raise RefusedError(PathCode.LOOP, "too many links")
        if text[:1] == b"/":
            done = []
        waiting += _parts(text)[::-1]
        kind = "directory"
        if len(waiting) + len(done) > PARTS:
            raise RefusedError(PathCode.INVALID, "path too long")
    return b"/" + b"/".join(done), kind


def _kind(path: bytes) -> str:
    try:
        return _KINDS.get(stat.S_IFMT(os.lstat(path).st_mode), "device")
    except (FileNotFoundError, NotADirectoryError):
        return ""


def make_parents(path: bytes) -> None:
    """Make the directories above a path, through no link."""
    parent = path.rstrip(b"/").rpartition(b"/")[0] or b"/"
    missing: list[bytes] = []
    while True:
        try:
            fd = linux.open_path(parent, os.O_PATH | os.O_DIRECTORY)
            break
        except FileNotFoundError:
            if len(missing) > PARTS:
                raise
            parent, _, name = parent.rpartition(b"/")
            parent = parent or b"/"
            missing.append(name)
    try:
        for name in reversed(missing):
            below = _make(name, fd)
            os.close(fd)
            fd = below
    finally:
        os.close(fd)


def _make(name: bytes, parent: int) -> int:
    try:
        os.mkdir(name, 0o777, dir_fd=parent)
    except OSError as error:
        if error.errno != errno.EEXIST:  # else somebody was quicker; the open says what it is
            raise
    return os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
