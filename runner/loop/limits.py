"""Limits of a turn: small predicates over its progress, asked before each model request."""

from __future__ import annotations

from collections.abc import Callable

from runner.dataclass import dataclass
from runner.spec import TurnLimits


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a turn has come. `cost` in USD, None when a price is unknown; `tokens` of both directions."""

    rounds: int = 0
    cost: float | None = 0.0
    tokens: int = 0
    seconds: float = 0.0


def _rounds(limits: TurnLimits, progress: Progress) -> bool:
    return limits.max_turns is not None and progress.rounds >= limits.max_turns


def _budget(limits: TurnLimits, progress: Progress) -> bool:
    """A price that is not known counts as too much: a budget that cannot be kept is not ignored."""
    return limits.max_budget_usd is not None and (progress.cost is None or progress.cost >= limits.max_budget_usd)


def _tokens(limits: TurnLimits, progress: Progress) -> bool:
    return limits.max_tokens is not None and progress.tokens >= limits.max_tokens


def _seconds(limits: TurnLimits, progress: Progress) -> bool:
    return limits.max_seconds is not None and progress.seconds >= limits.max_seconds


_PREDICATES: tuple[tuple[str, Callable[[TurnLimits, Progress], bool]], ...] = (
    ("max_turns", _rounds),
    ("max_budget", _budget),
    ("max_tokens", _tokens),
    ("max_time", _seconds),
)


def reached(limits: TurnLimits, progress: Progress) -> str | None:
    """TurnEnded's reason when a limit is reached, else None."""
    return next((reason for reason, holds in _PREDICATES if holds(limits, progress)), None)
