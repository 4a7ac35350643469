"""A stream of the pipe: one conversation with the box, within the credit that each end gives the other."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

from sandbox.dataclass import dataclass
from sandbox.errors import SandboxError
from sandbox.wire import FRAME, INWARD, WINDOW, Buffer, WireError, encode, head_of_data

JOINED = 4096
OTHER_FRAMES = 64
Frame: TypeAlias = tuple[dict[str, Any], bytes]


class Carrier(Protocol):
    """What carries a stream: the pipe."""

    error: SandboxError | None

    def gone(self) -> SandboxError:
        """The error for whoever uses it when it is lost."""
        ...

    def control(self, frame: bytes, stream: int = 0) -> None:
        """Send a small frame as soon as can be."""
        ...

    def bulk(self, head: bytes, payload: Buffer, stream: int) -> None:
        """Send data that there is credit for; `payload` does not change any more."""
        ...

    def close_stream(self, stream: Stream) -> None:
        """Its last frame came or went."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What the box may open by itself: at most `limit` streams of one kind at a time. `accept` gets the
    stream and its arguments (already parsed JSON, not trusted), and owns it from then on.
    """

    limit: int
    accept: Callable[[Stream, dict[str, Any]], None]


class Stream:
    """One conversation over the pipe. Made by `Pipe.open` or handed to a Grant's `accept`."""

    def __init__(self, pipe: Carrier, number: int, kind: str) -> None:
        self.id = number
        self.kind = kind
        self.closed = False
        self._pipe = pipe
        self._frames: deque[Frame] = deque()
        self._reader: asyncio.Future[None] | None = None
        self._credit = INWARD
        self._writer: asyncio.Future[None] | None = None
        self._unread = 0
        self._eaten = 0
        self._ignored = False
        self._others = 0
        self.on_cancel: Callable[[], object] | None = None

    async def receive(self) -> Frame:
        """The next frame: started, data, end, then exactly one done or fail; of a stream that the box opened data, end
        and cancel (its client is gone: `on_cancel` is called too). Raises BoxLostError.
        """
        while not self._frames:
            if self._pipe.error is not None:
                raise self._pipe.gone()
            self._reader = asyncio.get_running_loop().create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        header, payload = frame = self._frames.popleft()
        if header["t"] == "data":
            self._unread -= len(payload)
            self._eat(len(payload))
        return frame

    async def send(self, data: bytes) -> None:
        """Send bytes, waiting for credit. Does nothing once the stream is closed. Raises BoxLostError."""
        view = memoryview(data)
        while view and not self.closed:
            if self._credit <= 0:
                await self._wait_for_credit()
                continue
            piece = view[: min(FRAME, self._credit)]
            self._credit -= len(piece)
            self._pipe.bulk(head_of_data(self.id, 0, len(piece)), piece, self.id)
            view = view[len(piece) :]

    def tell(self, kind: str, **fields: object) -> None:
        """Send a small frame: end, cancel, signal, resize, done, fail. Does nothing once closed or lost."""
        if self.closed or self._pipe.error is not None:
            return
        self._pipe.control(encode({"t": kind, "s": self.id, **fields}), self.id)
        if kind in {"done", "fail"}:
            self._pipe.close_stream(self)

    def ignore(self) -> None:
        """Take no more interest: what still comes is dropped, and credit for it given back."""
        self._ignored = True
        for header, payload in self._frames:
            if header["t"] == "data":
                self._eat(len(payload))
        self._frames.clear()
        self._unread = 0

    async def _wait_for_credit(self) -> None:
        if self._pipe.error is not None:
            raise self._pipe.gone()
        self._writer = asyncio.get_running_loop().create_future()
        try:
            await self._writer
        finally:
            self._writer = None

    def _eat(self, count: int) -> None:
        self._eaten += count
        if self._eaten >= WINDOW // 2 and not self.closed:
            self.tell("credit", add=self._eaten)
            self._eaten = 0

    def take(self, header: dict[str, Any], payload: bytes) -> None:
        """A frame came (called by the pipe)."""
        kind = header["t"]
        if kind == "credit":
            self._credit += header["add"]
            wake(self._writer)
            return
        if kind == "data":
            if self._ignored:
                self._eat(len(payload))
                return
            self._unread += len(payload)
            if self._unread > WINDOW:
                raise WireError("more data than credit")
        elif kind in {"done", "fail"}:
            self._pipe.close_stream(self)
            wake(self._writer)
        elif kind == "cancel" and self.on_cancel is not None:
            self.on_cancel()
        if not self._ignored:
            self._keep(header, payload)
            wake(self._reader)

    def _keep(self, header: dict[str, Any], payload: bytes) -> None:
        """Have it wait to be received. What waits is bounded by the bytes that there is credit for: small pieces of
        what the box sends by itself are joined, and of other frames there are few.
        """
        frames = self._frames
        if header["t"] != "data":
            self._others += 1
            if self._others > OTHER_FRAMES:
                raise WireError("more frames than a stream has")
        elif self.id % 2 == 0 and frames and frames[-1][0]["t"] == "data" and len(frames[-1][1]) < JOINED:
            header, before = frames.pop()
            payload = before + payload
        frames.append((header, payload))

    def abandon(self) -> None:
        """The pipe is gone (called by the pipe)."""
        self.closed = True
        wake(self._reader)
        wake(self._writer)


def wake(future: asyncio.Future[None] | None) -> None:
    """Let whoever waits go on."""
    if future is not None and not future.done():
        future.set_result(None)
