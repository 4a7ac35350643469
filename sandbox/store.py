"""The store of a session: one append-only file of records, addressed by the digest of their content.

File (version 2, little-endian): header `8s I` = magic, version; then records: head `4s B B H Q` =
magic, kind, flags (0), check, length; that many bytes; `32s` = blake2b-256 of them. `check`: the low half
of the crc32 of the head without it. Kind 1 is content, 2 a note (a JSON object), 3 and 4 packs of
contents and of notes (`sandbox.packs`); readers skip kinds that they do not know. A record counts when
it is whole: opening for writing cuts off a torn end, and refuses a file that is damaged before its end.
Content is verified when read. Version 1 had no packs, and 0 for `check`; it is read, and appended to,
as it is. `sandbox.compaction` packs what was appended.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from hashlib import blake2b
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from sandbox.errors import StoreError
from sandbox.packs import directory_size, read_directory, unpack_contents, unpack_notes

MAGIC = b"fhstore\n"
VERSION = 2
CONTENT, NOTE, PACK, NOTES = 1, 2, 3, 4
_FILE = struct.Struct("<8sI")
_HEAD = struct.Struct("<4sBBHQ")
_RECORD = b"fhrc"
_DIGEST = 32
_CHUNK = 1 << 20
_GATHERED = 1 << 20
_OPEN_PACKS = 8
_encode = json.JSONEncoder(separators=(",", ":")).encode
_NOTHING = memoryview(b"")
AT_ONCE = 1 << 20
_PLAIN = -1


class Record(NamedTuple):
    """Where a record lies: `at` the offset of its bytes, of which there are `size`."""

    kind: int
    at: int
    size: int

    @property
    def end(self) -> int:
        """Where the next begins."""
        return self.at + self.size + _DIGEST


class Store:
    """Open a store; `writable` makes it where there is none and repairs its end. One writer at a
    time (the session's owner); readers may read beside it. Raises StoreError for a file that is
    none of ours, or damaged before its end and to be written; FileNotFoundError for reading where there is none.
    """

    def __init__(self, file: Path, *, writable: bool) -> None:
        self.file = file
        flags = os.O_CLOEXEC | (os.O_RDWR | os.O_CREAT if writable else os.O_RDONLY)
        self._fd = os.open(file, flags, 0o600)
        self.version = VERSION
        self.records: list[Record] = []
        self._summed = self._plain = 0
        self.broken = 0
        self._contents: dict[str, tuple[int, int, int]] = {}
        self._gathered = _NOTHING
        self._filled = self._written = 0
        self._packs: dict[int, Record] = {}
        self._unpacked: dict[int, bytes] = {}
        try:
            self._end = self._written = self._scan()
            if writable:
                self._refuse_broken()
                os.pwrite(self._fd, _FILE.pack(MAGIC, self.version), 0)
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

    @property
    def torn(self) -> int:
        """Bytes after the last whole record."""
        return os.fstat(self._fd).st_size - self._end

    @property
    def plain(self) -> int:
        """Bytes of records that are in no pack."""
        for at in range(self._summed, len(self.records)):  # asked for after every turn: each is counted once
            record = self.records[at]
            self._plain += record.size if record.kind in (CONTENT, NOTE) else 0
        self._summed = len(self.records)
        return self._plain

    def digests(self) -> Iterator[tuple[str, int]]:
        """Every content's digest and size, in the order in which they were put."""
        return ((name, place[1]) for name, place in self._contents.items())

    def put(self, pieces: Iterable[bytes], size: int) -> str:
        """Append content of `size` bytes and return its digest; nothing is added where it is there
        already. Raises StoreError when the pieces are not of that size (nothing is kept then).
        """
        self.flush()
        digest = blake2b(digest_size=_DIGEST)
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
        # Digest first, head last: a record is there when its head is.
        _write(self._fd, digest.digest(), self._end + _HEAD.size + size)
        _write(self._fd, self._head(CONTENT, size), self._end)
        self._append(CONTENT, size, name)
        self._written = self._end
        return name

    def add(self, data: bytes) -> str:
        """As `put`, for content at hand. It is gathered and written with what follows: a `note`, `flush`
        or `sync` writes all of it in order.
        """
        digest = blake2b(data, digest_size=_DIGEST).digest()
        name = digest.hex()
        if name not in self._contents:
            self._gather(CONTENT, data, digest, name)
        return name

    def add_file(self, opened: int, size: int) -> tuple[str, int]:
        """As `add`, for the first `size` bytes of an open file, fewer than AT_ONCE: their digest, and how many there
        were; nothing is kept where they are fewer.
        """
        room = self._room(size)
        start = self._filled + _HEAD.size
        end, at = start + size, start
        while at < end and (count := os.readv(opened, [room[at:end]])):
            at += count
        if at - start != size:
            return "", at - start
        digest = blake2b(room[start:at], digest_size=_DIGEST).digest()
        name = digest.hex()
        if name not in self._contents:
            room[self._filled : start] = self._head(CONTENT, size)
            room[at : at + _DIGEST] = digest
            self._append(CONTENT, size, name)
            self._filled = at + _DIGEST
        return name, size

    def _room(self, size: int) -> memoryview:
        """What is gathered, with room for one more record of this size."""
        if not self._gathered:
            self._gathered = memoryview(bytearray(_GATHERED + AT_ONCE))
        if self._filled > _GATHERED or self._filled + _HEAD.size + size + _DIGEST > len(self._gathered):
            self.flush()
        return self._gathered

    def _gather(self, kind: int, data: bytes, digest: bytes, name: str = "") -> None:
        size = len(data)
        if size >= AT_ONCE:
            self.flush()
            head = self._head(kind, size)
            self._append(kind, size, name)
            self._write_out((head, data, digest))
            return
        room = self._room(size)
        start = self._filled
        body = start + _HEAD.size
        room[start:body] = self._head(kind, size)
        room[body : body + size] = data
        room[body + size : body + size + _DIGEST] = digest
        self._append(kind, size, name)
        self._filled = body + size + _DIGEST

    def flush(self) -> None:
        """Write what `add` gathered."""
        if self._filled:
            filled, self._filled = self._filled, 0
            self._write_out((self._gathered[:filled],))

    def _write_out(self, pieces: Iterable[bytes | memoryview]) -> None:
        try:
            for piece in pieces:
                self._written += _write(self._fd, piece, self._written)
        except OSError:
            self._forget_unwritten()
            raise

    def drop(self) -> None:
        """Forget what `add` gathered and nothing was written of yet; what is written stays."""
        if self._filled:
            self._filled = 0
            self._forget_unwritten()

    def _forget_unwritten(self) -> None:
        """What could not be written (a full disk) is no part of the store; the file ends before it."""
        self._contents = {name: place for name, place in self._contents.items() if place[0] < self._written}
        self.records = [record for record in self.records if record.at < self._written]
        self._summed = self._plain = 0
        self._end = self._written
        os.ftruncate(self._fd, self._end)

    def note(self, body: Mapping[str, Any], *, later: bool = False) -> None:
        """Append a note. `later`: it is gathered, and written with what follows, as content that is `add`ed."""
        data = _encode(body).encode()
        if later:
            self._gather(NOTE, data, digest_of(data))
        else:
            self.append(NOTE, data)

    def append(self, kind: int, data: bytes) -> None:
        """Append a record that is no content, after all that was gathered."""
        self._gather(kind, data, digest_of(data))
        if kind == PACK:
            self._enter_pack(self.records[-1], data[: directory_size(data[:4])])
        self.flush()

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
        at, size, inner = found
        if inner == _PLAIN:
            return self.body(Record(CONTENT, at, size))
        data = self._pack_at(at)[inner : inner + size]
        if digest_of(data).hex() != digest:
            raise StoreError(f"{self.file}: a content of the pack at {at} is damaged")
        return data

    def _pack_at(self, at: int) -> bytes:
        """A pack's contents; the last few stay at hand."""
        data = self._unpacked.pop(at, None)
        if data is None:
            data = unpack_contents(self.body(self._packs[at]))
        self._unpacked[at] = data
        if len(self._unpacked) > _OPEN_PACKS:
            del self._unpacked[next(iter(self._unpacked))]
        return data

    def notes(self) -> Iterator[dict[str, Any]]:
        """Every note, oldest first, verified. Raises StoreError for a damaged one."""
        for record in self.records:
            if record.kind == NOTE:
                yield json.loads(self.body(record))
            elif record.kind == NOTES:
                yield from unpack_notes(self.body(record))

    def body(self, record: Record) -> bytes:
        """A record's bytes, verified. Raises StoreError."""
        data = os.pread(self._fd, record.size + _DIGEST, record.at)
        body = data[: record.size]
        if digest_of(body) != data[record.size :]:
            raise StoreError(f"{self.file}: the record at {record.at} is damaged")
        return body

    def packs(self) -> Iterator[tuple[Record, list[str]]]:
        """Packs, and the digests of the contents that are read from each."""
        found: dict[int, list[str]] = {at: [] for at in self._packs}
        for name, (at, _, inner) in self._contents.items():
            if inner != _PLAIN:
                found[at].append(name)
        return ((self._packs[at], names) for at, names in found.items() if names)

    def places(self) -> Iterator[tuple[str, int]]:
        """Digest of every content that is in no pack, and where its bytes lie."""
        return ((name, at) for name, (at, _, inner) in self._contents.items() if inner == _PLAIN)

    def _refuse_broken(self) -> None:
        if self.broken:
            raise StoreError(
                f"{self.file}: the record at {self.broken} is damaged", hint="see what is lost: fumehood fsck"
            )

    def _append(self, kind: int, size: int, name: str) -> None:
        record = Record(kind, self._end + _HEAD.size, size)
        self.records.append(record)
        if kind == CONTENT:
            self._contents[name] = (record.at, size, _PLAIN)
        self._end = record.end

    def _enter_pack(self, record: Record, directory: bytes) -> None:
        self._packs[record.at] = record
        for name, inner, size in read_directory(directory):
            self._contents.setdefault(name, (record.at, size, inner))

    def _head(self, kind: int, size: int) -> bytes:
        return _head(kind, size) if self.version > 1 else _HEAD.pack(_RECORD, kind, 0, 0, size)

    def _scan(self) -> int:
        """Find all records; the end of the last whole one. A header that is not whole yet is of an empty store."""
        header = os.pread(self._fd, _FILE.size, 0)
        if _FILE.pack(MAGIC, 1) == header:
            self.version = 1
        elif not any(_FILE.pack(MAGIC, version).startswith(header) for version in (1, VERSION)):
            raise StoreError(f"{self.file} is not a store of version 1 to {VERSION}")
        at, end = _FILE.size, os.fstat(self._fd).st_size
        head = os.pread(self._fd, _HEAD.size, at)
        while at + _HEAD.size + _DIGEST <= end:
            magic, kind, _, _, size = _HEAD.unpack(head)
            if magic != _RECORD or head != self._checked(head):
                self.broken = at if any(head) else 0
                break
            record = Record(kind, at + _HEAD.size, size)
            if record.end > end:
                break
            after = os.pread(self._fd, _DIGEST + _HEAD.size, record.at + size)
            self.records.append(record)
            if kind == CONTENT:
                self._contents[after[:_DIGEST].hex()] = (record.at, size, _PLAIN)
            elif kind == PACK:
                length = directory_size(os.pread(self._fd, 4, record.at))
                self._enter_pack(record, os.pread(self._fd, min(length, size), record.at))
            at, head = record.end, after[_DIGEST:]
        return self._without_torn(at)

    def _checked(self, head: bytes) -> bytes:
        """The head as it must be."""
        if self.version == 1:
            return head
        _, kind, _, _, size = _HEAD.unpack(head)
        return _head(kind, size)

    def _without_torn(self, end: int) -> int:
        """A power loss can leave the last record's bytes unwritten: it does not count then."""
        if not self.records or self.broken:
            return end
        last = self.records[-1]
        try:
            self.body(last)
        except StoreError:
            self.records.pop()
            self._summed = self._plain = 0
            self._contents = {name: place for name, place in self._contents.items() if place[0] != last.at}
            return last.at - _HEAD.size
        return end


def digest_of(data: bytes) -> bytes:
    """What a content is addressed by."""
    return blake2b(data, digest_size=_DIGEST).digest()


def _head(kind: int, size: int) -> bytes:
    start, crc = _STARTS[kind] if kind < len(_STARTS) else _start(kind)
    length = _LENGTH.pack(size)
    return start + _CHECK.pack(zlib.crc32(length, crc) & 0xFFFF) + length


def _start(kind: int) -> tuple[bytes, int]:
    """The first six bytes of a head, and the crc32 of all that comes before the length."""
    start = _RECORD + bytes((kind, 0))
    return start, zlib.crc32(start + bytes(2))


_LENGTH, _CHECK = struct.Struct("<Q"), struct.Struct("<H")
_STARTS = [_start(kind) for kind in range(NOTES + 1)]


def _write(opened: int, data: bytes | memoryview, at: int) -> int:
    view = memoryview(data)
    done = 0
    while done < len(view):
        done += os.pwrite(opened, view[done : done + _CHUNK], at + done)
    return done
