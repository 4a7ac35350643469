"""The keeper: a container of ours that reads, gives away and removes what lies in layers and is not
the controller's to touch (mode 000, other owners, marks of root). Started when first needed, kept
until the session's owner ends. It sees the layers, frozen ones too, and the roots (read-only), nothing else, and no
network; nothing of the box's runs in it.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from sandbox import wire
from sandbox.containers import ContainerSpec, session_labels
from sandbox.engine import Engine
from sandbox.errors import BoxLostError, BoxStartError, ProtocolError, WorkspaceError
from sandbox.spec import Mount, Owner
from sandbox.trees import Entry, LocalTree, Tree

LAYERS = PurePosixPath("/layers")
ROOTS = PurePosixPath("/roots")
FROZEN = PurePosixPath("/frozen")
_CAPABILITIES = ("CHOWN", "DAC_OVERRIDE", "FOWNER")
_SECONDS = 120.0
_MEMORY = 512 << 20
_HEAD = struct.Struct(">BxxxL")
_ERRNOS = {
    wire.PathCode.NOT_FOUND: errno.ENOENT,
    wire.PathCode.NOT_DIRECTORY: errno.ENOTDIR,
    wire.PathCode.LINK: errno.ELOOP,
    wire.PathCode.DENIED: errno.EACCES,
    wire.PathCode.NOT_FILE: errno.EINVAL,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class KeeperImage:
    """What a keeper's container is made of: any image, what to run (`sandbox/server/keeper.py` by the
    toolbox's interpreter), and the mounts that hold both.
    """

    image: str
    command: tuple[str, ...]
    mounts: tuple[Mount, ...]


class Keeper:
    """The controller's end. Requests go one by one; safe to use from several threads. `image` is
    called once, when the container is first needed. Close it: the container goes.
    """

    def __init__(
        self,
        engine: Engine | None,
        image: Callable[[], KeeperImage] | None,
        *,
        session: str,
        layers: Path,
        roots: Mapping[str, Path],
        mounts: Callable[[], tuple[Mount, ...]] | None = None,
        frozen: Path | None = None,
    ) -> None:
        """`mounts`: what holds the layers where they are not on this machine, below LAYERS. `frozen`: the pool of
        frozen layers.
        """
        self._frozen = frozen
        self._mounts = mounts
        self._engine = engine
        self._image = image
        self._session = session
        self._layers = layers
        self._roots = dict(roots)
        self._lock = threading.Lock()
        self._container = ""
        self._socket: socket.socket | None = None
        self._decoder = wire.Decoder()
        self._frames: list[tuple[dict[str, Any], bytes]] = []
        self._raw = b""
        self._stream = -1

    @property
    def available(self) -> bool:
        """Whether there is an engine to start it with."""
        return self._engine is not None and self._image is not None

    def close(self) -> None:
        """Remove the container, if there is one."""
        with self._lock:
            if self._socket is not None:
                self._socket.close()
                self._socket = None
            if self._container and self._engine is not None:
                self._engine.containers.remove(self._container, force=True)
                self._container = ""

    def image(self) -> KeeperImage:
        """What it is made of. Raises WorkspaceError where no keeper can be had."""
        if self._engine is None or self._image is None:
            raise WorkspaceError(
                "part of the session's layers cannot be read by you",
                hint="a container engine is needed for this: start it and try again",
            )
        return self._image()

    def place(self, path: Path) -> str:
        """Where the keeper sees a path of the layers, the pool or the roots. Raises ValueError for any other."""
        if path.is_relative_to(self._layers):
            return str(LAYERS / path.relative_to(self._layers))
        if self._frozen is not None and path.is_relative_to(self._frozen):
            return str(FROZEN / path.relative_to(self._frozen))
        for name, root in self._roots.items():
            if path.is_relative_to(root):
                return str(ROOTS / name / path.relative_to(root))
        raise ValueError(f"{path} is not the keeper's")

    def chown(self, path: Path, owner: Owner) -> None:
        """Give a path of the layers to another user."""
        self.request("chown", path=self.place(path), uid=owner.uid, gid=owner.gid)

    def remove(self, path: Path) -> None:
        """Remove a path of the layers with all beneath it."""
        self.request("remove", path=self.place(path))

    def request(self, kind: str, **arguments: Any) -> tuple[dict[str, Any], bytes]:
        """One request and its answer. Raises OSError as the call itself would have, WorkspaceError where
        no keeper can be had, BoxStartError, BoxLostError, ProtocolError.
        """
        with self._lock:
            if self._socket is None:
                self._start()
            assert self._socket is not None
            self._stream += 2
            frame = wire.encode({"t": "open", "s": self._stream, "k": kind}, json.dumps(arguments).encode("ascii"))
            try:
                self._socket.sendall(frame)
                return self._answer(self._stream, str(arguments.get("path", "")))
            except (OSError, wire.WireError) as error:
                if isinstance(error, wire.WireError) or error.filename is None:
                    self._socket.close()
                    self._socket = None
                    raise BoxLostError(f"the keeper is gone: {error}") from error
                raise

    def _local_mounts(self) -> tuple[Mount, ...]:
        roots = (Mount(volume=str(root), at=ROOTS / name, read_only=True) for name, root in self._roots.items())
        if self._frozen is not None:  # an engine would make it, as root's
            self._frozen.mkdir(mode=0o700, parents=True, exist_ok=True)
            return (Mount(volume=str(self._layers), at=LAYERS), Mount(volume=str(self._frozen), at=FROZEN), *roots)
        return (Mount(volume=str(self._layers), at=LAYERS), *roots)

    def _answer(self, stream: int, path: str) -> tuple[dict[str, Any], bytes]:
        data = b""
        while True:
            header, payload = self._frame()
            if header.get("s") != stream:
                raise ProtocolError("the keeper answers what was not asked")
            match header["t"]:
                case "data":
                    data += payload
                    if len(data) > wire.WINDOW:
                        raise ProtocolError("the keeper sends more than it may")
                case "done":
                    return header.get("r", {}), data
                case "fail":
                    code = _ERRNOS.get(header["code"], errno.EIO)
                    raise OSError(code, os.strerror(code), path)
                case _:
                    raise ProtocolError("the keeper makes no sense")

    def _frame(self) -> tuple[dict[str, Any], bytes]:
        while not self._frames:
            self._frames += self._decoder.feed(self._read())
        return self._frames.pop(0)

    def _read(self) -> bytes:
        """The next piece of its standard output, out of the engine's framing."""
        while True:
            if len(self._raw) >= _HEAD.size:
                kind, size = _HEAD.unpack_from(self._raw)
                if len(self._raw) >= _HEAD.size + size:
                    piece, self._raw = self._raw[_HEAD.size : _HEAD.size + size], self._raw[_HEAD.size + size :]
                    if kind == 1:
                        return piece
                    continue
            assert self._socket is not None
            more = self._socket.recv(1 << 17)
            if not more:
                raise OSError(errno.EPIPE, "the pipe ended")
            self._raw += more

    def _start(self) -> None:
        image = self.image()
        assert self._engine is not None
        spec = ContainerSpec(
            image=image.image,
            command=image.command,
            labels=session_labels(self._session),
            mounts=(
                *image.mounts,
                *((self._mounts() if self._mounts else ()) or self._local_mounts()),
            ),
            capabilities=_CAPABILITIES,
            security_opt=("no-new-privileges",),
            stdin=True,
            hostname="keeper",
            pids=64,
            memory=_MEMORY,
        )
        self._container = self._engine.containers.create(spec)
        self._decoder, self._frames, self._raw = wire.Decoder(), [], b""
        self._socket = self._engine.containers.attach(self._container)
        self._socket.settimeout(_SECONDS)
        try:
            self._engine.containers.start(self._container)
            header, _ = self._frame()
        except (OSError, wire.WireError) as error:
            raise BoxStartError(f"the keeper did not start: {error}") from error
        if header["t"] != "hello" or header["wire"] != wire.WIRE:
            raise ProtocolError("the keeper speaks another wire")


class KeptTree:
    """A Tree that is read by this process where it may, by the keeper where it may not. `local` False:
    it lies on the engine's machine.
    """

    def __init__(self, top: Path, keeper: Keeper, *, local: bool = True) -> None:
        self._local: Tree = LocalTree(top) if local else _Elsewhere()
        self._top = top
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

    def below(self, path: bytes) -> Iterator[Entry]:
        """All beneath a directory, each directory before what it holds; of the keeper at one go where it fits."""
        try:
            entries = self._local.scan(path)
        except PermissionError:
            result, data = self._keeper.request("below", path=self._place(path))
            if result["whole"]:
                prefix = path + b"/" if path else b""
                yield from (_entry(prefix + os.fsencode(row[0]), row) for row in json.loads(data))
                return
            entries = sorted(self._scan(path), key=lambda entry: entry.path)
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
        try:
            return self._local.attributes(path)
        except PermissionError:
            _, data = self._keeper.request("attributes", path=self._place(path))
            return {name: bytes.fromhex(value) for name, value in json.loads(data).items()}

    def wholes(self, entries: Iterable[Entry]) -> Iterator[tuple[Entry, dict[str, bytes], bytes | None]]:
        """Each file with its attributes and content, by the keeper and many at one go; None where it is not small, has
        holes, or cannot be read so.
        """
        waiting = deque(entries)
        while waiting:
            paths, size = [], 0
            for entry in waiting:
                paths.append(self._place(entry.path))
                size += len(json.dumps(paths[-1])) + 2
                if size > wire.PAYLOAD // 2:
                    break
            result, data = self._keeper.request("take", paths=paths)
            at = int(result["head"])
            for row in json.loads(data[:at]):
                entry = waiting.popleft()
                if row is None:
                    yield entry, {}, None
                    continue
                yield entry, {name: bytes.fromhex(value) for name, value in row[0].items()}, data[at : at + row[1]]
                at += row[1]

    def _place(self, path: bytes) -> str:
        return self._keeper.place(self._top) + ("/" + os.fsdecode(path) if path else "")

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
    mode, size, mtime_ns, ctime_ns, inode, device, uid, gid, links = (int(value) for value in row[1:10])
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
