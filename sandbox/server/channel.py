"""The box's end of the pipe: process 1's standard input and output, as frames; and its streams."""

from __future__ import annotations

import fcntl
import os
import time

from sandbox.server.loop import EPOLLIN, EPOLLOUT, IDLE, Loop
from sandbox.wire import CODES, PAYLOAD, WINDOW, Decoder, Outbox, encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from sandbox.server.commands import Command
    from sandbox.server.proxy import Connection

# Seconds in which most commands end, though others take the processor. Till then nobody listens to their output, and
# a "started" waits for company: both would cost each of them a third of what it takes in all.
SOON = 0.03
PIPE_SIZE = 1031  # fcntl F_SETPIPE_SZ


def widen(pipe: int) -> None:
    """Have a pipe hold all that may be on its way in one stream, where the kernel lets it."""
    try:
        fcntl.fcntl(pipe, PIPE_SIZE, WINDOW)
    except OSError:
        return


class Channel:
    """Frames in and out."""

    def __init__(self, on_frame: Callable[[dict[str, Any], bytes], None]) -> None:
        self.loop = Loop(self._flush)
        self.streams: dict[int, Stream] = {}
        self._on_frame = on_frame
        self._decoder = Decoder()
        self._outbox = Outbox()
        self._writing = b""
        self._held_until = 0.0

    def begin(self) -> None:
        """Start to listen."""
        for fd in (0, 1):
            os.set_blocking(fd, False)
            widen(fd)
        self.loop.watch(0, EPOLLIN, self._on_input)

    def control(self, frame: bytes, stream: int = 0, *, hold: bool = False) -> None:
        """Send a small frame. With `hold` it may wait a moment for another to go with."""
        if hold and not self._outbox and not self._writing:
            self._held_until = time.monotonic() + SOON
        elif not hold:
            self._held_until = 0.0
        self._outbox.control(frame, stream)

    def bulk(self, frame: bytes, stream: int) -> None:
        """Send a frame of data."""
        self._held_until = 0.0
        self._outbox.data(frame, stream)

    def _flush(self) -> float:
        """Write what can be written; how long may be waited."""
        if self._held_until:
            left = self._held_until - time.monotonic()
            if left > 0:
                return left
            self._held_until = 0.0
        while self._writing or self._outbox:
            data = self._writing or self._outbox.take()
            try:
                count = os.write(1, data)
            except BlockingIOError:
                self._writing = data
                self.loop.watch(1, EPOLLOUT, self._on_room)
                return IDLE
            self._writing = data[count:]
        return IDLE

    def _on_room(self, _: int) -> None:
        self.loop.forget(1)

    def _on_input(self, _: int) -> None:
        """Raises EOFError when the controller is gone, WireError when it speaks nonsense."""
        try:
            data = os.read(0, PAYLOAD)
        except BlockingIOError:
            return
        if not data:
            raise EOFError
        for header, payload in self._decoder.feed(data):
            self._on_frame(header, payload)


class Stream:
    """One request and its answer."""

    def __init__(self, channel: Channel, number: int, kind: str) -> None:
        self.id = number
        self.kind = kind
        self.credit = WINDOW
        self.arguments: list[bytes] = []
        self.command: Command | None = None
        self.connection: Connection | None = None
        self.request: dict[str, Any] | None = None
        self.received: list[bytes] = []
        self.size = 0
        self.closed = False
        self._channel = channel
        self._eaten = 0
        self._body = memoryview(b"")
        self._result: dict[str, Any] = {}

    def started(self, pid: int, *, hold: bool) -> None:
        """The command runs. `hold`: this may be told together with its end."""
        self._channel.control(encode({"t": "started", "s": self.id, "pid": pid}), self.id, hold=hold)

    def tell(self, kind: str) -> None:
        """A small frame without more: end, cancel."""
        self._channel.control(encode({"t": kind, "s": self.id}), self.id)

    def release(self) -> None:
        """The other end is done with it."""
        self._close()

    def data(self, channel: int, data: bytes) -> None:
        """Bytes that there is credit for, at most one frame's worth."""
        self.credit -= len(data)
        self._channel.bulk(encode({"t": "data", "s": self.id, "c": channel}, data), self.id)

    def done(self, result: dict[str, Any], body: bytes = b"") -> None:
        """The answer, which ends the stream; a long body goes ahead as credit allows."""
        self._result = result
        self._body = memoryview(body)
        self.continue_body()

    def continue_body(self) -> None:
        """Send what credit allows, and the end after the last of it."""
        body = self._body
        while len(body) > PAYLOAD:
            room = min(PAYLOAD, self.credit)
            if room <= 0:
                self._body = body
                return
            self.data(0, bytes(body[:room]))
            body = body[room:]
        self._body = memoryview(b"")
        self._close()
        self._channel.control(encode({"t": "done", "s": self.id, "r": self._result}, bytes(body)), self.id)

    @property
    def answering(self) -> bool:
        """Whether a long answer is on its way."""
        return bool(self._body)

    def fail(self, code: str, detail: str = "") -> None:
        """A refusal, which ends the stream."""
        assert code in CODES
        self._close()
        self._channel.control(encode({"t": "fail", "s": self.id, "code": code, "detail": detail[:500]}), self.id)

    def _close(self) -> None:
        self.closed = True
        self.command = self.connection = None  # which know us: nobody collects cycles here
        self._channel.streams.pop(self.id, None)

    def consumed(self, count: int) -> None:
        """The other end may send as much again."""
        self._eaten += count
        if self._eaten >= WINDOW // 4:
            self._channel.control(encode({"t": "credit", "s": self.id, "add": self._eaten}), self.id)
            self._eaten = 0
