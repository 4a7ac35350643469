"""How long a provider may take, on a clock that goes on while the machine sleeps."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable

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

    @contextlib.asynccontextmanager
    async def within(self, what: str, seconds: float, expires: float) -> AsyncGenerator[None]:
        """Bounds its body by `seconds` and by the moment `expires`. Raises BrokenStreamError."""
        loop, began = asyncio.get_running_loop(), self.clock()
        ends = min(began + seconds, expires)
        timer: asyncio.TimerHandle | None = None

        def look() -> None:
            nonlocal timer
            left = ends - self.clock()
            if left > 0:
                timer = loop.call_later(min(left, self.tick), look)
            else:
                scope.reschedule(loop.time())

        try:
            async with asyncio.timeout(None) as scope:
                look()
                yield
        except TimeoutError as error:
            waited = self.clock() - began
            text = f"nothing came for {waited:.0f} s while waiting for {what}"
            if waited < seconds:
                text = f"the request took longer than it may, and {what} is not complete"
            raise BrokenStreamError(text) from error
        finally:
            if timer is not None:
                timer.cancel()
