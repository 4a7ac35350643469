"""How much may leave, and come: what a session's requests take, counted in all and for each host, under limits."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import field

from sandbox.dataclass import dataclass
from sandbox.refusals import LimitError

MINUTE = 60.0
SPENT, TOO_LARGE, TOO_MANY, TOO_LONG = 403, 413, 429, 504
NAME = "network.limits"


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """Bytes up and down, and requests in a minute; None: no limit."""

    up: int | None = None
    down: int | None = None
    requests: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Quotas:
    """`whole`: of a session; `host`: of each host in it; `body` in bytes and `seconds`: of each request. A tunnel
    that is passed through is one request.
    """

    whole: Quota = field(default_factory=Quota)
    host: Quota = field(default_factory=Quota)
    body: int | None = None
    seconds: float | None = None


@dataclass(slots=True)
class Taken:
    """What was taken so far. `times`: of the requests of the last minute, as far as they count."""

    up: int = 0
    down: int = 0
    times: deque[float] = field(default_factory=deque)


class Meter:
    """`quotas` gives the limits in force, which count at once. `before`: bytes up and down by host that the session
    took in earlier runs.
    """

    def __init__(
        self,
        quotas: Callable[[], Quotas] = Quotas,
        *,
        before: Mapping[str, tuple[int, int]] | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.quotas = quotas
        self._monotonic = monotonic
        self._hosts = {host: Taken(up=up, down=down) for host, (up, down) in (before or {}).items()}
        self._whole = Taken(
            up=sum(taken.up for taken in self._hosts.values()), down=sum(taken.down for taken in self._hosts.values())
        )

    def admit(self, host: str) -> Tally:
        """One request more. Raises LimitError."""
        now = self._monotonic()
        tally = Tally(self, host, self._whole, self._hosts.setdefault(host, Taken()))
        for name, quota, taken in tally.sides():
            while taken.times and taken.times[0] <= now - MINUTE:
                taken.times.popleft()
            if quota.requests is not None and len(taken.times) >= quota.requests:
                raise LimitError(_reached(f"{name}requestsPerMinute", quota.requests), status=TOO_MANY)
            for direction, most, so_far in (("up", quota.up, taken.up), ("down", quota.down, taken.down)):
                if most is not None and so_far >= most:
                    raise LimitError(_reached(f"{name}{direction}", most), status=SPENT)
        for _, quota, taken in tally.sides():
            if quota.requests is not None:
                taken.times.append(now)
        return tally


class Tally:
    """One request's share."""

    def __init__(self, meter: Meter, host: str, whole: Taken, own: Taken) -> None:
        self._meter, self._host = meter, host
        self._whole, self._own = whole, own
        self._body = 0

    def sides(self) -> tuple[tuple[str, Quota, Taken], tuple[str, Quota, Taken]]:
        """What is limited: the name that settings give it, the limits, and what was taken."""
        quotas = self._meter.quotas()
        return ("", quotas.whole, self._whole), ("perHost.", quotas.host, self._own)

    @property
    def seconds(self) -> float | None:
        """How long the request may take."""
        return self._meter.quotas().seconds

    def late(self) -> LimitError:
        """It took longer."""
        return LimitError(_reached("seconds", self.seconds or 0), status=TOO_LONG)

    def up(self, count: int) -> None:
        """So many bytes were sent (less than 0: some of those again). Raises LimitError where they are too many."""
        self._whole.up += count
        self._own.up += count
        for name, quota, taken in self.sides():
            if quota.up is not None and taken.up > quota.up:
                raise LimitError(_reached(f"{name}up", quota.up), status=TOO_LARGE)

    def down(self, count: int) -> None:
        """So many bytes came, or are about to. Raises LimitError where they are too many."""
        self.fits(count)
        self._whole.down += count
        self._own.down += count

    def fits(self, count: int) -> None:
        """Raises LimitError where so many bytes more may not come."""
        for name, quota, taken in self.sides():
            if quota.down is not None and taken.down + count > quota.down:
                raise LimitError(_reached(f"{name}down", quota.down), status=SPENT)

    def declare(self, length: int) -> None:
        """The body is to be so long. Raises LimitError where that is too long."""
        most = self._meter.quotas().body
        if most is not None and length > most:
            raise LimitError(_reached("body", most), status=TOO_LARGE)

    def body(self, count: int) -> None:
        """So many bytes more of it. Raises LimitError."""
        self._body += count
        self.declare(self._body)


def _reached(name: str, most: float) -> str:
    return f"the limit {NAME}.{name} of {most if isinstance(most, int) else f'{most:g}'} is reached"
