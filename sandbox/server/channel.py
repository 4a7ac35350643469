"""The box's end of the pipe: process 1's standard input and output, as frames; and its streams."""

from __future__ import annotations

import fcntl
import os
import time

from sandbox.server.loop import EPOLLIN, EPOLLOUT, IDLE, Loop
from sandbox.wire import CODES, HEAD, INWARD, PAYLOAD, WINDOW, Buffer, Decoder, Outbox, encode, head_of_data, rest_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from sandbox.server.commands import Command
    from sandbox.server.proxy import Connection

ROUNDS = 4  # of reading at one go, before others have their turn
NOT_WAITING = 1 | 2  # splice(2): SPLICE_F_MOVE, SPLICE_F_NONBLOCK
# Seconds in which most commands end, though others take the processor. Till then nobody listens to their output, and
# a "started" waits for company: both would cost each of them a third of what it takes in all.
SOON = 0.03
PIPE_SIZE = 1031  # fcntl F_SETPIPE_SZ


def widen(pipe: int) -> None:
    """Have a pipe hold all that may be on its way in one stream, where the kernel lets it."""
    try:
        fcntl.fcntl(pipe, PIPE_SIZE, INWARD)
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
        self._writing: list[Buffer] = []
        self._held_until = 0.0
        self._header: dict[str, Any] = {}
        self._left = 0  # bytes of the frame of data with this header that are still to come
        self._straight = False  # the last such bytes went on without passing through here

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

    def bulk(self, head: bytes, payload: Buffer, stream: int) -> None:
        """Send a frame of data."""
        self._held_until = 0.0
        self._outbox.data(head, stream, payload)

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
                count = os.writev(1, data)
            except BlockingIOError:
                self._writing = data
                self.loop.watch(1, EPOLLOUT, self._on_room)
                return IDLE
            self._writing = rest_of(data, count)
        return IDLE

    def _on_room(self, _: int) -> None:
        self.loop.forget(1)

    def _on_input(self, _: int) -> None:
        """Raises EOFError when the controller is gone, WireError when it speaks nonsense."""
        for _round in range(ROUNDS):
            if self._left and self._passed_on():
                continue
            try:
                self._take()
            except BlockingIOError:
                return
            if not self._left:
                return

    def _passed_on(self) -> bool:
        """Have bytes of data go straight from the pipe to where they belong, where that takes them now."""
        stream = self.streams.get(self._header["s"])
        sink = stream.sink if stream is not None else -1
        if stream is None or sink < 0:
            return False
        try:
            count = os.splice(0, sink, self._left, flags=NOT_WAITING)
        except BlockingIOError:  # nothing is here, or no room there
            return False
        except OSError:  # nobody is there any more, or it takes nothing this way: as it comes to light otherwise
            stream.whole = True
            return False
        if not count:
            raise EOFError
        self._left -= count
        self._straight = True
        stream.consumed(count)
        return True

    def _take(self) -> None:
        """Read frames, or more of the one that is not complete. Raises BlockingIOError."""
        data = os.read(0, min(PAYLOAD, self._left) or (HEAD if self._straight else PAYLOAD))
        if not data:
            raise EOFError
        if self._left:
            self._left -= len(data)
            self._on_frame(self._header, data)
            return
        self._straight = False
        for header, payload in self._decoder.feed(data):
            self._on_frame(header, payload)
        if (divided := self._decoder.divide()) is not None:  # what of it is here goes as if it were all
            self._header, part, self._left = divided
            if part:
                self._on_frame(self._header, part)


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
        self.whole = False  # bytes of data do not go straight on
        self._channel = channel
        self._eaten = 0
        self._body = memoryview(b"")
        self._result: dict[str, Any] = {}

    @property
    def sink(self) -> int:
        """The descriptor that bytes of data go to as they are, -1 where they do not, or others wait before them."""
        if self.whole:
            return -1
        there = self.command or self.connection
        return there.sink if there is not None else -1

    def started(self, pid: int, *, hold: bool) -> None:
        """The command runs. `hold`: this may be told together with its end."""
        self._channel.control(encode({"t": "started", "s": self.id, "pid": pid}), self.id, hold=hold)

    def tell(self, kind: str) -> None:
        """A small frame without more: end, cancel."""
        self._channel.control(encode({"t": kind, "s": self.id}), self.id)

    def release(self) -> None:
        """The other end is done with it."""
        self._close()

    def data(self, channel: int, data: Buffer) -> None:
        """Bytes that there is credit for, at most one frame's worth."""
        self.credit -= len(data)
        self._channel.bulk(head_of_data(self.id, channel, len(data)), data, self.id)

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
            self.data(0, body[:room])
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
        if self._eaten >= INWARD // 2:
            self._channel.control(encode({"t": "credit", "s": self.id, "add": self._eaten}), self.id)
            self._eaten = 0
