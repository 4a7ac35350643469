"""Which version of each settings file counts in a session whose ConfigChange hooks are heard: the one that they agreed
to. Of a newer one only what tightens counts meanwhile, and for good where a hook said no. Managed files are no matter
of agreement.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from runner.effects import Decision, Source
from runner.loop.modes import Changed
from runner.policy.layers import Loaded, join
from runner.policy.policy import Policy
from runner.sessions.chain import Chain

_NAMES = {
    Source.USER: "user_settings",
    Source.PROJECT: "project_settings",
    Source.LOCAL: "local_settings",
    Source.MANAGED: "policy_settings",
}


class Agreed:
    """`waiting`: the files that changed and that nobody said yes or no to yet. `home`: what `~` in their names is."""

    def __init__(self, chain: Chain, home: Path) -> None:
        self._home, self._top = home, chain.workspace
        self._managed = _digests(chain.managed.loaded)
        self._known = {one.file: one for one in chain.others}
        self._found = self._known
        self._declined: dict[str, str] = {}
        self._trusted = self._trusted_now = chain.trusted

    def take(self, chain: Chain) -> tuple[Changed, ...]:
        """The files as they are read now (before `Chain.after`); the managed ones that changed since the last time."""
        self._found = {one.file: one for one in chain.others}
        found = _digests(chain.managed.loaded)
        changed = [name for name in {**self._managed, **found} if self._managed.get(name) != found.get(name)]
        self._managed, self._trusted_now = found, chain.trusted
        self._declined = {name: digest for name, digest in self._declined.items() if self._digest(name) == digest}
        return tuple(Changed(source=_NAMES[Source.MANAGED], file=name) for name in sorted(changed))

    def _digest(self, name: str) -> str:
        return self._found[name].document.digest if name in self._found else ""

    @property
    def _differing(self) -> tuple[str, ...]:
        names = sorted({**self._known, **self._found})
        known = {name: one.document.digest for name, one in self._known.items()}
        return tuple(name for name in names if known.get(name, "") != self._digest(name))

    @property
    def waiting(self) -> tuple[Changed, ...]:
        """Those to ask the hooks about."""
        return tuple(
            Changed(source=_NAMES[layer], file=self._path(name))
            for name in self._differing
            if name not in self._declined and (layer := self._found.get(name, self._known.get(name)).layer) in _NAMES  # type: ignore[union-attr]
        )

    def _path(self, name: str) -> str:
        if name.startswith("~/"):
            return str(self._home / name[2:])
        return str(self._top / name)

    def settle(self, asked: Iterable[Changed], declined: frozenset[str]) -> None:
        """The hooks' answer on files that were `waiting`; `declined`: those, by path, that are not to count."""
        paths = {each.file for each in asked}
        for name in self._differing:
            if self._path(name) in declined:
                self._declined[name] = self._digest(name)
            elif self._path(name) in paths:
                self._agree(name)
        self._settled()

    def _settled(self) -> None:
        if not self._differing:
            self._trusted = self._trusted_now

    def _agree(self, name: str) -> None:
        self._known = {**self._known}
        self._known.pop(name, None)
        if name in self._found:
            self._known[name] = self._found[name]

    def agree(self) -> None:
        """Nobody has to be asked: whatever was not declined counts."""
        for name in self._differing:
            if name not in self._declined:
                self._agree(name)
        self._settled()

    def within(self, chain: Chain) -> Chain:
        """The chain with the versions that count, and of newer ones what tightens."""
        held = self._differing
        if not held:
            return chain
        kept = {name: self._known[name] for name in held if name in self._known}
        gone = {(name, self._digest(name)) for name in held}
        gone |= {(name, one.document.digest) for name, one in kept.items()}  # not twice
        others = [one for one in chain.others if (one.file, one.document.digest) not in gone]
        others += (*kept.values(), *(_tightening(self._found[name]) for name in held if name in self._found))
        trusted = chain.trusted and (self._trusted or not any(one.from_repository for one in kept.values()))
        settings = join((*chain.managed.loaded, *others), trusted=trusted)
        return replace(chain, settings=settings, others=tuple(others))


def _digests(loaded: Iterable[Loaded]) -> dict[str, str]:
    return {one.file: one.document.digest for one in loaded}


def _tightening(one: Loaded) -> Loaded:
    """A file of which nothing counts but what would of a repository that nobody trusts, and none of its hooks."""
    value = {key: part for key, part in one.document.value.items() if key != "hooks"}
    return replace(one, document=replace(one.document, value=value), from_repository=True, above=True)


def narrowed(policy: Policy, other: Policy) -> Policy:
    """The policy without what another one, of the files as they are, does not allow."""
    allowed = {(rule.text, rule.tool) for rule in other.of(Decision.ALLOW)}
    return replace(
        policy,
        rules=tuple(
            rule for rule in policy.rules if rule.decision is not Decision.ALLOW or (rule.text, rule.tool) in allowed
        ),
        exempt=tuple(host for host in policy.exempt if host in other.exempt),
    )
