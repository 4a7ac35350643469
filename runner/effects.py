"""What a tool call would do (Effect), where (Place), and what was decided about it (Verdict).

Inside effects touch the box's files and processes only; outside effects reach the
network, a host or a provider. Modes decide inside effects; an outside effect needs a rule.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum, StrEnum
from pathlib import PurePosixPath
from typing import Any, TypeAlias

from runner.dataclass import dataclass

MATCHES_KEPT = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where in the box a call is made. All paths absolute, as the box sees them."""

    cwd: PurePosixPath
    home: PurePosixPath
    roots: tuple[PurePosixPath, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCommand:
    """Run a shell command in the box."""

    command: str
    cwd: PurePosixPath
    background: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadPath:
    """Read a file or search below a directory. `link` and `target` are filled by the gate:
    the path with its parents resolved, and the path with everything resolved.
    """

    path: PurePosixPath
    link: PurePosixPath | None = None
    target: PurePosixPath | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WritePath:
    """Create, change or remove a file. `link` and `target` as in ReadPath."""

    path: PurePosixPath
    link: PurePosixPath | None = None
    target: PurePosixPath | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StopTask:
    """Stop a background command of this session."""

    task: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectHost:
    """Outside: a request to a host. An empty method or path means any."""

    host: str
    port: int
    scheme: str
    method: str = ""
    path: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallServer:
    """Call a tool of an MCP server. `outside` when the server is remote or on the host."""

    server: str
    tool: str
    outside: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class UseProvider:
    """Outside: a tool that the model's provider runs on its own servers."""

    tool: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOnHost:
    """Outside: run a program on the host (a hook that settings place there)."""

    command: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AskUser:
    """Put something to the user, who must answer: no rule and no mode does that for them."""

    about: str


Effect: TypeAlias = (
    RunCommand | ReadPath | WritePath | StopTask | ConnectHost | CallServer | UseProvider | RunOnHost | AskUser
)


def is_outside(effect: Effect) -> bool:
    """Whether the effect leaves the box."""
    match effect:
        case ConnectHost() | UseProvider() | RunOnHost():
            return True
        case CallServer(outside=outside):
            return outside
        case _:
            return False


def is_write(effect: Effect) -> bool:
    """Whether the effect may change the box's files: such calls run in order and dirty the box."""
    return isinstance(effect, RunCommand | WritePath | StopTask | CallServer)


def effect_to_json(effect: Effect) -> dict[str, Any]:
    """The effect as a JSON object: its type, and its fields that say something."""
    body: dict[str, Any] = {"type": type(effect).__name__}
    for name in effect.__slots__:  # they are flat: `asdict` would copy every path in depth, a millisecond a turn
        value = getattr(effect, name)
        if value is not None and value != "":
            body[name] = str(value) if isinstance(value, PurePosixPath) else value
    return body


class Decision(IntEnum):
    """Ordered: the strictest wins."""

    ALLOW = 0
    ASK = 1
    DENY = 2


class Source(StrEnum):
    """Who decided: a level of settings, a mode, the user at an approval, or we ourselves."""

    MANAGED = "managed"
    COMMAND_LINE = "command_line"
    LOCAL = "local"
    PROJECT = "project"
    USER = "user"
    MODE = "mode"
    HOOK = "hook"
    FUMEHOOD = "fumehood"


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleSource:
    """Where a rule stands: the level of settings, the file ("" for a flag) and its line from 1 (0: unknown)."""

    layer: Source
    file: str = ""
    line: int = 0

    def to_json(self) -> dict[str, Any]:
        """`{"source": level}`, with file and line where there are any."""
        found: dict[str, Any] = {"source": self.layer.value}
        return found | ({"file": self.file, "line": self.line} if self.file else {})


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """A rule that speaks of a call, whether it decided or not."""

    rule: str
    decision: Decision
    source: RuleSource


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One decision: made once, recorded, enforced. `rule` is the deciding rule's text, empty for a mode; `file`
    and `line` say where it stands. `matches`: every rule that speaks of the call, strictest first. `classify`: an
    ask of mode auto, which its classifier may answer.
    """

    decision: Decision
    source: Source
    rule: str = ""
    reason: str = ""
    file: str = ""
    line: int = 0
    matches: tuple[Match, ...] = ()
    classify: bool = False

    def to_json(self) -> dict[str, Any]:
        """The verdict as the journal holds it."""
        body: dict[str, Any] = {
            "decision": self.decision.name.lower(),
            "source": self.source.value,
            "rule": self.rule,
            "reason": self.reason,
        }
        if self.file:
            body |= {"file": self.file, "line": self.line}
        if self.matches:
            body["matches"] = [
                {"rule": m.rule, "decision": m.decision.name.lower()} | m.source.to_json()
                for m in self.matches[:MATCHES_KEPT]
            ]
        return body


class Mode(StrEnum):
    """The permission modes, by the names that settings and flags use."""

    DEFAULT = "default"
    ACCEPT_EDITS = "acceptEdits"
    PLAN = "plan"
    AUTO = "auto"
    DONT_ASK = "dontAsk"
    BYPASS = "bypassPermissions"


JsonObject: TypeAlias = Mapping[str, Any]
