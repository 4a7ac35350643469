"""From joined settings to the policy in force: rules with their sources, modes that locks leave, examples that must
hold; and what locks forbid of a session's spec.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import field, replace
from functools import lru_cache
from pathlib import PurePosixPath

from runner.dataclass import dataclass
from runner.effects import Decision, Mode, Place, RuleSource, Source
from runner.errors import ManagedError, SettingsError, UsageError
from runner.policy.hiding import LOCK, LOGINS, rule_text, variants
from runner.policy.layers import HOSTS_LOCKED, OUTSIDE, RULES_LOCKED, Entry, Settings, version_of
from runner.policy.policy import Policy
from runner.policy.rules import Rule, parse_rule, rule_or_strictest, split_rules

_LISTS = (
    ("permissions.deny", Decision.DENY),
    ("permissions.ask", Decision.ASK),
    ("permissions.allow", Decision.ALLOW),
)
_DOMAINS = (("network.deniedDomains", Decision.DENY), ("network.allowedDomains", Decision.ALLOW))
_NETWORK = (
    ("network.deny", Decision.DENY),
    ("network.ask", Decision.ASK),
    ("network.allow", Decision.ALLOW),
)
CLOSED = ("Network", "WebFetch(domain:*)", "WebFetch", "WebSearch")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """Where a session's rules are read: `place` in the box, and the user's home on the host, which `~` may mean
    too where a root lies below it.
    """

    place: Place
    home: PurePosixPath | None = None
    moved: tuple[tuple[PurePosixPath, PurePosixPath], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Composed:
    """The policy, and what the user should know: rules that are not what they look like."""

    policy: Policy
    notes: tuple[str, ...] = ()
    examples: tuple[tuple[Rule, Entry], ...] = field(default=(), repr=False)


@lru_cache(maxsize=16)
def compose(
    settings: Settings,
    *,
    mode: Mode | None,
    ground: Ground,
    flags: tuple[tuple[Decision, tuple[str, ...]], ...] = (),
    approvals: tuple[str, ...] = (),
    approvals_file: str = "",
    registries: tuple[tuple[str, tuple[str, ...]], ...] = (),
) -> Composed:
    """`mode` None: the one that settings begin in. `flags`: rules of the command line, with commas or spaces between.
    `approvals`: what the user allowed for always. `registries`: for each tool the network rules that it stands for.
    Raises ManagedError for a managed rule that is none, UsageError for one of the flags, or a mode that is locked.
    """
    rules: list[Rule] = []
    notes: list[str] = []
    examples: list[tuple[Rule, Entry]] = []
    for entry, text, decision in _texts(settings):
        made, problem = _rule(entry, text, decision, ground)
        if problem:
            kept = "it allows nothing" if decision is Decision.ALLOW else "the whole tool is meant"
            notes.append(f"{entry.where}: {problem}; {kept}")
        if isinstance(entry.value, dict) and (priority := entry.value.get("priority")):
            made = [replace(rule, priority=priority) for rule in made]
        rules += made
        if isinstance(entry.value, dict) and made:
            examples.append((made[0], entry))
    hidden = settings.all("hidden")
    for entry in hidden:
        made, problem = _hidden_rules(entry, ground)
        rules += made
        notes += [f"{entry.where}: {problem}; all reading is meant"] if problem else []
    named = dict(registries)
    for entry in settings.all("registries"):
        texts = (f"Network({text})" for text in named.get(entry.text, ()))
        rules += [parse_rule(text, Decision.ALLOW, entry.source, ground.place) for text in texts]
    rules += _of_flags(settings, flags, ground, notes)
    source = RuleSource(layer=Source.USER, file=approvals_file)
    for text in approvals:
        found, _ = rule_or_strictest(text, Decision.ALLOW, source, ground.place)
        rules += [found] if found is not None and not _locked(settings, text) else []
    policy = Policy(
        mode=mode if mode is not None else settings.start_mode,
        rules=tuple(rules),
        modes=settings.modes,
        locks=(*settings.locks, *((LOCK,) if any(entry.text == LOGINS for entry in hidden) else ())),
        exempt=tuple(entry.text for entry in settings.all("network.passThrough")),
        hosts_asked=not any(map(settings.locked, ("network.allowManagedDomainsOnly", "network.strict"))),
    )
    return Composed(policy=policy, notes=tuple(notes), examples=tuple(examples))


def _of_flags(
    settings: Settings, flags: tuple[tuple[Decision, tuple[str, ...]], ...], ground: Ground, notes: list[str]
) -> Iterator[Rule]:
    """The rules of the command line; a note for each that a lock takes out."""
    source = RuleSource(layer=Source.COMMAND_LINE)
    for decision, texts in flags:
        for text in split_rules(texts):
            made = parse_rule(text, decision, source, ground.place)
            if decision is Decision.ALLOW and (why := _locked(settings, text)):
                notes.append(f"{text} of the command line does not count: {why}")
            else:
                yield from _variants(made, text, ground, None)


def _locked(settings: Settings, text: str) -> str:
    """Why an allow rule that is in no settings file does not count, "" where it does."""
    if settings.locked("allowManagedPermissionRulesOnly"):
        return RULES_LOCKED
    if settings.locked("network.allowManagedDomainsOnly") and text.startswith(OUTSIDE):
        return HOSTS_LOCKED
    return ""


def _texts(settings: Settings) -> Iterator[tuple[Entry, str, Decision]]:
    for key, decision in _LISTS:
        for entry in settings.all(key):
            yield entry, entry.text, decision
    for key, decision in _DOMAINS:
        for entry in settings.all(key):
            yield entry, f"WebFetch(domain:{entry.text})", decision
    for key, decision in _NETWORK:
        for entry in settings.all(key):
            yield entry, f"Network({entry.text})", decision
    for entry in settings.all("network.closed"):
        for text in CLOSED:
            yield entry, text, Decision.DENY


def wrong_rules(settings: Settings, ground: Ground) -> Iterator[SettingsError]:
    """Every managed rule that is none, not only the first."""
    for entry, text, decision in _texts(settings):
        try:
            _rule(entry, text, decision, ground)
        except SettingsError as error:
            yield error
    for entry in settings.all("hidden"):
        try:
            _hidden_rules(entry, ground)
        except SettingsError as error:
            yield error


def _rule(entry: Entry, text: str, decision: Decision, ground: Ground) -> tuple[list[Rule], str]:
    """The rule, once for each thing that its path may mean in the box; and what is wrong with it."""
    if entry.source.layer is Source.MANAGED:
        try:
            made = parse_rule(text, decision, entry.source, ground.place, anchor=entry.anchor)
        except UsageError as error:
            raise settings_error(entry, str(error)) from error
        return _variants(made, text, ground, entry.anchor), ""
    found, problem = rule_or_strictest(text, decision, entry.source, ground.place, anchor=entry.anchor)
    if found is None or problem:
        return [found] if found is not None else [], problem
    return _variants(found, text, ground, entry.anchor), ""


def _hidden_rules(entry: Entry, ground: Ground) -> tuple[list[Rule], str]:
    """What an entry of `hidden:` denies. Raises ManagedError as a rule does."""
    found: list[Rule] = []
    for text, place, anchor in variants(entry.text, ground.place) if entry.text != LOGINS else ():
        there = replace(entry, anchor=anchor)
        made, problem = _rule(there, text, Decision.DENY, replace(ground, place=place))
        found += [replace(rule, text=rule_text(entry.text)) for rule in made]
        if problem:
            return found, problem
    return found, ""


def _variants(rule: Rule, text: str, ground: Ground, anchor: PurePosixPath | None) -> list[Rule]:
    """A path rule names a file of the host; where the box sees that file elsewhere, the rule means that too."""
    tool, bracket, rest = text.partition("(")
    if not bracket or not rest.startswith(("~/", "//")):
        return [rule]
    named = rest.removesuffix(")")
    full = f"{ground.home}/{named[2:]}" if named.startswith("~/") else named[1:]
    others = [f"/{full}"] if named.startswith("~/") and ground.home is not None else []
    for host, at in ground.moved:
        if full == str(host) or full.startswith(f"{host}/"):
            others.append(f"/{at}{full[len(str(host)) :]}")
    made = [
        replace(parse_rule(f"{tool}({other})", rule.decision, rule.source, ground.place, anchor=anchor), text=rule.text)
        for other in others
    ]
    return [rule, *made]


def check_versions(settings: Settings, version: str) -> None:
    """Raises ManagedError where this program is not one that managed settings want."""
    ours = version_of(version)
    for key in ("requiredMinimumVersion", "requiredMaximumVersion"):
        for entry in settings.all(key):
            wanted = version_of(str(entry.value))
            if ours < wanted if key == "requiredMinimumVersion" else ours > wanted:
                raise settings_error(entry, f"{key} is {entry.value}, and this is fumehood {version}")


def settings_error(entry: Entry, problem: str) -> SettingsError:
    """An error about one entry."""
    made = ManagedError if entry.source.layer is Source.MANAGED else SettingsError
    return made(problem, file=entry.source.file, line=entry.source.line, column=entry.column)
