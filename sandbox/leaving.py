"""What leaves the box, and the way it takes: each request is decided before its name is resolved, the addresses are
judged too, and one that was judged is the one connected to. What may leave is decided by a Judge (`sandbox.rulings`);
nothing here knows of policies. What is said on a connection is read in `sandbox.egress` and its siblings.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Protocol

from sandbox.client import Client
from sandbox.dataclass import dataclass
from sandbox.injection import NO_MASK, Mask
from sandbox.metering import Meter, Tally
from sandbox.reachable import Address, Resolve, literal, resolve
from sandbox.refusals import LimitError, RefusedError, why_not
from sandbox.rulings import Judge, Outcome, Request, Ruling
from sandbox.tape import Answers, Tape
from sandbox.upstream import ProxyServer, Route, Upstream, by_proxy, directly, straight, trusted_here


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
