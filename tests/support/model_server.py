"""A model provider on this machine, for tests and the bench: the Messages API's real wire format over HTTP.

In a test: `async with ModelServer(replies) as server`, then `server.url` and `server.requests`.
As a process of its own: `python tests/support/model_server.py --script turns.yaml` prints its
URL and serves until its standard input ends; `--sse FILE …` serves recorded streams instead,
`--loop` begins anew after the last reply, `--requests FILE` keeps each request as a line of JSON.
Its own time per request is some 0.2 ms: the bytes
of a reply are made before they are asked for.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gzip
import itertools
import json
import ssl
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TextIO, cast

if __name__ == "__main__":  # started as a file: the packages lie two levels up
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from runner.models.messages_reply import error_of
from runner.models.script import OURS, Script, ScriptedReply, content_of, events_of, load_script, usage_of

SSE = {"content-type": "text/event-stream; charset=utf-8", "request-id": "req_local"}
JSON = {"content-type": "application/json", "request-id": "req_local"}


@dataclass(frozen=True, slots=True, kw_only=True)
class WireReply:
    """One HTTP reply. `body` goes out in pieces (of `chunk` bytes, or cut as `pieces` says) of
    chunked encoding, `pace` seconds apart; after `stop_at` bytes the server does what `then` says.
    `interim`: a 1xx head first. `silent`: the connection is reset without a byte.
    """

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=lambda: dict(SSE))
    body: bytes = b""
    chunk: int = 0
    pieces: Sequence[int] = ()
    delay: float = 0.0
    pace: float = 0.0
    stop_at: int | None = None
    then: Literal["close", "reset", "hang", "end"] = "end"
    framing: Literal["chunked", "length", "close"] = "chunked"
    compressed: bool = False
    interim: bool = False
    silent: bool = False
    close_after: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """A request as it came."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    connection: int

    @property
    def json(self) -> Any:
        """The body, parsed."""
        return json.loads(self.body)


def sse(events: Iterable[dict[str, Any]]) -> bytes:
    """Events as the provider writes them."""
    return b"".join(b"event: %s\ndata: %s\n\n" % (e["type"].encode(), json.dumps(e).encode()) for e in events)


def recorded(path: Path, **how: Any) -> WireReply:
    """A recorded stream, byte for byte."""
    return WireReply(body=path.read_bytes(), **how)


def error(status: int, kind: str, message: str, **headers: str) -> WireReply:
    """An error with the provider's body. Header names in snake case."""
    body = {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_local"}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return WireReply(status=status, headers=JSON | named, body=json.dumps(body).encode(), framing="length")


def replies_of(script: Script, *, model: str = "claude-sonnet-5") -> Iterator[WireReply]:
    """What a scripted model would say, on the wire. `expect` is not looked at."""
    for number, reply in enumerate(script.played(), 1):
        yield wire_reply(reply, number, model=model)


def wire_reply(reply: ScriptedReply, number: int = 1, *, model: str = "claude-sonnet-5") -> WireReply:
    """One scripted reply on the wire."""
    fault = reply.error
    if fault is not None and fault.after is None and fault.type not in OURS:
        status = error_of(None, fault.type, "").status or 500
        wait = {} if fault.retry_after is None else {"retry_after": str(fault.retry_after)}
        return error(status, fault.type, fault.message or "scripted", **wait)
    blocks = content_of(reply, number)
    body = sse(events_of(reply, blocks, number=number, model=model, usage=usage_of(reply, blocks, 400)))
    if fault is not None and fault.type == "malformed":
        body += b"event: content_block_delta\ndata: {\n\n"
    return WireReply(
        body=body,
        delay=reply.delay,
        pace=reply.pace,
        chunk=256 if reply.pace else 0,
        stop_at=len(body) if fault is not None and fault.type in OURS else None,
        then="hang" if fault is not None and fault.type == "hang" else "close",
    )


class ModelServer:
    """Plays replies in order; when they have run out it answers 400 and says so."""

    def __init__(
        self, replies: Iterable[WireReply] = (), *, tls: ssl.SSLContext | None = None, keep: TextIO | None = None
    ) -> None:
        self._keep = keep
        self.requests: list[Received] = []
        self.connections = 0
        self._replies = iter(replies)
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._open: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def port(self) -> int:
        """Of the loopback interface."""
        assert self._server is not None
        return cast("int", self._server.sockets[0].getsockname()[1])

    @property
    def url(self) -> str:
        """For ANTHROPIC_BASE_URL."""
        return f"http{'s' if self._tls else ''}://{'localhost' if self._tls else '127.0.0.1'}:{self.port}"

    def receive(self, request: Received) -> None:
        """Keeps a request."""
        self.requests.append(request)
        if self._keep is not None:
            self._keep.write(json.dumps({"headers": request.headers, "body": request.json}) + "\n")
            self._keep.flush()

    def next_reply(self) -> WireReply:
        """What is said next."""
        return next(self._replies, None) or error(400, "invalid_request_error", "the server's replies have run out")

    def answering(self) -> None:
        """The reply to the last request goes out now, whole."""

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection(self), "127.0.0.1", 0, ssl=self._tls)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for connection in list(self._open):
            connection.abort()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()
        await asyncio.sleep(0)

    @property
    def busy(self) -> bool:
        """Whether a slow reply is still on its way."""
        return bool(self._tasks)

    def spawn(self, coroutine: Any) -> None:
        """Keeps a reply's task until the end."""
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def opened(self, connection: _Connection) -> int:
        """Numbers connections from 1."""
        self._open.add(connection)
        self.connections += 1
        return self.connections

    def closed(self, connection: _Connection) -> None:
        """It is gone."""
        self._open.discard(connection)


class _Connection(asyncio.Protocol):
    def __init__(self, server: ModelServer) -> None:
        self._server = server
        self._buffer = bytearray()
        self._number = 0
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._number = self._server.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.closed(self)

    def abort(self) -> None:
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            line, *fields = self._buffer[:end].decode("latin-1").split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (one.partition(":") for one in fields)}
            size = int(headers.get("content-length", "0"))
            if len(self._buffer) < end + 4 + size:
                return
            body = bytes(self._buffer[end + 4 : end + 4 + size])
            del self._buffer[: end + 4 + size]
            method, target, _ = line.split(" ")
            received = Received(method=method, target=target, headers=headers, body=body, connection=self._number)
            self._server.receive(received)
            reply = self._server.next_reply()
            if reply.silent:
                self._transport.abort()
                return
            if reply.delay or reply.pace or reply.stop_at is not None:
                self._server.spawn(self._slowly(reply))
            else:
                whole = _head(reply) + b"".join(_framed(reply, _pieces(reply))) + _end(reply)
                self._server.answering()
                self._transport.write(whole)
                self._after(reply)

    def _after(self, reply: WireReply) -> None:
        if reply.framing == "close" or reply.close_after:
            self._transport.close()

    async def _slowly(self, reply: WireReply) -> None:
        await asyncio.sleep(reply.delay)
        self._transport.write(_head(reply))
        for piece in _framed(reply, _pieces(reply)):
            if self._transport.is_closing():
                return
            self._transport.write(piece)
            await asyncio.sleep(reply.pace)
        match reply.then if reply.stop_at is not None else "end":
            case "end":
                self._transport.write(_end(reply))
                self._after(reply)
            case "close":
                self._transport.close()
            case "reset":
                self._transport.abort()
            case "hang":
                await asyncio.Event().wait()


def _head(reply: WireReply) -> bytes:
    fields = dict(reply.headers)
    if reply.framing == "chunked":
        fields["transfer-encoding"] = "chunked"
    if reply.framing == "length":
        fields["content-length"] = str(len(_payload(reply)))
    if reply.framing == "close":
        fields["connection"] = "close"
    if reply.compressed:
        fields["content-encoding"] = "gzip"
    lines = [f"HTTP/1.1 {reply.status} Said", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
    interim = "HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n" if reply.interim else ""
    return (interim + "\r\n".join(lines)).encode("latin-1")


def _payload(reply: WireReply) -> bytes:
    return gzip.compress(reply.body) if reply.compressed else reply.body


def _pieces(reply: WireReply) -> Iterator[bytes]:
    body = _payload(reply)[: reply.stop_at]
    if reply.pieces:
        cuts = [0, *itertools.accumulate(reply.pieces), len(body)]
        yield from (body[a:b] for a, b in itertools.pairwise(min(cut, len(body)) for cut in cuts) if a < b)
    elif reply.chunk:
        yield from (body[at : at + reply.chunk] for at in range(0, len(body), reply.chunk))
    elif body:
        yield body


def _framed(reply: WireReply, pieces: Iterable[bytes]) -> Iterator[bytes]:
    if reply.framing != "chunked":
        return iter(pieces)
    return (b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)


def _end(reply: WireReply) -> bytes:
    return b"0\r\n\r\n" if reply.framing == "chunked" else b""


async def _serve(replies: Sequence[WireReply], *, loop: bool, keep: TextIO | None) -> None:
    async with ModelServer(itertools.cycle(replies) if loop else replies, keep=keep) as server:
        print(server.url, flush=True)
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.to_thread(sys.stdin.buffer.read)


def main() -> None:
    """See the module's words."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--script", type=Path)
    parser.add_argument("--sse", type=Path, nargs="*", default=[])
    parser.add_argument("--chunk", type=int, default=0)
    parser.add_argument("--loop", action="store_true")
    parser.add_argument("--requests", type=Path)
    asked = parser.parse_args()
    replies = [*replies_of(load_script(asked.script))] if asked.script else []
    replies += [recorded(path, chunk=asked.chunk) for path in asked.sse]
    with contextlib.ExitStack() as stack:
        keep = stack.enter_context(asked.requests.open("w", encoding="utf-8")) if asked.requests else None
        asyncio.run(_serve(replies, loop=asked.loop, keep=keep))


if __name__ == "__main__":
    main()
