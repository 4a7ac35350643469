"""A session's way out: granted to each of its boxes, so that a box that was started again has no other; closed to
everything until the gate is there. The proxy itself is loaded with the first connection.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from sandbox.streams import Grant, Stream
from sandbox.wire import PathCode

if TYPE_CHECKING:
    from runner.loop.gate import Gate
    from sandbox.egress import Egress

CONNECTIONS = 256


class WayOut:
    """`begin` gives it what decides; nothing passes before."""

    def __init__(self) -> None:
        self._gate: Gate | None = None
        self._turn: Callable[[], int] = int
        self._egress: Egress | None = None

    @property
    def grants(self) -> Mapping[str, Grant]:
        """What a box may open by itself."""
        return {"tcp": Grant(limit=CONNECTIONS, accept=self._accept)}

    def begin(self, gate: Gate, turn: Callable[[], int]) -> None:
        """From here on the gate decides. `turn`: the number of the one that runs."""
        self._gate, self._turn = gate, turn

    async def close(self) -> None:
        """End what is on its way."""
        self._gate, egress, self._egress = None, self._egress, None
        if egress is not None:
            await egress.close()

    def _accept(self, stream: Stream, arguments: dict[str, Any]) -> None:
        if self._gate is None:
            stream.ignore()
            stream.tell("fail", code=PathCode.REFUSED)
            return
        if self._egress is None:
            judge = import_module("runner.loop.outward").Outward(self._gate, turn=self._turn)
            way = import_module("sandbox.leaving").Way(judge)
            self._egress = import_module("sandbox.egress").Egress(way, fault=judge.fault)
        self._egress.accept(stream, arguments)
