"""Policy: the rules and the mode in force, and `judge`, the one function that decides on a call."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cached_property
from importlib import import_module
from pathlib import PurePosixPath
from types import MappingProxyType, ModuleType
from typing import TYPE_CHECKING, Any

from runner.dataclass import dataclass
from runner.effects import (
    AskUser,
    ConnectHost,
    Decision,
    Effect,
    Mode,
    Place,
    ReadPath,
    RuleSource,
    RunCommand,
    Source,
    Verdict,
    WritePath,
)
from runner.errors import UsageError
from runner.journal import digest
from runner.policy.hiding import is_hidden
from runner.policy.index import RuleIndex
from runner.policy.network import NetworkPattern, Range, ranges_of
from runner.policy.patterns import HostPattern, host_pattern
from runner.policy.rules import NETWORK, Rule, parse_rule, split_rules

if TYPE_CHECKING:
    from runner.policy.allowing import Allowing

NO_HOST_ASKED = Verdict(
    decision=Decision.DENY, source=Source.MODE, reason="no rule allows it, and settings have no host asked about"
)
OUTSIDE = frozenset({"WebFetch", NETWORK})
NOTHING_SENT: Mapping[str, Any] = MappingProxyType({})


class _Indexes:
    """The rules found by what they speak of: `strict` the deny and ask rules together, which are read as widely."""

    def __init__(self, rules: tuple[Rule, ...]) -> None:
        self._rules = rules
        self.allow = RuleIndex(rule for rule in rules if rule.decision is Decision.ALLOW)
        self.strict = RuleIndex(rule for rule in rules if rule.decision is not Decision.ALLOW)

    @cached_property
    def deny(self) -> RuleIndex:
        """The deny rules alone."""
        return RuleIndex(rule for rule in self._rules if rule.decision is Decision.DENY)


@dataclass(frozen=True, kw_only=True)
class Policy:
    """Frozen. Rules are read deny → ask → allow, the first list with a match decides; then the mode. The order of
    the rules means nothing. Adding a deny or ask rule never loosens a verdict. `modes`: those that locks leave;
    `locks`: the names of the locks in force, for the digest and for whoever asks. `hosts_asked`: whether a host that no
    rule speaks of may be asked about. `exempt`: hosts whose TLS is never looked into.
    """

    mode: Mode = Mode.DEFAULT
    rules: tuple[Rule, ...] = ()
    modes: frozenset[Mode] = frozenset(Mode)
    locks: tuple[str, ...] = ()
    hosts_asked: bool = True
    exempt: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raises UsageError for a mode that is locked."""
        if self.mode not in self.modes:
            raise UsageError(f"permission mode {self.mode.value} is locked by a managed policy")

    @cached_property
    def digest(self) -> str:
        """What PolicyLoaded and a SessionSpec name: the digest of mode, rules and locks; their order does not count."""
        rules = sorted([r.decision.name, r.source.layer.value, _named(r)] for r in self.rules)
        locked = {"modes": sorted(m.value for m in self.modes), "locks": sorted(self.locks)}
        strict: dict[str, Any] = {} if self.hosts_asked else {"hosts_asked": False}
        strict |= {"exempt": sorted(self.exempt)} if self.exempt else {}
        return digest({"mode": self.mode.value, "rules": rules} | (locked if self.locks else {}) | strict)

    @property
    def sources(self) -> tuple[str, ...]:
        """The sources that gave a rule, each once."""
        return tuple(dict.fromkeys(r.source.layer.value for r in self.rules))

    def with_mode(self, mode: Mode) -> Policy:
        """The same rules in another mode. Raises UsageError for a mode that is locked."""
        changed = replace(self, mode=mode)
        changed.__dict__["_indexes"] = self._indexes  # of the same rules: not built again
        return changed

    def unlocked(self) -> Policy:
        """The same rules with every mode, for examples of files."""
        changed = replace(self, mode=Mode.DEFAULT, modes=frozenset(Mode))
        changed.__dict__["_indexes"] = self._indexes
        return changed

    def of(self, decision: Decision) -> tuple[Rule, ...]:
        """The rules of one decision."""
        return tuple(rule for rule in self.rules if rule.decision is decision)

    @cached_property
    def _indexes(self) -> _Indexes:
        return _Indexes(self.rules)

    def hides(self, tool: str) -> bool:
        """Whether a bare deny rule takes the tool out of the model's list."""
        return any(rule.decision is Decision.DENY for rule in self._indexes.strict.bare(tool))

    def expand(self, effects: tuple[Effect, ...], place: Place) -> tuple[Effect, ...]:
        """The effects, and beside a command a ReadPath or WritePath for each file that it is known to touch, so that
        the gate resolves those too. Where everything is allowed anyway nothing is added. A command is read here, so
        that judging it takes no longer than the rules take.
        """
        for effect in effects if self.rules else ():
            if isinstance(effect, RunCommand):
                _judging().reach_of(effect.command, str(effect.cwd), str(place.home))
        if self.mode is Mode.BYPASS and not self._indexes.strict.paths:
            return effects
        added: dict[Effect, None] = {}
        for effect in effects:
            if isinstance(effect, RunCommand):
                for name in _judging().named(effect.command):
                    kind = WritePath if name.writes else ReadPath
                    for path in _judging().absolute(name.path, effect.cwd, place.home, name.moves):
                        added[kind(path=path)] = None
        return (*effects, *added)

    def judge(
        self, effects: tuple[Effect, ...], *, tool: str, place: Place, sent: Mapping[str, Any] = NOTHING_SENT
    ) -> Verdict:
        """One verdict for a call: that of its strictest effect. Pure; `effects` are expanded and resolved, `sent` is
        the input of the call.
        """
        fired = self._indexes.strict.fires(tool, effects, place, sent)
        allowing = _judging().Allowing(
            index=self._indexes.allow, mode=self.mode, tool=tool, place=place, effects=effects
        )
        verdict = self._without_rules(effects, allowing, place)
        if fired and len(effects) == 1 and isinstance(effects[0], ConnectHost):
            over = self._indexes.allow.covering(effects[0]) if tool in OUTSIDE else []
            lifted = {rule for rule in fired if rule.decision is Decision.ASK and any(one.lifts(rule) for one in over)}
            fired = {rule: None for rule in fired if rule not in lifted}
        matches = sorted((*fired, *allowing.used), key=lambda rule: rule.order)
        if not matches:
            return verdict
        strictest = matches[0]
        if strictest.decision is Decision.DENY:
            verdict = _by_rule(strictest)
        elif strictest.decision is Decision.ASK and verdict.decision is not Decision.DENY:
            verdict = _judging().NOT_ASKED if self.mode is Mode.DONT_ASK else _by_rule(strictest)
        return replace(verdict, matches=tuple(rule.match for rule in matches))

    def reach(self, effect: ConnectHost) -> tuple[tuple[Range, ...], tuple[Range, ...]]:
        """Of a request that is allowed: the special addresses that rules name for it, and those that rules deny it."""
        named: list[Range] = []
        for rule in self._indexes.allow.covering(effect):
            if isinstance(rule.pattern, NetworkPattern):
                named += rule.pattern.ranges
            elif isinstance(rule.pattern, HostPattern):
                named += ranges_of(rule.pattern)
        denying = self._indexes.deny.ranged()
        return tuple(named), tuple(each for pattern in denying if pattern.bars(effect) for each in pattern.ranges)

    def exempts(self, host: str) -> bool:
        """Whether TLS with a host is never looked into: rules on what is inside of it then speak of all of it."""
        return any(host_pattern(text).matches(host.lower().rstrip(".")) for text in self.exempt)

    @property
    def inspects(self) -> bool:
        """Whether any rule is about requests inside of TLS."""
        return self._indexes.strict.inspects or self._indexes.allow.inspects

    def expected(self, host: str, port: int) -> str:
        """What a tunnel to there is to carry, by what rules speak of: tcp, else `inspected` where requests inside of
        TLS have to be seen, else https, else http, https where no rule allows anything.
        """
        allowed = self._indexes.allow

        def request(scheme: str, method: str = "CONNECT") -> ConnectHost:
            return ConnectHost(host=host, port=port, scheme=scheme, method=method, path="/" if method == "GET" else "")

        def parts(scheme: str) -> bool:
            return any(pattern.touches(request(scheme, "GET")) for _, pattern in allowed.on_network(host))

        if allowed.covering(request("tcp")):
            return "tcp"
        whole = bool(allowed.covering(request("https")))
        regarding = (pattern.regards(request("https", "GET")) for _, pattern in self._indexes.strict.on_network(host))
        inside = parts("https") or parts("wss") or bool(allowed.covering(request("wss", "GET")))
        if (inside or (whole and any(regarding))) and not self.exempts(host):
            return "inspected"
        return "http" if not whole and (allowed.covering(request("http")) or parts("http")) else "https"

    def _without_rules(self, effects: tuple[Effect, ...], allowing: Allowing, place: Place) -> Verdict:
        """What allow rules and the mode say, and what neither can lift."""
        command = any(isinstance(effect, RunCommand) for effect in effects)
        verdicts: list[Verdict] = []
        for effect in effects or (None,):
            if effect is not None and (kept := self._kept(effect, place)) is not None:
                verdicts.append(kept)  # first: of two that are as strict, it says more
            if command and isinstance(effect, ReadPath | WritePath):
                pass  # what a command touches is looked at with it
            elif isinstance(effect, RunCommand) and self.mode is not Mode.BYPASS:
                verdicts.append(allowing.command(effect))
            elif not isinstance(effect, AskUser) and (rule := allowing.rule(effect)) is not None:
                verdicts.append(_by_rule(rule))
            elif isinstance(effect, ConnectHost) and not self.hosts_asked:
                verdicts.append(NO_HOST_ASKED)
            else:
                verdicts.append(_judging().by_mode(self.mode, effect, place))
        return max(verdicts, key=lambda found: (found.decision, not found.classify))

    def _kept(self, effect: Effect, place: Place) -> Verdict | None:
        """The floor under a verdict: protected paths and critical removals."""
        judging, kept = _judging(), None
        if isinstance(effect, WritePath) and judging.protected(effect):
            kept = judging.floor(self.mode, effect, f"{effect.path} is what programs obey", bypassed=True)
        elif isinstance(effect, RunCommand) and "rm" in effect.command.replace("\\", ""):
            word = judging.critical(judging.readings(effect.command).simples, effect.cwd, place)
            if word:
                kept = judging.floor(self.mode, effect, f"it would remove {word}", bypassed=False)
        found: Verdict | None = kept
        return found


def _judging() -> ModuleType:
    """Imported when a call is judged: a tenth of a start's imports reads commands."""
    return import_module("runner.policy.judging")


def _named(rule: Rule) -> str:
    return rule.text + (f" priority {rule.priority}" if rule.priority else "")


def _by_rule(rule: Rule) -> Verdict:
    if is_hidden(rule.text):
        reason = f"hidden by policy: {rule.text}"
        source = rule.source
        return Verdict(
            decision=rule.decision,
            source=source.layer,
            rule=rule.text,
            file=source.file,
            line=source.line,
            reason=reason,
        )
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
    anchor: PurePosixPath | None = None,
) -> Policy:
    """A policy from the rules of one source as flags give them (`--allowedTools "Bash(git log:*) Edit"`).
    Raises UsageError for the first rule that is wrong.
    """

    def rules(texts: Iterable[str], decision: Decision) -> tuple[Rule, ...]:
        origin = RuleSource(layer=source)
        return tuple(parse_rule(text, decision, origin, place, anchor=anchor) for text in split_rules(texts))

    found = (*rules(deny, Decision.DENY), *rules(ask, Decision.ASK), *rules(allow, Decision.ALLOW))
    return Policy(mode=mode, rules=found)
