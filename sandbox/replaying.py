"""Answers from a recording in the place of the network.

A request is known by its method, URL and the digest of its body. The n-th equal request gets the n-th answer; after
the last one it is given again where the method changes nothing (GET, HEAD, OPTIONS), and nothing else is. What was not
recorded is refused by its name. An answer that broke off breaks off again, at the same byte; a request of which
nothing came comes to nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable

from sandbox.injection import Mask
from sandbox.recording import Digest, Exchange, Recording, scrubbing
from sandbox.refusals import RefusedError
from sandbox.rulings import Request
from sandbox.tape import Body

SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
SHOWN = 300
BAD_GATEWAY = 502


class Replay:
    """`sandbox.tape.Answers` of a Recording, which it closes. `secrets`: as for a Recorder. `played`: numbers of
    exchanges that were given before; `note` is told of each. `missing` counts requests that were not recorded.
    """

    def __init__(
        self,
        recording: Recording,
        *,
        secrets: Iterable[bytes] = (),
        played: Iterable[int] = (),
        note: Callable[[int], object] = lambda _: None,
    ) -> None:
        self.missing = 0
        self._recording, self._secrets, self._note = recording, scrubbing(secrets), note
        self._waiting: dict[tuple[str, str], list[Exchange]] = defaultdict(list)
        self._last: dict[tuple[str, str], Exchange] = {}
        self._bodies: dict[str, int] = defaultdict(int)
        gone = set(played)
        for exchange in recording.exchanges:
            key = (exchange.request, exchange.sent)
            self._bodies[exchange.request] += 1
            if exchange.number in gone:
                self._last[key] = exchange
            else:
                self._waiting[key].append(exchange)

    def body(self) -> Digest:
        """See Answers."""
        return Digest(self._secrets)

    def answer(self, request: Request, body: Body) -> Exchange:
        """See Answers."""
        assert isinstance(body, Digest)
        name = self._name(request)
        digest = body.hex
        for key in ((name, digest), (name, "")):
            if waiting := self._waiting.get(key):
                self._last[key] = found = waiting.pop(0)
                self._note(found.number)
                break
            if (known := self._last.get(key)) and request.method in SAFE:
                found = known
                break
        else:
            raise RefusedError(self._why(request, name, digest), status=BAD_GATEWAY)
        if found.why:
            raise RefusedError(f"{found.why} (as it was recorded)", status=BAD_GATEWAY)
        return found

    def unknown(self, request: Request) -> str:
        """See Answers."""
        return self._why(request, self._name(request), "")

    def _name(self, request: Request) -> str:
        whole = str(request).encode("utf-8", "surrogateescape")
        return Mask(self._secrets).whole(whole).decode("utf-8", "backslashreplace")

    def _why(self, request: Request, name: str, digest: str) -> str:
        self.missing += 1
        if (name, digest) in self._last:
            more = " again: its answers were given, and it is none of those that may be repeated"
        elif self._bodies[name]:
            more = " with this body"
        else:
            more = f" ({self._recording.missed[name]})" if name in self._recording.missed else ""
        return f"{str(request)[:SHOWN]} was not recorded{more}"

    def close(self) -> None:
        """Give the file back."""
        self._recording.close()
