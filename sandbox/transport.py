"""HTTP/1.1 to a container engine over a plain socket: one connection per request, JSON or streams.

Written out because importing the docker SDK (requests, urllib3) takes 0.3 s, half of a box's
whole start. What only the SDK can do (TLS, registry credentials) goes through `sandbox.sdk`,
which fulfils the same protocol. Both translate foreign errors into `sandbox.errors`.
"""

from __future__ import annotations

import errno
import json
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, Protocol, Self
from urllib.parse import quote, urlencode

from sandbox.errors import (
    EngineLostError,
    EngineMissingError,
    EnginePermissionError,
    EngineRefusedError,
    SandboxError,
)

HEAD_LIMIT = 64 << 10
LINE_LIMIT = 8 << 10
CHUNK = 64 << 10


class NotFoundError(EngineRefusedError):
    """The engine knows no such object (404)."""


class ConflictError(EngineRefusedError):
    """The name is taken, or the object is in use (409)."""


class Reply(Protocol):
    """An answer whose body is still on its way. A context manager: leaving it closes the connection."""

    status: int
    headers: Mapping[str, str]

    def chunks(self) -> Iterator[bytes]:
        """The body, piece by piece."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Transport(Protocol):
    """How requests reach an engine. Safe to use from several threads."""

    endpoint: str

    def open(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, object] | None = None,
        body: object = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> Reply:
        """Send a request. `body`: None, bytes, an iterable of bytes (sent chunked), or else JSON.
        Raises the error that fits for a status of 400 and more.
        """
        ...

    def hijack(self, path: str, *, query: Mapping[str, object]) -> socket.socket:
        """POST and take the connection over as a raw two-way stream."""
        ...

    def close(self) -> None:
        """Drop what is kept open."""
        ...


def encode_query(query: Mapping[str, object] | None) -> str:
    """A query string: booleans as 1/0, mappings as JSON, a tuple once per item, None left out."""
    if not query:
        return ""
    plain = {key: _query_value(value) for key, value in query.items() if value is not None}
    return "?" + urlencode(plain, doseq=True, quote_via=quote)


def _query_value(value: object) -> str | list[str]:
    if isinstance(value, bool):
        return "1" if value else "0"
    if isinstance(value, Mapping):
        return json.dumps(value)
    if isinstance(value, tuple):
        return [str(item) for item in value]
    return str(value)


def raise_for(status: int, body: bytes) -> None:
    """Turn an engine's error answer into the exception that says what the user can do."""
    if status < 400:
        return
    try:
        message = str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        message = body.decode("utf-8", "replace").strip()
    message = message[:2000] or f"HTTP status {status}"
    match status:
        case _ if "no such container" in message or "no such volume" in message:  # Podman may say so with a 500
            raise NotFoundError(message)
        case _ if "container state improper" in message:  # the same
            raise ConflictError(message)
        case 403:
            raise EnginePermissionError(
                f"the engine forbids it: {message}", hint="its authorization plugins decide; ask who runs the engine"
            )
        case 404:
            raise NotFoundError(message)
        case 409:
            raise ConflictError(message)
        case _:
            raise EngineRefusedError(f"the engine refused: {message}")


def connect_error(endpoint: str, error: OSError) -> SandboxError:
    """The error for an endpoint that could not be reached."""
    if error.errno in {errno.EACCES, errno.EPERM}:
        return EnginePermissionError(
            f"{endpoint}: permission denied",
            hint="add yourself to the engine's group (`sudo usermod -aG docker $USER`, then log in again), "
            "or use a rootless engine",
        )
    return EngineMissingError(
        f"no container engine answers at {endpoint}: {error.strerror or error}",
        hint="start it (`sudo systemctl start docker`, `podman system service`), or set DOCKER_HOST",
    )


class SocketReply:
    """A Reply read from a socket by hand: Content-Length, chunked, or until the end."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._buffer = b""
        self.status, self.headers = self._head()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def detach(self) -> tuple[socket.socket, bytes]:
        """The connection itself and what was read too far."""
        return self._socket, self._buffer

    def chunks(self) -> Iterator[bytes]:
        """The body as it comes."""
        if self.headers.get("transfer-encoding", "").lower() == "chunked":
            yield from self._chunked()
            return
        length = self.headers.get("content-length")
        if length is None and self.status in {204, 304}:
            return
        left = int(length) if length is not None else None
        while left is None or left > 0:
            data = self._take(CHUNK if left is None else min(left, CHUNK))
            if not data:
                if left:
                    raise EngineLostError("the engine's answer broke off")
                return
            if left is not None:
                left -= len(data)
            yield data

    def _chunked(self) -> Iterator[bytes]:
        while True:
            line = self._line()
            try:
                left = int(line.split(b";", 1)[0], 16)
            except ValueError as error:
                raise EngineLostError("the engine's answer makes no sense") from error
            if left == 0:
                return
            while left:
                data = self._take(min(left, CHUNK))
                if not data:
                    raise EngineLostError("the engine's answer broke off")
                left -= len(data)
                yield data
            self._line()

    def _take(self, most: int) -> bytes:
        if not self._buffer:
            return self._receive(most)
        data, self._buffer = self._buffer[:most], self._buffer[most:]
        return data

    def _receive(self, most: int) -> bytes:
        with translated():
            return self._socket.recv(most)

    def _line(self) -> bytes:
        while b"\r\n" not in self._buffer:
            data = self._receive(CHUNK)
            if not data or len(self._buffer) > LINE_LIMIT:
                raise EngineLostError("the engine's answer broke off")
            self._buffer += data
        line, self._buffer = self._buffer.split(b"\r\n", 1)
        return line

    def _head(self) -> tuple[int, Mapping[str, str]]:
        while b"\r\n\r\n" not in self._buffer:
            data = self._receive(CHUNK)
            if not data or len(self._buffer) > HEAD_LIMIT:
                raise EngineLostError("the engine closed the connection")
            self._buffer += data
        head, self._buffer = self._buffer.split(b"\r\n\r\n", 1)
        lines = head.decode("latin-1").split("\r\n")
        try:
            status = int(lines[0].split(" ", 2)[1])
        except (IndexError, ValueError) as error:
            raise EngineLostError("what answers there is no container engine") from error
        pairs = (line.partition(":") for line in lines[1:])
        return status, {name.strip().lower(): value.strip() for name, _, value in pairs}


@contextmanager
def translated() -> Iterator[None]:
    """Errors of a socket in mid-conversation are the engine's loss."""
    try:
        yield
    except TimeoutError as error:
        raise EngineLostError("the engine did not answer in time") from error
    except OSError as error:
        raise EngineLostError(f"the engine went away: {error.strerror or error}") from error


class SocketTransport:
    """Transport over `unix:///path` or `tcp://host:port` without TLS."""

    def __init__(self, endpoint: str, *, timeout: float = 60.0) -> None:
        self.endpoint = endpoint
        self._timeout = timeout

    def close(self) -> None:
        """Nothing is kept open between requests."""

    def open(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, object] | None = None,
        body: object = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> SocketReply:
        """See Transport."""
        extra = dict(headers or {})
        pieces: Iterable[bytes] = ()
        if isinstance(body, bytes):
            pieces, extra["Content-Length"] = (body,), str(len(body))
        elif body is None:
            extra["Content-Length"] = "0"
        elif isinstance(body, dict | list):
            data = json.dumps(body).encode()
            pieces, extra["Content-Length"] = (data,), str(len(data))
            extra["Content-Type"] = "application/json"
        else:
            assert isinstance(body, Iterable)
            pieces, extra["Transfer-Encoding"] = _as_chunks(body), "chunked"
        reply = self._exchange(method, path + encode_query(query), {"Connection": "close"} | extra, pieces, timeout)
        if reply.status >= 400:
            with reply:
                raise_for(reply.status, b"".join(reply.chunks()))
        return reply

    def hijack(self, path: str, *, query: Mapping[str, object]) -> socket.socket:
        """See Transport. The engine sends nothing before the container starts, so no byte is read too far."""
        headers = {"Connection": "Upgrade", "Upgrade": "tcp", "Content-Length": "0"}
        reply = self._exchange("POST", path + encode_query(query), headers, (), None)
        if reply.status >= 400:
            with reply:
                raise_for(reply.status, b"".join(reply.chunks()))
        sock, early = reply.detach()
        if early:
            sock.close()
            raise EngineLostError("the engine sent data before the container was started")
        sock.settimeout(None)
        return sock

    def _exchange(
        self, method: str, target: str, headers: Mapping[str, str], pieces: Iterable[bytes], timeout: float | None
    ) -> SocketReply:
        sock = self._connect()
        try:
            sock.settimeout(timeout if timeout is not None else self._timeout)
            lines = [f"{method} {target} HTTP/1.1", "Host: engine", *(f"{k}: {v}" for k, v in headers.items())]
            head = ("\r\n".join(lines) + "\r\n\r\n").encode()
            with translated():
                sock.sendall(head)
                # an engine that refuses early stops listening: its answer says why
                with suppress(BrokenPipeError, ConnectionResetError):
                    for piece in pieces:
                        sock.sendall(piece)
            return self._reply(sock)
        except BaseException:
            sock.close()
            raise

    def _reply(self, sock: socket.socket) -> SocketReply:
        return SocketReply(sock)

    def _connect(self) -> socket.socket:
        scheme, _, rest = self.endpoint.partition("://")
        if scheme == "unix":
            family, address = socket.AF_UNIX, rest
        else:
            host, _, port = rest.strip("/").rpartition(":")
            if not host or not port.isdigit():
                raise EngineMissingError(
                    f"DOCKER_HOST={self.endpoint} names no host and port", hint="such as tcp://host:2375"
                )
            try:
                sock = socket.create_connection((host.strip("[]"), int(port)), timeout=10)
            except (OSError, ValueError) as error:
                reason = error if isinstance(error, OSError) else OSError(errno.EINVAL, str(error))
                raise connect_error(self.endpoint, reason) from error
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return sock
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.settimeout(10)
            sock.connect(address)
        except OSError as error:
            sock.close()
            raise connect_error(self.endpoint, error) from error
        return sock


def _as_chunks(stream: Iterable[bytes]) -> Iterator[bytes]:
    for piece in stream:
        if piece:
            yield b"%x\r\n" % len(piece) + piece + b"\r\n"
    yield b"0\r\n\r\n"


def parse_json(data: bytes) -> Any:
    """JSON of the engine (trusted, but it may be cut off)."""
    try:
        return json.loads(data)
    except ValueError as error:
        raise EngineLostError("the engine's answer makes no sense") from error
