"""Answers that are read on their way by whoever judged the request: whole, unpacked, and of a bounded size."""

from __future__ import annotations

from sandbox.heads import header
from sandbox.reachable import Address
from sandbox.rulings import Reader
from sandbox.tape import Headers, Take

LARGEST = 8 << 20
# The answer is to have a body that can be read.
_GONE = frozenset({b"accept-encoding", b"if-none-match", b"if-modified-since", b"range", b"if-range"})


class Reading(Take):
    """Passes on to another Take what it hears. What is no plain 200, or too large, is not read."""

    def __init__(self, inner: Take, reader: Reader) -> None:
        self._inner = inner
        self._reader = reader
        self._type: str | None = None
        self._body = bytearray()

    def asks(self, headers: Headers) -> Headers:
        """See Take."""
        kept = [(name, value) for name, value in headers if name.lower() not in _GONE]
        return self._inner.asks([*kept, (b"Accept-Encoding", b"identity")])

    def reached(self, address: Address | None) -> None:
        """See Take."""
        self._inner.reached(address)

    def sent(self, data: bytes) -> None:
        """See Take."""
        self._inner.sent(data)

    def all_sent(self) -> None:
        """See Take."""
        self._inner.all_sent()

    def answered(self, status: int, headers: Headers, reason: bytes) -> None:
        """See Take."""
        self._inner.answered(status, headers, reason)
        lower = [(name.lower(), value) for name, value in headers]
        packed = (header(lower, b"content-encoding") or b"identity").strip().lower() != b"identity"
        if status == 200 and not packed:
            self._type = (header(lower, b"content-type") or b"").decode("latin-1")

    def received(self, data: bytes) -> None:
        """See Take."""
        self._inner.received(data)
        if self._type is not None:
            self._body += data
            if len(self._body) > LARGEST:
                self._type = None
                self._body.clear()

    def complete(self) -> None:
        """See Take."""
        self._inner.complete()
        if self._type is not None:
            self._reader(self._type, bytes(self._body))
        self._type = None
        self._body.clear()

    def close(self, refusal: str = "", *, failure: str = "") -> None:
        """See Take."""
        self._inner.close(refusal, failure=failure)
