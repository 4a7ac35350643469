"""Frames between a session's owner and its clients, over a unix socket of the same user.

A frame is one JSON header line with `size`, then that many raw bytes. Both ends are this program
under one uid; limits guard against mistakes, not against an enemy.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from runner.errors import FumehoodError
from sandbox.errors import SandboxError

CHANNEL_VERSION = 1
HEADER_LIMIT = 64 << 20
DATA_LIMIT = 1 << 20
_SOCKET_PATH_LIMIT = 100
E = TypeVar("E", bound=Exception)


class Channel:
    """One connection. `send` may be called by many tasks; `receive` by one."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._turn = asyncio.Lock()

    async def send(self, header: Mapping[str, Any], data: bytes = b"") -> None:
        """Write one frame and wait until it is on its way. Raises ConnectionError."""
        line = json.dumps({**header, "size": len(data)}, separators=(",", ":")).encode() + b"\n"
        async with self._turn:
            self._writer.write(line + data)
            await self._writer.drain()

    async def receive(self) -> tuple[dict[str, Any], bytes] | None:
        """The next frame; None at the end. Raises ConnectionError for what is no frame."""
        try:
            line = await self._reader.readuntil(b"\n")
        except asyncio.IncompleteReadError:
            return None
        except asyncio.LimitOverrunError as error:
            raise ConnectionError("a frame's header is too long") from error
        try:
            header = json.loads(line)
            size = int(header.get("size", 0))
        except (ValueError, TypeError, AttributeError) as error:
            raise ConnectionError("not a frame") from error
        if not 0 <= size <= DATA_LIMIT:
            raise ConnectionError("a frame is too large")
        try:
            return header, await self._reader.readexactly(size) if size else b""
        except asyncio.IncompleteReadError:
            return None

    async def close(self) -> None:
        """Close the connection; harmless when the other end did."""
        self._writer.close()
        try:
            await self._writer.wait_closed()
        except (ConnectionError, BrokenPipeError):
            return


def peer_uid(connection: socket.socket) -> int:
    """The uid at the other end of a unix socket (SO_PEERCRED, unix(7))."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, uid, _ = struct.unpack("3i", raw)
    return int(uid)


def socket_path(session: str, *, environ: Mapping[str, str], home: Path) -> Path:
    """Where an owner listens: a 0700 directory of this user under XDG_RUNTIME_DIR, else in the state home."""
    runtime = environ.get("XDG_RUNTIME_DIR", "")
    directory = Path(runtime) / "fumehood" if runtime and _is_private(Path(runtime)) else home / "run"
    directory.mkdir(mode=0o700, exist_ok=True)
    if not _is_private(directory):
        directory = home / "run"
        directory.mkdir(mode=0o700, exist_ok=True)
        directory.chmod(0o700)
    return directory / session[:18]


@contextmanager
def short_path(path: Path) -> Iterator[str]:
    """An address for bind and connect even where the path is longer than sun_path allows: by way
    of a descriptor of its directory.
    """
    if len(os.fsencode(path)) <= _SOCKET_PATH_LIMIT:
        yield str(path)
        return
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


def error_to_json(error: BaseException) -> dict[str, Any]:
    """An error of ours as a frame's fields; anything else is an internal error without its text."""
    if isinstance(error, FumehoodError | SandboxError):
        return {"code": error.exit_code, "message": str(error), "hint": getattr(error, "hint", "")}
    return {"code": FumehoodError.exit_code, "message": f"the owner failed: {type(error).__name__}", "hint": ""}


def error_from_json(fields: Mapping[str, Any]) -> FumehoodError | SandboxError:
    """The error of the same exit code, with the owner's words; what else its class holds stayed there."""
    code, message, hint = fields.get("code"), str(fields.get("message", "")), str(fields.get("hint", ""))
    for kind in _family(SandboxError):
        if kind.exit_code == code:
            return _remade(kind, message, hint)
    for known in _family(FumehoodError):
        if known.exit_code == code:
            return known(message)
    return FumehoodError(message)


def _remade(kind: type[SandboxError], message: str, hint: str) -> SandboxError:
    error: SandboxError = kind.__new__(kind, message)
    SandboxError.__init__(error, message, hint=hint)
    return error


def _family(root: type[E]) -> Iterator[type[E]]:
    yield root
    for child in root.__subclasses__():
        yield from _family(child)


def _is_private(directory: Path) -> bool:
    try:
        found = directory.stat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not stat.S_IMODE(found.st_mode) & 0o077
