"""HTTP/1.1 to a model provider: kept-alive connections, streamed replies, deadlines, proxies, TLS.

h11 parses, asyncio carries. Not httpx2: measured on two cores, beside asyncio and pydantic,
its import, its first client and the backend that its first request imports take 80 + 20 + 70 ms
and each request of 35 chunks 2.2 ms, where all of this takes 42 ms (h11: 16) and 0.7 ms; the
start of the whole program has 700 ms, a turn of the agent 6. Redirects are never followed: they
would carry the key elsewhere. Knows nothing of messages, keys or retries.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import zlib
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass

import h11

from runner.models.connection import (
    Connection,
    CutError,
    StalledError,
    TransportError,
    UnreachableError,
    UntrustedError,
    Wire,
    boot_clock,
)
from runner.models.route import Endpoint, Route, route_to, tls_context

SLICE = 1 << 20  # most that one step of decompression may give
DRAIN = 0.05  # seconds that the end of a reply may take to arrive after its last event


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadlines:
    """Seconds: to connect (each of name, route, TLS together), until the reply's head, between
    two pieces of the reply, and for the whole request.
    """

    connect: float = 30.0
    first_byte: float = 600.0
    idle: float = 120.0
    total: float = 3600.0


class Reply:
    """A reply whose head has come. Read `chunks` or `read`, then `finish`; or `abort`."""

    def __init__(
        self, client: HttpClient, key: tuple[object, ...], connection: Connection, head: h11.Response, *, expires: float
    ) -> None:
        self.status = head.status_code
        self.headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in head.headers}
        self._client = client
        self._key = key
        self._connection = connection
        self._expires = expires
        self._ended = False
        coding = self.headers.get("content-encoding", "identity").strip().lower()
        if coding not in ("identity", "", "gzip", "x-gzip", "deflate"):
            connection.abort()
            raise CutError(f"the reply has an encoding that was not asked for: {coding[:40]}")
        self._inflate = None if coding in ("identity", "") else zlib.decompressobj(wbits=47)

    async def chunks(self, idle: float) -> AsyncGenerator[bytes]:
        """The body, decompressed, as it comes. Raises CutError, StalledError."""
        while not self._ended:
            event = await self._connection.event("the reply", idle, self._expires)
            if isinstance(event, h11.EndOfMessage):
                self._ended = True
            elif isinstance(event, h11.Data):
                for chunk in self._plain(bytes(event.data)):
                    yield chunk

    def _plain(self, data: bytes) -> list[bytes]:
        if self._inflate is None:
            return [data]
        chunks = []
        while data:
            try:
                chunks.append(self._inflate.decompress(data, SLICE))
            except zlib.error as error:
                raise CutError(f"the compressed reply is damaged: {error}") from error
            data = self._inflate.unconsumed_tail
        return chunks

    async def read(self, limit: int, idle: float) -> bytes:
        """The body's first `limit` bytes; of a body that breaks off, what came."""
        body = b""
        with contextlib.suppress(CutError, StalledError):
            async with contextlib.aclosing(self.chunks(idle)) as chunks:
                async for chunk in chunks:
                    body += chunk
                    if len(body) >= limit:
                        break
        return body[:limit]

    async def finish(self) -> None:
        """The caller has all that it wants: keeps the connection if the reply's end is near."""
        if not self._ended:
            with contextlib.suppress(TransportError, TimeoutError):
                async with asyncio.timeout(DRAIN):
                    async for _ in self.chunks(DRAIN):
                        pass
        if self._ended:
            self._client.give_back(self._key, self._connection)
        else:
            self.abort()

    def abort(self) -> None:
        """Closes the connection."""
        self._connection.abort()


class HttpClient:
    """Connections to providers, as the environment says (proxies, authorities). One per session."""

    def __init__(
        self,
        *,
        environ: Mapping[str, str],
        deadlines: Deadlines,
        clock: Callable[[], float] = boot_clock,
        tick: float = 5.0,
    ) -> None:
        self._environ = environ
        self._deadlines = deadlines
        self._clock = clock
        self._tick = tick
        self._tls: ssl.SSLContext | None = None
        self._idle: dict[tuple[object, ...], list[Connection]] = {}

    async def warm(self, url: str) -> None:
        """Has a connection to `url` ready. Raises TransportError, ValueError."""
        route = route_to(url, self._environ)
        if not self._idle.get(route.key):
            self._idle.setdefault(route.key, []).append(await self._connect(route))

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Reply:
        """Sends and waits for the reply's head. Raises TransportError; ValueError for a URL or a
        proxy that cannot be used. Source: RFC 9112.
        """
        route = route_to(url, self._environ)
        expires = self._clock() + self._deadlines.total
        fields = [("host", route.endpoint.authority), *headers.items(), *route.headers.items()]
        try:
            request = h11.Request(
                method="POST", target=route.target, headers=[*fields, ("content-length", str(len(body)))]
            )
        except (h11.LocalProtocolError, UnicodeError) as error:
            raise ValueError("the address of the model provider holds a character that no URL has") from error
        while True:
            connection = self._take(route) or await self._connect(route)
            try:
                connection.send(request, body)
                head = await connection.head("the provider's answer", self._deadlines.first_byte, expires)
                return Reply(self, route.key, connection, head, expires=expires)
            except CutError:
                connection.abort()
                if not connection.used:  # else the provider closed it while it was idle: once more, on a new one
                    raise
            except BaseException:
                connection.abort()
                raise

    def _take(self, route: Route) -> Connection | None:
        waiting = self._idle.get(route.key, [])
        while waiting:
            connection = waiting.pop()
            if connection.reusable():
                return connection
            connection.abort()
        return None

    def give_back(self, key: tuple[object, ...], connection: Connection) -> None:
        """Keeps a connection whose reply was read to its end."""
        if connection.release():
            self._idle.setdefault(key, []).append(connection)

    async def close(self) -> None:
        """Closes what is idle; replies still being read close theirs themselves."""
        for waiting in self._idle.values():
            while waiting:
                waiting.pop().abort()
        await asyncio.sleep(0)  # lets the transports see it

    async def _connect(self, route: Route) -> Connection:
        wire = Wire()
        transport: asyncio.Transport | None = None
        try:
            async with asyncio.timeout(self._deadlines.connect):
                transport = await self._dial(wire, route.proxy or route.endpoint)
                if route.tunnel:
                    await self._tunnel(wire, transport, route)
                    transport = await self._secure(wire, transport, route.endpoint.host)
        except ssl.SSLCertVerificationError as error:
            raise UntrustedError(f"the certificate of {route.endpoint.host}: {error.verify_message}") from error
        except TimeoutError as error:
            raise UnreachableError(f"{route.name}: no connection within {self._deadlines.connect:.0f} s") from error
        except (OSError, CutError) as error:
            raise UnreachableError(f"{route.name}: {error}") from error
        finally:
            if transport is None and wire.transport is not None:
                wire.transport.abort()
        return Connection(wire, transport, clock=self._clock, tick=self._tick)

    async def _dial(self, wire: Wire, to: Endpoint) -> asyncio.Transport:
        loop = asyncio.get_running_loop()
        context = await self._context() if to.secure else None
        transport, _ = await loop.create_connection(
            lambda: wire, to.host, to.port, ssl=context, happy_eyeballs_delay=0.25
        )
        raw = transport.get_extra_info("socket")
        if raw is not None:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if hasattr(socket, "TCP_KEEPIDLE"):
                raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60)
        return transport

    async def _tunnel(self, wire: Wire, transport: asyncio.Transport, route: Route) -> None:
        """CONNECT through a proxy (RFC 9110, section 9.3.6)."""
        proxy = Connection(wire, transport, clock=self._clock, tick=self._tick)
        target = f"{route.endpoint.host}:{route.endpoint.port}"
        headers = [("host", target), *route.proxy_headers.items()]
        proxy.send(h11.Request(method="CONNECT", target=target, headers=headers), b"")
        while not isinstance(
            head := await proxy.event("the proxy", self._deadlines.connect, float("inf")), h11.Response
        ):
            pass
        if not 200 <= head.status_code < 300:
            transport.abort()
            raise CutError(f"the proxy answered {head.status_code} {head.reason.decode('latin-1')}")

    async def _secure(self, wire: Wire, transport: asyncio.Transport, host: str) -> asyncio.Transport:
        secured = await asyncio.get_running_loop().start_tls(
            transport, wire, await self._context(), server_hostname=host
        )
        if secured is None:
            raise CutError("the connection broke while TLS began")
        wire.transport = secured
        return secured

    async def _context(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = await asyncio.to_thread(tls_context, self._environ)
        return self._tls
