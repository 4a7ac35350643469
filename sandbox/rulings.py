"""What a request that wants to leave the box is asked and told: the words between what carries it (`sandbox.leaving`)
and the Judge that is injected.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

from sandbox.dataclass import dataclass
from sandbox.injection import Injection
from sandbox.reachable import Address, Network, special

# Told of the type and the body of a whole answer, before its client has all of it.
Reader: TypeAlias = Callable[[str, bytes], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What wants to leave. `scheme`: http, https (a tunnel that has to be TLS for this host), ws, or tcp (a tunnel
    that is not looked into). `method` and `path` (with its query) are empty where they cannot be seen.
    """

    host: str
    port: int
    scheme: str
    method: str = ""
    path: str = ""

    def __str__(self) -> str:
        shown = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.method} {self.scheme}://{shown}:{self.port}{self.path}".strip()


@dataclass(frozen=True, slots=True, kw_only=True)
class Ruling:
    """A Judge's word. `reason` for the client where it is a no, with the rule that would allow it. `named`: ranges
    of special addresses that the deciding rule names; `barred`: ranges that a rule denies. `injection`: the key
    that goes into the request, by TLS that ends here only. `reader` is told of the whole answer, where each request is
    seen. `about` is the Judge's own.
    """

    allowed: bool
    reason: str = ""
    named: tuple[Network, ...] = ()
    barred: tuple[Network, ...] = ()
    injection: Injection | None = None
    reader: Reader | None = None
    about: Any = None

    def objection(self, address: Address) -> str:
        """Why an address is not connected to, "" where it may be."""
        if any(address in network for network in self.barred if network.version == address.version):
            return f"{address} is in a range that a rule denies"
        what = special(address)
        if not what:
            return ""
        if any(address in network for network in self.named if network.version == address.version):
            return ""
        return f"it is {address} ({what}), which no rule that allows it names"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a request ended. `refusal`: why it did not leave although it was allowed to; `failure`: why nothing came of
    it (nobody answers there, the client went away). Bytes as they went over the connection; seconds without those
    that the Judge took. `via`: the company's proxy that it took.
    """

    refusal: str = ""
    failure: str = ""
    via: str = ""
    sent: int = 0
    received: int = 0
    seconds: float = 0.0


class Judge(Protocol):
    """Decides and is told what came of it. `judge` may take as long as a user takes, and never raises."""

    async def judge(self, request: Request) -> Ruling:
        """The one decision on a request."""
        ...

    def expected(self, host: str, port: int) -> str:
        """What a tunnel to there is to carry: tcp where a rule lets bytes pass that are neither TLS nor HTTP, http
        where rules allow nothing else, `inspected` where rules speak of the requests inside of TLS, else https.
        """
        ...

    def broken(self, request: Request, reason: str) -> None:
        """Told of a tunnel that ended before there was a request in it."""
        ...

    def ended(self, request: Request, ruling: Ruling, outcome: Outcome) -> None:
        """Called exactly once for each `judge`: at once for a no, else when it is over."""
        ...
