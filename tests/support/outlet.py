"""The way out for tests without a box: a real pipe whose box end is played here, a judge that is told what to say,
names that resolve as a table says, and servers on the loopback interface.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

from sandbox.egress import Egress
from sandbox.leaving import Way
from sandbox.pipe import Pipe
from sandbox.reachable import Address, Network, network_of
from sandbox.rulings import Outcome, Request, Ruling
from sandbox.streams import Grant
from sandbox.wire import WINDOW, Decoder, encode

NO_RULE = b"no rule allows evil.example:80"
LOOPBACK = (network_of("127.0.0.0/8"),)
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass(kw_only=True)
class TableJudge:
    """Allows the hosts of `allowed` (`host`, or `host:port scheme`), where they may be on the loopback interface."""

    allowed: set[str]
    named: tuple[Network, ...] = LOOPBACK
    barred: tuple[Network, ...] = ()
    scheme: str = "https"
    asked: list[str] = field(default_factory=list)
    over: list[tuple[str, Outcome]] = field(default_factory=list)

    async def judge(self, request: Request) -> Ruling:
        self.asked.append(str(request))
        if request.host in self.allowed or f"{request.host}:{request.port} {request.scheme}" in self.allowed:
            return Ruling(allowed=True, named=self.named, barred=self.barred)
        return Ruling(allowed=False, reason=f"no rule allows {request.host}:{request.port}")

    def expected(self, host: str, port: int) -> str:
        return self.scheme

    def broken(self, request: Request, reason: str) -> None:
        self.over.append((str(request), Outcome(refusal=reason)))

    def ended(self, request: Request, ruling: Ruling, outcome: Outcome) -> None:
        self.over.append((str(request), outcome))


class Connection:
    """One connection of the box, as its client sees it."""

    def __init__(self, end: BoxEnd, number: int) -> None:
        self._end = end
        self.number = number
        self.incoming: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.credit = WINDOW
        self.more = asyncio.Event()

    async def send(self, data: bytes) -> None:
        """As far as there is credit, until the host is done."""
        while data and self.credit >= 0:
            if self.credit == 0:
                self.more.clear()
                await self.more.wait()
                continue
            piece = data[: min(self.credit, 60_000)]
            self.credit -= len(piece)
            data = data[len(piece) :]
            await self._end.say(encode({"t": "data", "s": self.number}, piece))

    def take(self, header: dict[str, Any], payload: bytes) -> None:
        if header["t"] == "data":
            self.incoming.put_nowait(payload)
        elif header["t"] == "credit":
            self.credit += header["add"]
        elif header["t"] in {"done", "fail"}:
            self.credit = -1
            self.incoming.put_nowait(None)
        self.more.set()

    async def end(self) -> None:
        await self._end.say(encode({"t": "end", "s": self.number}))

    async def leave(self) -> None:
        await self._end.say(encode({"t": "cancel", "s": self.number}))

    async def rest(self) -> bytes:
        """All that comes until the host is done."""
        parts = []
        while (data := await self.incoming.get()) is not None:
            parts.append(data)
        return b"".join(parts)

    async def until(self, mark: bytes) -> bytes:
        """What comes, up to where it holds `mark`."""
        found = b""
        while mark not in found:
            data = await self.incoming.get()
            assert data is not None, found
            found += data
        return found


class BoxEnd:
    """The box's end of a pipe."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._connections: dict[int, Connection] = {}
        self._last = 0
        self._turn = asyncio.Lock()

    async def say(self, frame: bytes) -> None:
        header = bytes([1, 0, 0, 0]) + len(frame).to_bytes(4, "big")
        async with self._turn:
            await asyncio.get_running_loop().sock_sendall(self._sock, header + frame)

    async def open(self) -> Connection:
        self._last += 2
        made = self._connections[self._last] = Connection(self, self._last)
        await self.say(encode({"t": "open", "s": self._last, "k": "tcp"}))
        return made

    async def listen(self) -> None:
        decoder = Decoder()
        while data := await asyncio.get_running_loop().sock_recv(self._sock, 1 << 16):
            for header, payload in decoder.feed(data):
                connection = self._connections.get(header.get("s", 0))
                if connection is None:
                    continue
                connection.take(header, payload)
                if payload:
                    await self.say(encode({"t": "credit", "s": connection.number, "add": len(payload)}))


@dataclass(kw_only=True)
class Outlet:
    """What a test has of it."""

    end: BoxEnd
    judge: TableJudge
    resolved: list[str]
    faults: list[Exception]

    async def say(self, data: bytes, *, end: bool = False) -> bytes:
        """One connection: all that is answered to it."""
        connection = await self.end.open()
        await connection.send(data)
        if end:
            await connection.end()
        async with asyncio.timeout(20):
            return await connection.rest()


@asynccontextmanager
async def outlet(
    judge: TableJudge, names: dict[str, str | list[str]] | None = None, **options: Any
) -> AsyncIterator[Outlet]:
    """An Egress at the end of a pipe; `options` are a Way's. Names resolve as `names` has them, of a list each time to
    the next.
    """
    table = dict(names or {})
    resolved: list[str] = []
    faults: list[Exception] = []

    async def resolve(host: str, _: int) -> tuple[Address, ...]:
        resolved.append(host)
        found = table.get(host, host)
        if isinstance(found, list):
            found = found.pop(0)
        try:
            return tuple(ip_address(word) for word in found.split())
        except ValueError:
            raise OSError("no such name") from None

    egress = Egress(Way(judge, resolver=resolve, **options), fault=faults.append)
    ours, theirs = socket.socketpair()
    end = BoxEnd(theirs)
    await end.say(encode({"t": "hello", "wire": 1, "features": []}))
    pipe = await Pipe.connect(ours, grants={"tcp": Grant(limit=256, accept=egress.accept)})
    listening = asyncio.create_task(end.listen())
    try:
        yield Outlet(end=end, judge=judge, resolved=resolved, faults=faults)
    finally:
        await egress.close()
        pipe.close()
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
        theirs.close()
    assert faults == []


@asynccontextmanager
async def serving(serve: Serve, host: str = "127.0.0.1", *, secure: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """A server on the loopback interface; its port."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(handle, host, 0, ssl=secure)
    try:
        yield int(server.sockets[0].getsockname()[1])
    finally:
        server.close()


@dataclass
class Heard:
    """What a server heard."""

    requests: list[bytes] = field(default_factory=list)

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """HTTP that answers every request with its number."""
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            self.requests.append(head)
            body = b"answer %d" % len(self.requests)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
            await writer.drain()

    async def echo(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Every byte comes back."""
        while data := await reader.read(1 << 16):
            self.requests.append(data)
            writer.write(data)
            await writer.drain()


async def over_tls(connection: Connection, name: str, certificate: bytes, data: bytes, *, until: bytes = b"") -> bytes:
    """Speak TLS as a client that trusts one authority; all answered, or what is `until` a mark. ssl.SSLError."""
    context = ssl.create_default_context(cadata=certificate.decode())
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname=name)

    async def until_done(step: Callable[[], Any]) -> Any:
        while True:
            try:
                done = step()
            except ssl.SSLWantReadError:
                await connection.send(outgoing.read())
                more = await connection.incoming.get()
                if more is None:
                    incoming.write_eof()
                else:
                    incoming.write(more)
            except ssl.SSLError:
                await connection.send(outgoing.read())
                raise
            else:
                await connection.send(outgoing.read())
                return done

    await until_done(tls.do_handshake)
    tls.write(data)
    answer = b""
    while (not until or until not in answer) and (piece := await until_done(lambda: tls.read(1 << 16))):
        answer += piece
    return answer


def client_hello(name: str, *, more: bytes = b"", records: int = 1) -> bytes:
    """A ClientHello as any client sends it, for `name` ("" for none), with further extensions; in so many records."""
    entry = name.encode("latin-1")
    server_name = b"\0" + len(entry).to_bytes(2, "big") + entry
    extensions = more
    if name:
        listed = len(server_name).to_bytes(2, "big") + server_name
        extensions = extension(0, listed) + more
    body = b"\x03\x03" + bytes(32) + b"\0" + b"\0\x02\x13\x01" + b"\x01\0"
    body += len(extensions).to_bytes(2, "big") + extensions
    message = b"\x01" + len(body).to_bytes(3, "big") + body
    step = -(-len(message) // records)
    parts = [message[at : at + step] for at in range(0, len(message), step)]
    return b"".join(b"\x16\x03\x01" + len(part).to_bytes(2, "big") + part for part in parts)


def extension(kind: int, content: bytes) -> bytes:
    """A TLS extension."""
    return kind.to_bytes(2, "big") + len(content).to_bytes(2, "big") + content


def get(host: str, path: str = "/", *, header: str = "", method: str = "GET") -> bytes:
    return f"{method} http://{host}{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{header}\r\n".encode()


def connect(where: str, *, header: str = "") -> bytes:
    return f"CONNECT {where} HTTP/1.1\r\nHost: {where}\r\n{header}\r\n".encode()


def socks(host: bytes, port: int, *, command: int = 1, kind: int = 3) -> bytes:
    address = bytes([len(host)]) + host if kind == 3 else host
    return b"\x05\x01\x00" + b"\x05" + bytes([command]) + b"\x00" + bytes([kind]) + address + struct.pack(">H", port)


async def refused_unresolved(out: Outlet, data: bytes) -> bytes:
    """The answer to what must not get out, and must not have been resolved either."""
    answer = await out.say(data, end=True)
    assert out.resolved == []
    return answer
