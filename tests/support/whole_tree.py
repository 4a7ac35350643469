"""All that a directory means, to be compared."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

BLOCK = 4096


def content(path: bytes, size: int) -> tuple[int, dict[int, bytes]]:
    """A file's size and its blocks by their number, without those of zeros alone: where it has holes is not told, and
    reading gigabytes of them takes no time.
    """
    found: dict[int, bytes] = {}
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123  (bytes)
        place = file.fileno()
        end = 0
        while end < size:
            try:
                start = os.lseek(place, end, os.SEEK_DATA)
            except OSError:  # ENXIO: nothing but a hole follows
                break
            end = os.lseek(place, start, os.SEEK_HOLE)
            for at in range(start - start % BLOCK, end, BLOCK):
                block = os.pread(place, BLOCK, at)
                if block.strip(b"\0"):
                    found[at // BLOCK] = block
    return size, found


def tree(top: Path) -> dict[bytes, tuple[Any, ...]]:
    """All that a layer means: everything but inodes, ctimes, and the size and links of directories."""
    found: dict[bytes, tuple[Any, ...]] = {}
    inodes: dict[int, bytes] = {}
    for directory, names, files in os.walk(os.fsencode(top)):
        for path in sorted([directory, *(directory + b"/" + name for name in (*names, *files))]):
            seen = os.lstat(path)
            name = os.path.relpath(path, os.fsencode(top))
            kind = stat.S_IFMT(seen.st_mode)
            if kind == stat.S_IFCHR:
                found[name] = (kind, seen.st_rdev)
                continue
            own: Any = b""
            if kind == stat.S_IFLNK:
                own = os.readlink(path)  # noqa: PTH115  (bytes)
            elif kind == stat.S_IFREG:
                own = (content(path, seen.st_size), inodes.setdefault(seen.st_ino, name))
            attributes = {
                a: os.getxattr(path, a, follow_symlinks=False) for a in os.listxattr(path, follow_symlinks=False)
            }
            found[name] = (seen.st_mode, seen.st_uid, seen.st_gid, seen.st_mtime_ns, own, attributes)
    return found
