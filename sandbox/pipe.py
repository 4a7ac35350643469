"""The controller's end of the pipe: frames over one socket to the box, as streams with credit.

What comes is hostile: every frame is checked, every bound kept, and whatever does not fit ends the
pipe with ProtocolError. Losing the pipe wakes every waiter with BoxLostError at once.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from sandbox.errors import BoxLostError, BoxStartError, DiskFullError, PathError, ProtocolError, SandboxError
from sandbox.wire import PAYLOAD, STREAMS, WINDOW, WIRE, Decoder, Outbox, PathCode, WireError, encode

Frame: TypeAlias = tuple[dict[str, Any], bytes]

HEADER = 8
ENGINE_FRAME = 16 << 20
JOINED = 4096
OTHER_FRAMES = 64
DIAGNOSTICS = 16 << 10
BODY = 128 << 20
DEADLINE = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What the box may open by itself: at most `limit` streams of one kind at a time. `accept` gets the
    stream and its arguments (already parsed JSON, not trusted), and owns it from then on.
    """

    limit: int
    accept: Callable[[Stream, dict[str, Any]], None]


class Stream:
    """One conversation over the pipe. Made by `Pipe.open` or handed to a Grant's `accept`."""

    def __init__(self, pipe: Pipe, number: int, kind: str) -> None:
        self.id = number
        self.kind = kind
        self.closed = False
        self._pipe = pipe
        self._frames: deque[Frame] = deque()
        self._reader: asyncio.Future[None] | None = None
        self._credit = WINDOW
        self._writer: asyncio.Future[None] | None = None
        self._unread = 0
        self._eaten = 0
        self._ignored = False
        self._others = 0
        self.on_cancel: Callable[[], object] | None = None

    async def receive(self) -> Frame:
        """The next frame: started, data, end, then exactly one done or fail; of a stream that the box opened data, end
        and cancel (its client is gone: `on_cancel` is called too). Raises BoxLostError.
        """
        while not self._frames:
            if self._pipe.error is not None:
                raise self._pipe.gone()
            self._reader = asyncio.get_running_loop().create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        header, payload = frame = self._frames.popleft()
        if header["t"] == "data":
            self._unread -= len(payload)
            self._eat(len(payload))
        return frame

    async def send(self, data: bytes) -> None:
        """Send bytes, waiting for credit. Does nothing once the stream is closed. Raises BoxLostError."""
        view = memoryview(data)
        while view and not self.closed:
            if self._credit <= 0:
                await self._wait_for_credit()
                continue
            piece = view[: min(PAYLOAD, self._credit)]
            self._credit -= len(piece)
            self._pipe.bulk(encode({"t": "data", "s": self.id, "c": 0}, bytes(piece)), self.id)
            view = view[len(piece) :]

    def tell(self, kind: str, **fields: object) -> None:
        """Send a small frame: end, cancel, signal, resize, done, fail. Does nothing once closed or lost."""
        if self.closed or self._pipe.error is not None:
            return
        self._pipe.control(encode({"t": kind, "s": self.id, **fields}), self.id)
        if kind in {"done", "fail"}:
            self._pipe.close_stream(self)

    def ignore(self) -> None:
        """Take no more interest: what still comes is dropped, and credit for it given back."""
        self._ignored = True
        for header, payload in self._frames:
            if header["t"] == "data":
                self._eat(len(payload))
        self._frames.clear()
        self._unread = 0

    async def _wait_for_credit(self) -> None:
        if self._pipe.error is not None:
            raise self._pipe.gone()
        self._writer = asyncio.get_running_loop().create_future()
        try:
            await self._writer
        finally:
            self._writer = None

    def _eat(self, count: int) -> None:
        self._eaten += count
        if self._eaten >= WINDOW // 4 and not self.closed:
            self.tell("credit", add=self._eaten)
            self._eaten = 0

    def take(self, header: dict[str, Any], payload: bytes) -> None:
        """A frame came (called by the pipe)."""
        kind = header["t"]
        if kind == "credit":
            self._credit += header["add"]
            wake(self._writer)
            return
        if kind == "data":
            if self._ignored:
                self._eat(len(payload))
                return
            self._unread += len(payload)
            if self._unread > WINDOW:
                raise WireError("more data than credit")
        elif kind in {"done", "fail"}:
            self._pipe.close_stream(self)
            wake(self._writer)
        elif kind == "cancel" and self.on_cancel is not None:
            self.on_cancel()
        if not self._ignored:
            self._keep(header, payload)
            wake(self._reader)

    def _keep(self, header: dict[str, Any], payload: bytes) -> None:
        """Have it wait to be received. What waits is bounded by the bytes that there is credit for: small pieces of
        what the box sends by itself are joined, and of other frames there are few.
        """
        frames = self._frames
        if header["t"] != "data":
            self._others += 1
            if self._others > OTHER_FRAMES:
                raise WireError("more frames than a stream has")
        elif self.id % 2 == 0 and frames and frames[-1][0]["t"] == "data" and len(frames[-1][1]) < JOINED:
            header, before = frames.pop()
            payload = before + payload
        frames.append((header, payload))

    def abandon(self) -> None:
        """The pipe is gone (called by the pipe)."""
        self.closed = True
        wake(self._reader)
        wake(self._writer)


def wake(future: asyncio.Future[None] | None) -> None:
    """Let whoever waits go on."""
    if future is not None and not future.done():
        future.set_result(None)


class Pipe(asyncio.Protocol):
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
        self._outbox = Outbox()
        self._paused = False
        self._streams: dict[int, Stream] = {}
        self._next = 1
        self._last_theirs = 0
        self._granted: dict[str, int] = {}
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
        data = json.dumps(arguments, separators=(",", ":")).encode("ascii")
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
        if self._transport is None or self._paused or self._outbox:
            self._outbox.control(frame, stream)
        else:
            self._transport.write(frame)

    def bulk(self, frame: bytes, stream: int) -> None:
        """Send data that there is credit for."""
        self._outbox.data(frame, stream)
        self._flush()

    def _flush(self) -> None:
        while self._outbox and not self._paused and self._transport is not None:
            self._transport.write(self._outbox.take())

    def pause_writing(self) -> None:
        """asyncio: the socket is full."""
        self._paused = True

    def resume_writing(self) -> None:
        """asyncio: there is room again."""
        self._paused = False
        self._flush()

    # Receiving

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: here is the socket."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio: the socket is gone."""
        self._lose(BoxLostError(f"the box is gone{f' ({exc})' if exc else ''}{self.diagnostics}"))

    def eof_received(self) -> bool:
        """asyncio: the engine closed its end."""
        return False

    def data_received(self, data: bytes) -> None:
        """asyncio: bytes. Each piece is headed by the engine: which stream, how long."""
        raw = self._raw
        raw += data
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
