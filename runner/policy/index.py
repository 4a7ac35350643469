"""Which of very many rules speak of a call: found by tool, by the first word of a command, by a segment of a
path, so that the time does not grow with the rules that do not. One index holds the rules of one decision.
"""

from __future__ import annotations

import fnmatch
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any

from runner.effects import ConnectHost, Effect, Place, ReadPath, RunCommand, WritePath
from runner.policy import loose
from runner.policy.commands import only_reads
from runner.policy.patterns import CommandPattern, HostPattern, PathPattern, folded, normal
from runner.policy.places import absolute, nearby
from runner.policy.rules import EDITORS, NAMED, READERS, SHELLS, Kind, Rule
from runner.policy.runs import Reading, base, readings


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
            case CommandPattern(first=first):
                self._commands[first].append(rule)
            case PathPattern(key=key):
                self._paths[rule.kind][key].append(rule)
            case HostPattern(host=host):
                self._hosts["*" if "*" in host else host].append(rule)

    @property
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
        first = text.partition(" ")[0]
        for rule in (*self._commands.get(first, ()), *self._commands.get("", ())):
            if isinstance(rule.pattern, CommandPattern) and rule.pattern.matches(text):
                yield rule

    def on_path(self, kind: Kind, path: str) -> Iterator[Rule]:
        """The rules of a kind whose pattern matches a path (absolute and normal; folded for deny and ask)."""
        table = self._paths[kind]
        if not table:
            return
        keys = {""}
        for segment in path.split("/"):
            keys.add(segment)
            if "." in segment:
                keys.add(segment[segment.rindex(".") :])
        for key in keys:
            for rule in table.get(key, ()):
                if isinstance(rule.pattern, PathPattern) and rule.pattern.matches(path):
                    yield rule

    def on_host(self, host: str) -> Iterator[Rule]:
        """The rules whose pattern matches a host."""
        host = host.lower().rstrip(".")
        for rule in (*self._hosts.get(host, ()), *self._hosts.get("*", ())):
            if isinstance(rule.pattern, HostPattern) and rule.pattern.matches(host):
                yield rule

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
        return found

    def _on_effect(self, tool: str, effect: ReadPath | WritePath) -> Iterator[Rule]:
        kind = Kind.READ if isinstance(effect, ReadPath) else Kind.EDIT
        family = READERS | EDITORS | SHELLS if kind is Kind.READ else EDITORS | SHELLS
        for path in dict.fromkeys(folded(normal(p)) for p in (effect.path, effect.link, effect.target) if p):
            for rule in self.on_path(kind, path):
                if tool == rule.tool or (rule.tool in {"Read", "Edit"} and tool in family):
                    yield rule
            if kind is Kind.EDIT and tool != "NotebookEdit":
                yield from (rule for rule in self.on_path(Kind.READ, path) if rule.tool == "Read")

    def _on_command(self, effect: RunCommand, place: Place) -> Iterator[Rule]:
        reading = readings(effect.command)
        if self._commands:
            yield from self._on_texts(effect.command, reading)
        if self.paths:
            reading_only = only_reads(effect.command)
            for path in _named(effect, reading, place, self._segments if _has_glob(reading) else ""):
                yield from self.on_path(Kind.READ, path)
                if not reading_only:
                    yield from self.on_path(Kind.EDIT, path)

    def _on_texts(self, command: str, reading: Reading) -> Iterator[Rule]:
        texts = dict.fromkeys((" ".join(command.split()), *reading.texts))
        if not reading.whole:
            texts |= dict.fromkeys(loose.fragments(command))
        for text in texts:
            yield from self.commands(text)
        for simple in reading.simples:
            if simple.words[0].glob:
                pattern, rest = base(simple.words[0]), " ".join(w.value or w.source for w in simple.words[1:])
                for name in fnmatch.filter(self._commands, pattern):
                    yield from self.commands(f"{name} {rest}".rstrip())

    @cached_property
    def _segments(self) -> str:
        """Every literal segment that a path rule is found by, a line each."""
        return "\n".join(dict.fromkeys(key for table in self._paths.values() for key in table if key))


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


def _has_glob(reading: Reading) -> bool:
    return any(word.glob for simple in reading.simples for word in simple.words[1:])


def _named(effect: RunCommand, reading: Reading, place: Place, segments: str) -> dict[str, None]:
    """Every path that a word of the command might name, folded."""
    words = dict.fromkeys(loose.words(effect.command))
    for simple in reading.simples:
        words |= dict.fromkeys(word.value for word in simple.words if word.value)
        words |= dict.fromkeys(w.value.partition("=")[2] for w in simple.words if w.value and "=" in w.value)
    for redirect in reading.redirects:
        words |= dict.fromkeys([redirect.word.value] if redirect.word.value else [])
    if segments:
        for simple in reading.simples:
            for word in simple.words[1:]:
                if word.glob:
                    words |= dict.fromkeys(_globbed(word.value or "", segments))
    places = nearby(effect.cwd, place.home, reading)
    found: dict[str, None] = {}
    for text in words:
        if not text or "\0" in text:
            continue
        if text.startswith(("/", "~")):
            found |= dict.fromkeys(folded(normal(path)) for path in absolute(text, effect.cwd, place.home, ()))
        else:
            found |= dict.fromkeys(folded(normal(where / text)) for where in places)
    return found


def _globbed(pattern: str, segments: str) -> Iterator[str]:
    """What a glob's last segment may stand for, of the names that rules speak of."""
    head, slash, last = pattern.rpartition("/")
    body = fnmatch.translate(folded(last)).removesuffix(r"\Z")
    for name in re.findall(f"(?m)^{body}$".replace("(?s:", "(?:"), segments):
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
