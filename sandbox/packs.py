"""Packs: many contents, or notes, of a store in one compressed record.

Body of a pack of contents (little-endian): `I` count, that many times `32s I` = digest and size, then an
xz stream of the contents one after the other. Body of a pack of notes: an xz stream of JSON objects,
one a line. The standard library's own xz: what is packed is packed once, in the background, and
versions of one file that lie side by side cost their difference; no dependency would be worth more.
"""

from __future__ import annotations

import json
import lzma
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from sandbox.errors import StoreError

# So much is unpacked to read one content out of it; larger contents stand alone.
PACK_BYTES = 1 << 20
_COUNT = struct.Struct("<I")
_ROW = struct.Struct("<32sI")
_FILTERS: list[dict[str, Any]] = [{"id": lzma.FILTER_LZMA2, "preset": 1, "dict_size": PACK_BYTES}]


def pack_contents(contents: Sequence[tuple[bytes, bytes]]) -> bytes | None:
    """Digests and contents as a body; None where that is not smaller by a twentieth than what goes in."""
    rows = b"".join(_ROW.pack(digest, len(data)) for digest, data in contents)
    packer = lzma.LZMACompressor(lzma.FORMAT_XZ, check=lzma.CHECK_NONE, filters=_FILTERS)
    pieces = [_COUNT.pack(len(contents)), rows, *(packer.compress(data) for _, data in contents), packer.flush()]
    body = b"".join(pieces)
    return body if len(body) * 20 < sum(len(data) + _ROW.size for _, data in contents) * 19 else None


def directory_size(start: bytes) -> int:
    """How many bytes of a body its directory takes; `start`: the first four."""
    return _COUNT.size + int(_COUNT.unpack(start)[0]) * _ROW.size


def read_directory(directory: bytes) -> Iterator[tuple[str, int, int]]:
    """Digest, offset in what unpacks, and size of each content; of a damaged one what there is."""
    at = 0
    whole = (len(directory) - _COUNT.size) // _ROW.size * _ROW.size
    for digest, size in _ROW.iter_unpack(directory[_COUNT.size :][: max(whole, 0)]):
        yield digest.hex(), at, size
        at += size


def unpack_contents(body: bytes) -> bytes:
    """The contents one after the other. Raises StoreError."""
    start = directory_size(body[: _COUNT.size])
    return _unpacked(body[start:], sum(size for _, _, size in read_directory(body[:start])))


def pack_notes(notes: Iterable[Mapping[str, Any]]) -> bytes:
    """Notes as a body."""
    lines = b"".join(json.dumps(note, separators=(",", ":")).encode() + b"\n" for note in notes)
    return lzma.compress(lines, lzma.FORMAT_XZ, check=lzma.CHECK_NONE, filters=_FILTERS)


def unpack_notes(body: bytes) -> list[dict[str, Any]]:
    """The notes again. Raises StoreError."""
    try:
        return [json.loads(line) for line in lzma.decompress(body, lzma.FORMAT_XZ).splitlines()]
    except (lzma.LZMAError, ValueError) as error:
        raise StoreError(f"a pack of notes is damaged: {error}") from error


def _unpacked(stream: bytes, size: int) -> bytes:
    try:
        data = lzma.LZMADecompressor(lzma.FORMAT_XZ).decompress(stream, max_length=size)
    except lzma.LZMAError as error:
        raise StoreError(f"a pack is damaged: {error}") from error
    if len(data) != size:
        raise StoreError("a pack is damaged: it is too short")
    return data
