"""Making a layer again from a state: a new directory beside the old one, never anything that is mounted.

What did not change since is taken over by hard links from the old directory, which is thrown away
afterwards; all else comes out of the store. This process does what it may, the keeper the rest.
"""

from __future__ import annotations

# Paths are bytes: names of a box need not be text.
# ruff: noqa: PTH101, PTH102, PTH211
import errno
import fcntl
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

from sandbox.errors import StoreError
from sandbox.keeper import Keeper
from sandbox.layers import FICLONE
from sandbox.spec import Owner
from sandbox.states import Frozen, Row, State

_WRITE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Contents(Protocol):
    """Where contents come from."""

    def get(self, digest: str) -> bytes:
        """A content by its digest. Raises StoreError."""
        ...

    def frozen(self, layer: str, path: str) -> Iterator[bytes | int]:
        """A file of a frozen layer in pieces, holes as numbers. Raises OSError."""
        ...

    def attributes(self, layer: str, path: str) -> dict[str, str]:
        """Its attributes, as a row keeps them. Raises OSError."""
        ...


class Rebuild:
    """Writes one state into the empty directory `target`. `old` and `now`: the directory that holds the
    present state, and that state; `clone`: it goes on to be used, so that blocks are shared where the file
    system can, and nothing else. `frozen`: where frozen layers lie, if `target` is to be one too: their files
    are taken over by hard links then.
    """

    def __init__(
        self,
        target: Path,
        store: Contents,
        keeper: Keeper,
        *,
        old: Path | None = None,
        now: Mapping[str, Row] | None = None,
        frozen: Callable[[str], Path] | None = None,
        clone: bool = False,
    ) -> None:
        self._clone = clone
        self._frozen = frozen
        self._target = os.fsencode(target)
        self._store = store
        self._keeper = keeper
        self._old = os.fsencode(old) if old is not None else b""
        self._now = now or {}
        self._links: dict[int, bytes] = {}

    def run(self, state: State) -> None:
        """Raises OSError, StoreError, and what the keeper raises."""
        rows = sorted((os.fsencode(path), path, row) for path, row in state.items())
        directories = []
        for name, path, row in rows:
            place = self._target + b"/" + name if name else self._target
            if row.is_directory:
                if name:
                    os.mkdir(place, 0o700)
                directories.append((place, row))
            elif not (self._taken_over(name, path, row, place) or self._shared(row, place) or self._linked(row, place)):
                self._make(name, row, place)
                self._dress(row, place)
        for place, row in reversed(directories):
            self._dress(row, place)

    def _linked(self, row: Row, place: bytes) -> bool:
        """One more name of a file that is there already."""
        if row.links < 2 or row.is_whiteout:
            return False
        first = self._links.setdefault(row.inode, place)
        if first == place:
            return False
        os.link(first, place, follow_symlinks=False)
        return True

    def _taken_over(self, name: bytes, path: str, row: Row, place: bytes) -> bool:
        """An untouched file, by one more link to it."""
        if not row.is_file or not self._old or self._now.get(path) != row or self._clone:
            return False
        if row.links > 1 and self._links.get(row.inode):
            return False
        if not _link(self._old + b"/" + name, place):
            return False
        if row.links > 1:
            self._links[row.inode] = place
        return True

    def _shared(self, row: Row, place: bytes) -> bool:
        """A file of a frozen layer, in one more frozen layer."""
        if self._frozen is None or not isinstance(row.payload, Frozen):
            return False
        return _link(os.fsencode(self._frozen(row.payload.layer)) + b"/" + os.fsencode(row.payload.path), place)

    def _make(self, name: bytes, row: Row, place: bytes) -> None:
        if row.is_link:
            assert isinstance(row.payload, str)
            os.symlink(os.fsencode(row.payload), place)
        elif row.is_file:
            opened = os.open(place, _WRITE, 0o600)
            try:
                if not (self._clone and self._old and _cloned(self._old + b"/" + name, row, opened)):
                    self._fill(opened, row)
            finally:
                os.close(opened)
        else:
            os.mknod(place, stat.S_IFMT(row.mode) | 0o600, row.device)

    def _fill(self, opened: int, row: Row) -> None:
        if isinstance(row.payload, str):
            _write(opened, self._store.get(row.payload), 0)
            return
        at = 0
        for piece in self._pieces(row):
            if isinstance(piece, bytes):
                _write(opened, piece, at)
            at += len(piece) if isinstance(piece, bytes) else piece
        os.ftruncate(opened, at)

    def _pieces(self, row: Row) -> Iterator[bytes | int]:
        match row.payload:
            case Frozen(layer=layer, path=path):
                yield from self._store.frozen(layer, path)
            case list() as pieces:
                for digest, length in pieces:
                    yield self._store.get(digest) if digest else length
            case _:
                raise StoreError("a content that was never read")

    def _dress(self, row: Row, place: bytes) -> None:
        """Attributes, mode, owner, times; the owner last where the keeper must set it."""
        attributes = row.attributes
        if isinstance(row.payload, Frozen):
            attributes = self._store.attributes(row.payload.layer, row.payload.path)
        for name, value in attributes.items():
            os.setxattr(place, name, bytes.fromhex(value), follow_symlinks=False)
        seen = os.lstat(place)
        foreign = (seen.st_uid, seen.st_gid) != (row.uid, row.gid) and not row.is_whiteout
        if foreign:
            try:
                os.chown(place, row.uid, row.gid, follow_symlinks=False)
                foreign, seen = False, os.lstat(place)
            except PermissionError:
                pass
        if not (row.is_link or row.is_whiteout) and stat.S_IMODE(seen.st_mode) != stat.S_IMODE(row.mode):
            os.chmod(place, stat.S_IMODE(row.mode))
        if not row.is_whiteout:
            os.utime(place, ns=(row.mtime_ns, row.mtime_ns), follow_symlinks=False)
        if foreign:
            self._keeper.chown(Path(os.fsdecode(place)), Owner(uid=row.uid, gid=row.gid))


def _cloned(source: bytes, row: Row, target: int) -> bool:
    """Whether a file came over by sharing its blocks, being still as its row tells."""
    try:
        opened = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        seen = os.fstat(opened)
        if (seen.st_ino, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns, seen.st_mode) != row[:5]:
            return False
        fcntl.ioctl(target, FICLONE, opened)
    except OSError:
        return False
    finally:
        os.close(opened)
    return True


def _link(old: bytes, place: bytes) -> bool:
    try:
        os.link(old, place, follow_symlinks=False)
    except OSError as error:
        if error.errno in (errno.EPERM, errno.EACCES, errno.EMLINK, errno.EXDEV):
            return False
        raise
    return True


def _write(opened: int, data: bytes, at: int) -> None:
    view = memoryview(data)
    while view:
        done = os.pwrite(opened, view, at)
        at, view = at + done, view[done:]
