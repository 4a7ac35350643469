"""Tunnels: CONNECT and SOCKS5h (RFC 1928). TLS is passed through where the host that the client names in its hello,
and in a second one where the server asks for that, is the one that was asked for; plain HTTP in a tunnel is read like
any other; whatever else needs a rule on tcp.
"""

from __future__ import annotations

import asyncio
import ssl
import struct
from ipaddress import IPv4Address, IPv6Address
from typing import Protocol

from sandbox.client import Client
from sandbox.hello import HelloError, HelloReader, SecondHelloReader, asks_again
from sandbox.hosts import HostError, host_of
from sandbox.leaving import Asked, Way
from sandbox.opened import OpenedClient
from sandbox.reachable import literal
from sandbox.refusals import GIVEN_UP, GoneError, RefusedError
from sandbox.rulings import Request
from sandbox.upstream import Upstream

SOCKS = 5
CONNECT = 1
DONE, FAILED, NOT_ALLOWED, UNREACHABLE, UNKNOWN_COMMAND, UNKNOWN_ADDRESS = 0, 1, 2, 4, 7, 8
NOT_LOOKED_INTO = "what is inside of its TLS would have to be judged, and cannot be looked into"
NOT_PLAIN = "neither TLS nor HTTP is spoken, which only a rule on tcp:// allows"


class Converse(Protocol):
    """Reads plain HTTP in a tunnel, each request judged by itself."""

    async def __call__(self, way: Way, client: Client, *, within: tuple[str, int], secure: bool = False) -> None:
        """Raises GoneError, OSError, TimeoutError."""
        ...


class Tunnel:
    """A way to one host and port that was allowed and is open. `pass_on` takes it from the first byte to the end.
    Where each request in it is judged by itself (plain HTTP, or TLS that ends here), nothing is open yet.
    """

    def __init__(
        self,
        way: Way,
        client: Client,
        plain: Converse,
        request: Request,
        opened: tuple[Asked, Upstream] | None,
    ) -> None:
        self._way = way
        self._client = client
        self._converse = plain
        self._request = request
        self._place = (request.host, request.port)
        self._opened = opened

    @classmethod
    async def open(cls, way: Way, client: Client, plain: Converse, host: str, port: int) -> Tunnel:
        """Decide and connect. Raises RefusedError."""
        scheme = before = way.judge.expected(host, port)
        inspected = scheme == "inspected" and way.authority is not None
        scheme = "https" if scheme == "inspected" else scheme
        request = Request(host=host, port=port, scheme=scheme, method="CONNECT")
        if inspected or scheme == "http":
            return cls(way, client, plain, request, None)
        try:
            asked = await way.ask(client, request)
        except RefusedError:
            if way.authority is None or way.judge.expected(host, port) != "inspected":
                raise
            return cls(way, client, plain, request, None)
        if before != way.judge.expected(host, port) == "inspected":  # the answer was that each request in it is judged
            if way.authority is None:
                asked.close(NOT_LOOKED_INTO)
                raise RefusedError(NOT_LOOKED_INTO)
            asked.close()
            return cls(way, client, plain, request, None)
        try:
            upstream = await way.connect(asked)
        except BaseException:
            asked.close(failure=GIVEN_UP)
            raise
        way.tape.missed(request, "a tunnel whose bytes were not looked into")
        return cls(way, client, plain, request, (asked, upstream))

    async def pass_on(self) -> None:
        """All that is said. Raises GoneError, OSError, TimeoutError."""
        if self._opened is None:
            await (self._inspect() if self._request.scheme == "https" else self._plainly())
            return
        asked, upstream = self._opened
        refusal, failure = "", GIVEN_UP
        try:
            if asked.request.scheme != "tcp":
                hello = await self._first()
                if hello is None:
                    refusal = "plain HTTP was spoken in it, of which each request is judged by itself"
                else:
                    upstream.line.write(hello)
                    await upstream.line.drain()
                    await self._retry(upstream)
            failure = ""
            if not refusal:
                async with asked.in_time():
                    await self._way.relay(self._client, upstream)
        except RefusedError as refused:
            refusal, failure = refused.reason, ""
        finally:
            asked.close(refusal, failure=failure)
            upstream.close()
        if refusal.startswith("plain"):
            await self._plainly()

    async def _plainly(self) -> None:
        await self._converse(self._way, self._client, within=self._place)

    async def _inspect(self) -> None:
        """TLS that ends here, for the host that was asked for: what is asked in it is judged by itself."""
        assert self._way.authority is not None
        try:
            hello = await self._first()
            if hello is None:
                await self._plainly()
                return
            self._client.unread(hello)
            opened = OpenedClient(self._client, self._way.authority.context(self._request.host))
            async with asyncio.timeout(self._way.bounds.first):
                await opened.handshake()
        except RefusedError as refused:
            self._way.judge.broken(self._request, refused.reason)
            return
        except (ssl.SSLError, TimeoutError) as error:
            self._way.judge.broken(self._request, f"the client does not take this session's certificate: {error}")
            return
        await self._converse(self._way, opened, within=self._place, secure=True)
        await opened.finish()

    async def _retry(self, upstream: Upstream) -> None:
        """The server's first word, and where that asks for another hello, the client's, which has to be for the same
        host: nothing of the client's passes before. Raises RefusedError, GoneError, OSError, TimeoutError.
        """
        answer = b""
        try:
            async with asyncio.timeout(self._way.bounds.idle):
                while (again := asks_again(answer)) is None and (data := await upstream.line.read()):
                    answer += data
        except HelloError as error:
            raise RefusedError(f"TLS with {error}") from error
        if answer:
            await self._client.write(answer)
        if again:
            reader = SecondHelloReader()
            await self._first(reader)
            upstream.line.write(bytes(reader.passed + reader.data))
            await upstream.line.drain()

    async def _first(self, reader: HelloReader | None = None) -> bytes | None:
        """The client's hello as it came; None where it speaks HTTP. Raises RefusedError, GoneError."""
        host, first = self._request.host, reader is None
        reader = reader or HelloReader()
        try:
            async with asyncio.timeout(self._way.bounds.first):
                hello = None
                while hello is None:
                    data = await self._client.read()
                    if not data:
                        raise GoneError
                    if first and not reader.data and data[:1].isalpha():
                        self._client.unread(data)
                        return None
                    hello = reader.feed(data)
            self._client.unread(reader.rest)
            name = host_of(hello.name) if hello.name else ""
        except HelloError as error:
            raise RefusedError(f"{NOT_PLAIN}" if str(error) == "no TLS" else f"TLS with {error}") from error
        except HostError as error:
            raise RefusedError(f"TLS for {error}") from error
        except TimeoutError as error:
            raise RefusedError(f"the client waits to be spoken to: {NOT_PLAIN}") from error
        if not name and literal(host) is None:
            raise RefusedError("TLS without a server name")
        if name and name != host:
            raise RefusedError(f"TLS for {name} in a tunnel to {host}")
        return bytes(reader.data)


async def socks(way: Way, client: Client, *, plain: Converse) -> None:
    """A SOCKS5 connection, from its greeting on. Names are resolved on the host only. Raises GoneError, OSError."""
    async with asyncio.timeout(way.bounds.head):
        version, count = await _take(client, 2)
        methods = await _take(client, count)
        if version != SOCKS or 0 not in methods:
            await client.write(b"\x05\xff")
            return
        await client.write(b"\x05\x00")
        version, command, _, kind = await _take(client, 4)
        host = await _host(client, kind)
        (port,) = struct.unpack(">H", await _take(client, 2))
    code = DONE
    if version != SOCKS or command != CONNECT:
        code = UNKNOWN_COMMAND
    elif host is None or not port:
        code = UNKNOWN_ADDRESS
    if code or host is None:
        await _answer(client, code)
        return
    try:
        tunnel = await Tunnel.open(way, client, plain, host, port)
    except RefusedError as refused:
        await _answer(client, NOT_ALLOWED if refused.status == 403 else UNREACHABLE)
        return
    await _answer(client, DONE)
    await tunnel.pass_on()


async def _host(client: Client, kind: int) -> str | None:
    """The host that is asked for, None for none that is clear."""
    try:
        match kind:
            case 1:
                return str(IPv4Address(await _take(client, 4)))
            case 3:
                (size,) = await _take(client, 1)
                return host_of((await _take(client, size)).decode("ascii"))
            case 4:
                return str(IPv6Address(await _take(client, 16)))
    except (HostError, UnicodeDecodeError):
        return None
    raise GoneError


async def _take(client: Client, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = await client.read()
        if not more:
            raise GoneError
        data += more
    client.unread(data[count:])
    return data[:count]


async def _answer(client: Client, code: int) -> None:
    await client.write(bytes([SOCKS, code, 0, 1, 0, 0, 0, 0, 0, 0]))
