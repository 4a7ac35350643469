"""What counts where several have decided about one call. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from runner.effects import Decision, Source, Verdict
from runner.events import ApprovalGiven


def tightened(verdict: Verdict, hooked: Verdict) -> Verdict:
    """With what hooks make of the call. Of two asks the hooks' counts where the other is the mode's."""
    if verdict.decision is hooked.decision and verdict.source is Source.MODE:
        return replace(hooked, matches=verdict.matches)
    found = max(verdict, hooked, key=strictness)
    return replace(found, matches=verdict.matches)


def strictness(verdict: Verdict) -> tuple[Decision, bool]:
    """The strictest verdict is the greatest; an ask that only the user answers is stricter than one of mode auto."""
    return verdict.decision, not verdict.classify


def answers_of(given: ApprovalGiven | None) -> Mapping[str, str]:
    """What the user said to the questions of a call."""
    answers = given.input.get("answers") if given is not None and given.input is not None else None
    return {str(key): str(value) for key, value in answers.items()} if isinstance(answers, dict) else {}
