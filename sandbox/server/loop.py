"""One thread's loop: descriptors that are ready, and timers. Nothing in it waits for anything else."""

from __future__ import annotations

import os
import select
import time

from sandbox.server.output import BLOCK, read_some

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

EPOLLIN, EPOLLOUT = select.EPOLLIN, select.EPOLLOUT
DRAINS = 256
IDLE = 3600.0


class Loop:
    """Descriptors and timers. `flush` is called before each wait, and says how long that may be at most."""

    def __init__(self, flush: Callable[[], float]) -> None:
        self._flush = flush
        self._poll = select.epoll()
        self._handlers: dict[int, Callable[[int], None]] = {}
        self._masks: dict[int, int] = {}
        self._timers: list[tuple[float, object, Callable[[], None]]] = []
        self._drains: list[int] = []

    def turn(self) -> None:
        """Wait for something to happen, and see to it."""
        timeout = self._flush()
        if self._timers:
            timeout = min(timeout, max(min(when for when, _, _ in self._timers) - time.monotonic(), 0.0))
        for fd, events in self._poll.poll(timeout):
            handler = self._handlers.get(fd)
            if handler is not None:
                handler(events)
        if self._timers:
            now = time.monotonic()
            for timer in [timer for timer in self._timers if timer[0] <= now]:
                if timer in self._timers:
                    self._timers.remove(timer)
                    timer[2]()

    def watch(self, fd: int, events: int, handler: Callable[[int], None]) -> None:
        """Call `handler` when the descriptor is ready."""
        self._handlers[fd] = handler
        before = self._masks.get(fd)
        if before is None:
            self._poll.register(fd, events)
        elif before != events:
            self._poll.modify(fd, events)
        self._masks[fd] = events

    def forget(self, fd: int) -> None:
        """Watch it no more."""
        if self._masks.pop(fd, None) is not None:
            del self._handlers[fd]
            self._poll.unregister(fd)

    def close(self, fd: int) -> None:
        """Close it; the kernel forgets it by itself."""
        if self._masks.pop(fd, None) is not None:
            del self._handlers[fd]
        os.close(fd)

    def drain(self, fd: int) -> None:
        """Read and drop what processes in the background still write, until they are gone."""
        if len(self._drains) >= DRAINS:
            self.close(self._drains.pop(0))
        self._drains.append(fd)
        self.watch(fd, EPOLLIN, lambda _: self._on_drain(fd))

    def _on_drain(self, fd: int) -> None:
        if read_some(fd, BLOCK) == b"":
            self._drains.remove(fd)
            self.close(fd)

    def later(self, owner: object, delay: float, action: Callable[[], None]) -> None:
        """Call `action` in `delay` seconds."""
        self._timers.append((time.monotonic() + delay, owner, action))

    def never(self, owner: object) -> None:
        """Drop an owner's timers."""
        if self._timers:
            self._timers = [timer for timer in self._timers if timer[1] is not owner]
