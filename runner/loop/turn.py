"""A turn while it runs: what it has taken so far, and the record of its end."""

from __future__ import annotations

from dataclasses import field

from runner.dataclass import dataclass
from runner.errors import UsageError
from runner.events import Failed, ModelReplied, TurnEnded
from runner.loop.limits import Progress, reached
from runner.loop.usage import Usage
from runner.spec import TurnLimits

_ENDINGS = {"refusal": "refusal", "max_tokens": "max_tokens", "model_context_window_exceeded": "max_tokens"}


def ending(reply: ModelReplied) -> str:
    """TurnEnded's reason for a reply after which the agent rests."""
    return _ENDINGS.get(reply.stop_reason or "", "completed")


def failed(error: BaseException) -> Failed:
    """What ended a turn, for the user: the error's class, words, hint and exit code."""
    parts = (str(error), str(getattr(error, "hint", "")))
    text = "; ".join(part.rstrip(".") for part in parts if part)
    return Failed(error=type(error).__name__, message=text, exit_code=getattr(error, "exit_code", 1))


@dataclass(slots=True, kw_only=True)
class Turn:
    """Times are of one monotonic clock, in seconds. `result`: the last text of a whole reply."""

    number: int
    began: float
    rounds: int = 0
    api_seconds: float = 0.0
    result: str = ""
    usage: Usage = field(default_factory=Usage)

    def add(self, reply: ModelReplied, *, says: bool = True) -> None:
        """Count a reply; broken ones cost too, but say nothing, and so do those to hooks (`says` False)."""
        self.usage.add(reply)
        if says and not reply.partial:
            texts = [str(block.get("text", "")) for block in reply.content if block.get("type") == "text"]
            self.result = "".join(texts) or self.result

    def limit(self, limits: TurnLimits, now: float, model: str) -> str | None:
        """The limit that is reached, None while there is none. Raises UsageError for a budget without prices."""
        progress = Progress(
            rounds=self.rounds, cost=self.usage.cost, tokens=self.usage.tokens, seconds=now - self.began
        )
        limit = reached(limits, progress)
        if limit == "max_budget" and self.usage.cost is None:
            raise UsageError(f"no price is known for {model}: the budget cannot be kept")
        return limit

    def end(self, reason: str, now: float) -> TurnEnded:
        """The turn's last record."""
        return TurnEnded(
            number=self.number,
            reason=reason,
            result=self.result,
            rounds=self.rounds,
            seconds=round(now - self.began, 6),
            api_seconds=round(self.api_seconds, 6),
            usage=self.usage.sums(),
            cost=self.usage.cost,
        )
