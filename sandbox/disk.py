"""How much disk a session's layers and store take, and watching that they stay within the budget."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from sandbox.spec import Limits

INTERVAL, SHORTEST = 0.1, 0.02
REST = 5.0  # seconds between walks at least, where the host's free space tells nothing
_REST_PER_WALK = 50.0  # and so many times what a walk took: watching costs two hundredths of a processor at most
_LEAST_MOVE = 16 << 20


def usage_of(path: Path) -> int:
    """Bytes on disk of all beneath a directory (hard links counted once); what cannot be entered counts as nothing."""
    total, seen, left = 0, set(), [os.fsencode(path)]
    while left:
        try:
            with os.scandir(left.pop()) as entries:
                for entry in entries:
                    try:
                        found = entry.stat(follow_symlinks=False)
                    except OSError:
                        continue
                    if found.st_nlink > 1 and not entry.is_dir(follow_symlinks=False):
                        if found.st_ino in seen:
                            continue
                        seen.add(found.st_ino)
                    total += found.st_blocks * 512
                    if entry.is_dir(follow_symlinks=False):
                        left.append(entry.path)
        except OSError:
            continue
    return total


class DiskWatch:
    """Looks ten times a second at the free space of the host and, where it shrank by enough for the
    budget to be in question, at what the session takes (`beside`: bytes that it takes elsewhere); now and
    then at that in any case, since others may free what the session takes. `on_full` is awaited once, with a
    sentence that says which bound was reached; then the watch ends. A writer can overshoot by what it writes
    in an interval and a walk.
    """

    def __init__(
        self,
        path: Path,
        limits: Limits,
        on_full: Callable[[str], Awaitable[None]],
        *,
        free: Callable[[Path], int] | None = None,
        beside: Callable[[], int] = lambda: 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = path
        self._limits = limits
        self._on_full = on_full
        self._beside = beside
        self._free = free or free_space
        self._clock = clock

    async def run(self) -> None:
        """Watch until cancelled, or full."""
        used, free_then, due = 0, None, 0.0
        before: tuple[int, float] | None = None
        while True:
            free, now = self._free(self._path), self._clock()
            if free < self._limits.disk_floor:
                await self._on_full(f"the host has only {free >> 20} MiB of free space left")
                return
            room = max(self._limits.disk - used, 0)
            if free_then is None or now >= due or free_then - free > min(max(room // 2, _LEAST_MOVE), 1 << 30):
                used = await asyncio.to_thread(lambda: usage_of(self._path) + self._beside())
                ended = self._clock()
                due = ended + max(REST, _REST_PER_WALK * (ended - now))
                free_then = free
                if used > self._limits.disk:
                    await self._on_full(f"the session's disk budget of {self._limits.disk >> 20} MiB is used up")
                    return
            free_then = max(free, free_then)
            room = min(self._limits.disk - used - (free_then - free), free - self._limits.disk_floor)
            lost, seconds = (before[0] - free, now - before[1]) if before else (0, 0.0)
            before = free, now
            await asyncio.sleep(pause_for(room, lost, seconds))


def pause_for(room: int, lost: int, seconds: float) -> float:
    """Seconds until the next look: half of what `room` (bytes) lasts at the rate of the last look, which saw `lost`
    bytes go in `seconds`; between 20 and 100 ms.
    """
    if lost <= 0 or seconds <= 0:
        return INTERVAL
    return min(INTERVAL, max(SHORTEST, room / (lost / seconds) / 2))


def free_space(path: Path) -> int:
    """Bytes that an unprivileged process may still write on the path's file system."""
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize
