"""The controller's end of the pipe: frames over one socket to the box, as streams with credit.

What comes is hostile: every frame is checked, every bound kept, and whatever does not fit ends the
pipe with ProtocolError. Losing the pipe wakes every waiter with BoxLostError at once.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Mapping
from typing import Any

from sandbox.errors import BoxLostError, BoxStartError, DiskFullError, PathError, ProtocolError, SandboxError
from sandbox.sending import Sender
from sandbox.streams import Grant, Stream
from sandbox.wire import PAYLOAD, STREAMS, WIRE, Buffer, Decoder, PathCode, WireError, encode

HEADER = 8
INCOMING = 256 << 10
ENGINE_FRAME = 16 << 20
DIAGNOSTICS = 16 << 10
BODY = 128 << 20
DEADLINE = 120.0
_format = json.JSONEncoder(separators=(",", ":")).encode


class Pipe(asyncio.BufferedProtocol):
    """The connection. `connect` makes one; `close` ends it. `lost` is set when it is over, by whomever,
    and `error` says how.
    """

    def __init__(self, grants: Mapping[str, Grant] | None = None) -> None:
        self.features: frozenset[str] = frozenset()
        self.lost = asyncio.Event()
        self.error: SandboxError | None = None
        self._grants = dict(grants or {})
        self._transport: asyncio.Transport | None = None
        self._decoder = Decoder()
        self._sender: Sender | None = None
        self._streams: dict[int, Stream] = {}
        self._next = 1
        self._last_theirs = 0
        self._granted: dict[str, int] = {}
        self._incoming = bytearray(INCOMING)
        self._raw = bytearray()
        self._diagnostics = bytearray()
        self._greeting: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @classmethod
    async def connect(
        cls, sock: socket.socket, *, grants: Mapping[str, Grant] | None = None, timeout: float = 20.0
    ) -> Pipe:
        """Shake hands over an engine's attach socket, which the pipe owns from now on. BoxStartError."""
        pipe = cls(grants)
        sock.setblocking(False)
        pipe._sender = Sender(sock.dup(), pipe.connection_lost)
        try:
            async with asyncio.timeout(timeout):
                await asyncio.get_running_loop().connect_accepted_socket(lambda: pipe, sock)
                await pipe._greeting
        except TimeoutError as error:
            pipe.close()
            raise BoxStartError(f"the box said nothing for {timeout:g} s{pipe.diagnostics}") from error
        except SandboxError as error:
            raise BoxStartError(f"the box did not start: {error}") from error
        except BaseException:
            pipe.close()
            sock.close()
            raise
        return pipe

    @property
    def diagnostics(self) -> str:
        """The last words of the server on its standard error, for error messages."""
        text = self._diagnostics.decode("utf-8", "replace").strip()
        return f": {text[-2000:]}" if text else ""

    def close(self, error: SandboxError | None = None) -> None:
        """End it: the box stops everything when it sees this. `error`: what whoever waits gets."""
        self._lose(error or BoxLostError("the box was closed"))

    def gone(self) -> SandboxError:
        """The error for whoever uses a pipe that is lost."""
        assert self.error is not None
        return type(self.error)(str(self.error), hint=self.error.hint)

    def open(self, kind: str, arguments: Mapping[str, object]) -> Stream:
        """Open a stream. Raises BoxLostError at once when the pipe is gone."""
        if self.error is not None:
            raise self.gone()
        if len(self._streams) >= STREAMS:
            raise PathError(PathCode.BUSY, kind, detail="too many requests at a time")
        stream = Stream(self, self._next, kind)
        self._next += 2
        self._streams[stream.id] = stream
        if self._sender is not None:
            self._sender.calls(stream.id)
        data = _format(arguments).encode("ascii")
        first, rest = data[:PAYLOAD], data[PAYLOAD:]
        header: dict[str, Any] = {"t": "open", "s": stream.id, "k": kind}
        frames = [encode(header | {"more": True} if rest else header, first)]
        while rest:
            piece, rest = rest[:PAYLOAD], rest[PAYLOAD:]
            frames.append(encode({"t": "args", "s": stream.id, "more": bool(rest)}, piece))
        self.control(b"".join(frames), stream.id)
        return stream

    async def request(
        self, kind: str, arguments: Mapping[str, object], *, path: str, body: bytes | None = None
    ) -> tuple[dict[str, Any], bytes]:
        """One question and its whole answer. Raises PathError, DiskFullError, BoxLostError."""
        stream = self.open(kind, arguments)
        try:
            async with asyncio.timeout(DEADLINE):
                if body is not None:
                    await stream.send(body)
                    stream.tell("end")
                return await self._answer(stream, path)
        except TimeoutError as error:
            raise PathError(PathCode.FAILED, path, detail=f"no answer for {DEADLINE:g} s") from error
        finally:
            if not stream.closed:
                stream.ignore()
                stream.tell("cancel")

    async def _answer(self, stream: Stream, path: str) -> tuple[dict[str, Any], bytes]:
        parts: list[bytes] = []
        size = 0
        while True:
            header, payload = await stream.receive()
            size += len(payload)
            if size > BODY:
                raise self.violated("an answer without end")
            match header["t"]:
                case "data":
                    parts.append(payload)
                case "done":
                    parts.append(payload)
                    return header.get("r", {}), b"".join(parts) if len(parts) > 1 else payload
                case "fail":
                    raise refusal(header, path)
                case _:
                    raise self.violated("an answer that makes no sense")

    # Sending

    def control(self, frame: bytes, stream: int = 0) -> None:
        """Send a small frame as soon as can be."""
        if self._sender is not None:
            self._sender.control(frame, stream)

    def bulk(self, head: bytes, payload: Buffer, stream: int) -> None:
        """Send data that there is credit for; `payload` does not change any more."""
        if self._sender is not None:
            self._sender.bulk(head, payload, stream)

    # Receiving

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: here is the socket."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio: the socket is gone."""
        self._lose(BoxLostError(f"the box is gone{f' ({exc})' if exc else ''}{self.diagnostics}"))

    def eof_received(self) -> bool:
        """asyncio: the engine closed its end."""
        return False

    def get_buffer(self, sizehint: int) -> bytearray:  # noqa: ARG002 (asyncio's)
        """asyncio: where to put bytes."""
        return self._incoming

    def buffer_updated(self, nbytes: int) -> None:
        """asyncio: bytes. Each piece is headed by the engine: which stream, how long."""
        raw = self._raw
        with memoryview(self._incoming) as incoming:
            raw += incoming[:nbytes]
        at = 0
        try:
            while len(raw) - at >= HEADER:
                end = at + HEADER + length_of(raw, at)
                if len(raw) < end:
                    break
                piece = raw[at + HEADER : end]
                if raw[at] == 2:
                    self._diagnostics += piece
                    del self._diagnostics[:-DIAGNOSTICS]
                else:
                    for header, payload in self._decoder.feed(piece):
                        self._dispatch(header, payload)
                at = end
        except WireError as error:
            self.violated(str(error))
            return
        del raw[:at]

    def _dispatch(self, header: dict[str, Any], payload: bytes) -> None:
        stream = self._streams.get(header.get("s", 0))
        kind = header["t"]
        if stream is not None:
            if kind in {"hello", "open", "signal", "resize"} or (kind == "cancel" and stream.id % 2):
                raise WireError("a frame that only a controller sends")
            stream.take(header, payload)
        elif kind == "hello":
            self._greet(header)
        elif kind == "open":
            self._accept(header, payload)
        elif header["s"] >= self._next if header["s"] % 2 else header["s"] > self._last_theirs:
            raise WireError("a frame for a stream that never was")

    def _greet(self, header: dict[str, Any]) -> None:
        if self._greeting.done():
            raise WireError("hello twice")
        if header["wire"] != WIRE:
            raise WireError(f"the box speaks version {header['wire']} of the wire, this program {WIRE}")
        self.features = frozenset(header["features"])
        # not before: writing to a box that failed to start would lose what it said of the reason
        counts = {kind: grant.limit for kind, grant in self._grants.items()}
        self.control(encode({"t": "hello", "wire": WIRE, "features": [], "grants": counts}))
        self._greeting.set_result(None)

    def _accept(self, header: dict[str, Any], payload: bytes) -> None:
        """The box opens a stream: within what was granted, or it is the end."""
        number, kind = header["s"], header["k"]
        grant = self._grants.get(kind)
        if grant is None or self._granted.get(kind, 0) >= grant.limit or header.get("more"):
            raise WireError("the box opened what it was not granted")
        if number % 2 or number <= self._last_theirs:
            raise WireError("a stream's number that cannot be")
        try:
            arguments = json.loads(payload or b"{}")
        except (ValueError, RecursionError) as error:
            raise WireError("arguments are no JSON") from error
        if not isinstance(arguments, dict):
            raise WireError("arguments are no object")
        self._last_theirs = number
        self._granted[kind] = self._granted.get(kind, 0) + 1
        stream = self._streams[number] = Stream(self, number, kind)
        grant.accept(stream, arguments)

    def close_stream(self, stream: Stream) -> None:
        """Its last frame came or went."""
        if self._streams.pop(stream.id, None) is not None:
            stream.closed = True
            if stream.id % 2 == 0:
                self._granted[stream.kind] -= 1
            elif self._sender is not None:
                self._sender.called(stream.id)

    def violated(self, reason: str) -> ProtocolError:
        """End the pipe for what came over it; the exception to raise."""
        error = ProtocolError(f"the box broke the protocol: {reason}")
        self._lose(error)
        return error

    def _lose(self, error: SandboxError) -> None:
        if self.error is not None:
            return
        self.error = error
        if self._transport is not None:
            self._transport.abort()
        if self._sender is not None:
            self._sender.close()
        for stream in list(self._streams.values()):
            stream.abandon()
        self._streams.clear()
        if not self._greeting.done():
            self._greeting.set_exception(error)
            self._greeting.exception()  # somebody may have given up waiting
        self.lost.set()


def length_of(raw: bytearray, at: int) -> int:
    """The length in an engine's header: stream 0 to 2, three zero bytes, four of length. Raises WireError."""
    length = int.from_bytes(raw[at + 4 : at + HEADER], "big")
    if length > ENGINE_FRAME or raw[at] > 2 or raw[at + 1] or raw[at + 2] or raw[at + 3]:
        raise WireError("what came is no engine's stream")
    return length


def refusal(header: dict[str, Any], path: str) -> SandboxError:
    """The exception for a fail frame."""
    detail = header.get("detail", "")
    if header["code"] == PathCode.NO_SPACE:
        return DiskFullError(f"{path}: no space left in the box")
    return PathError(header["code"], path, detail=detail)
