"""What a hook says: exit code and output read as reference/claude-code-interfaces.md, section 3.4, has them.

Bytes of a hook are hostile: size, shape and every type are checked before anything is believed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from runner.dataclass import dataclass
from runner.effects import Decision
from runner.hooks.kinds import EVENTS, Ran

BLOCKED = 2
LONGEST = 10_000
_DECISIONS = {
    "allow": Decision.ALLOW,
    "ask": Decision.ASK,
    "deny": Decision.DENY,
    "defer": Decision.DENY,
    "approve": Decision.ALLOW,
    "block": Decision.DENY,
}
_STRINGS = ("stopReason", "systemMessage", "decision", "reason")
_SPECIFIC = ("additionalContext", "permissionDecision", "permissionDecisionReason", "hookEventName")
DEFERRED = "a hook deferred this call, and deferring is not known here"


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """One hook's word. `failed`: why it counts as a failure. `decision`: on a call (PreToolUse), `answer`: to a
    question (PermissionRequest); `blocks`: whatever the event lets it stop, with the reason. `stop`: everything
    ends, with the reason. `retry`: the model may try again what the classifier denied.
    """

    failed: str = ""
    decision: Decision | None = None
    answer: bool | None = None
    blocks: bool = False
    reason: str = ""
    input: dict[str, Any] | None = None
    context: str = ""
    message: str = ""
    stop: str | None = None
    interrupt: bool = False
    retry: bool = False


def read(event: str, ran: Ran) -> Said:
    """Never raises."""
    if ran.failure:
        return Said(failed=ran.failure)
    body, problem = _body(ran)
    said, problem = (Said(), problem) if body is None else _understood(event, body)
    if ran.code == BLOCKED:
        return _blocked(event, ran, said)
    if problem or (body is None and ran.code != 0):
        return Said(failed=problem or _ended(ran))
    if body is None and EVENTS[event].says:
        return Said(context=ran.stdout.strip()[:LONGEST])
    return said


def _blocked(event: str, ran: Ran, said: Said) -> Said:
    """Exit code 2 stands against whatever the output allows."""
    reason = said.reason or ran.stderr.strip()[:LONGEST] or "a hook blocked it"
    if not EVENTS[event].blocks:
        return Said(failed=reason, message=reason)
    deny = Decision.DENY if event == "PreToolUse" else None
    return replace(said, blocks=True, decision=deny, answer=None, input=None, reason=reason)


def _ended(ran: Ran) -> str:
    line = ran.stderr.strip().partition("\n")[0][:500]
    code = ran.code or 0
    ended = f"ended by signal {-code}" if code < 0 else f"exit code {code}"
    return f"{ended}: {line}" if line else ended


def _body(ran: Ran) -> tuple[Mapping[str, Any] | None, str]:
    if ran.body is not None:
        return ran.body, ""
    if not ran.stdout.lstrip().startswith("{"):
        return None, ""
    try:
        found = json.loads(ran.stdout)
    except (ValueError, RecursionError):
        return None, "its output begins like JSON and is none"
    return found, ""


def _understood(event: str, body: Mapping[str, Any]) -> tuple[Said, str]:  # noqa: C901, PLR0911 (field by field)
    """What the object says, or what is wrong with it."""
    specific = body.get("hookSpecificOutput", {})
    if not isinstance(specific, Mapping):
        return Said(), "hookSpecificOutput is no object"
    for part, names in ((body, _STRINGS), (specific, _SPECIFIC)):
        for name in names:
            if not isinstance(part.get(name, ""), str):
                return Said(), f"{name} is no text"
    if not isinstance(body.get("continue", True), bool):
        return Said(), "continue is neither true nor false"
    if specific.get("hookEventName", event) != event:
        return Said(), f"hookSpecificOutput is one of {str(specific['hookEventName'])[:50]!r}"
    said = Said(
        reason=body.get("reason", "")[:LONGEST],
        context=specific.get("additionalContext", "")[:LONGEST],
        message=body.get("systemMessage", "")[:LONGEST],
        stop=(body.get("stopReason", "")[:LONGEST] or "a hook stopped it") if body.get("continue") is False else None,
    )
    word = body.get("decision")
    if word is not None and word not in ("block", "approve"):
        return Said(), f"decision {word[:50]!r} is not known"
    if event == "PreToolUse":
        return _on_call(said, word, specific)
    if event == "PermissionRequest":
        return _answered(said, specific.get("decision"))
    if event == "PermissionDenied":
        return _denied(said, specific.get("retry", body.get("retry", False)))
    return replace(said, blocks=word == "block" and EVENTS[event].blocks), ""


def _on_call(said: Said, word: str | None, specific: Mapping[str, Any]) -> tuple[Said, str]:
    decision = specific.get("permissionDecision", word)
    if decision is not None and decision not in _DECISIONS:
        return Said(), f"permissionDecision {decision[:50]!r} is not known"
    replaced = specific.get("updatedInput")
    if replaced is not None and not isinstance(replaced, dict):
        return Said(), "updatedInput is no object"
    reason = specific.get("permissionDecisionReason", "")[:LONGEST] or said.reason
    if decision == "defer":
        reason = DEFERRED
    made = None if decision is None else _DECISIONS[decision]
    return replace(said, decision=made, blocks=made is Decision.DENY, input=replaced, reason=reason), ""


def _denied(said: Said, again: Any) -> tuple[Said, str]:
    return (replace(said, retry=again), "") if isinstance(again, bool) else (Said(), "retry is no truth value")


def _answered(said: Said, decision: Any) -> tuple[Said, str]:
    if decision is None:
        return said, ""
    if not isinstance(decision, Mapping) or decision.get("behavior") not in ("allow", "deny"):
        return Said(), "decision has no behavior that is known"
    if not isinstance(decision.get("message", ""), str) or not isinstance(decision.get("interrupt", False), bool):
        return Said(), "decision is of a shape that is not known"
    allows = decision["behavior"] == "allow"
    replaced = decision.get("updatedInput")
    if replaced is not None and not isinstance(replaced, dict):
        return Said(), "updatedInput is no object"
    return replace(
        said,
        answer=allows,
        reason=decision.get("message", "")[:LONGEST],
        input=replaced if allows else None,
        interrupt=not allows and decision.get("interrupt", False),
    ), ""
