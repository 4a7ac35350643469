"""Blocking work in threads, with a careful end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Generator
from typing import TypeVar

_Made = TypeVar("_Made")
_Item = TypeVar("_Item")


async def to_its_end(make: Callable[[], _Made]) -> _Made:
    """In a thread, which ends before a cancellation goes on: what it made can be removed then."""
    making = asyncio.ensure_future(asyncio.to_thread(make))
    try:
        return await asyncio.shield(making)
    except asyncio.CancelledError:
        await asyncio.gather(making, return_exceptions=True)
        raise


async def from_thread(found: Generator[_Item, None, None]) -> AsyncGenerator[_Item, None]:
    """What a generator that blocks gives, each item made in a thread; closed with this one."""
    try:
        while (item := await asyncio.to_thread(next, found, None)) is not None:
            yield item
    finally:
        found.close()
