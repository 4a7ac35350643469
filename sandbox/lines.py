"""A connection of ours as bytes both ways: pieces go from the kernel to whoever reads as they came, without a copy."""

from __future__ import annotations

import asyncio
import ssl
from collections import deque

WAITING = 256 << 10  # bytes that nobody read yet, beyond which no more are taken from the kernel


class Line(asyncio.Protocol):
    """Made by `open`; `close` or `abort` ends it."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._pieces: deque[bytes] = deque()
        self._size = 0
        self._ended = False
        self._stopped = False
        self._full = False
        self._lost = False
        self._error: Exception | None = None
        self._reader: asyncio.Future[None] | None = None
        self._writers: set[asyncio.Future[None]] = set()

    @classmethod
    async def open(cls, host: str, port: int, *, trust: ssl.SSLContext | None = None, name: str | None = None) -> Line:
        """Connect; by TLS where `trust` is given, for the host `name`. Raises OSError."""
        line = cls()
        await asyncio.get_running_loop().create_connection(lambda: line, host, port, ssl=trust, server_hostname=name)
        return line

    async def secure(self, trust: ssl.SSLContext, name: str) -> None:
        """Speak TLS from here on. Raises OSError."""
        loop = asyncio.get_running_loop()
        self._transport = await loop.start_tls(self._there, self, trust, server_hostname=name)

    @property
    def at_end(self) -> bool:
        """Whether nothing more comes."""
        return self._ended and not self._pieces

    async def read(self) -> bytes:
        """What came next, b"" at the end. Raises OSError."""
        while not self._pieces:
            if self._error is not None:
                raise self._error
            if self._ended:
                return b""
            self._reader = asyncio.get_running_loop().create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        piece = self._pieces.popleft()
        self._size -= len(piece)
        if self._stopped and self._size <= WAITING // 2 and not self._lost:
            self._stopped = False
            self._there.resume_reading()
        return piece

    def unread(self, data: bytes) -> None:
        """Have these bytes come next."""
        if data:
            self._pieces.appendleft(data)
            self._size += len(data)

    def write(self, data: bytes) -> None:
        """Send as soon as can be."""
        self._there.write(data)

    async def drain(self) -> None:
        """Wait for room. Raises OSError."""
        if self._lost:
            raise self._error or ConnectionResetError("the connection is lost")
        if self._full:
            waiting = asyncio.get_running_loop().create_future()
            self._writers.add(waiting)
            try:
                await waiting
            finally:
                self._writers.discard(waiting)

    def write_end(self) -> None:
        """Nothing more is sent. Raises OSError."""
        if self._there.can_write_eof():
            self._there.write_eof()

    def close(self) -> None:
        """End it when what was written is sent."""
        self._there.close()

    def abort(self) -> None:
        """End it now."""
        self._there.abort()

    @property
    def _there(self) -> asyncio.Transport:
        assert self._transport is not None
        return self._transport

    # asyncio's

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is open."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Bytes came."""
        self._pieces.append(data)
        self._size += len(data)
        if self._size > WAITING and not self._stopped:
            self._stopped = True
            self._there.pause_reading()
        _wake(self._reader)

    def eof_received(self) -> bool:
        """No more will come; what is to be sent can still be, but by TLS."""
        self._ended = True
        _wake(self._reader)
        return self._there.get_extra_info("sslcontext") is None

    def connection_lost(self, exc: Exception | None) -> None:
        """It is over."""
        self._ended = self._lost = True
        self._error = exc
        _wake(self._reader)
        for waiting in self._writers:
            if not waiting.done():
                waiting.set_exception(exc or ConnectionResetError("the connection is lost"))

    def pause_writing(self) -> None:
        """There is no room."""
        self._full = True

    def resume_writing(self) -> None:
        """There is room again."""
        self._full = False
        for waiting in self._writers:
            _wake(waiting)


def _wake(future: asyncio.Future[None] | None) -> None:
    if future is not None and not future.done():
        future.set_result(None)
