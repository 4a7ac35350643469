"""What the files of a frozen layer hold, told by digests: taken in the background once nothing writes to them any
more, kept beside the layer's rows, and compared when all is checked.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path

from sandbox.errors import StoreError
from sandbox.states import Row, State
from sandbox.trees import file_chunks

MAGIC = b"fhdigst\n"
NAME = "digests"
_DIGEST = 20
_WHOLE = 32
_BLOCK = 4096
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def content_digest(opened: int) -> str:
    """Of an open file's content: blake2b-160 over its size and its blocks of 4 KiB that are not zero, each after its
    offset; so it costs nothing whether zeros are a hole. Raises OSError.
    """
    found = hashlib.blake2b(os.fstat(opened).st_size.to_bytes(8, "little"), digest_size=_DIGEST)
    at, zero = 0, bytes(_BLOCK)
    for chunk in file_chunks(opened):
        if isinstance(chunk, int):
            at += chunk
            continue
        view = memoryview(chunk)
        while view:
            block = view[: _BLOCK - at % _BLOCK]
            if block != zero[: len(block)]:
                found.update(at.to_bytes(8, "little"))
                found.update(block)
            at, view = at + len(block), view[len(block) :]
    return found.hexdigest()


def take(
    tree: Path, rows: State, file: Path, *, as_frozen: Callable[[Row, os.stat_result], bool], stop: Callable[[], bool]
) -> None:
    """Write the digests of a frozen layer into `file`, whole or not at all (where `stop` says so meanwhile). What this
    user may not read, or is not as it was frozen any more, has none. Raises OSError.
    """
    found: dict[str, str] = {}
    for path, row in rows.items():
        if stop():
            return
        if not row.is_file:
            continue
        try:
            opened = os.open(tree / path, _FILE)
        except OSError:
            continue
        try:
            seen = os.fstat(opened)
            if stat.S_ISREG(seen.st_mode) and as_frozen(row, seen):
                found[path] = content_digest(opened)
        finally:
            os.close(opened)
    data = json.dumps(found, separators=(",", ":")).encode("ascii")
    new = file.with_suffix(".new")
    new.write_bytes(MAGIC + hashlib.blake2b(data, digest_size=_WHOLE).digest() + data)
    new.replace(file)


def read(file: Path) -> Mapping[str, str]:
    """Digest by path; none where they were not taken yet. Raises StoreError."""
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise StoreError(f"{file}: {error.strerror}") from error
    head, body = data[: len(MAGIC) + _WHOLE], data[len(MAGIC) + _WHOLE :]
    if head != MAGIC + hashlib.blake2b(body, digest_size=_WHOLE).digest():
        raise StoreError(f"the digests of the frozen layer {file.parent.name} are damaged")
    found: Mapping[str, str] = json.loads(body)
    return found


def differs(path: Path, digest: str) -> bool:
    """Whether a file's content is another one by now; a file that this user may not read is not told. An error of the
    disk counts.
    """
    try:
        opened = os.open(path, _FILE)
    except OSError:
        return False
    try:
        return content_digest(opened) != digest
    except OSError:
        return True
    finally:
        os.close(opened)
