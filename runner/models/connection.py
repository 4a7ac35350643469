"""One kept-alive HTTP/1.1 connection: bytes in order, deadlines that count sleep, and the errors of both.

Knows nothing of where it leads, proxies or TLS: `runner.models.transport` opens and keeps them.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import cast

import h11

READ_AHEAD = 256 << 10  # bytes held for a slow reader before the socket is no longer read
KEEP_IDLE = 240.0  # seconds after which an unused connection is not trusted any more


class TransportError(Exception):
    """Root of what goes wrong between here and the provider."""


class UnreachableError(TransportError):
    """No connection: name, route, refusal, proxy or handshake. Trying again may help."""


class UntrustedError(TransportError):
    """The peer's certificate does not verify. Trying again does not help."""


class CutError(TransportError):
    """The connection broke, or what came is not HTTP."""


class StalledError(TransportError):
    """A deadline passed; time that the machine slept counts."""


def boot_clock() -> float:
    """Seconds on a clock that goes on while the machine sleeps (CLOCK_BOOTTIME where there is one)."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class Wire(asyncio.Protocol):
    """Bytes of one connection, in order; what came before a reset is still given out."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.closed = False
        self.error: Exception | None = None
        self._buffer = bytearray()
        self._waiter: asyncio.Future[None] | None = None
        self._paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: it is open."""
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """asyncio: bytes came."""
        self._buffer += data
        if len(self._buffer) > READ_AHEAD and not self._paused and self.transport is not None:
            self.transport.pause_reading()
            self._paused = True
        self._wake()

    def eof_received(self) -> None:
        """asyncio: the peer will send no more."""
        self.closed = True
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio: it is closed."""
        self.closed = True
        self.error = exc
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def take(self) -> bytes | None:
        """What has come; b"" at the end; None: nothing yet."""
        if not self._buffer:
            return b"" if self.closed else None
        data = bytes(self._buffer)
        self._buffer.clear()
        if self._paused and self.transport is not None:
            self.transport.resume_reading()
            self._paused = False
        return data

    async def wait(self) -> None:
        """Until something has come. May be cancelled without loss."""
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None


class Connection:
    """One kept-alive connection: at most one request at a time."""

    def __init__(self, wire: Wire, transport: asyncio.Transport, *, clock: Callable[[], float], tick: float) -> None:
        self._wire = wire
        self._transport = transport
        self._clock = clock
        self._tick = tick
        self._http = h11.Connection(h11.CLIENT)
        self.used = False
        self.idle_since = clock()

    def reusable(self) -> bool:
        """Whether another request may be tried on it."""
        fresh = self._clock() - self.idle_since < KEEP_IDLE
        return fresh and not self._wire.closed and self._http.our_state is h11.IDLE and self._wire.take() is None

    def send(self, request: h11.Request, body: bytes) -> None:
        """Hands all of it to the kernel in the background; a failure shows when the reply is read."""
        head = self._http.send(request) or b""
        data = self._http.send_with_data_passthrough(h11.Data(data=body)) or []
        tail = self._http.send(h11.EndOfMessage()) or b""
        self._transport.writelines([head, *data, tail])

    async def head(self, what: str, seconds: float, expires: float) -> h11.Response:
        """The reply's status and headers; interim replies (1xx) are passed over."""
        while True:
            event = await self.event(what, seconds, expires)
            if isinstance(event, h11.Response):
                return event

    async def event(self, what: str, seconds: float, expires: float) -> h11.Event:
        """The next thing that came. Raises CutError, StalledError."""
        while True:
            try:
                event = self._http.next_event()
            except h11.RemoteProtocolError as error:
                raise CutError(f"the connection broke: {self._wire.error or error}") from error
            if event is h11.PAUSED:
                raise CutError("the provider sent more than one reply")
            if event is not h11.NEED_DATA:
                return cast("h11.Event", event)
            self._http.receive_data(await self._read(what, seconds, expires))

    async def _read(self, what: str, seconds: float, expires: float) -> bytes:
        """Waits in ticks and looks at the clock after each: timers stand still while the machine
        sleeps, and after an hour of sleep no provider is there any more.
        """
        began = self._clock()
        while True:
            data = self._wire.take()
            if data is not None:
                return data
            now = self._clock()
            left = min(began + seconds, expires) - now
            if now - began >= seconds:
                raise StalledError(f"nothing came for {now - began:.0f} s while waiting for {what}")
            if left <= 0:
                raise StalledError(f"the request took longer than it may, and {what} is not complete")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(left, self._tick)):
                    await self._wire.wait()

    def release(self) -> bool:
        """After a whole reply: ready for the next request? If not, it is closed."""
        if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
            self._http.start_next_cycle()
            self.used = True
            self.idle_since = self._clock()
            return True
        self.abort()
        return False

    def abort(self) -> None:
        """Ends it at once."""
        self._transport.abort()
