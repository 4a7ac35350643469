"""The rule that an "always" would add: as narrow as what is asked about, and only where a rule can allow it."""

from __future__ import annotations

from dataclasses import replace

from runner.effects import (
    ConnectHost,
    Decision,
    Effect,
    Place,
    ReadPath,
    RuleSource,
    RunCommand,
    Source,
    Verdict,
    WritePath,
)
from runner.errors import UsageError
from runner.policy.network import shown
from runner.policy.policy import Policy
from runner.policy.rules import NETWORK, Rule, parse_rule

LONGEST = 400


def offer(policy: Policy, tool: str, effects: tuple[Effect, ...], place: Place, verdict: Verdict) -> str:
    """The rule to offer for a call that is asked about; "" where an ask rule, a lock or the kind of call leaves none.
    It allows exactly what would run: the command as it stands, the file, the host.
    """
    if verdict.decision is not Decision.ASK or verdict.source is not Source.MODE:
        return ""
    if "allowManagedPermissionRulesOnly" in policy.locks:
        return ""
    if "network.allowManagedDomainsOnly" in policy.locks and tool in {"WebFetch", NETWORK}:
        return ""
    for effect in effects:
        text = _text(tool, effect)
        if not text or len(text) > LONGEST or "\n" in text:
            continue
        try:
            added = with_grant(policy, text, place)
        except UsageError:
            continue
        if added.judge(effects, tool=tool, place=place).decision is Decision.ALLOW:
            return text
    return ""


def _text(tool: str, effect: Effect) -> str:
    match effect:
        case RunCommand(command=command) if "*" not in command and not command.rstrip().endswith(":"):
            return f"{tool}({command.strip()})"
        case WritePath(path=path) if not _special(str(path)):
            return f"Edit(/{path})"
        case ReadPath(path=path) if not _special(str(path)):
            return f"Read(/{path})"
        case ConnectHost() if tool == NETWORK:
            return f"Network({shown(effect)})"
        case ConnectHost(host=host):
            return f"WebFetch(domain:{host})"
        case _:
            return ""


def _special(path: str) -> bool:
    return any(letter in path for letter in "*?[\\!")


def with_grant(policy: Policy, text: str, place: Place, file: str = "") -> Policy:
    """The policy with the rule added. Raises UsageError."""
    source = RuleSource(layer=Source.USER, file=file)
    made: Rule = parse_rule(text, Decision.ALLOW, source, place)
    return replace(policy, rules=(*policy.rules, made))
