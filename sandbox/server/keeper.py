"""The keeper's end of the wire: reads, gives away, fills and removes what the controller may not, beneath the
directories that are mounted into its container and nowhere else. One request at a time, each answered
within the first window of credit. No command of anybody's runs here.
"""

from __future__ import annotations

import binascii
import contextlib
import errno
import fcntl
import json
import os
import stat
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeAlias

    Args: TypeAlias = dict[str, Any]
    Answer: TypeAlias = tuple[dict[str, int], bytes]

sys.path[:0] = [__file__.rsplit("/", 3)[0]]

from sandbox import wire  # noqa: E402  the path comes first
from sandbox.server.linux import open_path  # noqa: E402

_TOPS = (b"/layers/", b"/frozen/", b"/roots/")
_MOST = wire.WINDOW - wire.PAYLOAD
_LOOK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_MAX_DEPTH = 1000
# Of one answer that holds a whole tree: entries, and how deep they lie.
_FLAT_ROWS, _FLAT_DEPTH = 500, 40
# More than a row of `take` needs that tells of no attributes.
_ROW = 32
_KEPT = ("user.", "system.posix_acl_")


class RefusedError(Exception):
    """A request that makes no sense; the text is the wire's code."""


def checked(value: object) -> bytes:
    """A path as bytes, absolute, beneath one of our tops, without any way up."""
    if not isinstance(value, str):
        raise RefusedError(wire.PathCode.INVALID)
    path = os.fsencode(value)
    parts = path.split(b"/")
    if not (path + b"/").startswith(_TOPS) or b".." in parts or b"." in parts or b"\0" in path:
        raise RefusedError(wire.PathCode.INVALID)
    return path


def number(value: object) -> int:
    """A number that is none of JSON's other things."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 62:
        raise RefusedError(wire.PathCode.INVALID)
    return value


def row(name: bytes | str, seen: os.stat_result) -> list[Any]:
    """A stat as a list."""
    return [
        os.fsdecode(name),
        seen.st_mode,
        seen.st_size,
        seen.st_mtime_ns,
        seen.st_ctime_ns,
        seen.st_ino,
        seen.st_rdev,
        seen.st_uid,
        seen.st_gid,
        seen.st_nlink,
    ]


def scan(args: Args) -> Answer:
    """Entries of a directory from the `start`-th on, as many as fit; `next` 0 at the end."""
    start = number(args["start"])
    directory = open_path(checked(args["path"]), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        names = sorted(os.fsencode(name) for name in os.listdir(directory))
        rows: list[str] = []
        size, at = 2, start
        for name in names[start:]:
            try:
                line = json.dumps(row(name, os.stat(name, dir_fd=directory, follow_symlinks=False)))
            except FileNotFoundError:
                at += 1
                continue
            if size + len(line) + 1 > _MOST:
                return {"next": at}, ("[" + ",".join(rows) + "]").encode("ascii")
            rows.append(line)
            size += len(line) + 1
            at += 1
        return {"next": 0}, ("[" + ",".join(rows) + "]").encode("ascii")
    finally:
        os.close(directory)


def below(args: Args) -> Answer:
    """All that lies beneath a directory, paths from there, each directory before what it holds, and with `top` itself
    first, of no name; `whole` 0 and nothing where it is too much for one answer, or cannot be read.
    """
    directory = open_path(checked(args["path"]), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    rows: list[list[Any]] = []
    try:
        if args["top"]:
            rows.append(row(b"", os.fstat(directory)))
        gather(directory, b"", rows, 0)
    except (OSError, RefusedError):
        return {"whole": 0}, b"[]"
    finally:
        os.close(directory)
    told = json.dumps(rows).encode("ascii")
    return ({"whole": 1}, told) if len(told) <= _MOST else ({"whole": 0}, b"[]")


def gather(directory: int, prefix: bytes, rows: list[list[Any]], depth: int) -> None:
    """Add what an open directory holds. RefusedError where it becomes too much."""
    if depth > _FLAT_DEPTH:
        raise RefusedError(wire.PathCode.TOO_LARGE)
    for name in sorted(map(os.fsencode, os.listdir(directory))):
        seen = os.stat(name, dir_fd=directory, follow_symlinks=False)
        rows.append(row(prefix + name, seen))
        if len(rows) > _FLAT_ROWS:
            raise RefusedError(wire.PathCode.TOO_LARGE)
        if stat.S_ISDIR(seen.st_mode):
            child = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
            try:
                gather(child, prefix + name + b"/", rows, depth + 1)
            finally:
                os.close(child)


def look(args: Args) -> Answer:
    """Lstat of one path."""
    opened = open_path(checked(args["path"]), _LOOK)
    try:
        return {}, json.dumps(row(b"", os.fstat(opened))).encode("ascii")
    finally:
        os.close(opened)


def regular(path: bytes, way: int = os.O_RDONLY) -> int:
    """A regular file, opened for reading, or another `way`."""
    found = open_path(path, _LOOK)
    try:
        if not stat.S_ISREG(os.fstat(found).st_mode):
            raise RefusedError(wire.PathCode.NOT_FILE)
        return os.open("/proc/self/fd/%d" % found, way | os.O_CLOEXEC | os.O_NONBLOCK)
    finally:
        os.close(found)


def read(args: Args) -> Answer:
    """Bytes from `offset` on, or the length of the `hole` that begins there. Neither: the end."""
    offset = number(args["offset"])
    opened = regular(checked(args["path"]))
    try:
        size = os.fstat(opened).st_size
        if offset >= size:
            return {"hole": 0}, b""
        try:
            data = os.lseek(opened, offset, os.SEEK_DATA)
        except OSError:
            data = size
        if data > offset:
            return {"hole": data - offset}, b""
        end = os.lseek(opened, offset, os.SEEK_HOLE)
        return {"hole": 0}, os.pread(opened, min(_MOST, end - offset), offset)
    finally:
        os.close(opened)


def readlink(args: Args) -> Answer:
    """A link's text."""
    opened = open_path(checked(args["path"]), _LOOK)
    try:
        return {}, os.readlink(b"", dir_fd=opened)
    finally:
        os.close(opened)


def attributes(args: Args) -> Answer:
    """Attributes of the user namespace, and ACLs, values in hex."""
    opened = open_path(checked(args["path"]), _LOOK)
    try:
        through = "/proc/self/fd/%d" % opened
        if stat.S_ISLNK(os.fstat(opened).st_mode):
            return {}, b"{}"
        names = [name for name in os.listxattr(through) if name.startswith(_KEPT)]
        found = json.dumps({name: os.getxattr(through, name).hex() for name in names}).encode("ascii")
        return {}, found if len(found) <= _MOST else b"{}"
    finally:
        os.close(opened)


def take(args: Args) -> Answer:
    """Small files at one go, as many of `paths` as fit, one at least: a JSON list of [attributes, length] of `head`
    bytes, then their contents. null for what is no small file without holes, or cannot be read.
    """
    rows: list[list[Any] | None] = []
    contents: list[bytes] = []
    size, above, directory = 2, b"", -1
    try:
        for path in map(checked, args["paths"]):
            parent, _, name = path.rpartition(b"/")
            if parent != above:
                if directory >= 0:
                    os.close(directory)
                above, directory = parent, folder(parent)
            found, data = whole(directory, name)
            size += _ROW + (len(json.dumps(found)) if found else 0) + len(data)
            if size > _MOST:
                if rows:
                    break
                found, data = None, b""
            rows.append(None if found is None else [found, len(data)])
            contents.append(data)
    finally:
        if directory >= 0:
            os.close(directory)
    head = json.dumps(rows).encode("ascii")
    return {"head": len(head)}, head + b"".join(contents)


def folder(path: bytes) -> int:
    """A directory, opened; -1 where it cannot be."""
    try:
        return open_path(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return -1


def whole(directory: int, name: bytes) -> tuple[dict[str, str] | None, bytes]:
    """Attributes and content of a small file in an open directory, None for any other."""
    if directory < 0:
        return None, b""
    try:
        if not stat.S_ISREG(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
            return None, b""
        opened = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=directory)
    except OSError:
        return None, b""
    try:
        seen = os.fstat(opened)
        if not stat.S_ISREG(seen.st_mode) or seen.st_size > wire.PAYLOAD or seen.st_blocks * 512 < seen.st_size:
            return None, b""
        names = [name for name in os.listxattr(opened) if name.startswith(_KEPT)]
        return {name: os.getxattr(opened, name).hex() for name in names}, os.read(opened, seen.st_size + 1)
    except OSError:
        return None, b""
    finally:
        os.close(opened)


def write(args: Args) -> Answer:
    """Bytes (base64) from `offset` on, or no more than a `size` for the file."""
    opened = regular(checked(args["path"]), os.O_WRONLY)
    try:
        os.ftruncate(opened, max(number(args["size"]), os.fstat(opened).st_size))
        data, offset = memoryview(binascii.a2b_base64(args["data"])), number(args["offset"])
        while data:
            done = os.pwrite(opened, data, offset)
            data, offset = data[done:], offset + done
        return {}, b""
    finally:
        os.close(opened)


def bind(args: Args) -> Answer:
    """A socket's name, to which nobody listens."""
    parent, _, name = checked(args["path"]).rpartition(b"/")
    directory = open_path(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.mknod(name, stat.S_IFSOCK | 0o600, dir_fd=directory)
        return {}, b""
    finally:
        os.close(directory)


def dress(args: Args) -> Answer:
    """Give one path owner, mode, attributes (in hex, beside those that it has) and time of change."""
    opened = open_path(checked(args["path"]), _LOOK)
    try:
        through, seen = "/proc/self/fd/%d" % opened, os.fstat(opened)
        uid, gid = number(args["uid"]), number(args["gid"])
        if (seen.st_uid, seen.st_gid) != (uid, gid):
            os.chown(through, uid, gid)
        if not stat.S_ISLNK(seen.st_mode):
            for name, value in args["attributes"].items():
                if not name.startswith(_KEPT):
                    raise RefusedError(wire.PathCode.INVALID)
                os.setxattr(through, name, bytes.fromhex(value))
            os.chmod(through, stat.S_IMODE(number(args["mode"])))
        time = args["mtime_ns"]
        if not isinstance(time, int) or isinstance(time, bool):
            raise RefusedError(wire.PathCode.INVALID)
        os.utime(through, ns=(time, time))
        return {}, b""
    finally:
        os.close(opened)


def chown(args: Args) -> Answer:
    """Give one path to another user."""
    opened = open_path(checked(args["path"]), _LOOK)
    try:
        mode = os.fstat(opened).st_mode
        os.chown("/proc/self/fd/%d" % opened, number(args["uid"]), number(args["gid"]))
        if not stat.S_ISLNK(mode):
            os.chmod("/proc/self/fd/%d" % opened, stat.S_IMODE(mode))
        return {}, b""
    finally:
        os.close(opened)


def remove(args: Args) -> Answer:
    """Remove a path with all beneath it; no error when it is gone."""
    parent, _, name = checked(args["path"]).rpartition(b"/")
    if not name or parent in (b"", b"/roots"):
        raise RefusedError(wire.PathCode.INVALID)
    directory = open_path(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        take_away(directory, name, 0)
        return {}, b""
    finally:
        os.close(directory)


def take_away(parent: int, name: bytes, depth: int) -> None:
    """Remove `name` in an open directory."""
    try:
        if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
            os.unlink(name, dir_fd=parent)
            return
    except FileNotFoundError:
        return
    if depth > _MAX_DEPTH:
        raise RefusedError(wire.PathCode.LOOP)
    directory = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        for child in os.listdir(directory):
            take_away(directory, os.fsencode(child), depth + 1)
    finally:
        os.close(directory)
    os.rmdir(name, dir_fd=parent)


VERBS = {
    "scan": scan,
    "below": below,
    "stat": look,
    "read": read,
    "readlink": readlink,
    "attributes": attributes,
    "take": take,
    "write": write,
    "bind": bind,
    "dress": dress,
    "chown": chown,
    "remove": remove,
}
_CODES = {
    "ENOENT": wire.PathCode.NOT_FOUND,
    "ENOTDIR": wire.PathCode.NOT_DIRECTORY,
    "ELOOP": wire.PathCode.LINK,
    "EACCES": wire.PathCode.DENIED,
    "EPERM": wire.PathCode.DENIED,
    "EROFS": wire.PathCode.READ_ONLY,
    "ENOSPC": wire.PathCode.NO_SPACE,
}


def arguments(payload: bytes) -> Args:
    """The request's JSON object."""
    args = json.loads(payload)
    if not isinstance(args, dict):
        raise RefusedError(wire.PathCode.INVALID)
    return args


def answer(header: dict[str, Any], payload: bytes) -> bytes:
    """The frames that answer one request."""
    stream = header["s"]
    try:
        result, data = VERBS[header["k"]](arguments(payload))
    except RefusedError as error:
        return wire.encode({"t": "fail", "s": stream, "code": str(error)})
    except (KeyError, TypeError, ValueError, RecursionError):
        return wire.encode({"t": "fail", "s": stream, "code": wire.PathCode.INVALID})
    except OSError as error:
        name = errno.errorcode.get(error.errno or 0, "EIO")
        return wire.encode({"t": "fail", "s": stream, "code": _CODES.get(name, wire.PathCode.FAILED), "detail": name})
    frames = [
        wire.encode({"t": "data", "s": stream, "c": wire.STDOUT}, data[at : at + wire.PAYLOAD])
        for at in range(0, len(data), wire.PAYLOAD)
    ]
    return b"".join(frames) + wire.encode({"t": "done", "s": stream, "r": result})


def write_all(data: bytes) -> None:
    """Write to the pipe, whatever it takes."""
    view = memoryview(data)
    while view:
        view = view[os.write(1, view) :]


def main() -> int:
    """Serve until the pipe ends."""
    for pipe in (0, 1):  # an answer fits, so that the next is read while it goes
        with contextlib.suppress(OSError):
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, wire.WINDOW)
    decoder = wire.Decoder()
    write_all(wire.encode({"t": "hello", "wire": wire.WIRE, "features": ["keeper"]}))
    while True:
        data = os.read(0, 1 << 17)
        if not data:
            return 0
        for header, payload in decoder.feed(data):
            if header["t"] == "open":
                write_all(answer(header, payload))


if __name__ == "__main__":
    sys.exit(main())
