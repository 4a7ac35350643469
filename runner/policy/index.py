"""Which of very many rules speak of a call: found by tool, by the first word of a command, by a segment of a
path, so that the time does not grow with the rules that do not. One index holds the rules of one decision, or of
those that are read alike.
"""

from __future__ import annotations

import fnmatch
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from importlib import import_module
from pathlib import PurePosixPath
from typing import Any

from runner.effects import ConnectHost, Effect, Place, ReadPath, RunCommand, WritePath
from runner.policy.network import PLAIN, PORTS, NetworkPattern
from runner.policy.patterns import CommandPattern, HostPattern, PathPattern, by_key, folded, keys_of, normal
from runner.policy.rules import EDITORS, NAMED, READERS, SHELLS, Kind, Rule


class RuleIndex:
    """`fires`: the rules that speak of a call in the widest reading (deny, ask). The other methods give allow rules
    in the narrowest: each speaks of one thing.
    """

    def __init__(self, rules: Iterable[Rule]) -> None:
        self._tools: dict[str, list[Rule]] = defaultdict(list)
        self._globs: list[Rule] = []
        self._commands: dict[str, list[Rule]] = defaultdict(list)
        self._paths: dict[Kind, dict[str, list[Rule]]] = {Kind.READ: defaultdict(list), Kind.EDIT: defaultdict(list)}
        self._hosts: dict[str, list[Rule]] = defaultdict(list)
        self._networks: dict[str, list[Rule]] = defaultdict(list)
        self._fields: dict[str, list[Rule]] = defaultdict(list)
        for rule in rules:
            self._add(rule)

    def _add(self, rule: Rule) -> None:
        match rule.pattern:
            case None if "*" in rule.tool:
                self._globs.append(rule)
            case None:
                self._tools[rule.tool].append(rule)
            case _ if rule.kind is Kind.FIELD:
                self._fields[rule.tool].append(rule)
            case CommandPattern(key=key):
                self._commands[key].append(rule)
            case PathPattern(key=key):
                self._paths[rule.kind][key].append(rule)
            case HostPattern(host=host):
                self._hosts["*" if "*" in host else host].append(rule)
            case NetworkPattern(key=key):
                self._networks[key].append(rule)

    @cached_property
    def paths(self) -> bool:
        """Whether any rule is about paths."""
        return any(self._paths.values())

    def bare(self, tool: str) -> list[Rule]:
        """The rules on every use of a tool."""
        found = [*self._tools.get(tool, ()), *(rule for rule in self._globs if rule.names(tool))]
        if tool.startswith("mcp__"):
            server = "__".join(tool.split("__")[:2])
            found += self._tools.get(server, ()) if server != tool else ()
        return found

    def commands(self, text: str) -> Iterator[Rule]:
        """The rules whose pattern matches a command's text."""
        return self._on_texts(by_key((text,))) if self._commands else iter(())

    def _on_texts(self, texts: Mapping[str, Sequence[str]]) -> Iterator[Rule]:
        """The same for many texts, by the keys that rules on them may have."""
        table = self._commands
        for key in texts.keys() & table.keys():
            for rule in table[key]:
                if isinstance(rule.pattern, CommandPattern) and any(map(rule.pattern.matches, texts[key])):
                    yield rule

    def on_path(self, kind: Kind, path: str) -> Iterator[Rule]:
        """The rules of a kind whose pattern matches a path (absolute and normal; folded for deny and ask)."""
        return self._on_paths(kind, (path,), keys_of((path,)))

    def _on_paths(self, kind: Kind, paths: tuple[str, ...], keys: frozenset[str]) -> Iterator[Rule]:
        table = self._paths[kind]
        for key in keys & table.keys() if table else ():
            for rule in table[key]:
                pattern = rule.pattern
                if isinstance(pattern, PathPattern) and any(map(pattern.matches, paths)):
                    yield rule

    def on_host(self, host: str) -> Iterator[Rule]:
        """The rules whose pattern matches a host."""
        host = host.lower().rstrip(".")
        for rule in (*self._hosts.get(host, ()), *self._hosts.get("*", ())):
            if isinstance(rule.pattern, HostPattern) and rule.pattern.matches(host):
                yield rule

    def on_network(self, host: str) -> Iterator[tuple[Rule, NetworkPattern]]:
        """The network rules whose pattern may match a request to a host, for its patterns to be asked."""
        for rule in (*self._networks.get(host.lower().rstrip("."), ()), *self._networks.get("*", ())):
            if isinstance(rule.pattern, NetworkPattern):
                yield rule, rule.pattern

    def covering(self, effect: ConnectHost) -> list[Rule]:
        """The rules that a request is known to fit; those on a domain are for the usual ports."""
        found = [rule for rule, pattern in self.on_network(effect.host) if pattern.covers(effect)]
        if PORTS.get(effect.scheme) == effect.port and effect.scheme in PLAIN:
            found += self.on_host(effect.host)
        return found

    @cached_property
    def inspects(self) -> bool:
        """Whether any network rule is about requests inside of TLS."""
        patterns = (rule.pattern for rules in self._networks.values() for rule in rules)
        return any(isinstance(pattern, NetworkPattern) and pattern.inspects for pattern in patterns)

    def ranged(self) -> Iterator[NetworkPattern]:
        """The patterns of network rules that name addresses."""
        for rules in self._networks.values():
            for rule in rules:
                if isinstance(rule.pattern, NetworkPattern) and rule.pattern.ranges:
                    yield rule.pattern

    def on_fields(self, tool: str, sent: Mapping[str, Any]) -> Iterator[Rule]:
        """The rules that compare a field of the input. A field that is not there never matches."""
        server = "__".join(tool.split("__")[:2]) if tool.startswith("mcp__") else tool
        for rule in {id(rule): rule for name in (tool, server) for rule in self._fields.get(name, ())}.values():
            if isinstance(rule.pattern, CommandPattern) and _compared(rule, sent):
                yield rule

    def fires(self, tool: str, effects: tuple[Effect, ...], place: Place, sent: Mapping[str, Any]) -> dict[Rule, None]:
        """Every rule that speaks of any effect of the call, in any reading of it."""
        found = dict.fromkeys(self.bare(tool))
        found |= dict.fromkeys(self.on_fields(tool, sent))
        for effect in effects:
            match effect:
                case RunCommand():
                    found |= dict.fromkeys(self._on_command(effect, place))
                case ReadPath() | WritePath():
                    found |= dict.fromkeys(self._on_effect(tool, effect))
                case ConnectHost(host=host):
                    found |= dict.fromkeys(self.on_host(host))
                    found |= dict.fromkeys(
                        rule
                        for rule, pattern in self.on_network(host)
                        if pattern.concerns(effect) and not pattern.elsewhere
                    )
        return found

    def _on_effect(self, tool: str, effect: ReadPath | WritePath) -> Iterator[Rule]:
        if not self.paths:
            return
        kind = Kind.READ if isinstance(effect, ReadPath) else Kind.EDIT
        family = READERS | EDITORS | SHELLS if kind is Kind.READ else EDITORS | SHELLS
        paths, keys = _named_by(effect)
        for rule in self._on_paths(kind, paths, keys):
            if tool == rule.tool or (rule.tool in {"Read", "Edit"} and tool in family):
                yield rule
        if kind is Kind.EDIT and tool != "NotebookEdit":
            yield from (rule for rule in self._on_paths(Kind.READ, paths, keys) if rule.tool == "Read")

    def _on_command(self, effect: RunCommand, place: Place) -> Iterator[Rule]:
        reach = import_module("runner.policy.reach").reach_of(effect.command, str(effect.cwd), str(place.home))
        if self._commands:
            yield from self._on_texts(reach.by_key)
            for pattern, rest in reach.globs:
                for name in fnmatch.filter({key.partition(" ")[0] for key in self._commands}, pattern):
                    yield from self.commands(f"{name} {rest}".rstrip())
        if self.paths:
            kinds = (Kind.READ,) if reach.only_reads else (Kind.READ, Kind.EDIT)
            paths, keys = reach.paths, reach.keys
            if reach.path_globs:
                paths += tuple(path for glob in reach.path_globs for path in _globbed(glob, self._segments))
                keys = keys_of(paths)
            for kind in kinds:
                yield from self._on_paths(kind, paths, keys)

    @cached_property
    def _segments(self) -> str:
        """Every literal segment that a path rule is found by, a line each."""
        return "\n".join(dict.fromkeys(key for table in self._paths.values() for key in table if key))


@lru_cache(maxsize=256)
def _named_by(effect: ReadPath | WritePath) -> tuple[tuple[str, ...], frozenset[str]]:
    """The paths that an effect is about, folded, and what rules on them may be found by."""
    paths = tuple({folded(normal(path)) for path in {effect.path, effect.link, effect.target} if path})
    return paths, keys_of(paths)


def _compared(rule: Rule, sent: Mapping[str, Any]) -> bool:
    assert isinstance(rule.pattern, CommandPattern)
    value = sent.get(rule.name)
    if isinstance(value, bool):
        value = str(value).lower()
    if not isinstance(value, str | int | float):
        return False
    named, behind = NAMED.get(rule.tool, ("", ""))
    texts = [str(value)]
    if rule.name == named:
        texts = [" ".join(str(value).split())]
        if behind and rule.pattern.wild:
            texts = [f"{texts[0]} {sent.get(behind) or ''}".strip()]
    return any(rule.pattern.matches(text) for text in texts)


def _globbed(pattern: str, segments: str) -> Iterator[str]:
    """What a path's last segment, a glob, may stand for, of the names that rules speak of."""
    head, slash, last = pattern.rpartition("/")
    body = fnmatch.translate(last).removesuffix(r"\Z").replace("(?s:", "(?:")
    for name in re.findall(f"(?m)^{body}$", segments):
        yield head + slash + name


def covering(index: RuleIndex, effect: ReadPath | WritePath, tool: str) -> Rule | None:
    """The allow rule for a path effect of a file tool: link and target both matched. Edit allows reading too."""
    kinds = (Kind.READ, Kind.EDIT) if isinstance(effect, ReadPath) else (Kind.EDIT,)
    family = READERS | EDITORS if isinstance(effect, ReadPath) else EDITORS
    paths = {normal(PurePosixPath(path or effect.path)) for path in (effect.link, effect.target)}
    for kind in kinds:
        rules = [set(index.on_path(kind, path)) for path in paths]
        both = set.intersection(*rules) if rules else set()
        fitting = [r for r in both if tool == r.tool or (r.tool in {"Read", "Edit"} and tool in family)]
        if fitting:
            return min(fitting, key=lambda rule: rule.order)
    return None
