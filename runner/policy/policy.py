"""Policy: the rules and the mode in force, and `judge`, the one function that decides on a call."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property

from runner.effects import Decision, Effect, Mode, Place, ReadPath, RuleSource, RunCommand, Source, Verdict, WritePath
from runner.errors import UsageError
from runner.journal import digest
from runner.policy import shell
from runner.policy.modes import NOT_ASKED, by_mode
from runner.policy.rules import Kind, Rule, parse_rule, split_rules


@dataclass(frozen=True, kw_only=True)
class Policy:
    """Frozen. Rules are read deny → ask → allow, the first list with a match decides; then the mode. The order of
    the rules means nothing. Adding a deny or ask rule never loosens a verdict. `modes`: those that locks leave;
    `locks`: the names of the locks in force, for the digest and for whoever asks.
    """

    mode: Mode = Mode.DEFAULT
    rules: tuple[Rule, ...] = ()
    modes: frozenset[Mode] = frozenset(Mode)
    locks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raises UsageError for a mode that is locked."""
        if self.mode not in self.modes:
            raise UsageError(f"permission mode {self.mode.value} is locked by a managed policy")

    @cached_property
    def digest(self) -> str:
        """What PolicyLoaded and a SessionSpec name: the digest of mode, rules and locks; their order does not count."""
        rules = sorted([r.decision.name, r.source.layer.value, r.text] for r in self.rules)
        locked = {"modes": sorted(m.value for m in self.modes), "locks": sorted(self.locks)}
        return digest({"mode": self.mode.value, "rules": rules} | (locked if self.locks else {}))

    @property
    def sources(self) -> tuple[str, ...]:
        """The sources that gave a rule, each once."""
        return tuple(dict.fromkeys(r.source.layer.value for r in self.rules))

    def with_mode(self, mode: Mode) -> Policy:
        """The same rules in another mode. Raises UsageError for a mode that is locked."""
        return replace(self, mode=mode)

    @cached_property
    def deny(self) -> tuple[Rule, ...]:
        """The deny rules."""
        return tuple(rule for rule in self.rules if rule.decision is Decision.DENY)

    @cached_property
    def ask(self) -> tuple[Rule, ...]:
        """The ask rules."""
        return tuple(rule for rule in self.rules if rule.decision is Decision.ASK)

    @cached_property
    def allow(self) -> tuple[Rule, ...]:
        """The allow rules."""
        return tuple(rule for rule in self.rules if rule.decision is Decision.ALLOW)

    def hides(self, tool: str) -> bool:
        """Whether a bare deny rule takes the tool out of the model's list."""
        return any(rule.pattern is None and rule.names(tool) for rule in self.deny)

    def expand(self, effects: tuple[Effect, ...]) -> tuple[Effect, ...]:
        """The effects, and beside a read-only command a ReadPath for each file that it names, so that
        the gate resolves those too. Where everything is allowed anyway nothing is added.
        """
        if self.mode is Mode.BYPASS and not self._path_rules:
            return effects
        added: list[Effect] = []
        for effect in effects:
            if isinstance(effect, RunCommand):
                added += [ReadPath(path=path) for path in shell.reads(effect.command, effect.cwd) or ()]
        return (*effects, *added)

    @cached_property
    def _path_rules(self) -> bool:
        return any(rule.kind is Kind.READ for rule in (*self.deny, *self.ask))

    def judge(self, effects: tuple[Effect, ...], *, tool: str, place: Place) -> Verdict:
        """One verdict for a call: that of its strictest effect. Pure; `effects` are resolved."""
        if not effects:
            return self._judge(tool, None, place, None)
        allowed = next(
            (rule for e in effects if isinstance(e, RunCommand) for rule in self.allow if rule.matches(tool, e, place)),
            None,
        )
        return max((self._judge(tool, effect, place, allowed) for effect in effects), key=lambda v: v.decision)

    def _judge(self, tool: str, effect: Effect | None, place: Place, allowed: Rule | None) -> Verdict:
        """`allowed`: the rule that allows the command itself, and so the files that it names."""
        for rule in self.deny:
            if rule.matches(tool, effect, place):
                return _by_rule(rule)
        without_ask = self._without_ask(tool, effect, place, allowed)
        for rule in self.ask if without_ask.decision is not Decision.DENY else ():
            if rule.matches(tool, effect, place):
                return NOT_ASKED if self.mode is Mode.DONT_ASK else _by_rule(rule)
        return without_ask

    def _without_ask(self, tool: str, effect: Effect | None, place: Place, allowed: Rule | None) -> Verdict:
        if self.mode is Mode.PLAN and isinstance(effect, WritePath):
            return by_mode(self.mode, effect, place)
        if allowed is not None and isinstance(effect, ReadPath | WritePath):
            return _by_rule(allowed)
        for rule in self.allow:
            if rule.matches(tool, effect, place):
                return _by_rule(rule)
        return by_mode(self.mode, effect, place)


def _by_rule(rule: Rule) -> Verdict:
    word = {Decision.ALLOW: "allowed", Decision.ASK: "to be asked", Decision.DENY: "denied"}[rule.decision]
    return Verdict(
        decision=rule.decision,
        source=rule.source.layer,
        rule=rule.text,
        file=rule.source.file,
        line=rule.source.line,
        reason=f"{word} by rule {rule.text}",
    )


def build_policy(
    *,
    mode: Mode,
    allow: Iterable[str] = (),
    ask: Iterable[str] = (),
    deny: Iterable[str] = (),
    place: Place,
    source: Source = Source.COMMAND_LINE,
) -> Policy:
    """A policy from the rules of one source as flags give them (`--allowedTools "Bash(git log:*) Edit"`).
    Raises UsageError for the first rule that is wrong.
    """

    def rules(texts: Iterable[str], decision: Decision) -> tuple[Rule, ...]:
        origin = RuleSource(layer=source)
        return tuple(parse_rule(text, decision, origin, place) for text in split_rules(texts))

    found = (*rules(deny, Decision.DENY), *rules(ask, Decision.ASK), *rules(allow, Decision.ALLOW))
    return Policy(mode=mode, rules=found)
