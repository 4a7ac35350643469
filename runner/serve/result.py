"""The result message: what a turn came to, in the fields that clients of `--output-format json` read.
Source: reference/claude-code-interfaces.md, section 5.3, result.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Any

from runner.dataclass import dataclass
from runner.events import Failed, ModelReplied, TurnEnded

EXIT_INTERRUPTED = 130

_SUBTYPES = {
    "completed": "success",
    "refusal": "success",
    "max_turns": "error_max_turns",
    "max_budget": "error_max_budget_usd",
}
_TERMINAL = {
    "completed": "completed",
    "refusal": "completed",
    "max_turns": "max_turns",
    "max_budget": "budget_exhausted",
    "max_tokens": "blocking_limit",
    "max_time": "blocking_limit",
    "hook": "hook_stopped",
}
_SAID = {
    "max_turns": "Reached the maximum number of rounds",
    "max_budget": "Reached the maximum budget",
    "max_tokens": "Reached the maximum number of tokens",
    "max_time": "Reached the maximum time",
    "interrupted": "Interrupted",
}
_ERRORS = {
    "AuthenticationError": "authentication_failed",
    "MissingKeyError": "authentication_failed",
    "ModelNotFoundError": "model_not_found",
    "InvalidRequestError": "invalid_request",
    "PromptTooLongError": "invalid_request",
    "OverloadedError": "overloaded",
    "BrokenStreamError": "server_error",
}
_STATUSES = {429: "rate_limit", 529: "overloaded"}


@dataclass(slots=True)
class Totals:
    """What the replies since the start of this process add up to, by model, and this turn's part of it."""

    models: dict[str, dict[str, Any]] = field(default_factory=dict)
    turn: dict[str, int] = field(default_factory=dict)
    cost: float | None = 0.0
    stop_reason: str | None = None

    def add(self, reply: ModelReplied) -> None:
        """Count one reply."""
        model = self.models.setdefault(reply.model, _no_usage())
        for name, key in _USAGE.items():
            value = reply.usage.get(key)
            number = value if isinstance(value, int) else 0
            model[name] += number
            self.turn[key] = self.turn.get(key, 0) + number
        model["costUSD"] = None if reply.cost is None or model["costUSD"] is None else model["costUSD"] + reply.cost
        self.cost = None if reply.cost is None or self.cost is None else self.cost + reply.cost
        self.stop_reason = reply.stop_reason

    def begin_turn(self) -> None:
        """Start this turn's part at nothing."""
        self.turn = dict.fromkeys(_USAGE.values(), 0)
        self.stop_reason = None


_USAGE = {
    "inputTokens": "input_tokens",
    "outputTokens": "output_tokens",
    "cacheReadInputTokens": "cache_read_input_tokens",
    "cacheCreationInputTokens": "cache_creation_input_tokens",
}


def turn_result(
    end: TurnEnded, totals: Totals, *, failure: Failed | None, denials: list[dict[str, Any]], in_tools: bool
) -> dict[str, Any]:
    """The message without ids. A model's failure is a `success` that is an error, its text the result: so
    clients print it; a failure of ours, an interrupt or a limit is an `error_` subtype with `errors`.
    """
    made: dict[str, Any] = {
        "type": "result",
        "subtype": subtype_of(end, failure),
        "duration_ms": round(end.seconds * 1000),
        "duration_api_ms": round(end.api_seconds * 1000),
        "is_error": end.reason != "completed",
        "num_turns": end.rounds,
        "stop_reason": totals.stop_reason,
        "total_cost_usd": totals.cost,
        "usage": totals.turn,
        "modelUsage": totals.models,
        "permission_denials": denials,
        "terminal_reason": _terminal(end, failure, in_tools=in_tools),
    }
    said = failure.message if failure else _SAID.get(end.reason, end.reason)
    if end.reason == "hook":
        said = end.result
    if made["subtype"] == "success":
        made["result"] = end.result if end.reason == "completed" or not failure else said
    else:
        made["errors"] = [said]
    if failure and (status := failure.detail.get("status")):
        made["api_error_status"] = status
    return made


def subtype_of(end: TurnEnded, failure: Failed | None) -> str:
    """Which kind of result a turn is."""
    if end.reason == "failed" and failure is not None and is_model_failure(failure):
        return "success"
    return _SUBTYPES.get(end.reason, "error_during_execution")


def is_model_failure(failure: Failed) -> bool:
    """Whether the provider failed, not we (exit codes 20 to 29)."""
    return 20 <= failure.exit_code < 30


def error_kind(failure: Failed) -> str:
    """The word that an assistant message carries as its `error`."""
    status = failure.detail.get("status") or 0
    if status in _STATUSES:
        return _STATUSES[status]
    return _ERRORS.get(failure.error, "server_error" if status >= 500 else "unknown")


def failure_result(message: str, *, seconds: float = 0.0) -> dict[str, Any]:
    """The result of a run that failed before its turn could begin; without ids."""
    end = TurnEnded(
        number=0, reason="failed", result="", rounds=0, seconds=seconds, api_seconds=0.0, usage={}, cost=0.0
    )
    totals = Totals()
    totals.begin_turn()
    made = turn_result(end, totals, failure=None, denials=[], in_tools=False)
    return made | {"errors": [message], "terminal_reason": "turn_setup_failed", "startup_failure_reason": message}


def exit_code(result: Mapping[str, Any], failure: Failed | None) -> int:
    """0 for success, the failure's own code, 130 after an interrupt, else 1."""
    if not result["is_error"]:
        return 0
    if failure is not None and failure.exit_code:
        return failure.exit_code
    return EXIT_INTERRUPTED if str(result["terminal_reason"]).startswith("aborted") else 1


def _terminal(end: TurnEnded, failure: Failed | None, *, in_tools: bool) -> str:
    if end.reason == "interrupted":
        return "aborted_tools" if in_tools else "aborted_streaming"
    if failure is not None:
        if failure.error == "PromptTooLongError":
            return "prompt_too_long"
        return "api_error" if is_model_failure(failure) else "turn_setup_failed"
    return _TERMINAL.get(end.reason, "model_error")


def _no_usage() -> dict[str, Any]:
    return dict.fromkeys(_USAGE, 0) | {"webSearchRequests": 0, "costUSD": 0.0}
