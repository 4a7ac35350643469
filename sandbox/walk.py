"""The walk of a directory tree, and the file that a manifest is kept in. Standard library only:
it runs as a process of its own (`python -I -S walk.py ...`), so that a large repository costs the
controller's loop nothing. Reading a manifest by path is `sandbox.manifest`'s.

File (version 1, little-endian): header `8s I I q Q I` = magic, version, count, began_ns, offset of the
names, crc32 of all that follows the header; `count` records `Q I I Q q q Q` = name offset, name
length, st_mode, size, mtime_ns, ctime_ns, inode, sorted by name; then the names, bytes one after
another, relative to the root, "." being the root itself.
"""

# pathlib would double the start-up time of this process:
# ruff: noqa: PTH104, PTH123

import os
import stat
import struct
import sys
import time
import zlib

MAGIC = b"fhmanif\n"
VERSION = 1
HEADER = struct.Struct("<8sIIqQI")
RECORD = struct.Struct("<QIIQqqQ")
MAX_DEPTH = 400
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def walk(
    root: bytes, skip: frozenset[bytes] = frozenset(), closed: list[bytes] | None = None
) -> list[tuple[bytes, int, int, int, int, int]]:
    """(path, st_mode, size, mtime_ns, ctime_ns, inode) of all that lies beneath, sorted by path.
    `skip`: directories (relative) that are left out with what they hold. A directory that cannot
    be read is listed (and put into `closed`), what it holds is not. No link is followed.
    """
    top = os.open(root, _DIRECTORY & ~os.O_NOFOLLOW)
    try:
        own = os.fstat(top)
        found = [(b".", own.st_mode, own.st_size, own.st_mtime_ns, own.st_ctime_ns, own.st_ino)]
        _visit(top, b"", found, skip, [] if closed is None else closed, depth=0)
    finally:
        os.close(top)
    found.sort()
    return found


def _visit(
    directory: int,
    prefix: bytes,
    found: list[tuple[bytes, int, int, int, int, int]],
    skip: frozenset[bytes],
    closed: list[bytes],
    *,
    depth: int,
) -> None:
    below = []
    with os.scandir(directory) as entries:
        for entry in entries:
            try:
                seen = entry.stat(follow_symlinks=False)
            except OSError:
                continue
            name = os.fsencode(entry.name)
            path = prefix + name
            if path in skip:
                continue
            found.append((path, seen.st_mode, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns, seen.st_ino))
            if stat.S_ISDIR(seen.st_mode):
                below.append(name)
    if depth >= MAX_DEPTH:
        closed.extend(prefix + name for name in below)
        return
    for name in below:
        try:
            child = os.open(name, _DIRECTORY, dir_fd=directory)
        except OSError:
            closed.append(prefix + name)
            continue
        try:
            _visit(child, prefix + name + b"/", found, skip, closed, depth=depth + 1)
        except OSError:
            closed.append(prefix + name)
        finally:
            os.close(child)


def encode(entries: list[tuple[bytes, int, int, int, int, int]], began_ns: int) -> bytes:
    """A manifest's bytes. `entries` sorted by path."""
    names_at = HEADER.size + RECORD.size * len(entries)
    records = bytearray(RECORD.size * len(entries))
    offset = at = 0
    for path, mode, size, mtime_ns, ctime_ns, inode in entries:
        RECORD.pack_into(records, at, offset, len(path), mode, size, mtime_ns, ctime_ns, inode)
        offset += len(path)
        at += RECORD.size
    names = b"".join([entry[0] for entry in entries])
    checksum = zlib.crc32(names, zlib.crc32(records))
    return HEADER.pack(MAGIC, VERSION, len(entries), began_ns, names_at, checksum) + bytes(records) + names


def decode(data: bytes) -> list[tuple[bytes, int, int, int, int, int]]:
    """The entries again. Raises ValueError for what is no manifest of this version."""
    check(data)
    _, _, count, _, names_at, _ = HEADER.unpack_from(data)
    entries = []
    for offset, length, mode, size, mtime_ns, ctime_ns, inode in RECORD.iter_unpack(
        data[HEADER.size : HEADER.size + RECORD.size * count]
    ):
        at = names_at + offset
        entries.append((data[at : at + length], mode, size, mtime_ns, ctime_ns, inode))
    return entries


def check(data) -> None:  # type: ignore[no-untyped-def] # noqa: ANN001 - bytes or mmap; no typing in this process
    """Raise ValueError unless these bytes are an undamaged manifest of this version."""
    if len(data) < HEADER.size:
        raise ValueError("manifest: too short")
    magic, version, count, _, names_at, checksum = HEADER.unpack_from(data)
    if magic != MAGIC or version != VERSION:
        raise ValueError(f"manifest: version {version!r} is not known")
    view = memoryview(data)
    try:
        if names_at != HEADER.size + RECORD.size * count or zlib.crc32(view[HEADER.size :]) != checksum:
            raise ValueError("manifest: damaged")
    finally:
        view.release()


def differs(old: tuple[bytes, int, int, int, int, int], new: tuple[bytes, int, int, int, int, int]) -> bool:
    """Whether an entry changed. A directory's times and size tell only of its entries, which are
    listed themselves.
    """
    if stat.S_ISDIR(old[1]) and stat.S_ISDIR(new[1]):
        return old[1] != new[1]
    return old[1:] != new[1:]


def compare(
    old: list[tuple[bytes, int, int, int, int, int]],
    new: list[tuple[bytes, int, int, int, int, int]],
    closed: list[bytes],
) -> list[tuple[bytes, bytes]]:
    """(letter, path): A added, D deleted, M changed, U a directory that could not be read (what it
    held is not called deleted); sorted by path.
    """
    before = {entry[0]: entry for entry in old}
    result = []
    for entry in new:
        was = before.pop(entry[0], None)
        if was is None:
            result.append((b"A", entry[0]))
        elif was is not entry and differs(was, entry):
            result.append((b"M", entry[0]))
    hidden = tuple(path + b"/" for path in closed)
    result.extend((b"D", path) for path in before if not path.startswith(hidden))
    result.extend((b"U", path) for path in closed)
    result.sort(key=_path)
    return result


def _path(item: tuple[bytes, bytes]) -> bytes:
    return item[1]


def main(arguments: list[bytes]) -> int:
    """`manifest ROOT FILE [SKIP...]` writes a manifest; `drift ROOT FILE [SKIP...]` prints what is
    different now: letter, path, each ended by NUL.
    """
    order, root, file = arguments[:3]
    skip = frozenset(arguments[3:])
    if order == b"manifest":
        began = time.time_ns()
        data = encode(walk(root, skip), began)
        temporary = file + b".new"
        with open(temporary, "wb") as new:
            new.write(data)
            new.flush()
            os.fsync(new.fileno())
        os.rename(temporary, file)
        return 0
    with open(file, "rb") as kept:
        old = decode(kept.read())
    out = sys.stdout.buffer
    closed = []  # type: list[bytes]
    for letter, path in compare(old, walk(root, skip, closed), closed):
        out.write(letter + b"\0" + path + b"\0")
    return 0


if __name__ == "__main__":
    sys.exit(main([os.fsencode(argument) for argument in sys.argv[1:]]))
