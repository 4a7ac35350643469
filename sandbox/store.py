"""The store of a session: one append-only file of records, addressed by the digest of their content.

File (version 1, little-endian): header `8s I` = magic, version; then records: head `4s B B H Q` =
magic, kind, flags (0: as it is), reserved, length; that many bytes; `32s` = blake2b-256 of them.
Kind 1 is content, 2 a note (a JSON object); readers skip kinds that they do not know. A record
counts when it is whole: opening for writing cuts off a torn end. Content is verified when read.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sandbox.errors import StoreError

MAGIC = b"fhstore\n"
VERSION = 1
CONTENT, NOTE = 1, 2
_FILE = struct.Struct("<8sI")
_HEAD = struct.Struct("<4sBBHQ")
_RECORD = b"fhrc"
_DIGEST = 32
_CHUNK = 1 << 20
_GATHERED = 8 << 20


class Store:
    """Open a store; `writable` makes it where there is none and repairs its end. One writer at a
    time (the session's owner); readers may read beside it. Raises StoreError for a file that is
    none of ours, FileNotFoundError for reading where there is none.
    """

    def __init__(self, file: Path, *, writable: bool) -> None:
        self.file = file
        flags = os.O_CLOEXEC | (os.O_RDWR | os.O_CREAT if writable else os.O_RDONLY)
        self._fd = os.open(file, flags, 0o600)
        self._contents: dict[str, tuple[int, int]] = {}
        self._notes: list[tuple[int, int]] = []
        self._waiting: list[bytes] = []
        self._written = 0
        try:
            self._end = self._written = self._scan()
            if writable:
                os.pwrite(self._fd, _FILE.pack(MAGIC, VERSION), 0)
                os.ftruncate(self._fd, self._end)
        except BaseException:
            os.close(self._fd)
            raise

    def close(self) -> None:
        """Give the descriptor back."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __contains__(self, digest: str) -> bool:
        return digest in self._contents

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return self._end

    def put(self, pieces: Iterable[bytes], size: int) -> str:
        """Append content of `size` bytes and return its digest; nothing is added where it is there
        already. Raises StoreError when the pieces are not of that size (nothing is kept then).
        """
        self.flush()
        digest = hashlib.blake2b(digest_size=_DIGEST)
        at = self._end + _HEAD.size
        for piece in pieces:
            digest.update(piece)
            at += _write(self._fd, piece, at)
        if at != self._end + _HEAD.size + size:
            os.ftruncate(self._fd, self._end)
            raise StoreError("content changed while it was being stored")
        name = digest.hexdigest()
        if name in self._contents:
            os.ftruncate(self._fd, self._end)
            return name
        self._contents[name] = (self._end + _HEAD.size, size)
        self._finish(CONTENT, size, digest.digest())
        return name

    def add(self, data: bytes) -> str:
        """As `put`, for content at hand. It is gathered and written with what follows: a `note`, `flush`
        or `sync` writes all of it in order.
        """
        digest = hashlib.blake2b(data, digest_size=_DIGEST)
        name = digest.hexdigest()
        if name not in self._contents:
            self._contents[name] = (self._end + _HEAD.size, len(data))
            self._waiting += (_HEAD.pack(_RECORD, CONTENT, 0, 0, len(data)), data, digest.digest())
            self._end += _HEAD.size + len(data) + _DIGEST
            if self._end - self._written > _GATHERED:
                self.flush()
        return name

    def flush(self) -> None:
        """Write what `add` gathered."""
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            try:
                self._written += _write(self._fd, b"".join(waiting), self._written)
            except OSError:
                self._forget_unwritten()
                raise

    def drop(self) -> None:
        """Forget what `add` gathered and nothing was written of yet; what is written stays."""
        if self._waiting:
            self._waiting = []
            self._forget_unwritten()

    def _forget_unwritten(self) -> None:
        """What could not be written (a full disk) is no part of the store; the file ends before it."""
        self._contents = {name: place for name, place in self._contents.items() if place[0] < self._written}
        self._end = self._written
        os.ftruncate(self._fd, self._end)

    def note(self, body: Mapping[str, Any]) -> None:
        """Append a note."""
        self.flush()
        data = json.dumps(body, separators=(",", ":")).encode()
        _write(self._fd, data, self._end + _HEAD.size)
        self._notes.append((self._end + _HEAD.size, len(data)))
        self._finish(NOTE, len(data), hashlib.blake2b(data, digest_size=_DIGEST).digest())

    def sync(self) -> None:
        """Return when all of it will survive a power loss."""
        self.flush()
        os.fdatasync(self._fd)

    def get(self, digest: str) -> bytes:
        """A content, verified. Raises StoreError where it is missing or damaged."""
        found = self._contents.get(digest)
        if found is None:
            raise StoreError(f"the store has no content {digest}")
        self.flush()
        return self._verified(*found)

    def notes(self) -> Iterator[dict[str, Any]]:
        """Every note, oldest first, verified. Raises StoreError for a damaged one."""
        for at, size in self._notes:
            yield json.loads(self._verified(at, size))

    def _verified(self, at: int, size: int) -> bytes:
        data = os.pread(self._fd, size + _DIGEST, at)
        body = data[:size]
        if hashlib.blake2b(body, digest_size=_DIGEST).digest() != data[size:]:
            raise StoreError(f"{self.file}: the record at {at} is damaged")
        return body

    def _finish(self, kind: int, size: int, digest: bytes) -> None:
        """Digest first, head last: a record is there when its head is."""
        _write(self._fd, digest, self._end + _HEAD.size + size)
        _write(self._fd, _HEAD.pack(_RECORD, kind, 0, 0, size), self._end)
        self._end += _HEAD.size + size + _DIGEST
        self._written = self._end

    def _scan(self) -> int:
        """Find all records; the end of the last whole one. A header that is not whole yet is of an empty store."""
        header = os.pread(self._fd, _FILE.size, 0)
        if not _FILE.pack(MAGIC, VERSION).startswith(header):
            raise StoreError(f"{self.file} is not a store of version {VERSION}")
        at, end, last = _FILE.size, os.fstat(self._fd).st_size, None
        while at + _HEAD.size + _DIGEST <= end:
            magic, kind, _, _, size = _HEAD.unpack(os.pread(self._fd, _HEAD.size, at))
            body, after = at + _HEAD.size, at + _HEAD.size + size + _DIGEST
            if magic != _RECORD or after > end:
                break
            if kind == CONTENT:
                self._contents[os.pread(self._fd, _DIGEST, body + size).hex()] = (body, size)
            elif kind == NOTE:
                self._notes.append((body, size))
            last, at = (kind, body, size), after
        return self._without_torn(last, at)

    def _without_torn(self, last: tuple[int, int, int] | None, end: int) -> int:
        """A power loss can leave the last record's bytes unwritten: it does not count then."""
        if last is None:
            return end
        kind, body, size = last
        try:
            self._verified(body, size)
        except StoreError:
            if kind == NOTE:
                self._notes.pop()
            self._contents = {name: place for name, place in self._contents.items() if place != (body, size)}
            return body - _HEAD.size
        return end


def _write(opened: int, data: bytes, at: int) -> int:
    view = memoryview(data)
    done = 0
    while done < len(view):
        done += os.pwrite(opened, view[done : done + _CHUNK], at + done)
    return done
