"""The host's end of the way out: takes the connections that the box opens, and tells by their first byte what is
spoken on them. HTTP is `sandbox.exchange`'s, SOCKS and tunnels `sandbox.tunnel`'s, what may leave a Judge's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from sandbox.client import Client
from sandbox.exchange import converse
from sandbox.leaving import Way
from sandbox.refusals import GoneError
from sandbox.streams import Stream
from sandbox.tunnel import socks

SOCKS = b"\x05"


class Egress:
    """`accept` is a Grant's. `fault` hears of errors of ours, which end a connection and nothing else."""

    def __init__(self, way: Way, *, fault: Callable[[Exception], object]) -> None:
        self.way = way
        self._fault = fault
        self._tasks: set[asyncio.Task[None]] = set()

    def accept(self, stream: Stream, arguments: dict[str, Any]) -> None:  # noqa: ARG002 (a Grant's)
        """A connection of the box."""
        task = asyncio.create_task(self._serve(stream))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        stream.on_cancel = task.cancel

    async def close(self) -> None:
        """End what is on its way."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, stream: Stream) -> None:
        client = Client(stream)
        try:
            async with asyncio.timeout(self.way.bounds.head):
                first = await client.read()
            client.unread(first)
            if first[:1] == SOCKS:
                await socks(self.way, client, plain=converse)
            elif first:
                await converse(self.way, client)
        except (GoneError, TimeoutError, OSError):
            return
        except Exception as error:  # noqa: BLE001 (it ends this connection only)
            self._fault(error)
        finally:
            client.close()
