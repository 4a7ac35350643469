"""Usage: tokens and cost, added up per model from the replies' own numbers."""

from __future__ import annotations

from typing import Any

from runner.events import ModelReplied, UsageReported


class Usage:
    """Totals by model. Broken replies count too: the provider counts them."""

    def __init__(self) -> None:
        self._models: dict[str, dict[str, Any]] = {}
        self._cost: float | None = 0.0

    def add(self, reply: ModelReplied) -> None:
        """Add one reply; numbers on the top level of `usage` are summed by name."""
        totals = self._models.setdefault(reply.model, {"requests": 0, "cost": 0.0})
        totals["requests"] += 1
        for name, value in reply.usage.items():
            if isinstance(value, int) and not isinstance(value, bool):
                totals[name] = totals.get(name, 0) + value
        totals["cost"] = _sum(totals["cost"], reply.cost)
        self._cost = _sum(self._cost, reply.cost)

    @property
    def cost(self) -> float | None:
        """USD; None as soon as one reply had no known price."""
        return self._cost

    @property
    def tokens(self) -> int:
        """Input and output, cached input included."""
        names = ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
        return sum(int(totals.get(name, 0)) for totals in self._models.values() for name in names)

    def sums(self) -> dict[str, Any]:
        """The numbers of all models together, without cost."""
        found: dict[str, int] = {}
        for totals in self._models.values():
            for name, value in totals.items():
                if name != "cost":
                    found[name] = found.get(name, 0) + value
        return found

    def report(self) -> UsageReported:
        """The event."""
        return UsageReported(models={name: dict(totals) for name, totals in self._models.items()}, cost=self._cost)


def _sum(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one + other
