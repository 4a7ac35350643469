"""HTTP to a model provider, over httpcore2: one pool per session, streamed replies, and errors as ours.

httpcore2 is what httpx2 stands on: it follows no redirect and keeps no cookie, so that nothing carries
the key elsewhere. What stands here is what it leaves to its caller: the reply's coding, deadlines that
count sleep, another try when a kept connection turns out to be dead. Beneath it lies `runner.models.network`
in place of anyio. Measured on two cores against httpx2 as it comes: a request takes 0.8 ms of processor time
where that takes 2.0. Imported in a thread (`AnthropicModel`). Knows nothing of messages, keys or retries.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from typing import cast
from urllib.parse import unquote, urlsplit

import anyio
import httpcore2

from runner.errors import BrokenStreamError, InvalidRequestError, ModelError, OverloadedError
from runner.models.deadlines import Deadlines, Watch
from runner.models.network import Network, connected
from runner.models.route import PORTS, check_url, proxy_for, tls_context

KEEP_IDLE = 240.0  # seconds after which an unused connection is not trusted any more
SLEPT = 30.0  # seconds of sleep that no connection is trusted to have survived
DRAIN = 0.05  # seconds that the end of a reply may take to arrive after its last event
KEEP_ALIVE = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
if hasattr(socket, "TCP_KEEPIDLE"):
    KEEP_ALIVE.append((socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60))
KEPT = 4  # dead kept connections in a row that a request may meet
BROKEN = (httpcore2.ReadError, httpcore2.WriteError, httpcore2.RemoteProtocolError)
FAILED = (httpcore2.TimeoutException, httpcore2.NetworkError, httpcore2.ProtocolError, httpcore2.ProxyError)
INFLATED = 1 << 20  # bytes that a compressed reply becomes at one go, at most
EITHER_HEADER = zlib.MAX_WBITS | 32  # gzip's or zlib's


class Reply:
    """A reply whose head has come. Read `chunks` or `read`, then `finish` or `abort`."""

    def __init__(self, response: httpcore2.Response, *, watch: Watch, idle: float, expires: float) -> None:
        self.status = response.status
        self.headers: dict[str, str] = {}
        for name, value in response.headers:
            key, text = name.decode("latin-1").lower(), value.decode("latin-1")
            self.headers[key] = f"{self.headers[key]}, {text}" if key in self.headers else text
        self._response = response
        self._body = cast("AsyncGenerator[bytes]", aiter(cast("AsyncIterator[bytes]", response.stream)))
        self._watch = watch
        self._idle = idle
        self._expires = expires

    async def chunks(self) -> AsyncGenerator[bytes]:
        """The body, decompressed, as it comes. Raises BrokenStreamError."""
        coding = self.headers.get("content-encoding", "identity").strip().lower()
        if coding not in ("identity", "", "gzip", "deflate"):
            raise BrokenStreamError(f"the reply has an encoding that was not asked for: {coding[:40]}")
        inflating = zlib.decompressobj(EITHER_HEADER) if coding in ("gzip", "deflate") else None
        while True:
            try:
                async with self._watch.within("the reply", self._idle, self._expires):
                    chunk = await anext(self._body, None)
            except BROKEN as error:
                raise BrokenStreamError(f"the connection broke: {error}") from error
            if chunk is None:
                return
            if inflating is None:
                yield chunk
                continue
            try:
                while piece := inflating.decompress(chunk, INFLATED):
                    yield piece
                    chunk = inflating.unconsumed_tail
            except zlib.error as error:
                raise BrokenStreamError(f"the compressed reply is damaged: {error}") from error

    async def read(self, limit: int) -> bytes:
        """The body's first `limit` bytes; of a body that breaks off, what came."""
        body = b""
        with contextlib.suppress(BrokenStreamError):
            async with contextlib.aclosing(self.chunks()) as chunks:
                async for chunk in chunks:
                    body += chunk
                    if len(body) >= limit:
                        break
        return body[:limit]

    async def finish(self) -> None:
        """The caller has all that it wants: keeps the connection if the reply's end is near."""
        with contextlib.suppress(*BROKEN, TimeoutError):
            async with asyncio.timeout(DRAIN):
                async for _ in self._body:
                    pass
        await self.abort()

    async def abort(self) -> None:
        """Closes the connection of a reply that was not read to its end."""
        await self._body.aclose()
        await self._response.aclose()


class HttpClient:
    """Connections to one URL, as the environment says (proxies, authorities). One per session."""

    def __init__(self, url: str, *, environ: Mapping[str, str], deadlines: Deadlines, watch: Watch) -> None:
        """Takes 20 ms with https. Raises InvalidRequestError."""
        try:
            parts = check_url(url)
            proxy = proxy_for(url, environ)
            # A plain address needs no authorities.
            secure = parts.scheme == "https" or (proxy or "").startswith("https:")
            self._tls = tls_context(environ) if secure else None
        except ValueError as error:
            raise InvalidRequestError(str(error)) from error
        host = parts.hostname or ""
        self._host = f"[{host}]" if ":" in host else host
        if parts.port not in (None, PORTS[parts.scheme]):
            self._host += f":{parts.port}"
        self._url = httpcore2.URL(url)
        self._proxy = urlsplit(proxy) if proxy else None
        self._deadlines = deadlines
        self._watch = watch
        self._pool = self._make_pool()
        self._awake = self._asleep()
        anyio.run(anyio.sleep, 0)  # imports what the first request would, while still in the thread

    def _make_pool(self) -> httpcore2.AsyncConnectionPool:
        network, proxy = Network(KEEP_ALIVE), self._proxy
        if proxy is None:
            return httpcore2.AsyncConnectionPool(
                ssl_context=self._tls, max_connections=None, keepalive_expiry=KEEP_IDLE, network_backend=network
            )
        user, password = unquote(proxy.username or ""), unquote(proxy.password or "")
        return httpcore2.AsyncHTTPProxy(
            proxy_url=proxy.geturl(),
            proxy_auth=(user.encode(), password.encode()) if user or password else None,
            proxy_ssl_context=self._tls if proxy.scheme == "https" else None,
            ssl_context=self._tls,
            max_connections=None,
            keepalive_expiry=KEEP_IDLE,
            network_backend=network,
        )

    def _asleep(self) -> float:
        """Seconds that the machine has slept, from some beginning."""
        return self._watch.clock() - time.monotonic()

    async def post(self, headers: Mapping[str, str], body: bytes) -> Reply:
        """Sends and waits for the reply's head. Raises ModelError."""
        expires = self._watch.clock() + self._deadlines.total
        if self._asleep() - self._awake > SLEPT:
            stale, self._pool, self._awake = self._pool, self._make_pool(), self._asleep()
            await stale.aclose()
        sent = [(name.encode(), value.encode()) for name, value in headers.items()]
        sent = [(b"Host", self._host.encode()), *sent, (b"Content-Length", b"%d" % len(body))]
        extensions = {"timeout": {"connect": self._deadlines.connect}}
        for last in (False,) * KEPT + (True,):
            connected.set(False)
            request = httpcore2.Request("POST", self._url, headers=sent, content=body, extensions=extensions)
            try:
                async with self._watch.within("the provider's answer", self._deadlines.first_byte, expires):
                    response = await self._pool.handle_async_request(request)
                return Reply(response, watch=self._watch, idle=self._deadlines.idle, expires=expires)
            except BROKEN as error:
                if last or connected.get():  # else the provider closed it while it was idle: once more, on another one
                    raise BrokenStreamError(f"the connection broke: {error}") from error
            except FAILED as error:
                raise self._unreachable(error) from error
        raise AssertionError("the last round returns or raises")

    def _unreachable(self, error: Exception) -> ModelError:
        for cause in _causes(error):
            if isinstance(cause, ssl.SSLCertVerificationError):
                text = f"the certificate of {self._url.host.decode()}: {cause.verify_message}"
                return ModelError(f"{text} (NODE_EXTRA_CA_CERTS names further authorities)")
        through = f" through the proxy {self._proxy.hostname}" if self._proxy else ""
        if isinstance(error, httpcore2.ConnectTimeout):
            return OverloadedError(f"{self._host}{through}: no connection within {self._deadlines.connect:.0f} s")
        return OverloadedError(f"{self._host}{through}: {error}")

    async def close(self) -> None:
        """Closes all connections."""
        await self._pool.aclose()


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
