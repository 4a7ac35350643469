"""Rules: `Tool`, `Tool(*)`, `Tool(specifier)` (reference: Claude Code's permission rules), parsed and made ready
to match. Which of many rules speak of a call is found in `runner.policy.index`; what several together mean is
decided in `runner.policy.policy`.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable
from dataclasses import field
from enum import StrEnum
from pathlib import PurePosixPath
from typing import TypeAlias

from runner.dataclass import dataclass
from runner.effects import Decision, Match, Place, RuleSource, Source
from runner.errors import UsageError
from runner.policy.network import NetworkPattern, network_pattern
from runner.policy.patterns import CommandPattern, HostPattern, PathPattern, command_pattern, host_pattern, path_pattern

_FORM = re.compile(r"(?P<tool>[A-Za-z*][\w*-]*)(?:\((?P<specifier>.*)\))?", re.DOTALL)
_OLD_NAMES = {
    "Task": "Agent",
    "KillShell": "TaskStop",
    "KillBash": "TaskStop",
    "ListPeers": "ListAgents",
    "Brief": "SendUserMessage",
    "ListMcpResources": "ListMcpResourcesTool",
    "ReadMcpResource": "ReadMcpResourceTool",
    "ReadMcpResourceDir": "ReadMcpResourceDirTool",
}
READERS = frozenset({"Read", "Grep", "Glob", "LSP"})
EDITORS = frozenset({"Edit", "Write", "MultiEdit", "NotebookEdit"})
NETWORK = "Network"  # what leaves the box by itself: the requests of commands, by the proxy
SHELLS = frozenset({"Bash", "Monitor"})
# The field of the input that a rule for these tools names, and the one behind it.
NAMED = {"Agent": ("subagent_type", ""), "Skill": ("skill", "args")}
# Fields that `Tool(field:value)` may name; of an MCP server's tool every field.
_FIELDS = {
    "Bash": "description timeout run_in_background dangerouslyDisableSandbox",
    "Monitor": "description timeout_ms persistent",
    "Read": "offset limit pages allow_large",
    "Edit": "old_string new_string replace_all",
    "Write": "content",
    "NotebookEdit": "new_source cell_id cell_type edit_mode",
    "Grep": "pattern glob type output_mode multiline head_limit",
    "Glob": "pattern",
    "WebFetch": "prompt offset",
    "WebSearch": "query",
    "Agent": "description prompt model effort run_in_background name team_name mode isolation",
    "Skill": "args",
    "TaskStop": "task_id",
}
_FIELDS_OF = {tool: frozenset(fields.split()) for tool, fields in _FIELDS.items()}
_LAYERS = tuple(Source)
_ALLOW = Decision.ALLOW
_STANDING = dict.fromkeys(Source, 1) | {Source.MANAGED: 2, Source.LOCAL: 0, Source.PROJECT: 0}


class Kind(StrEnum):
    """What a rule looks at."""

    USE = "use"
    COMMAND = "command"
    READ = "read"
    EDIT = "edit"
    DOMAIN = "domain"
    NETWORK = "network"
    FIELD = "field"


# Looked up once: of an enumeration's class each look costs as much as a pattern.
_USE, _COMMAND, _READ, _EDIT, _DOMAIN, _NETWORK, _FIELD_KIND = Kind
_FIELD_FORM = re.compile(r"(\w+)\s*:\s*(.*)", re.DOTALL)


Pattern: TypeAlias = CommandPattern | PathPattern | HostPattern | NetworkPattern


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule of one source. `tool` may be a glob for deny and ask. `pattern` None: every use; `name`: the field of
    the input that a rule of kind FIELD compares. `priority`: of network rules, see `lifts`.
    """

    text: str
    decision: Decision
    source: RuleSource
    tool: str
    kind: Kind
    pattern: Pattern | None = field(default=None, compare=False)
    name: str = ""
    priority: int = 0

    def lifts(self, other: Rule) -> bool:
        """Whether this allow rule goes above an ask rule: by its priority, and not above a higher source."""
        return self.priority > other.priority and _STANDING[self.source.layer] >= _STANDING[other.source.layer]

    def names(self, tool: str) -> bool:
        """Whether a bare rule speaks of this tool. `mcp__server` speaks of all tools of that server."""
        if "*" in self.tool:
            return fnmatch.fnmatchcase(tool, self.tool)
        return tool == self.tool or (self.tool.count("__") == 1 and tool.startswith(self.tool + "__"))

    @property
    def match(self) -> Match:
        """What a verdict says of it."""
        return Match(rule=self.text, decision=self.decision, source=self.source)

    @property
    def order(self) -> tuple[int, int, str, int, str]:
        """The strictest first, then the highest source; nothing depends on the order in which rules came."""
        source = self.source
        return -self.decision, _LAYERS.index(source.layer), source.file, source.line, self.text


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
    tool, specifier = form.groups()
    tool = _OLD_NAMES.get(tool, tool)
    if "*" in tool:
        if decision is Decision.ALLOW and not re.match(r"mcp__[A-Za-z0-9-]+(?:_[A-Za-z0-9-]+)*__", tool):
            raise UsageError(f"permission rule {text!r}: an allow rule names its tool without `*`")
        if specifier is not None:
            raise UsageError(f"permission rule {text!r}: a tool with `*` takes no specifier")
    specifier = specifier.strip() if specifier is not None else "*"
    if not specifier:
        raise UsageError(f"permission rule {text!r}: the specifier is empty")
    kind, name, pattern = _USE, "", None
    if specifier != "*":
        kind, name, pattern = _specified(text, tool, specifier, place, anchor, allows=decision is _ALLOW)
    return Rule(text=text, decision=decision, source=source, tool=tool, kind=kind, pattern=pattern, name=name)


def _specified(
    text: str, tool: str, specifier: str, place: Place, anchor: PurePosixPath | None, *, allows: bool
) -> tuple[Kind, str, Pattern]:
    """What a rule with a specifier looks at: its kind, the field that it names, its pattern."""
    if field_value := _field(tool, specifier):
        if allows:
            raise UsageError(f"permission rule {text!r}: a field of the input can be denied or asked for, not allowed")
        name, value = field_value
        return _FIELD_KIND, name, CommandPattern(tuple(value.split("*")), boundary=False)
    if tool in SHELLS:
        return _COMMAND, "", command_pattern(specifier)
    if tool in READERS or tool in EDITORS:
        kind = _READ if tool in READERS else _EDIT
        return kind, "", path_pattern(specifier, place, anywhere=not allows, anchor=anchor)
    if tool == "WebFetch" and specifier.startswith("domain:"):
        return _DOMAIN, "", host_pattern(specifier.removeprefix("domain:"))
    if tool == NETWORK:
        return _NETWORK, "", network_pattern(specifier)
    if tool in NAMED:
        return _FIELD_KIND, NAMED[tool][0], command_pattern(specifier)
    raise UsageError(f"permission rule {text!r}: {tool} takes no such specifier")


def _field(tool: str, specifier: str) -> tuple[str, str] | None:
    """`name:value`, where the tool has such a field."""
    found = _FIELD_FORM.fullmatch(specifier) if ":" in specifier else None
    if found is None or not found[2]:
        return None
    if tool.startswith("mcp__") or found[1] in _FIELDS_OF.get(tool, ()):
        return found[1], found[2].strip()
    return None


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
