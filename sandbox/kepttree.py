"""A layer's tree as the controller reads it: by itself where it may, by the keeper where it may not."""

from __future__ import annotations

import errno
import json
import os
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from sandbox import wire
from sandbox.errors import ProtocolError, SandboxError
from sandbox.keeper import Keeper
from sandbox.trees import Entry, LocalTree, Tree

# Of requests for small files: how many are on their way, and the bytes of names and contents of one.
_AHEAD, _NAMES, _BATCH = 3, wire.PAYLOAD // 8, 48 << 10


class KeptTree:
    """A Tree that is read by this process where it may, by the keeper where it may not. `local` False:
    it lies on the engine's machine.
    """

    def __init__(self, top: Path, keeper: Keeper, *, local: bool = True) -> None:
        self._local: Tree = LocalTree(top) if local else _Elsewhere()
        self._top = top
        self._at: str | None = None
        self._keeper = keeper

    def close(self) -> None:
        """Give the descriptor back; the keeper stays."""
        if isinstance(self._local, LocalTree):
            self._local.close()

    def scan(self, path: bytes) -> list[Entry]:
        """What a directory holds, sorted by name."""
        try:
            return self._local.scan(path)
        except PermissionError:
            return sorted(self._scan(path), key=lambda entry: entry.path)

    def below(self, path: bytes, *, top: bool = False) -> Iterator[Entry]:
        """All beneath a directory, each directory before what it holds, and itself first with `top`; of the keeper at
        one go where it fits. Raises FileNotFoundError where it is gone.
        """
        try:
            entries = self._local.scan(path)
        except PermissionError:
            result, data = self._keeper.request("below", path=self._place(path), top=top)
            if result["whole"]:
                prefix = path + b"/" if path else b""
                for row in json.loads(data):
                    yield _entry(prefix + os.fsencode(row[0]) if row[0] else path, row)
                return
            entries = sorted(self._scan(path), key=lambda entry: entry.path)
        if top:
            itself = self.stat(path)
            if itself is None:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path) from None
            yield itself
        for entry in entries:
            yield entry
            if entry.is_directory:
                yield from self.below(entry.path)

    def stat(self, path: bytes) -> Entry | None:
        """Lstat; None where nothing is."""
        try:
            return self._local.stat(path)
        except PermissionError:
            pass
        try:
            _, data = self._keeper.request("stat", path=self._place(path))
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                return None
            raise
        return _entry(path, json.loads(data))

    def chunks(self, path: bytes, limit: int | None = None) -> Iterator[bytes | int]:
        """A file's content in pieces; holes as numbers."""
        pieces = self._local.chunks(path, limit)
        try:
            first = next(pieces, None)
        except PermissionError:
            yield from self._chunks(path, limit)
            return
        if first is not None:
            yield first
            yield from pieces

    def readlink(self, path: bytes) -> bytes:
        """A link's text."""
        try:
            return self._local.readlink(path)
        except PermissionError:
            return self._keeper.request("readlink", path=self._place(path))[1]

    def attributes(self, path: bytes) -> dict[str, bytes]:
        """Attributes of the user namespace."""
        return {name: value for name, value in self.kept_attributes(path).items() if name.startswith("user.")}

    def kept_attributes(self, path: bytes) -> dict[str, bytes]:
        """The same, with ACLs where the keeper reads them."""
        try:
            return self._local.attributes(path)
        except PermissionError:
            _, data = self._keeper.request("attributes", path=self._place(path))
            return {name: bytes.fromhex(value) for name, value in json.loads(data).items()}

    def wholes(self, entries: Iterable[Entry]) -> Generator[tuple[Entry, dict[str, bytes], bytes | None]]:
        """Each file with its attributes and content, by the keeper and many at one go; None where it is not small, has
        holes, or cannot be read so. The keeper reads the next while these are looked at.
        """
        waiting = deque(entries)
        asked: deque[tuple[list[Entry], int]] = deque()
        try:
            while waiting or asked:
                while waiting and len(asked) < _AHEAD:
                    asked.append(self._take(waiting))
                batch, stream = asked.popleft()
                result, data = self._keeper.answer(stream)
                at = int(result["head"])
                rows = json.loads(data[:at])
                if not 0 < len(rows) <= len(batch):
                    raise ProtocolError("the keeper answers what was not asked")
                waiting.extendleft(reversed(batch[len(rows) :]))
                for entry, row in zip(batch, rows, strict=False):
                    if row is None:
                        yield entry, {}, None
                        continue
                    yield entry, {name: bytes.fromhex(value) for name, value in row[0].items()}, data[at : at + row[1]]
                    at += row[1]
        finally:
            for _, stream in asked:
                with suppress(OSError, SandboxError):
                    self._keeper.answer(stream)

    def _take(self, waiting: deque[Entry]) -> tuple[list[Entry], int]:
        """Ask for the first of these, one at least, as many as one request is for."""
        batch, paths, names, content = [], [], 0, 0
        while waiting and names < _NAMES and content < _BATCH:
            entry = waiting.popleft()
            batch.append(entry)
            paths.append(self._place(entry.path))
            names += len(json.dumps(paths[-1])) + 2
            content += entry.size
        return batch, self._keeper.ask("take", paths=paths)

    def _place(self, path: bytes) -> str:
        if self._at is None:
            self._at = self._keeper.place(self._top)
        return self._at + ("/" + os.fsdecode(path) if path else "")

    def _scan(self, path: bytes) -> Iterator[Entry]:
        start, prefix = 0, path + b"/" if path else b""
        while True:
            result, data = self._keeper.request("scan", path=self._place(path), start=start)
            for row in json.loads(data):
                yield _entry(prefix + os.fsencode(row[0]), row)
            start = result["next"]
            if not start:
                return

    def _chunks(self, path: bytes, limit: int | None) -> Iterator[bytes | int]:
        offset = 0
        while limit is None or offset < limit:
            result, data = self._keeper.request("read", path=self._place(path), offset=offset)
            piece: bytes | int = data or int(result["hole"])
            if not piece:
                return
            length = piece if isinstance(piece, int) else len(piece)
            if limit is not None and length > limit - offset:
                length = limit - offset
                piece = length if isinstance(piece, int) else piece[:length]
            yield piece
            offset += length


class _Elsewhere:
    """A Tree of which this process may read nothing."""

    def scan(self, path: bytes) -> list[Entry]:
        raise PermissionError(errno.EACCES, "elsewhere", path)

    def stat(self, path: bytes) -> Entry | None:
        raise PermissionError(errno.EACCES, "elsewhere", path)

    def chunks(self, path: bytes, limit: int | None = None) -> Iterator[bytes | int]:
        raise PermissionError(errno.EACCES, "elsewhere", path)
        yield limit or 0

    def readlink(self, path: bytes) -> bytes:
        raise PermissionError(errno.EACCES, "elsewhere", path)

    def attributes(self, path: bytes) -> dict[str, bytes]:
        raise PermissionError(errno.EACCES, "elsewhere", path)


def _entry(path: bytes, row: list[Any]) -> Entry:
    mode, size, mtime_ns, ctime_ns, inode, device, uid, gid, links = map(int, row[1:10])
    return Entry(
        path=path,
        mode=mode,
        size=size,
        mtime_ns=mtime_ns,
        ctime_ns=ctime_ns,
        inode=inode,
        device=device,
        uid=uid,
        gid=gid,
        links=links,
    )
