"""HTTP to a model provider, over httpx2: one pool per session, streamed replies, and errors as ours.

Of httpx2 the transport alone: it follows no redirect and keeps no cookie, so that nothing carries
the key elsewhere. What stands here is what httpx2 leaves to its caller: deadlines that count sleep,
another try when a kept connection turns out to be dead. Measured on two
cores against a client of our own over h11: 0.1 s more from the process's start to the first request,
0.5 ms more per turn; both stay within the product's figures. Imported in a thread (`AnthropicModel`).
Knows nothing of messages, keys or retries.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time
from collections.abc import AsyncGenerator, Iterator, Mapping
from typing import Any

import anyio
import httpx2

from runner.errors import BrokenStreamError, InvalidRequestError, ModelError, OverloadedError
from runner.models.deadlines import Deadlines, Watch
from runner.models.route import check_url, proxy_for, tls_context

KEEP_IDLE = 240.0  # seconds after which an unused connection is not trusted any more
SLEPT = 30.0  # seconds of sleep that no connection is trusted to have survived
DRAIN = 0.05  # seconds that the end of a reply may take to arrive after its last event
KEEP_ALIVE = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
if hasattr(socket, "TCP_KEEPIDLE"):
    KEEP_ALIVE.append((socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60))
KEPT = 4  # dead kept connections in a row that a request may meet
BROKEN = (httpx2.ReadError, httpx2.WriteError, httpx2.RemoteProtocolError, OSError)  # OSError: TLS, not translated
CONNECTING = "connection.connect_tcp.started"  # of httpx2's trace: the request goes over a new connection


class Reply:
    """A reply whose head has come. Read `chunks` or `read`, then `finish` or `abort`."""

    def __init__(self, response: httpx2.Response, *, watch: Watch, idle: float, expires: float) -> None:
        self.status = response.status_code
        self.headers = dict(response.headers)
        self._response = response
        self._body = response.aiter_bytes()
        self._watch = watch
        self._idle = idle
        self._expires = expires

    async def chunks(self) -> AsyncGenerator[bytes]:
        """The rest of the body, decompressed, as it comes. Raises BrokenStreamError."""
        coding = self.headers.get("content-encoding", "identity").strip().lower()
        if coding not in ("identity", "", "gzip", "deflate"):
            raise BrokenStreamError(f"the reply has an encoding that was not asked for: {coding[:40]}")
        while True:
            try:
                async with self._watch.within("the reply", self._idle, self._expires):
                    chunk = await anext(self._body, None)
            except httpx2.DecodingError as error:
                raise BrokenStreamError(f"the compressed reply is damaged: {error}") from error
            except BROKEN as error:
                raise BrokenStreamError(f"the connection broke: {error}") from error
            if chunk is None:
                return
            yield chunk

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
        with contextlib.suppress(BrokenStreamError, TimeoutError):
            async with asyncio.timeout(DRAIN):
                async for _ in self.chunks():
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
            self._host = check_url(url).netloc.rpartition("@")[2]
            self._url = httpx2.URL(url)
            proxy = proxy_for(url, environ)
            # A plain address needs no authorities: the context that stands there trusts nobody.
            secure = self._url.scheme == "https" or (proxy or "").startswith("https:")
            self._tls = tls_context(environ) if secure else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            own = self._tls if (proxy or "").startswith("https:") else None
            self._proxy = httpx2.Proxy(proxy, ssl_context=own) if proxy else None
        except (ValueError, httpx2.InvalidURL) as error:
            raise InvalidRequestError(str(error)) from error
        self._deadlines = deadlines
        self._watch = watch
        self._transport = self._pool()
        self._awake = self._asleep()
        anyio.run(anyio.sleep, 0)  # imports what the first request would, while still in the thread

    def _pool(self) -> httpx2.AsyncHTTPTransport:
        return httpx2.AsyncHTTPTransport(
            verify=self._tls,
            trust_env=False,
            proxy=self._proxy,
            limits=httpx2.Limits(keepalive_expiry=KEEP_IDLE),
            socket_options=KEEP_ALIVE,
        )

    def _asleep(self) -> float:
        """Seconds that the machine has slept, from some beginning."""
        return self._watch.clock() - time.monotonic()

    async def post(self, headers: Mapping[str, str], body: bytes) -> Reply:
        """Sends and waits for the reply's head. Raises ModelError."""
        expires = self._watch.clock() + self._deadlines.total
        if self._asleep() - self._awake > SLEPT:
            stale, self._transport, self._awake = self._transport, self._pool(), self._asleep()
            await stale.aclose()
        for last in (False,) * KEPT + (True,):
            fresh = last

            async def trace(name: str, _: Mapping[str, Any]) -> None:
                nonlocal fresh
                fresh = fresh or name == CONNECTING

            extensions = {"timeout": {"connect": self._deadlines.connect}, "trace": trace}
            request = httpx2.Request("POST", self._url, headers=headers, content=body, extensions=extensions)
            try:
                async with self._watch.within("the provider's answer", self._deadlines.first_byte, expires):
                    response = await self._transport.handle_async_request(request)
                return Reply(response, watch=self._watch, idle=self._deadlines.idle, expires=expires)
            except BROKEN as error:
                if fresh:  # else the provider closed it while it was idle: once more, on another one
                    raise BrokenStreamError(f"the connection broke: {error}") from error
            except httpx2.TransportError as error:
                raise self._unreachable(error) from error
        raise AssertionError("the last round returns or raises")

    def _unreachable(self, error: httpx2.TransportError) -> ModelError:
        for cause in _causes(error):
            if isinstance(cause, ssl.SSLCertVerificationError):
                text = f"the certificate of {self._url.host}: {cause.verify_message}"
                return ModelError(f"{text} (NODE_EXTRA_CA_CERTS names further authorities)")
        through = f" through the proxy {self._proxy.url.host}" if self._proxy else ""
        if isinstance(error, httpx2.ConnectTimeout):
            return OverloadedError(f"{self._host}{through}: no connection within {self._deadlines.connect:.0f} s")
        return OverloadedError(f"{self._host}{through}: {error}")

    async def close(self) -> None:
        """Closes all connections."""
        await self._transport.aclose()


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
