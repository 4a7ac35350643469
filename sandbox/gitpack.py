"""Reading a git pack that the box made, without git: every object is inflated within limits, its deltas
resolved, its hash computed, and what it refers to listed. The index is made from that.

Format: gitformat-pack(5), versions 2 of pack and index; object ids sha1 or sha256.
"""

from __future__ import annotations

import hashlib
import struct
import unicodedata
import zlib
from collections.abc import Callable, Iterator

from sandbox.dataclass import dataclass
from sandbox.errors import WorkspaceError

PACK_BYTES = 1 << 30
_OBJECTS = 1_000_000
_OBJECT_BYTES = 256 << 20
_TOTAL_BYTES = 4 << 30
_DEPTH = 4096
_TYPES = {1: b"commit", 2: b"tree", 3: b"blob", 4: b"tag"}
_OFS_DELTA, _REF_DELTA = 6, 7
_MODES = (b"40000", b"100644", b"100664", b"100755", b"120000", b"160000")


class PackError(WorkspaceError):
    """What came out of the box is no pack that we take."""

    exit_code = 56


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedObject:
    """An object: where it stands, and the ids that it names (a submodule's commit is none of them)."""

    id: bytes
    type: bytes
    offset: int
    crc: int
    names: tuple[bytes, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pack:
    """A whole, checked pack. `checksum` is its trailer."""

    data: bytes
    objects: dict[bytes, PackedObject]
    checksum: bytes


@dataclass(slots=True)
class _Entry:
    offset: int
    kind: int
    size: int
    start: int
    end: int
    base: int | bytes | None


def read_pack(data: bytes, *, algorithm: str) -> Pack:
    """Check all of a pack. Raises PackError. `algorithm`: sha1 or sha256."""
    width = hashlib.new(algorithm, usedforsecurity=False).digest_size
    if len(data) < 12 + width or len(data) > PACK_BYTES:
        raise PackError("the box sent no pack, or one that is too large")
    magic, version, count = struct.unpack_from(">4sII", data)
    checksum = data[-width:]
    if magic != b"PACK" or version != 2 or count > _OBJECTS or _hash(algorithm, data[:-width]) != checksum:
        raise PackError("the box sent a damaged pack")
    entries = list(_entries(data, count, width))
    found: dict[bytes, PackedObject] = {}
    for entry, kind, content in _resolved(data, entries, algorithm):
        name = _hash(algorithm, kind + b" %d\0" % len(content) + content)
        if name in found:
            raise PackError("the box sent a pack with an object twice")
        found[name] = PackedObject(
            id=name,
            type=kind,
            offset=entry.offset,
            crc=zlib.crc32(data[entry.offset : entry.end]),
            names=tuple(_names(kind, content, width)),
        )
    return Pack(data=data, objects=found, checksum=checksum)


def connected(pack: Pack, tip: bytes, has: Callable[[bytes], bool]) -> None:
    """Raise PackError unless all that the tip leads to is in the pack or there already (`has`), and the
    pack holds nothing else.
    """
    seen: set[bytes] = set()
    waiting = [tip]
    known: set[bytes] = set()
    while waiting:
        name = waiting.pop()
        if name in seen or name in known:
            continue
        item = pack.objects.get(name)
        if item is None:
            if not has(name):
                raise PackError(f"the box's pack lacks object {name.hex()}")
            known.add(name)
            continue
        seen.add(name)
        waiting += item.names
    if len(seen) != len(pack.objects):
        raise PackError("the box's pack holds objects that belong to none of its commits")
    if tip in pack.objects and pack.objects[tip].type != b"commit":
        raise PackError("what the box names is no commit")


def make_index(pack: Pack, *, algorithm: str) -> bytes:
    """The pack's index, version 2."""
    items = sorted(pack.objects.values(), key=lambda item: item.id)
    counts = [0] * 256
    for item in items:
        counts[item.id[0]] += 1
    totals, total = [], 0
    for number in counts:
        total += number
        totals.append(total)
    body = b"\xfftOc" + struct.pack(">I256I", 2, *totals)
    body += b"".join(item.id for item in items)
    body += b"".join(struct.pack(">I", item.crc) for item in items)
    body += b"".join(struct.pack(">I", item.offset) for item in items)
    body += pack.checksum
    return body + _hash(algorithm, body)


def _hash(algorithm: str, data: bytes) -> bytes:
    return hashlib.new(algorithm, data, usedforsecurity=False).digest()


def _entries(data: bytes, count: int, width: int) -> Iterator[_Entry]:
    at, end, total = 12, len(data) - width, 0
    for _ in range(count):
        offset = at
        kind, size, at = _head(data, at, end)
        base: int | bytes | None = None
        if kind == _OFS_DELTA:
            back, at = _distance(data, at, end)
            base = offset - back
        elif kind == _REF_DELTA:
            base, at = data[at : at + width], at + width
        elif kind not in _TYPES:
            raise PackError("the box sent a pack with an object of no known type")
        total += size
        if size > _OBJECT_BYTES or total > _TOTAL_BYTES:
            raise PackError("the box sent a pack that unfolds to too much")
        start = at
        _, at = _inflate(data, at, end, size)
        yield _Entry(offset=offset, kind=kind, size=size, start=start, end=at, base=base)
    if at != end:
        raise PackError("the box sent a pack with something behind its end")


def _head(data: bytes, at: int, end: int) -> tuple[int, int, int]:
    byte = _byte(data, at, end)
    at += 1
    kind, size, shift = byte >> 4 & 7, byte & 15, 4
    while byte & 0x80:
        byte = _byte(data, at, end)
        at += 1
        size |= (byte & 0x7F) << shift
        shift += 7
        if shift > 60:
            raise PackError("the box sent a damaged pack")
    return kind, size, at


def _distance(data: bytes, at: int, end: int) -> tuple[int, int]:
    byte = _byte(data, at, end)
    at += 1
    value = byte & 0x7F
    while byte & 0x80:
        byte = _byte(data, at, end)
        at += 1
        value = (value + 1) << 7 | byte & 0x7F
        if value > PACK_BYTES:
            raise PackError("the box sent a damaged pack")
    return value, at


def _byte(data: bytes, at: int, end: int) -> int:
    if at >= end:
        raise PackError("the box sent a pack that is cut off")
    return data[at]


def _inflate(data: bytes, at: int, end: int, size: int) -> tuple[bytes, int]:
    """`size` bytes and where the compressed ones end; never more than that is unfolded."""
    stream = zlib.decompressobj()
    out = bytearray()
    try:
        while not stream.eof:
            piece = stream.unconsumed_tail or data[at : min(at + (64 << 10), end)]
            if not stream.unconsumed_tail:
                at += len(piece)
            if not piece:
                raise PackError("the box sent a pack that is cut off")
            out += stream.decompress(piece, size + 1 - len(out) or 1)
            if len(out) > size:
                raise PackError("the box sent an object larger than it says")
    except zlib.error as error:
        raise PackError("the box sent a damaged pack") from error
    if len(out) != size:
        raise PackError("the box sent an object smaller than it says")
    return bytes(out), at - len(stream.unused_data)


def _resolved(data: bytes, entries: list[_Entry], algorithm: str) -> Iterator[tuple[_Entry, bytes, bytes]]:
    """Each entry with its type and content: bases first, then what is made from them."""
    children: dict[int | bytes, list[_Entry]] = {}
    for entry in entries:
        if entry.base is not None:
            children.setdefault(entry.base, []).append(entry)
    done, total = 0, 0
    for root in entries:
        if root.base is not None:
            continue
        kind = _TYPES[root.kind]
        stack = [(root, _inflate(data, root.start, len(data), root.size)[0], 0)]
        while stack:
            entry, content, depth = stack.pop()
            done, total = done + 1, total + len(content)
            if depth > _DEPTH or total > _TOTAL_BYTES:
                raise PackError("the box sent a pack that unfolds to too much")
            yield entry, kind, content
            name = _hash(algorithm, kind + b" %d\0" % len(content) + content)
            for child in [*children.pop(entry.offset, ()), *children.pop(name, ())]:
                delta, _ = _inflate(data, child.start, len(data), child.size)
                stack.append((child, _patched(content, delta), depth + 1))
    if done != len(entries):
        raise PackError("the box sent a pack with deltas against what is not in it")


def _patched(base: bytes, delta: bytes) -> bytes:
    """A delta's result: copies from the base, and bytes of its own."""
    before, at = _varint(delta, 0)
    after, at = _varint(delta, at)
    if before != len(base) or after > _OBJECT_BYTES:
        raise PackError("the box sent a damaged delta")
    out = bytearray()
    end = len(delta)
    while at < end:
        order = delta[at]
        at += 1
        if order & 0x80:
            offset, size, at = _copy(delta, order, at)
            if offset + size > len(base):
                raise PackError("the box sent a damaged delta")
            out += base[offset : offset + size]
        elif order == 0 or at + order > end:
            raise PackError("the box sent a damaged delta")
        else:
            out += delta[at : at + order]
            at += order
        if len(out) > after:
            raise PackError("the box sent a damaged delta")
    if len(out) != after:
        raise PackError("the box sent a damaged delta")
    return bytes(out)


def _copy(delta: bytes, order: int, at: int) -> tuple[int, int, int]:
    """What a copy order says: offset, size, and where the next order stands."""
    values = [0] * 7
    for bit in range(7):
        if order & 1 << bit:
            values[bit] = _byte(delta, at, len(delta))
            at += 1
    offset = int.from_bytes(bytes(values[:4]), "little")
    return offset, int.from_bytes(bytes(values[4:]), "little") or 0x10000, at


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = _byte(data, at, len(data))
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            return value, at
        if shift > 60:
            raise PackError("the box sent a damaged delta")


def _names(kind: bytes, content: bytes, width: int) -> Iterator[bytes]:
    if kind == b"tree":
        yield from _tree(content, width)
    elif kind in (b"commit", b"tag"):
        head = content.partition(b"\n\n")[0].split(b"\n")
        wanted = (b"tree", b"parent") if kind == b"commit" else (b"object",)
        if kind == b"commit" and not head[0].startswith(b"tree "):
            raise PackError("the box sent a commit without a tree")
        for line in head:
            word, _, value = line.partition(b" ")
            if word not in wanted:
                break
            try:
                name = bytes.fromhex(value.decode("ascii"))
            except ValueError:
                name = b""
            if len(name) != width:
                raise PackError("the box sent a commit that names no object")
            yield name


def _tree(content: bytes, width: int) -> Iterator[bytes]:
    """What a tree names. Names that git would refuse to check out are refused here."""
    at = 0
    while at < len(content):
        stop = content.find(b"\0", at)
        mode, _, name = content[at:stop].partition(b" ")
        at = stop + 1 + width
        if stop < 0 or at > len(content) or mode not in _MODES or not _is_name(name, mode):
            raise PackError("the box sent a tree with a name or mode that git does not take")
        if mode != b"160000":
            yield content[stop + 1 : at]


def _is_name(name: bytes, mode: bytes) -> bool:
    if not name or name in (b".", b"..") or b"/" in name:
        return False
    text = name.decode("utf-8", "surrogateescape")
    seen = "".join(c for c in unicodedata.normalize("NFKC", text) if unicodedata.category(c) != "Cf").casefold()
    plain = seen.split("\\")[0].split(":")[0].rstrip(". ")
    if plain in (".git", "git~1"):
        return False
    return not (mode == b"120000" and plain in (".gitmodules", ".gitattributes", ".gitignore", ".mailmap"))
