"""The first words of TLS: which host a client asks for, read from its ClientHello and nothing else of it
(RFC 8446 4.1.2, RFC 6066 3). Bounded, and strict: what is not plainly a ClientHello is refused.
"""

from __future__ import annotations

from sandbox.dataclass import dataclass

LARGEST = 32 << 10
RECORD = 5
MOST_IN_RECORD = 16 << 10
CHANGE, HANDSHAKE, DATA = 20, 22, 23  # kinds of records
CLIENT_HELLO, SERVER_HELLO = 1, 2
RETRY = bytes.fromhex("cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c")  # RFC 8446 4.1.3
SERVER_NAME, EARLIER_ESNI, ENCRYPTED_HELLO = 0, 0xFFCE, 0xFE0D


class HelloError(ValueError):
    """No ClientHello, or one that hides whom it speaks to."""


@dataclass(frozen=True, slots=True)
class Hello:
    """`name`: the host as the client wrote it, "" where it names none."""

    name: str


class _Bytes:
    """A cursor that never reads past its end."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def take(self, count: int) -> bytes:
        if count > self.left:
            raise HelloError("a length that goes past the end")
        self._at += count
        return self._data[self._at - count : self._at]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def vector(self, size: int) -> _Bytes:
        return _Bytes(self.take(self.number(size)))


class HelloReader:
    """Bytes of a connection in, until there is a whole ClientHello. `data`: it as it came, for handing on; `rest`: what
    came after it.
    """

    def __init__(self) -> None:
        self.data = bytearray()
        self.rest = b""

    def feed(self, data: bytes) -> Hello | None:
        """The hello once it is whole, None before. Raises HelloError."""
        self.data += data
        message = bytearray()
        at = 0
        while len(self.data) - at >= RECORD:
            kind, major = self.data[at], self.data[at + 1]
            length = int.from_bytes(self.data[at + 3 : at + RECORD], "big")
            if kind != HANDSHAKE or major != 3 or not 0 < length <= MOST_IN_RECORD:
                raise HelloError("no TLS")
            message += self.data[at + RECORD : at + RECORD + length]
            at += RECORD + length
            if message[0:1] and message[0] != CLIENT_HELLO:
                raise HelloError("no ClientHello")
            if len(message) >= 4:
                size = int.from_bytes(message[1:4], "big")
                if size > LARGEST:
                    raise HelloError("a ClientHello that is too long")
                if len(message) >= 4 + size:
                    if len(message) > 4 + size or at > len(self.data):
                        raise HelloError("more than a ClientHello in its record")
                    self.rest = bytes(self.data[at:])
                    del self.data[at:]
                    return parse(bytes(message[4:]))
        if self.data and self.data[0] != HANDSHAKE:
            raise HelloError("no TLS")
        if len(self.data) > LARGEST + MOST_IN_RECORD:
            raise HelloError("a ClientHello that is too long")
        return None


def asks_again(answer: bytes) -> bool | None:
    """Whether a server wants a second ClientHello, by the first bytes of its answer; None where more are needed. Raises
    HelloError for a ServerHello whose beginning is spread over records, which no server needs.
    """
    random = RECORD + 4 + 2
    if answer[:1] not in (b"", bytes([HANDSHAKE])):
        return False
    if len(answer) <= RECORD:
        return None
    if answer[RECORD] != SERVER_HELLO:
        return False
    if int.from_bytes(answer[3:RECORD], "big") < random - RECORD + len(RETRY):
        raise HelloError("a ServerHello in pieces")
    if len(answer) < random + len(RETRY):
        return None
    return answer[random : random + len(RETRY)] == RETRY


class SecondHelloReader(HelloReader):
    """As HelloReader, for what a client says after it was asked again: early data and the record that is there for
    compatibility (RFC 8446 D.4) may come before the hello. `passed`: those, for handing on before `data`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.passed = bytearray()

    def feed(self, data: bytes) -> Hello | None:
        """See HelloReader."""
        if self.data[:1] == bytes([HANDSHAKE]):
            return super().feed(data)
        self.data += data
        while len(self.data) >= RECORD and self.data[0] in (CHANGE, DATA):
            end = RECORD + int.from_bytes(self.data[3:RECORD], "big")
            if len(self.data) < end:
                return None
            if len(self.passed) + end > LARGEST:
                raise HelloError("too much before a second ClientHello")
            self.passed += self.data[:end]
            del self.data[:end]
        return super().feed(b"") if self.data and self.data[0] not in (CHANGE, DATA) else None


def parse(body: bytes) -> Hello:
    """A ClientHello's body. Raises HelloError."""
    hello = _Bytes(body)
    hello.take(2 + 32)  # version, random
    if hello.vector(1).left > 32:
        raise HelloError("a session id that is too long")
    hello.vector(2)  # cipher suites
    hello.vector(1)  # compression
    if not hello.left:
        return Hello("")
    extensions = hello.vector(2)
    if hello.left:
        raise HelloError("bytes after the extensions")
    name, seen = "", set[int]()
    while extensions.left:
        kind, content = extensions.number(2), extensions.vector(2)
        if kind in seen:
            raise HelloError("an extension twice")
        seen.add(kind)
        if kind in {ENCRYPTED_HELLO, EARLIER_ESNI}:
            raise HelloError("an encrypted ClientHello")
        if kind == SERVER_NAME:
            name = _server_name(content)
    return Hello(name)


def _server_name(content: _Bytes) -> str:
    names = content.vector(2)
    if content.left or names.number(1) != 0:
        raise HelloError("no server name")
    name = names.vector(2)
    if names.left or not name.left:
        raise HelloError("not exactly one server name")
    try:
        return name.take(name.left).decode("ascii")
    except UnicodeDecodeError:
        raise HelloError("a server name that is not ASCII") from None
