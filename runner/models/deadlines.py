"""How long a provider may take, on a clock that goes on while the machine sleeps."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from types import TracebackType

from runner.dataclass import dataclass
from runner.errors import BrokenStreamError


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadlines:
    """Seconds: for each of name and route, and TLS; until the reply's head; between two pieces of
    the reply; and for the whole request.
    """

    connect: float = 30.0
    first_byte: float = 600.0
    idle: float = 120.0
    total: float = 3600.0


def boot_clock() -> float:
    """Seconds on a clock that goes on while the machine sleeps (CLOCK_BOOTTIME where there is one)."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """Ends waits by `clock`, looked at every `tick` seconds: timers stand still while the machine
    sleeps, and after an hour of sleep no provider is there any more.
    """

    clock: Callable[[], float] = boot_clock
    tick: float = 5.0

    def within(self, what: str, seconds: float, expires: float) -> Within:
        """Bounds its body (`async with`) by `seconds` and by the moment `expires`. Raises BrokenStreamError."""
        return Within(self, what, seconds, expires)


class Within:
    """One wait, as `Watch.within` describes it. A class, for there are several in each turn."""

    __slots__ = ("_began", "_ends", "_loop", "_scope", "_seconds", "_timer", "_watch", "_what")

    def __init__(self, watch: Watch, what: str, seconds: float, expires: float) -> None:
        self._watch = watch
        self._what = what
        self._seconds = seconds
        self._began = watch.clock()
        self._ends = min(self._began + seconds, expires)
        self._loop = asyncio.get_running_loop()
        self._scope = asyncio.timeout(None)
        self._timer: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> None:
        await self._scope.__aenter__()
        self._look()

    def _look(self) -> None:
        left = self._ends - self._watch.clock()
        if left > 0:
            self._timer = self._loop.call_later(min(left, self._watch.tick), self._look)
        else:
            self._scope.reschedule(self._loop.time())

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        try:
            await self._scope.__aexit__(kind, error, trace)
        except TimeoutError as late:
            waited = self._watch.clock() - self._began
            text = f"nothing came for {waited:.0f} s while waiting for {self._what}"
            if waited < self._seconds:
                text = f"the request took longer than it may, and {self._what} is not complete"
            raise BrokenStreamError(text) from late
