"""Frames on their way into the box's socket, without a copy of what they carry: answers to the user's calls come
first, and what the box fetches waits for a moment while a call is on its way.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from itertools import chain

from sandbox.wire import Buffer, Outbox, rest_of

MOMENT = 0.02  # what the box fetches waits no longer than this for a call
BUDGET = 0.1  # nor longer than this altogether, which the time that it flows gives back


class Sender:
    """Writes to a socket of its own, which `close` closes. `failed` hears once of an OSError."""

    def __init__(self, sock: socket.socket, failed: Callable[[OSError], object]) -> None:
        self._loop = asyncio.get_running_loop()
        self._socket = sock
        self._failed = failed
        self._asked, self._fetched = Outbox(), Outbox()  # of streams that we opened, and that the box opened
        self._parts: list[Buffer] = []
        self._full = False
        self._calls: set[int] = set()
        self._held: asyncio.TimerHandle | None = None
        self._since = 0.0
        self._budget = BUDGET

    def control(self, frame: bytes, stream: int = 0) -> None:
        """Send a small frame as soon as can be."""
        self._box(stream).control(frame, stream)
        self._flush()

    def bulk(self, head: bytes, payload: Buffer, stream: int) -> None:
        """Send a frame of data; `payload` does not change any more."""
        self._box(stream).data(head, stream, payload)
        self._flush()

    def calls(self, stream: int) -> None:
        """A call of the user's begins; `called` for its end."""
        self._calls.add(stream)
        if self._held is None:
            now = time.monotonic()
            self._budget = min(BUDGET, self._budget + now - self._since)
            self._since = now
            moment = min(MOMENT, self._budget)
            if moment > 0:
                self._held = self._loop.call_later(moment, self._release)

    def called(self, stream: int) -> None:
        """A call is answered."""
        self._calls.discard(stream)
        if self._held is not None and not self._calls:
            self._release()

    def close(self) -> None:
        """Send nothing more."""
        if self._held is not None:
            self._held.cancel()
        if self._socket.fileno() >= 0:
            self._loop.remove_writer(self._socket.fileno())
            self._socket.close()

    def _box(self, stream: int) -> Outbox:
        return self._asked if stream % 2 or not stream else self._fetched

    def _release(self) -> None:
        assert self._held is not None
        self._held.cancel()
        self._held = None
        self._calls.clear()
        now = time.monotonic()
        self._budget -= now - self._since
        self._since = now
        self._flush()

    def _flush(self) -> None:
        while not self._full and self._socket.fileno() >= 0:
            if not self._parts:
                fetched = () if self._held is not None else self._fetched.take()
                self._parts = [*chain(self._asked.take(), fetched)]
                if not self._parts:
                    return
            try:
                count = self._socket.sendmsg(self._parts)
            except BlockingIOError:
                self._full = True
                self._loop.add_writer(self._socket.fileno(), self._on_room)
            except OSError as error:
                self.close()
                self._failed(error)
            else:
                self._parts = rest_of(self._parts, count)

    def _on_room(self) -> None:
        self._full = False
        self._loop.remove_writer(self._socket.fileno())
        self._flush()
