"""What leaves the box, and the way it takes: each request is decided before its name is resolved, the addresses are
judged too, and one that was judged is the one connected to. What may leave is decided by a Judge that is injected;
nothing here knows of policies. What is said on a connection is read in `sandbox.egress` and its siblings.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, Protocol

from sandbox.dataclass import dataclass
from sandbox.errors import SandboxError
from sandbox.injection import NO_MASK, Injection, Mask
from sandbox.metering import Meter, Tally
from sandbox.reachable import Address, Network, Resolve, literal, resolve, special
from sandbox.reading import Reader
from sandbox.refusals import GoneError, LimitError, RefusedError, why_not
from sandbox.streams import Stream
from sandbox.tape import Answers, Tape
from sandbox.upstream import ProxyServer, Route, Upstream, by_proxy, directly, straight, trusted_here


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """In seconds and bytes. `head`: for a request's first lines, and their size; `first`: what a tunnel's client may
    take to speak; `idle`: without a byte in either direction.
    """

    connect: float = 20.0
    head: float = 30.0
    first: float = 15.0
    idle: float = 600.0
    head_size: int = 64 << 10


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


@dataclass(slots=True, kw_only=True)
class Asked:
    """One request between its decision and its end, which `close` tells the Judge, once."""

    judge: Judge
    request: Request
    ruling: Ruling
    client: Client
    monotonic: Callable[[], float]
    tally: Tally | None = None
    via: str = ""
    began: float = 0.0
    _told: bool = False

    def __post_init__(self) -> None:
        self.began = self.monotonic()

    def refuse(self, address: Address | None) -> None:
        """Raises RefusedError where that address, if there is one, is not to be connected to."""
        if address is not None and (why := self.ruling.objection(address)):
            raise RefusedError(f"{self.request.host} is not connected to: {why}")

    @asynccontextmanager
    async def in_time(self) -> AsyncIterator[None]:
        """For no longer than limits let a request take. Raises LimitError."""
        assert self.tally is not None
        try:
            async with asyncio.timeout(self.tally.seconds) as clock:
                yield
        except TimeoutError as error:
            if clock.expired():
                raise self.tally.late() from error
            raise

    def close(self, refusal: str = "", *, failure: str = "") -> None:
        """It is over."""
        if self._told:
            return
        self._told = True
        sent, received = self.client.since
        seconds = round(self.monotonic() - self.began, 6)
        left = self.ruling.allowed
        outcome = Outcome(
            refusal=refusal,
            failure=failure,
            via=self.via,
            sent=sent if left else 0,
            received=received if left else 0,
            seconds=seconds if left else 0.0,
        )
        self.judge.ended(self.request, self.ruling, outcome)


class Certifies(Protocol):
    """Vouches for hosts, to a box that trusts it."""

    def context(self, host: str) -> ssl.SSLContext:
        """What a server of this host says to its clients."""
        ...


class Way:
    """How a request gets out: asked, resolved, judged again, connected. `authority`: makes the certificates that the
    box is shown where requests inside of TLS are looked into; without one they are not. `trust`: whom servers are
    believed by, else what `trusts` gives when it is first needed. `route`: which proxies of a company requests take.
    `tape` keeps what is exchanged; with `replay`, that answers, and nothing is ever resolved or connected to.
    """

    def __init__(
        self,
        judge: Judge,
        *,
        bounds: Bounds | None = None,
        authority: Certifies | None = None,
        trust: ssl.SSLContext | None = None,
        trusts: Callable[[], ssl.SSLContext] = trusted_here,
        route: Route = straight,
        tape: Tape | None = None,
        replay: Answers | None = None,
        resolver: Resolve = resolve,
        meter: Meter | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.bounds = bounds or Bounds()
        self._meter = meter or Meter()
        self.judge = judge
        self.authority = authority
        self.tape = tape or Tape()
        self.replay = replay
        self._trust, self._trusts = trust, trusts
        self._route = route
        self._resolve = resolver
        self._monotonic = monotonic

    async def ask(self, client: Client, request: Request) -> Asked:
        """The decision, and what limits say. Raises RefusedError, after it was told that it is over."""
        ruling = await self.judge.judge(request)
        asked = Asked(judge=self.judge, request=request, ruling=ruling, client=client, monotonic=self._monotonic)
        if not ruling.allowed:
            asked.close()
            raise RefusedError(ruling.reason)
        try:
            asked.tally = client.tally = self._meter.admit(request.host)
            client.tally.up(client.since[0])
        except LimitError as limit:
            asked.close(limit.reason)
            raise
        return asked

    async def connect(self, asked: Asked, *, secure: bool = False) -> Upstream:
        """Resolve, judge the addresses, and connect to one that was judged; `secure`: by TLS, the host's certificate
        verified. Raises RefusedError, after it was told.
        """
        request, ruling = asked.request, asked.ruling
        if self.replay is not None:
            refused = RefusedError(self.replay.unknown(request), status=502)
            asked.close(**why_not(refused))
            raise refused
        trust = self._secure() if secure else None
        try:
            async with asyncio.timeout(self.bounds.connect):
                if (proxy := self._route(request.scheme, request.host, request.port)) is not None:
                    asked.via = str(proxy)
                    return await self._by_proxy(proxy, request, ruling, trust)
                addresses = await self._resolve(request.host, request.port)
                # of several addresses one that is not wanted condemns the name
                why = next(filter(None, map(ruling.objection, addresses)), "")
                if not why:
                    return await directly(request.host, request.port, addresses, trust)
            refused = RefusedError(f"{request.host} is not connected to: {why}")
        except RefusedError as error:
            refused = error
        except TimeoutError:
            reason = f"{request.host}:{request.port} did not answer within {self.bounds.connect:g} s"
            refused = RefusedError(reason, status=502)
        except (OSError, ValueError) as error:
            refused = RefusedError(f"{request.host}:{request.port} cannot be reached: {error}", status=502)
        asked.close(**why_not(refused))
        raise refused

    async def _by_proxy(
        self, proxy: ProxyServer, request: Request, ruling: Ruling, trust: ssl.SSLContext | None
    ) -> Upstream:
        """By way of a proxy that resolves the name. What cannot be known of its addresses then is not assumed."""
        address = literal(request.host)
        why = ruling.objection(address) if address is not None else ""
        if address is None and ruling.barred:
            why = f"a rule denies addresses, and which one it has only the proxy {proxy} will know"
        if why:
            raise RefusedError(f"{request.host} is not connected to: {why}")
        return await by_proxy(
            proxy,
            request.host,
            request.port,
            plain=request.scheme == "http",
            trust=trust,
            own=self._secure() if proxy.secure else None,
        )

    def _secure(self) -> ssl.SSLContext:
        if self._trust is None:
            self._trust = self._trusts()
        return self._trust

    async def relay(self, client: Client, upstream: Upstream, mask: Mask = NO_MASK) -> None:
        """Bytes in both directions until both have ended, or nothing passed for too long; of what comes back without
        what `mask` takes out. Raises GoneError, OSError, LimitError.
        """
        moved = self._monotonic()

        async def up() -> None:
            nonlocal moved
            while data := await client.read():
                moved = self._monotonic()
                upstream.line.write(data)
                await upstream.line.drain()
            with suppress(OSError):
                upstream.line.write_end()

        async def down() -> None:
            nonlocal moved
            while data := await upstream.line.read():
                moved = self._monotonic()
                await client.write(mask.feed(data))
            await client.write(mask.rest())
            client.end()

        async def watch() -> None:
            left = self.bounds.idle
            while left > 0:
                await asyncio.sleep(left)
                left = self.bounds.idle - (self._monotonic() - moved)

        idle = asyncio.create_task(watch())
        both = running = {asyncio.create_task(up()), asyncio.create_task(down())}
        try:
            while running and not idle.done():
                done, _ = await asyncio.wait({*running, idle}, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
                running = running - done
        finally:
            for task in (*both, idle):
                task.cancel()
            await asyncio.gather(*both, idle, return_exceptions=True)
