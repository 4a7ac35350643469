"""Frames of the pipe between controller and box, for both ends: standard library only, quick to load.

A frame is one line of JSON with the fields of its type, a newline, then `n` raw bytes. Streams are
numbered by who opens them (host odd, box even). Bytes of `data` need credit (`WINDOW` per stream
towards the host, `INWARD` towards the box); everything else is small and goes first.
"""

from __future__ import annotations

from collections import deque
from json import JSONDecoder, JSONEncoder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn, TypeAlias

    Header: TypeAlias = dict[str, Any]

Buffer = bytes | memoryview

WIRE = 1
PAYLOAD = 64 << 10
FRAME = 256 << 10  # the largest payload
HEAD = 64  # bytes of a head of data, so that it can be read without what follows
HEADER = 16 << 10
WINDOW = 256 << 10  # of credit, towards the host
INWARD = 512 << 10  # of credit, towards the box: fewer and larger frames
ARGUMENTS = 4 << 20
STREAMS = 1024
PARTS = 256  # buffers of one write, of which the kernel takes 1024
STREAM_ID = 1 << 53
TEXT = 4096 + 255
PROXY_PORT = 7151  # of the box's loopback interface: the way out

# The box's variable that lists those which the server is to hand to commands only.
FOR_COMMANDS = "FUMEHOOD_FOR_COMMANDS"

STDIN = 0
STDOUT = 1
STDERR = 2


class WireError(ValueError):
    """Bytes that are no frame. Always the end of the pipe."""


class PathCode:
    """The closed set of codes that a refused request carries."""

    NOT_FOUND = "not_found"
    DENIED = "denied"
    NOT_FILE = "not_file"
    NOT_DIRECTORY = "not_directory"
    LINK = "link"
    LOOP = "loop"
    EXISTS = "exists"
    CHANGED = "changed"
    INVALID = "invalid"
    TOO_LARGE = "too_large"
    NO_SPACE = "no_space"
    READ_ONLY = "read_only"
    NOT_EXECUTABLE = "not_executable"
    BUSY = "busy"
    NO_PROCESS = "no_process"
    CANCELLED = "cancelled"
    REFUSED = "refused"
    FAILED = "failed"


CODES = frozenset(value for name, value in vars(PathCode).items() if name.isupper())
KILLED = frozenset({"", "timeout", "cancelled", "output", "memory", "lost"})

# Per frame type: its fields, each with the types allowed; a leading "?" marks an optional one.
_FIELDS: dict[str, dict[str, tuple[type, ...]]] = {
    "hello": {"wire": (int,), "features": (list,), "?grants": (dict,)},
    "open": {"s": (int,), "k": (str,), "?more": (bool,), "?n": (int,)},
    "args": {"s": (int,), "?more": (bool,), "?n": (int,)},
    "data": {"s": (int,), "?c": (int,), "?n": (int,)},
    "end": {"s": (int,)},
    "credit": {"s": (int,), "add": (int,)},
    "started": {"s": (int,), "pid": (int,)},
    "done": {"s": (int,), "?r": (dict,), "?n": (int,)},
    "fail": {"s": (int,), "code": (str,), "?detail": (str,)},
    "cancel": {"s": (int,)},
    "signal": {"s": (int,), "sig": (int,)},
    "resize": {"s": (int,), "rows": (int,), "columns": (int,)},
}
_KNOWN = {
    kind: {name.lstrip("?"): types for name, types in fields.items()} | {"t": (str,)}
    for kind, fields in _FIELDS.items()
}
_REQUIRED = {kind: frozenset(n for n in fields if n[0] != "?") for kind, fields in _FIELDS.items()}
_RANGES = {
    "s": (1, STREAM_ID),
    "n": (0, FRAME),
    "c": (STDIN, STDERR),
    "add": (1, 1 << 40),
    "pid": (0, 1 << 31),
    "sig": (0, 64),
    "rows": (1, 0xFFFF),
    "columns": (1, 0xFFFF),
    "wire": (1, 1 << 16),
}


def _refuse(name: str) -> NoReturn:
    raise WireError(f"{name} is no number of ours")


_encode = JSONEncoder(separators=(",", ":"), check_circular=False).encode
_decode = JSONDecoder(parse_constant=_refuse).decode


def encode(header: Header, payload: bytes = b"") -> bytes:
    """One frame. ValueError when it would be larger than the other end accepts."""
    if payload:
        if len(payload) > FRAME:
            raise WireError("payload too large")
        header["n"] = len(payload)
    line = _encode(header).encode("ascii")
    if len(line) >= HEADER:
        raise WireError("header too large")
    return line + b"\n" + payload


def check(header: Any) -> Header:
    """A decoded header with exactly the fields of its type, within their bounds. Raises WireError."""
    if type(header) is not dict:
        raise WireError("header is no object")
    kind = header.get("t")
    if type(kind) is not str or (known := _KNOWN.get(kind)) is None:
        raise WireError("unknown frame type")
    for name, value in header.items():
        types = known.get(name)
        if types is None or type(value) not in types:
            raise WireError("unknown field, or of the wrong type")
        bounds = _RANGES.get(name)
        if bounds is not None and not bounds[0] <= value <= bounds[1]:
            raise WireError("number out of bounds")
        if type(value) is str and len(value) > TEXT:
            raise WireError("text too long")
    if not _REQUIRED[kind] <= header.keys():
        raise WireError("field missing")
    if kind in _CHECKS:
        _CHECKS[kind](header)
    return header


def _check_hello(header: Header) -> None:
    features, grants = header["features"], header.get("grants", {})
    if len(features) > 64 or not all(type(f) is str and len(f) <= 64 for f in features):
        raise WireError("features make no sense")
    if len(grants) > 64 or not all(len(k) <= 64 and type(v) is int and 0 <= v <= STREAMS for k, v in grants.items()):
        raise WireError("grants make no sense")


def _check_fail(header: Header) -> None:
    if header["code"] not in CODES:
        raise WireError("unknown code")


def _check_done(header: Header) -> None:
    for name, value in header.get("r", {}).items():
        if len(name) > 32 or type(value) not in _RESULT:
            raise WireError("result makes no sense")
        if type(value) is str and len(value) > TEXT:
            raise WireError("text too long")


_RESULT = frozenset({int, str, bool, float, type(None)})
_CHECKS = {"hello": _check_hello, "fail": _check_fail, "done": _check_done}


class Decoder:
    """Bytes in, frames out. After a WireError it is of no more use."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._header: Header | None = None
        self._want = 0

    @property
    def idle(self) -> bool:
        """Whether the bytes so far end with a whole frame."""
        return self._header is None and not self._buffer

    def feed(self, data: bytes | bytearray | memoryview) -> list[tuple[Header, bytes]]:
        """The frames that these bytes complete, in order: (header, payload)."""
        buffer = self._buffer
        buffer += data
        frames = []
        at = 0
        while True:
            header = self._header
            if header is None:
                cut = buffer.find(b"\n", at, at + HEADER)
                if cut < 0:
                    if len(buffer) - at >= HEADER:
                        raise WireError("header too large")
                    break
                header = self._parse(buffer[at:cut])
                at = cut + 1
                self._want = header.get("n", 0)
                self._header = header
            if len(buffer) - at < self._want:
                break
            if self._want:
                with memoryview(buffer) as seen:
                    frames.append((header, seen[at : at + self._want].tobytes()))
            else:
                frames.append((header, b""))
            at += self._want
            self._header = None
        del buffer[:at]
        return frames

    def divide(self) -> tuple[Header, bytes, int] | None:
        """A frame of data of which a part is here: its header, that part, and how many bytes are still to come, which
        whoever asks takes from the source himself, without this decoder. None where there is no such frame.
        """
        header = self._header
        if header is None or header["t"] != "data":
            return None
        part = bytes(self._buffer)
        self._buffer.clear()
        self._header = None
        return header, part, self._want - len(part)

    @staticmethod
    def _parse(line: bytearray) -> Header:
        try:
            return check(_decode(line.decode("ascii")))
        except WireError:
            raise
        except (ValueError, RecursionError):
            raise WireError("header is no JSON") from None


def head_of_data(stream: int, channel: int, size: int) -> bytes:
    """What goes before the payload in a frame of data."""
    return (b'{"t":"data","s":%d,"c":%d,"n":%d}' % (stream, channel, size)).ljust(HEAD - 1) + b"\n"


def rest_of(parts: list[Buffer], count: int) -> list[Buffer]:
    """What of these buffers is left after so many bytes."""
    for at, part in enumerate(parts):
        if count < len(part):
            return [memoryview(part)[count:], *parts[at + 1 :]]
        count -= len(part)
    return []


class Outbox:
    """What waits to be written, in the order in which it is to go: whole small frames first, data
    after, each stream's own frames in their order.
    """

    def __init__(self) -> None:
        self._urgent: list[Buffer] = []
        self._bulk: deque[tuple[int, bytes, Buffer]] = deque()
        self._waiting: dict[int, int] = {}
        self.size = 0

    def __bool__(self) -> bool:
        return self.size > 0

    def control(self, frame: bytes, stream: int = 0) -> None:
        """Queue a small frame; after this stream's own waiting data, before all other data."""
        self.size += len(frame)
        if stream in self._waiting:
            self._waiting[stream] += 1
            self._bulk.append((stream, frame, b""))
        else:
            self._urgent.append(frame)

    def data(self, head: bytes, stream: int, payload: Buffer = b"") -> None:
        """Queue a frame that used credit, in one piece or two. `payload` does not change any more."""
        self.size += len(head) + len(payload)
        self._waiting[stream] = self._waiting.get(stream, 0) + 1
        self._bulk.append((stream, head, payload))

    def take(self, most: int = PAYLOAD * 2) -> list[Buffer]:
        """What to write next: all small frames, then data up to about `most` bytes."""
        parts, self._urgent = self._urgent, []
        if len(parts) > PARTS:
            parts = [b"".join(parts)]
        size = sum(map(len, parts))
        while self._bulk and size < most and len(parts) < PARTS:
            stream, head, payload = self._bulk.popleft()
            size += len(head) + len(payload)
            parts.append(head)
            if payload:
                parts.append(payload)
            left = self._waiting[stream] - 1
            if left:
                self._waiting[stream] = left
            else:
                del self._waiting[stream]
        self.size -= size
        return parts
