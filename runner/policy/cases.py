"""Examples in policy files: tried whenever a policy is loaded. One that does not hold is a file that does not say
what its author means, and is refused like a malformed one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache

from runner.dataclass import dataclass
from runner.effects import Decision, Mode, Source, Verdict
from runner.errors import UsageError
from runner.policy.calls import call_of, judge
from runner.policy.compose import Composed, Ground, settings_error
from runner.policy.layers import Entry, Loaded, Settings, join, mode_of
from runner.policy.patterns import CommandPattern
from runner.policy.policy import Policy
from runner.policy.rules import Rule

_PLAIN = re.compile(r"[\w./:@=,+-]+(?: [\w./:@=,+-]+)*")  # a command that reads as it stands

HOLDS = {
    "allow": frozenset({Decision.ALLOW}),
    "ask": frozenset({Decision.ASK}),
    "deny": frozenset({Decision.DENY}),
    "not_allow": frozenset({Decision.ASK, Decision.DENY}),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """An example that does not hold."""

    entry: Entry
    problem: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """An example, and what is decided."""

    entry: Entry
    call: str
    mode: Mode
    expect: str
    verdict: Verdict

    @property
    def holds(self) -> bool:
        """Whether that is what was expected."""
        return self.verdict.decision in HOLDS[self.expect]


@lru_cache(maxsize=16)
def check(composed: Composed, settings: Settings, ground: Ground) -> None:
    """Raises ManagedError, SettingsError for the first example that does not hold."""
    for failure in failures(composed, settings, ground):
        raise settings_error(failure.entry, failure.problem)


def failures(composed: Composed, settings: Settings, ground: Ground) -> Iterator[Failure]:
    """Every example that does not hold: of rules, which speak of one rule alone, and of files."""
    for rule, entry in composed.examples:
        yield from _of_rule(rule, entry, ground)
    for tried in try_cases(composed, settings, ground):
        if not tried.holds:
            verdict = tried.verdict
            yield Failure(
                entry=tried.entry,
                problem=f"this example does not hold: {tried.call} in mode {tried.mode.value} is to be "
                f"{tried.expect}, and is {verdict.decision.name.lower()} ({verdict.reason})",
            )


def try_cases(composed: Composed, settings: Settings, ground: Ground) -> Iterator[Tried]:
    """Every file's examples, judged by the rules of that file alone, managed files together: what other sources add
    must not make a file look wrong.
    """
    for group in _groups(settings):
        alone = join(group, trusted=True)
        files = {one.file for one in group}
        rules = tuple(
            rule for rule in composed.policy.rules if rule.source.file in files and rule.source.layer is group[0].layer
        )
        whole = len(rules) == len(composed.policy.rules)
        policy = composed.policy.unlocked() if whole else Policy(rules=rules)
        for entry in alone.cases:
            named = entry.value.get("mode") or alone.value("forcedMode") or alone.value("permissions.defaultMode")
            mode = mode_of(named or "default")
            try:
                policy = policy.with_mode(mode)
                tool, effects = call_of(entry.value["call"], ground.place)
            except UsageError as error:
                raise settings_error(entry, str(error)) from error
            verdict = judge(policy, tool, effects, ground.place)
            yield Tried(entry=entry, call=entry.value["call"], mode=mode, expect=entry.value["expect"], verdict=verdict)


def _groups(settings: Settings) -> Iterator[tuple[Loaded, ...]]:
    managed = tuple(one for one in settings.loaded if one.layer is Source.MANAGED)
    others: Iterable[Loaded] = (one for one in settings.loaded if one not in managed and not one.from_repository)
    groups = (managed, *((one,) for one in others))
    for group in groups:
        if any("cases" in one.document.value for one in group):
            yield group


def _of_rule(rule: Rule, entry: Entry, ground: Ground) -> Iterator[Failure]:
    for key, wanted in (("match", True), ("notMatch", False)):
        for text in entry.value.get(key, ()):
            if (
                wanted
                and isinstance(rule.pattern, CommandPattern)
                and _PLAIN.fullmatch(text)
                and rule.pattern.matches(text)
            ):
                continue
            alone = Policy(rules=(rule,))
            tool, effects = call_of(f"{rule.tool}({text})", ground.place)
            if bool(judge(alone, tool, effects, ground.place).matches) is not wanted:
                word = "matches" if wanted else "does not match"
                yield Failure(entry=entry, problem=f"the rule {rule.text} is to be one that {word} {text!r}")
