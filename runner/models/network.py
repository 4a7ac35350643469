"""TCP and TLS for httpcore2 on asyncio's own transports: what its connections read and write, and nothing of HTTP.

In place of httpcore2's default, which goes through anyio: that takes three times as long per request. A request's
head waits for its body and both go out at one stroke, when the reply is read.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterable
from contextvars import ContextVar
from typing import Any

import httpcore2

HELD = 256 << 10  # bytes that came and were not read yet, beyond which no more are taken
TOGETHER = 64 << 10  # bytes that wait for company at most
SECOND_ADDRESS = 0.25  # seconds until a host's next address is tried beside the first (RFC 8305)

connected: ContextVar[bool] = ContextVar("connected", default=False)  # set where a connection was made in this context


class Stream(asyncio.Protocol, httpcore2.AsyncNetworkStream):
    """One connection. Times are its user's affair: no call takes a `timeout` but those that connect."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport
        self._received = bytearray()
        self._unsent: list[bytes] = []
        self._ended = self._reading_paused = False
        self._error: Exception | None = None
        self._reader: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self._lost = asyncio.get_running_loop().create_future()

    # asyncio's calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Here is the socket."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Bytes came."""
        self._received += data
        if len(self._received) > HELD and not self._reading_paused:
            self._reading_paused = True
            self._transport.pause_reading()
        _wake(self._reader)

    def eof_received(self) -> bool:
        """No more will come."""
        self._ended = True
        _wake(self._reader)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        self._ended, self._error = True, exc
        _wake(self._reader)
        _wake(self._room)
        _wake(self._lost)

    def pause_writing(self) -> None:
        """The socket is full."""
        self._room = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        """There is room again."""
        _wake(self._room)
        self._room = None

    # httpcore2's

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """What has come, at least a byte; b"" at the end. Raises ReadError."""
        assert timeout is None
        await self._flush()
        while not self._received:
            if self._error is not None:
                raise httpcore2.ReadError(str(self._error)) from self._error
            if self._ended:
                return b""
            self._reader = asyncio.get_running_loop().create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        data = bytes(self._received[:max_bytes])
        del self._received[:max_bytes]
        if self._reading_paused and len(self._received) <= HELD:
            self._reading_paused = False
            self._transport.resume_reading()
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Send bytes, before the next read at the latest. Raises WriteError."""
        assert timeout is None
        if len(buffer) > TOGETHER:
            await self._flush()
        if buffer:
            self._unsent.append(buffer)
        if len(buffer) > TOGETHER:
            await self._flush()

    async def _flush(self) -> None:
        if not self._unsent:
            return
        data = b"".join(self._unsent) if len(self._unsent) > 1 else self._unsent[0]
        self._unsent.clear()
        if self._transport.is_closing():
            raise httpcore2.WriteError(str(self._error or "it is closed"))
        self._transport.write(data)
        if self._room is not None:
            await self._room
            if self._error is not None:
                raise httpcore2.WriteError(str(self._error)) from self._error

    async def aclose(self) -> None:
        """Let it go, whatever is on its way."""
        self._transport.abort()
        await self._lost

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> Stream:
        """This connection, secured. Raises ConnectTimeout, ConnectError; it is closed then."""
        await self._flush()
        try:
            async with asyncio.timeout(timeout):
                secured = await asyncio.get_running_loop().start_tls(
                    self._transport, self, ssl_context, server_hostname=server_hostname
                )
        except BaseException as error:
            self._transport.abort()
            if isinstance(error, TimeoutError):
                raise httpcore2.ConnectTimeout(str(error)) from error
            if isinstance(error, OSError):
                raise httpcore2.ConnectError(str(error)) from error
            raise
        assert secured is not None
        self._transport = secured
        return self

    def get_extra_info(self, info: str) -> Any:
        """`is_readable`: of an idle connection, whether the other end gave it up."""
        if info == "is_readable":
            return self._ended or bool(self._received)
        return self._transport.get_extra_info("ssl_object") if info == "ssl_object" else None


class Network(httpcore2.AsyncNetworkBackend):
    """Makes connections, each with these `options` of its socket; `connected` is set then."""

    def __init__(self, options: Iterable[tuple[int, int, int]]) -> None:
        self._options = tuple(options)

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> Stream:
        """Raises ConnectTimeout, ConnectError."""
        assert local_address is None
        assert socket_options is None
        connected.set(True)
        try:
            async with asyncio.timeout(timeout):
                transport, stream = await asyncio.get_running_loop().create_connection(
                    Stream, host, port, happy_eyeballs_delay=SECOND_ADDRESS
                )
        except TimeoutError as error:
            raise httpcore2.ConnectTimeout(str(error)) from error
        except (OSError, UnicodeError) as error:
            raise httpcore2.ConnectError(str(error)) from error
        for option in self._options:
            transport.get_extra_info("socket").setsockopt(*option)
        return stream


def _wake(future: asyncio.Future[None] | None) -> None:
    if future is not None and not future.done():
        future.set_result(None)
