"""The keeper: a container of ours that reads, gives away, fills and removes what lies in layers and is not
the controller's to touch (mode 000, other owners, marks of root, another machine). Started when first needed, kept
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
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias

from sandbox import wire
from sandbox.containers import ContainerSpec, session_labels
from sandbox.dataclass import dataclass
from sandbox.engine import Engine
from sandbox.errors import BoxLostError, BoxStartError, ProtocolError, WorkspaceError
from sandbox.spec import Mount, Owner

LAYERS = PurePosixPath("/layers")
ROOTS = PurePosixPath("/roots")
FROZEN = PurePosixPath("/frozen")
_CAPABILITIES = ("CHOWN", "DAC_OVERRIDE", "FOWNER")
_SECONDS = 120.0
_MEMORY = 512 << 20
_HEAD = struct.Struct(">BxxxL")
Answer: TypeAlias = tuple[dict[str, Any], bytes]
_ERRNOS = {
    wire.PathCode.NOT_FOUND: errno.ENOENT,
    wire.PathCode.NOT_DIRECTORY: errno.ENOTDIR,
    wire.PathCode.LINK: errno.ELOOP,
    wire.PathCode.DENIED: errno.EACCES,
    wire.PathCode.NOT_FILE: errno.EINVAL,
    wire.PathCode.NO_SPACE: errno.ENOSPC,
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
    """The controller's end. Safe to use from several threads. `image` is
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
        self._asked: dict[int, str] = {}
        self._answers: dict[int, Answer | OSError] = {}

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

    @property
    def engine(self) -> Engine:
        """Where its container runs. Raises WorkspaceError where there is none."""
        self.image()
        assert self._engine is not None
        return self._engine

    def over(self, mounts: tuple[Mount, ...]) -> Keeper:
        """Another one, that has only these mounts. Close it."""
        return Keeper(
            self._engine,
            self._image,
            session=self._session,
            layers=self._layers,
            roots={},
            mounts=lambda: mounts,
        )

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

    def request(self, kind: str, **arguments: Any) -> Answer:
        """One request and its answer. Raises OSError as the call itself would have, WorkspaceError where
        no keeper can be had, BoxStartError, BoxLostError, ProtocolError.
        """
        return self.answer(self.ask(kind, **arguments))

    def ask(self, kind: str, **arguments: Any) -> int:
        """Send a request, and what to get its answer with, which whoever asks must do. A few may be on their way, of
        no more than a frame together. Raises as `request`, but for OSError.
        """
        with self._lock:
            if self._socket is None:
                self._start()
            assert self._socket is not None
            self._stream += 2
            frame = wire.encode({"t": "open", "s": self._stream, "k": kind}, json.dumps(arguments).encode("ascii"))
            try:
                self._socket.sendall(frame)
            except OSError as error:
                raise self._lost(error) from error
            self._asked[self._stream] = str(arguments.get("path", ""))
            return self._stream

    def answer(self, asked: int) -> Answer:
        """The answer to what was asked. Raises as `request`."""
        with self._lock:
            try:
                while asked in self._asked:
                    stream, path = next(iter(self._asked.items()))  # they are answered in their order
                    self._answers[stream] = self._next(stream, path)
                    del self._asked[stream]
            except (OSError, wire.WireError, ProtocolError) as error:
                raise self._lost(error) from error
            found = self._answers.pop(asked, None)
        if found is None:
            raise BoxLostError("the keeper is gone")
        if isinstance(found, OSError):
            raise found
        return found

    def _lost(self, error: Exception) -> Exception:
        """Nothing more can be had of this one."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        self._asked.clear()
        return error if isinstance(error, ProtocolError) else BoxLostError(f"the keeper is gone: {error}")

    def _local_mounts(self) -> tuple[Mount, ...]:
        roots = (Mount(volume=str(root), at=ROOTS / name, read_only=True) for name, root in self._roots.items())
        if self._frozen is not None:  # an engine would make it, as root's
            self._frozen.mkdir(mode=0o700, parents=True, exist_ok=True)
            return (Mount(volume=str(self._layers), at=LAYERS), Mount(volume=str(self._frozen), at=FROZEN), *roots)
        return (Mount(volume=str(self._layers), at=LAYERS), *roots)

    def _next(self, stream: int, path: str) -> Answer | OSError:
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
                    return OSError(code, os.strerror(code), path)
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
