"""A connection's end in the box: the bytes of a `tcp` stream of the pipe, counted as they pass."""

from __future__ import annotations

from collections import deque

from sandbox.errors import SandboxError
from sandbox.metering import Tally
from sandbox.refusals import GoneError
from sandbox.streams import Stream


class Client:
    """A connection's end in the box, as bytes. `tally`: counts them, once the request that they are of was allowed."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.tally: Tally | None = None
        self._back: deque[bytes] = deque()
        self._ended = False
        self.sent = 0
        self.received = 0
        self._marked = (0, 0)

    def mark(self) -> None:
        """A request begins here."""
        self.tally = None
        self._marked = (self.sent, self.received)

    @property
    def since(self) -> tuple[int, int]:
        """Bytes sent and received since then."""
        return self.sent - self._marked[0], self.received - self._marked[1]

    def _up(self, count: int) -> None:
        self.sent += count
        if self.tally is not None:
            self.tally.up(count)

    def _down(self, count: int) -> None:
        if self.tally is not None:
            self.tally.down(count)
        self.received += count

    async def read(self) -> bytes:
        """The next bytes, b"" at their end. Raises GoneError, LimitError."""
        if self._back:
            data = self._back.popleft()
            self._up(len(data))
            return data
        while not self._ended:
            try:
                header, payload = await self.stream.receive()
            except SandboxError as error:
                raise GoneError from error
            match header["t"]:
                case "data":
                    if payload:
                        self._up(len(payload))
                        return payload
                case "end":
                    self._ended = True
                case _:
                    raise GoneError
        return b""

    def unread(self, data: bytes) -> None:
        """Have these bytes come (again) next."""
        if data:
            self._back.appendleft(data)
            self._up(-len(data))

    async def write(self, data: bytes) -> None:
        """Send, waiting for credit. Raises GoneError, LimitError."""
        if not data:
            return
        self._down(len(data))
        try:
            await self.stream.send(data)
        except SandboxError as error:
            raise GoneError from error
        if self.stream.closed:
            raise GoneError

    def end(self) -> None:
        """Nothing more is sent."""
        self.stream.tell("end")

    def close(self) -> None:
        """The connection is over."""
        self.stream.ignore()
        self.stream.tell("done", r={})
