"""Server-sent events: bytes in any chunking become events. Knows nothing of what they mean.

Source: WHATWG HTML, section 9.2.6. Two deliberate departures: `id` and `retry` fields are
dropped, and an event that the end of the stream cut off before its blank line is still
given out (the caller's JSON parser tells whether it is whole).
"""

from __future__ import annotations

from collections.abc import Iterator

from runner.dataclass import dataclass

EVENT_LIMIT = 32 << 20


class SseError(ValueError):
    """The stream is no event stream that can be read: an event over the limit, or not UTF-8."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerEvent:
    """One dispatched event; `data` joins its data lines with newlines."""

    name: str
    data: str


class SseDecoder:
    """Feed it chunks as they come, then `close` once. Holds at most `limit` bytes of an event."""

    def __init__(self, limit: int = EVENT_LIMIT) -> None:
        self._limit = limit
        self._pieces: list[bytes] = []  # of the line that has no end yet
        self._held = 0  # bytes in _pieces and _data
        self._name = b""
        self._data: list[bytes] = []
        self._skip_newline = False  # the last chunk ended between CR and LF
        self._first = True

    def feed(self, chunk: bytes) -> Iterator[ServerEvent]:
        """The events that `chunk` completes, one by one, so that what is whole before a fault is had.
        To be read to its end. Raises SseError.
        """
        if self._skip_newline and chunk:
            chunk = chunk.removeprefix(b"\n")
            self._skip_newline = False
        if b"\n" not in chunk and b"\r" not in chunk:
            self._keep(chunk)
            return
        self._skip_newline = chunk.endswith(b"\r")
        self._pieces.append(chunk)
        lines = b"".join(self._pieces).splitlines()
        self._pieces = [] if chunk.endswith((b"\n", b"\r")) else [lines.pop()]
        self._held = len(self._pieces[0]) if self._pieces else 0
        self._held += sum(map(len, self._data))
        yield from self._read(lines)
        self._check()

    def close(self) -> Iterator[ServerEvent]:
        """What was left without a final blank line."""
        lines, self._pieces = [b"".join(self._pieces), b""], []
        yield from self._read(lines)

    def _keep(self, piece: bytes) -> None:
        if piece:
            self._pieces.append(piece)
            self._held += len(piece)
            self._check()

    def _check(self) -> None:
        if self._held > self._limit:
            raise SseError(f"an event of more than {self._limit} bytes")

    def _read(self, lines: list[bytes]) -> Iterator[ServerEvent]:
        for line in lines:
            if self._first:
                line = line.removeprefix(b"\xef\xbb\xbf")  # noqa: PLW2901 - the mark belongs to no field
                self._first = False
            if not line:
                event = self._dispatch()
                if event is not None:
                    yield event
                continue
            field, _, value = line.partition(b":")
            value = value.removeprefix(b" ")
            if field == b"data":
                self._data.append(value)
                self._held += len(value)
                self._check()
            elif field == b"event":
                self._name = value

    def _dispatch(self) -> ServerEvent | None:
        name, data = self._name, self._data
        self._name, self._data = b"", []
        self._held = sum(map(len, self._pieces))
        if not data:
            return None
        try:
            return ServerEvent(name=name.decode(), data=b"\n".join(data).decode())
        except UnicodeDecodeError as error:
            raise SseError(f"an event that is not UTF-8: {error.reason}") from error
