"""Why a call is decided as it is: every rule that speaks of it, the one that decided, and what would change it.
And what another policy would have decided. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from runner.dataclass import dataclass
from runner.effects import ConnectHost, Decision, Effect, Match, Mode, Place, Source, Verdict
from runner.policy.calls import effect_from_json, judge, resolved
from runner.policy.grants import offer
from runner.policy.layers import strictness
from runner.policy.network import shown
from runner.policy.policy import Policy
from runner.policy.rules import Kind, Rule

BOUNDARY, ADVISORY, NEXT_TURN = "boundary", "advisory for the shell", "boundary from the next turn"


HOOK = "Hook"


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """`matches`: every rule that speaks of one of the effects, strictest first. `changes`: what would change it."""

    tool: str
    mode: Mode
    verdict: Verdict
    matches: tuple[Match, ...]
    changes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "tool": self.tool,
            "mode": self.mode.value,
            "verdict": self.verdict.to_json(),
            "matches": [
                {"rule": one.rule, "decision": one.decision.name.lower()} | one.source.to_json() for one in self.matches
            ],
            "changes": list(self.changes),
        }


def explain(policy: Policy, tool: str, effects: tuple[Effect, ...], place: Place) -> Explanation:
    """Why the policy decides so on these effects."""
    whole = tuple(resolved(effect) for effect in policy.expand(effects, place))
    verdict = policy.judge(whole, tool=tool, place=place)
    return Explanation(
        tool=tool,
        mode=policy.mode,
        verdict=verdict,
        matches=tuple(dict.fromkeys(verdict.matches)),
        changes=tuple(_changes(policy, tool, whole, place, verdict)),
    )


def decides(match: Match, verdict: Verdict) -> bool:
    """Whether this is the rule that the verdict names."""
    source = match.source
    return bool(verdict.rule) and (match.rule, source.layer, source.file, source.line) == (
        verdict.rule,
        verdict.source,
        verdict.file,
        verdict.line,
    )


def _changes(policy: Policy, tool: str, effects: tuple[Effect, ...], place: Place, verdict: Verdict) -> Iterator[str]:
    if verdict.rule:
        left = replace(policy, rules=tuple(rule for rule in policy.rules if not decides(rule.match, verdict)))
        then = left.judge(effects, tool=tool, place=place)
        where = f"{verdict.file}:{verdict.line}" if verdict.file else verdict.source.value
        who = " (only who administrates this machine)" if verdict.source is Source.MANAGED else ""
        yield f"without {verdict.rule} in {where}{who}: {_word(then)}"
        return
    for mode in sorted(policy.modes, key=strictness):
        then = policy.with_mode(mode).judge(effects, tool=tool, place=place)
        if then.decision is not verdict.decision:
            yield f"in mode {mode.value}: {_word(then)}"
    if verdict.decision is Decision.ALLOW:
        yield "a deny or ask rule that speaks of it"
    elif rule := offer(policy, tool, effects, place, replace(verdict, decision=Decision.ASK, source=Source.MODE)):
        yield f"an allow rule such as {rule}"


def _word(verdict: Verdict) -> str:
    return f"{verdict.decision.name.lower()} ({verdict.reason})"


def strength(rule: Rule) -> str:
    """What a deny or ask rule holds: a boundary, or a reading of commands that a program can get around."""
    return ADVISORY if rule.kind in (Kind.COMMAND, Kind.READ, Kind.EDIT) else BOUNDARY


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """A call that was judged in a session: what was decided then, by which source. `place`: where."""

    session: str
    call: str
    tool: str
    effects: tuple[Effect, ...]
    decided: str
    source: str
    rule: str
    place: Place
    mode: Mode

    @property
    def text(self) -> str:
        """The call in one line."""
        about = ", ".join(map(_about, self.effects[:1]))
        return f"{self.tool}({about})" if about else self.tool


def _about(effect: Effect) -> str:
    if isinstance(effect, ConnectHost):
        return shown(effect, path=True)
    return str(getattr(effect, "command", None) or getattr(effect, "path", ""))


def past_calls(records: Iterable[Mapping[str, Any]], *, session: str, place: Place, mode: Mode) -> Iterator[Past]:
    """The calls of tools that a session's Judged records hold, oldest first; `records`: `{type, ...body}`. `mode`:
    the one that it began in. Our own helpers, hooks and the user's commands are not a policy's matter alone.
    """
    for record in records:
        if record.get("type") in ("PolicyLoaded", "ModeChanged"):
            mode = Mode(record["mode"])
        if (
            record.get("type") != "Judged"
            or record["tool"] == HOOK
            or str(record["call"]).startswith("user-")
            or (record["verdict"]["source"] in ("fumehood", "user") and not record["verdict"]["rule"])
        ):
            continue
        try:
            effects = tuple(effect_from_json(one) for one in record["effects"])
        except ValueError:
            continue
        yield Past(
            session=session,
            call=str(record["call"]),
            tool=str(record["tool"]),
            effects=effects,
            decided=str(record["verdict"]["decision"]),
            source=str(record["verdict"]["source"]),
            rule=str(record["verdict"].get("rule") or record["verdict"].get("reason", "")),
            place=place,
            mode=mode,
        )


def judge_past(policy: Policy, past: Past) -> Verdict:
    """What a policy decides on a past call, in the mode that was in force, where it leaves that mode."""
    return judge(
        policy.with_mode(past.mode) if past.mode in policy.modes else policy, past.tool, past.effects, past.place
    )
