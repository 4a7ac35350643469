"""A key that is put into requests on the host, so that the box never has it: into one header, over TLS only, and taken
out of what comes back.
"""

from __future__ import annotations

from base64 import b64decode
from contextlib import suppress
from dataclasses import field

from sandbox.dataclass import dataclass

PLACEHOLDER = "fumehood-placeholder"
# Where clients put keys; of a pinned host no other may be named there.
CARRIERS = frozenset(
    b"authorization cookie x-api-key api-key apikey x-auth-token private-token x-goog-api-key x-access-token".split()
)
Headers = list[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Injection:
    """`header` in lower case; `value` the whole of it. `secrets`: what is taken out of answers. `pin`: a request with
    another key is refused.
    """

    header: bytes
    value: bytes = field(repr=False)
    secrets: tuple[bytes, ...] = field(repr=False)
    pin: bool = False

    def objection(self, headers: Headers) -> str:
        """Why a request is refused for the key that it brings, "" where it is not."""
        if not self.pin:
            return ""
        for name, value in headers:
            replaced = name.lower() == self.header and PLACEHOLDER.encode() in value
            if name.lower() in CARRIERS | {self.header} and not replaced and not _is_placeholder(value):
                return f"this host takes its own key only, and the request brings another in {name.decode('ascii')}"
        return ""

    def into(self, headers: Headers) -> Headers:
        """The headers with the key, in the place of what the client put there; the answer is asked for unpacked."""
        gone = {self.header, b"accept-encoding", b"sec-websocket-extensions"}
        kept = [(name, value) for name, value in headers if name.lower() not in gone]
        return [*kept, (self.header, self.value), (b"Accept-Encoding", b"identity")]


def _is_placeholder(value: bytes) -> bool:
    """Whether what a client sends is what it was given for a key and nothing else, be it packed as a login."""
    scheme, _, packed = value.partition(b" ")
    if scheme.lower() == b"basic":
        with suppress(ValueError):
            login = b64decode(packed.strip(), validate=True)
            return PLACEHOLDER.encode() in login.split(b":")
    words = value.split()
    return len(words) <= 2 and words[-1:] == [PLACEHOLDER.encode()]


class Mask:
    """Takes secrets out of bytes that come in pieces; each is replaced by as many asterisks."""

    def __init__(self, secrets: tuple[bytes, ...]) -> None:
        self._secrets = tuple(sorted(secrets, key=len, reverse=True))
        self._most = max(map(len, secrets), default=1) - 1
        self._kept = b""

    def whole(self, data: bytes) -> bytes:
        """Without secrets."""
        for secret in self._secrets:
            data = data.replace(secret, b"*" * len(secret))
        return data

    def feed(self, data: bytes) -> bytes:
        """What can be told by now: last bytes that may be a secret's first wait."""
        if not self._most:
            return data
        data = self.whole(self._kept + data)
        most = min(self._most, len(data))
        cut = next((at for at in range(len(data) - most, len(data)) if self._begins(data[at:])), len(data))
        self._kept = data[cut:]
        return data[:cut]

    def _begins(self, end: bytes) -> bool:
        return any(secret.startswith(end) for secret in self._secrets)

    def rest(self) -> bytes:
        """What waits."""
        kept, self._kept = self._kept, b""
        return kept


NO_MASK = Mask(())
