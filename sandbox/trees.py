"""Reading a directory tree that somebody else filled: entries, contents, links, attributes.

`Tree` is what changes, diff and apply read layers through; `LocalTree` reads it with this
process's own rights, confined beneath its top. The keeper's tree (`sandbox.keeper`) is the other.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from sandbox import confined
from sandbox.dataclass import dataclass
from sandbox.kinds import Kinded
from sandbox.manifest import Stamp

CHUNK = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry(Kinded):
    """An lstat. `path` is relative to the tree's top."""

    path: bytes
    mode: int
    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    device: int
    uid: int
    gid: int
    links: int

    @classmethod
    def of(cls, path: bytes, seen: os.stat_result) -> Entry:
        """An entry from an lstat."""
        return cls(
            path=path,
            mode=seen.st_mode,
            size=seen.st_size,
            mtime_ns=seen.st_mtime_ns,
            ctime_ns=seen.st_ctime_ns,
            inode=seen.st_ino,
            device=seen.st_rdev,
            uid=seen.st_uid,
            gid=seen.st_gid,
            links=seen.st_nlink,
        )

    @property
    def stamp(self) -> Stamp:
        """What a manifest keeps of it."""
        return Stamp(mode=self.mode, size=self.size, mtime_ns=self.mtime_ns, ctime_ns=self.ctime_ns, inode=self.inode)


class Tree(Protocol):
    """A tree to read. Paths are relative bytes, b"" the top. Everything raises OSError."""

    def scan(self, path: bytes) -> list[Entry]:
        """What a directory holds, sorted by name."""
        ...

    def stat(self, path: bytes) -> Entry | None:
        """Lstat; None where nothing is (or a parent is no directory)."""
        ...

    def chunks(self, path: bytes, limit: int | None = None) -> Iterator[bytes | int]:
        """A regular file's content in pieces; a number is that many zero bytes (a hole)."""
        ...

    def readlink(self, path: bytes) -> bytes:
        """A link's text."""
        ...

    def attributes(self, path: bytes) -> dict[str, bytes]:
        """Attributes of the user namespace; empty where they cannot be had. Not of links."""
        ...


class LocalTree:
    """A Tree beneath a directory of this machine; no link is followed. Close it."""

    def __init__(self, top: Path) -> None:
        """Raises OSError where there is no such directory."""
        self.top = top
        self._top = confined.open_root(top)

    def close(self) -> None:
        """Give the descriptor back."""
        if self._top >= 0:
            os.close(self._top)
            self._top = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def scan(self, path: bytes) -> list[Entry]:
        """What a directory holds, sorted by name."""
        directory = confined.open_beneath(self._top, path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            prefix = path + b"/" if path else b""
            found = []
            with os.scandir(directory) as entries:
                for entry in entries:
                    try:
                        seen = entry.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        continue
                    found.append(Entry.of(prefix + os.fsencode(entry.name), seen))
        finally:
            os.close(directory)
        found.sort(key=lambda entry: entry.path)
        return found

    def stat(self, path: bytes) -> Entry | None:
        """Lstat; None where nothing is, or a link or file stands in the way."""
        try:
            return Entry.of(path, confined.stat_beneath(self._top, path))
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                return None
            raise

    def chunks(self, path: bytes, limit: int | None = None) -> Iterator[bytes | int]:
        """A regular file's content in pieces; holes as numbers."""
        opened = confined.open_file_beneath(self._top, path)
        try:
            yield from file_chunks(opened, limit)
        finally:
            os.close(opened)

    def readlink(self, path: bytes) -> bytes:
        """A link's text."""
        return confined.readlink_beneath(self._top, path)

    def attributes(self, path: bytes) -> dict[str, bytes]:
        """Attributes of the user namespace. Raises PermissionError where they may not be read."""
        return user_attributes(confined.open_beneath(self._top, path, os.O_PATH | os.O_NOFOLLOW))


def user_attributes(opened: int) -> dict[str, bytes]:
    """Those of an O_PATH descriptor, which is closed; none of a link. Raises PermissionError."""
    try:
        through = f"/proc/self/fd/{opened}"
        names = () if stat.S_ISLNK(os.fstat(opened).st_mode) else os.listxattr(through)
        return {name: os.getxattr(through, name) for name in names if name.startswith("user.")}
    except OSError as error:
        if error.errno in (errno.ENOTSUP, errno.ENODATA):
            return {}
        raise
    finally:
        os.close(opened)


def file_chunks(opened: int, limit: int | None = None) -> Iterator[bytes | int]:
    """An open file's bytes from the start, at most `limit`; holes are given as their length."""
    size = os.fstat(opened).st_size
    end = size if limit is None else min(limit, size)
    at = 0
    while at < end:
        try:
            data = os.lseek(opened, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                data = at
            else:
                yield end - at
                return
        if data > at:
            yield min(data, end) - at
            at = min(data, end)
            continue
        try:
            hole = os.lseek(opened, at, os.SEEK_HOLE)
        except OSError:
            hole = end
        while at < min(hole, end):
            piece = os.pread(opened, min(CHUNK, min(hole, end) - at), at)
            if not piece:
                return
            yield piece
            at += len(piece)


def content(tree: Tree, path: bytes, limit: int) -> bytes:
    """At most `limit` bytes of a file, holes filled."""
    return b"".join(bytes(piece) if isinstance(piece, int) else piece for piece in tree.chunks(path, limit))


def same_content(one: Tree, first: bytes, other: Tree, second: bytes) -> bool:
    """Whether two files of equal size hold the same bytes; holes are not read."""
    return _rope(one.chunks(first)) == _rope(other.chunks(second))


def _rope(pieces: Iterator[bytes | int]) -> Rope:
    return Rope(pieces)


class Rope:
    """Compares two runs of pieces that are cut differently."""

    def __init__(self, pieces: Iterator[bytes | int]) -> None:
        self._pieces = pieces
        self._left: bytes | int = b""

    def next(self) -> bytes | int | None:
        """The next unread piece, None at the end."""
        while not self._left:
            piece = next(self._pieces, None)
            if piece is None:
                return None
            self._left = piece
        return self._left

    def drop(self, count: int) -> None:
        """Read on by `count` bytes of the piece that `next` gave."""
        self._left = self._left - count if isinstance(self._left, int) else self._left[count:]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Rope):
            return NotImplemented
        while True:
            mine, theirs = self.next(), other.next()
            if mine is None or theirs is None:
                return mine is theirs
            count = min(_length(mine), _length(theirs))
            if isinstance(mine, bytes) and isinstance(theirs, bytes):
                if mine[:count] != theirs[:count]:
                    return False
            elif not (_zero(mine, count) and _zero(theirs, count)):
                return False
            self.drop(count)
            other.drop(count)

    __hash__ = None  # type: ignore[assignment]


def _length(piece: bytes | int) -> int:
    return piece if isinstance(piece, int) else len(piece)


def _zero(piece: bytes | int, count: int) -> bool:
    return isinstance(piece, int) or piece[:count].count(0) == count
