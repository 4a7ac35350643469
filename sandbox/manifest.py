"""What a root looked like when the session began: every path's stat, looked up by path, and
what has changed on the host since (drift). The walk itself runs in a process of its own.
"""

from __future__ import annotations

import asyncio
import mmap
import os
import stat
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from sandbox import walk
from sandbox.dataclass import dataclass
from sandbox.errors import StoreError, WorkspaceError

_WALK_SECONDS = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamp:
    """What tells whether a path was touched: every write moves at least ctime."""

    mode: int
    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int

    @classmethod
    def of(cls, seen: os.stat_result) -> Stamp:
        """The stamp of an lstat."""
        return cls(
            mode=seen.st_mode,
            size=seen.st_size,
            mtime_ns=seen.st_mtime_ns,
            ctime_ns=seen.st_ctime_ns,
            inode=seen.st_ino,
        )

    def same(self, other: Stamp | None) -> bool:
        """Whether nothing happened in between. A directory's times tell of its entries only."""
        if other is None:
            return False
        if stat.S_ISDIR(self.mode) and stat.S_ISDIR(other.mode):
            return self.mode == other.mode
        return self == other

    def alike(self, other: Stamp | None) -> bool:
        """Whether it may be the same file made again: by all but inode and ctime."""
        return other is not None and self.same(replace(other, inode=self.inode, ctime_ns=self.ctime_ns))


class Manifest:
    """A manifest's file, mapped; `stamp(path)` costs a search, not a load. Close it."""

    def __init__(self, file: Path) -> None:
        """Raises StoreError for a damaged file, FileNotFoundError where there is none."""
        with file.open("rb") as opened:
            try:
                self._data = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
                walk.check(self._data)
            except ValueError as error:
                raise StoreError(f"{file}: {error}", hint="the base of this session's changes is unknown") from error
        _, _, self.count, self.began_ns, self._names, _ = walk.HEADER.unpack_from(self._data)

    def close(self) -> None:
        """Unmap."""
        self._data.close()

    def stamp(self, path: bytes) -> Stamp | None:
        """The stat of `path` (relative to the root) when the session began; None: it was not there."""
        index = self._first(path)
        if index == self.count:
            return None
        name, mode, size, mtime_ns, ctime_ns, inode = self._record(index)
        if name != path:
            return None
        return Stamp(mode=mode, size=size, mtime_ns=mtime_ns, ctime_ns=ctime_ns, inode=inode)

    def beneath(self, path: bytes) -> Iterator[bytes]:
        """All paths that were beneath a directory (b"" the root), in order."""
        prefix = path + b"/" if path else b""
        index = self._first(prefix)
        while index < self.count and (name := self._record(index)[0]).startswith(prefix):
            if name != b".":
                yield name
            index += 1

    def _first(self, path: bytes) -> int:
        """The index of the first record that is not before `path`."""
        low, high = 0, self.count
        while low < high:
            middle = (low + high) // 2
            if self._record(middle)[0] < path:
                low = middle + 1
            else:
                high = middle
        return low

    def _record(self, index: int) -> tuple[bytes, int, int, int, int, int]:
        offset, length, mode, size, mtime_ns, ctime_ns, inode = walk.RECORD.unpack_from(
            self._data, walk.HEADER.size + walk.RECORD.size * index
        )
        start = self._names + offset
        return self._data[start : start + length], mode, size, mtime_ns, ctime_ns, inode


@dataclass(frozen=True, slots=True, kw_only=True)
class Drifted:
    """A path that the host changed since the session began. `kind`: added, deleted, changed."""

    root: str
    path: str
    kind: str


_KINDS = {b"A": "added", b"D": "deleted", b"M": "changed"}


async def write_manifest(root: Path, file: Path, skip: tuple[bytes, ...] = ()) -> None:
    """Walk `root` and write `file` (whole or not at all). Raises WorkspaceError."""
    await _run("manifest", root, file, skip)


async def find_drift(name: str, root: Path, file: Path, skip: tuple[bytes, ...] = ()) -> tuple[Drifted, ...]:
    """All that differs from the manifest, sorted by path; `.git` is left out (its HEAD is read
    where it matters: any git command on the host rewrites files there). Raises WorkspaceError.
    """
    return tuple(
        Drifted(root=name, path=os.fsdecode(path), kind=_KINDS[letter])
        for letter, path in await find_touched(root, file, skip)
        if letter in _KINDS and b".git" not in path.split(b"/") and path != b"."
    )


async def find_touched(root: Path, file: Path, skip: tuple[bytes, ...] = ()) -> list[tuple[bytes, bytes]]:
    """(letter, path) as `sandbox.walk.compare` gives them, unreadable directories (U) included."""
    parts = (await _run("drift", root, file, skip)).split(b"\0")[:-1]
    return list(zip(parts[::2], parts[1::2], strict=True))


async def _run(order: str, root: Path, file: Path, skip: tuple[bytes, ...]) -> bytes:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-I", "-S", "-B", walk.__file__, order),
        *(root, file),
        *skip,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(_WALK_SECONDS):
            out, problem = await process.communicate()
    except BaseException:
        if process.returncode is None:
            process.kill()
            await process.wait()
        raise
    if process.returncode != 0:
        last = problem.decode("utf-8", "replace").strip().rpartition("\n")[2]
        raise WorkspaceError(f"{root} could not be walked: {last or process.returncode}")
    return out
