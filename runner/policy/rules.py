"""Rules: `Tool`, `Tool(*)`, `Tool(specifier)` (reference: Claude Code's permission rules), parsed
and made ready to match. What several rules together mean is decided in `runner.policy.policy`.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import PurePosixPath

from runner.effects import (
    ConnectHost,
    Decision,
    Effect,
    Place,
    ReadPath,
    RuleSource,
    RunCommand,
    WritePath,
)
from runner.errors import UsageError
from runner.policy import shell
from runner.policy.patterns import command_pattern, host_pattern, normal, path_pattern

_FORM = re.compile(r"(?P<tool>[A-Za-z*][\w*-]*)(?:\((?P<specifier>.*)\))?", re.DOTALL)
_OLD_NAMES = {"Task": "Agent", "KillShell": "TaskStop", "KillBash": "TaskStop"}
_READERS = frozenset({"Read", "Grep", "Glob", "LSP"})
_EDITORS = frozenset({"Edit", "Write", "MultiEdit", "NotebookEdit"})
_SHELLS = frozenset({"Bash", "Monitor"})


class Kind(StrEnum):
    """What a rule looks at."""

    USE = "use"
    COMMAND = "command"
    READ = "read"
    EDIT = "edit"
    DOMAIN = "domain"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule of one source. `tool` may be a glob for deny and ask. `pattern` None: every use."""

    text: str
    decision: Decision
    source: RuleSource
    tool: str
    kind: Kind
    pattern: re.Pattern[str] | None = field(default=None, compare=False)
    wildcard: bool = False

    def names(self, tool: str) -> bool:
        """Whether a bare rule speaks of this tool. `mcp__server` speaks of all tools of that server."""
        if "*" in self.tool:
            return fnmatch.fnmatchcase(tool, self.tool)
        return tool == self.tool or (self.tool.count("__") == 1 and tool.startswith(self.tool + "__"))

    def matches(self, tool: str, effect: Effect | None, place: Place) -> bool:
        """Whether the rule speaks of this effect of a call of `tool`: for deny and ask in the widest
        reading, for allow in the narrowest.
        """
        if self.pattern is None:
            return self.names(tool)
        if self.decision is Decision.ALLOW:
            return self._covers(tool, effect)
        return self._fires(tool, effect, place)

    def _covers(self, tool: str, effect: Effect | None) -> bool:
        assert self.pattern is not None
        match effect:
            case RunCommand(command=command) if self.kind is Kind.COMMAND:
                simple = shell.plain(command)
                if simple is None or (self.wildcard and shell.runs_others(simple)):
                    return False
                return self.pattern.match(simple.text) is not None or self.pattern.match(command.strip()) is not None
            case ReadPath() if self.kind in (Kind.READ, Kind.EDIT):
                return self._speaks_of(tool, _READERS | _EDITORS) and self._all_match(effect)
            case WritePath() if self.kind is Kind.EDIT:
                return self._speaks_of(tool, _EDITORS) and self._all_match(effect)
            case ConnectHost(host=host) if self.kind is Kind.DOMAIN:
                return tool == self.tool and self.pattern.match(host.lower().rstrip(".")) is not None
            case _:
                return False

    def _fires(self, tool: str, effect: Effect | None, place: Place) -> bool:
        assert self.pattern is not None
        match effect:
            case RunCommand(command=command, cwd=cwd):
                return self._fires_on_command(command, cwd, place)
            case ReadPath() if self.kind is Kind.READ:
                return self._speaks_of(tool, _READERS | _EDITORS | _SHELLS) and self._any_matches(effect)
            case WritePath() if self.kind is Kind.EDIT:
                return self._speaks_of(tool, _EDITORS | _SHELLS) and self._any_matches(effect)
            case WritePath() if self.kind is Kind.READ and self.tool == "Read":
                return tool != "NotebookEdit" and self._any_matches(effect)
            case ConnectHost(host=host) if self.kind is Kind.DOMAIN:
                return self.pattern.match(host.lower().rstrip(".")) is not None
            case _:
                return False

    def _fires_on_command(self, command: str, cwd: PurePosixPath, place: Place) -> bool:
        assert self.pattern is not None
        if self.kind is Kind.COMMAND:
            return any(self.pattern.match(text) for text in shell.fragments(command))
        if self.kind is Kind.READ or (self.kind is Kind.EDIT and shell.reads(command, cwd) is None):
            paths = (place.home / word[2:] if word.startswith("~/") else cwd / word for word in shell.words(command))
            return any(self.pattern.match(normal(path)) for path in paths)
        return False

    def _speaks_of(self, tool: str, family: frozenset[str]) -> bool:
        return tool in family if self.tool in ("Read", "Edit") else tool == self.tool

    def _all_match(self, effect: ReadPath | WritePath) -> bool:
        assert self.pattern is not None
        return all(self.pattern.match(normal(path or effect.path)) for path in (effect.link, effect.target))

    def _any_matches(self, effect: ReadPath | WritePath) -> bool:
        assert self.pattern is not None
        paths = (effect.path, effect.link, effect.target)
        return any(self.pattern.match(normal(path)) for path in paths if path is not None)


def rule_or_strictest(
    text: str, decision: Decision, source: RuleSource, place: Place, *, anchor: PurePosixPath | None = None
) -> tuple[Rule | None, str]:
    """The rule and ""; of what is no rule, as strict a one as it can be, and what is wrong with it. An allow rule
    that makes no sense allows nothing (None); a deny or ask rule speaks of the whole tool that it begins with,
    and of every tool where it names none.
    """
    try:
        return parse_rule(text, decision, source, place, anchor=anchor), ""
    except UsageError as error:
        if decision is Decision.ALLOW:
            return None, str(error)
        named = re.match(r"\s*([A-Za-z][\w-]*)", text)
        tool = named[1] if named else "*"
        kept = Rule(text=text.strip(), decision=decision, source=source, tool=_OLD_NAMES.get(tool, tool), kind=Kind.USE)
        return kept, str(error)


def parse_rule(
    text: str, decision: Decision, source: RuleSource, place: Place, *, anchor: PurePosixPath | None = None
) -> Rule:
    """`anchor`: the directory that `/path` in a path rule starts at (of a project file the project's root, of the
    user's `~/.claude`; None: cwd). Raises UsageError for what is no rule, or no rule of this decision: a rule
    that would silently do nothing is worse than none.
    """
    text = text.strip()
    form = _FORM.fullmatch(text)
    if form is None:
        raise UsageError(f"permission rule {text!r} is not of the form Tool or Tool(specifier)")
    tool, specifier = _OLD_NAMES.get(form["tool"], form["tool"]), form["specifier"]
    if "*" in tool:
        if decision is Decision.ALLOW and not re.match(r"mcp__[A-Za-z0-9-]+(?:_[A-Za-z0-9-]+)*__", tool):
            raise UsageError(f"permission rule {text!r}: an allow rule names its tool without `*`")
        if specifier is not None:
            raise UsageError(f"permission rule {text!r}: a tool with `*` takes no specifier")
    if specifier is not None and not specifier.strip():
        raise UsageError(f"permission rule {text!r}: the specifier is empty")
    kind, pattern = Kind.USE, None
    if specifier is not None and specifier.strip() != "*":
        kind, pattern = _specified(text, tool, specifier, decision=decision, place=place, anchor=anchor)
    return Rule(
        text=text,
        decision=decision,
        source=source,
        tool=tool,
        kind=kind,
        pattern=pattern,
        wildcard=specifier is not None and "*" in specifier,
    )


def _specified(
    text: str, tool: str, specifier: str, *, decision: Decision, place: Place, anchor: PurePosixPath | None
) -> tuple[Kind, re.Pattern[str]]:
    if tool in _SHELLS:
        return Kind.COMMAND, command_pattern(specifier)
    if tool in _READERS or tool in _EDITORS:
        kind = Kind.READ if tool in _READERS else Kind.EDIT
        return kind, path_pattern(specifier.strip(), place, anywhere=decision is not Decision.ALLOW, anchor=anchor)
    if tool == "WebFetch" and specifier.strip().startswith("domain:"):
        return Kind.DOMAIN, host_pattern(specifier.strip().removeprefix("domain:"))
    raise UsageError(f"permission rule {text!r}: {tool} takes no such specifier")


def split_rules(texts: Iterable[str]) -> tuple[str, ...]:
    """Rules as flags give them: separated by commas or spaces outside parentheses.
    Raises UsageError when a parenthesis is not closed.
    """
    found: list[str] = []
    for text in texts:
        depth, word = 0, ""
        for char in text:
            if depth == 0 and char in ", \t\n":
                found.append(word)
                word = ""
                continue
            depth += (char == "(") - (char == ")")
            word += char
        if depth != 0:
            raise UsageError(f"permission rules {text!r}: a parenthesis is not closed")
        found.append(word)
    return tuple(word for word in found if word)
