"""The first words of TLS: which host a client asks for, read from its ClientHello and nothing else of it
(RFC 8446 4.1.2, RFC 6066 3). Bounded, and strict: what is not plainly a ClientHello is refused.
"""

from __future__ import annotations

from dataclasses import dataclass

LARGEST = 32 << 10
RECORD = 5
MOST_IN_RECORD = 16 << 10
HANDSHAKE, CLIENT_HELLO = 22, 1
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
    """Bytes of a connection in, until there is a whole ClientHello. `data`: all that came, for handing on."""

    def __init__(self) -> None:
        self.data = bytearray()

    def feed(self, data: bytes) -> Hello | None:
        """The hello once it is whole, None before. Raises HelloError."""
        self.data += data
        if len(self.data) > LARGEST + MOST_IN_RECORD:
            raise HelloError("a ClientHello that is too long")
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
                    return parse(bytes(message[4:]))
        if self.data and self.data[0] != HANDSHAKE:
            raise HelloError("no TLS")
        return None


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
