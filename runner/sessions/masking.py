"""The policy's paths as masks of the box: what deny rules on reading name is hidden in it, what those on editing name
is read-only, since a program opens what no reading of its words shows.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath

from runner.effects import Decision
from runner.policy.explain import ADVISORY, BOUNDARY, NEXT_TURN, strength
from runner.policy.hiding import hides_logins, is_hidden
from runner.policy.patterns import PathPattern, folded
from runner.policy.policy import Policy
from runner.policy.rules import Kind, Rule
from sandbox.covers import MOST_KEPT
from sandbox.masks import Masks, PathRule, find

BUILT_IN = {"Read": Kind.READ, "Edit": Kind.EDIT}


def masks_of(policy: Policy, roots: tuple[PurePosixPath, ...]) -> Masks:
    """What a box under this policy does not get to see, or to change, of its roots."""
    denied = [rule for rule in policy.of(Decision.DENY) if is_built_in(rule, roots)]
    hide, keep = (
        tuple(
            dict.fromkeys(
                PathRule(rule.pattern.key, rule.pattern.source)
                for rule in denied
                if rule.kind is kind
                and not (kind is Kind.EDIT and is_hidden(rule.text))
                and isinstance(rule.pattern, PathPattern)
            )
        )
        for kind in (Kind.READ, Kind.EDIT)
    )
    return Masks(hide=hide, keep=keep, logins=hides_logins(policy))


def is_built_in(rule: Rule, roots: tuple[PurePosixPath, ...]) -> bool:
    """Whether a rule becomes a part of the box: a deny of Read or Edit that may name something in one of the roots."""
    pattern = rule.pattern
    if rule.decision is not Decision.DENY or not isinstance(pattern, PathPattern):
        return False
    return BUILT_IN.get(rule.tool) is rule.kind and any(pattern.may_lie_in(str(root)) for root in roots)


def strengths(policy: Policy, roots: Mapping[PurePosixPath, Path]) -> dict[Rule, str]:
    """What each deny and ask rule holds, in a session over these roots (by their places in the box): a rule that is
    built into the box is a boundary where there is something to hide or keep now, and from the next turn on where
    that comes to be there. Of more than MOST_KEPT places to keep in one root the rest is advice, and counted. One walk
    of the roots, where there is such a rule.
    """
    rules = [rule for rule in policy.rules if rule.decision is not Decision.ALLOW]
    built = [rule for rule in rules if is_built_in(rule, tuple(roots))]
    masks = masks_of(policy, tuple(roots))
    there: list[str] = []
    beyond: list[str] = []
    for at, host in roots.items() if built else ():
        with suppress(OSError):
            found = find(host, at, masks)
            there += [folded(str(at / path)) for path in (*found.hidden, *found.kept[:MOST_KEPT])]
            beyond += [folded(str(at / path)) for path in found.kept[MOST_KEPT:]]
    return {rule: _built(rule, there, beyond) if rule in built else strength(rule) for rule in rules}


def _built(rule: Rule, there: list[str], beyond: list[str]) -> str:
    if rule.kind is Kind.EDIT and (count := _spoken(rule, beyond)):
        return f"{BOUNDARY} but for {count} places too many: {ADVISORY} there"
    return BOUNDARY if _spoken(rule, there) else NEXT_TURN


def _spoken(rule: Rule, there: list[str]) -> int:
    pattern = rule.pattern
    return sum(map(pattern.matches, there)) if isinstance(pattern, PathPattern) else 0
