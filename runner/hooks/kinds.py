"""The words of hooks: which events there are, what a handler is, what comes of it. Data only."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import field
from typing import Any, Protocol, TypeAlias

from runner.dataclass import dataclass
from runner.effects import Effect, RuleSource, Source, Verdict
from runner.hooks.matchers import Matcher
from runner.journal import digest
from sandbox.spec import Command, Process

COMMAND, HTTP, PROMPT, FUNCTION = "command", "http", "prompt", "function"
BOX, HOST = "box", "host"
OWN = frozenset({Source.MANAGED, Source.USER})
Callback: TypeAlias = Callable[[dict[str, Any]], Awaitable[Mapping[str, Any]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """An event. `matches`: the field of its input that a matcher is compared with, "" for none. `blocks`: whether
    exit code 2 (or `decision: block`) stops something. `seconds`: the time that a command has by default.
    `says`: whether plain output is context for the model. `why`: "" where it is fired here, else why it is not.
    """

    matches: str = ""
    blocks: bool = False
    seconds: float = 600.0
    says: bool = False
    why: str = ""


def _absent(names: str, why: str) -> dict[str, Kind]:
    return {name: Kind(why=why) for name in names.split()}


EVENTS: dict[str, Kind] = {
    "PreToolUse": Kind(matches="tool_name", blocks=True),
    "PermissionRequest": Kind(matches="tool_name"),
    "PermissionDenied": Kind(matches="tool_name"),
    "PostToolUse": Kind(matches="tool_name", blocks=True),
    "PostToolUseFailure": Kind(matches="tool_name", blocks=True),
    "PostToolBatch": Kind(blocks=True),
    "UserPromptSubmit": Kind(blocks=True, seconds=30.0, says=True),
    "SessionStart": Kind(matches="source", says=True),
    "SessionEnd": Kind(matches="reason", seconds=1.5),
    "Stop": Kind(blocks=True),
    "StopFailure": Kind(matches="error"),
    "Notification": Kind(matches="notification_type"),
    "ConfigChange": Kind(matches="source", blocks=True),
    **_absent("PreCompact PostCompact", "there is no compaction"),
    **_absent("SubagentStart SubagentStop TaskCreated TaskCompleted TeammateIdle", "there are no sub-agents"),
    **_absent("UserPromptExpansion", "there are no custom commands"),
    **_absent("Elicitation ElicitationResult", "there are no MCP servers"),
    **_absent("WorktreeCreate WorktreeRemove", "sessions make no worktrees"),
    **_absent("Setup InstructionsLoaded MessageDisplay PreModelSwitch PostModelSwitch", "it is not fired here"),
    **_absent("CwdChanged DirectoryAdded FileChanged", "it is not fired here"),
}
TOOL_EVENTS = frozenset(name for name, kind in EVENTS.items() if kind.matches == "tool_name")


@dataclass(frozen=True, slots=True, kw_only=True)
class Handler:
    """One thing to run at an event. `where` it runs: `box` or `host`. `strict`: a failure blocks. `timeout` in
    seconds. `condition`: a permission rule that must speak of the call, None for none. `script`: for the shell
    `shell`; `argv`: without one.
    """

    event: str
    type: str
    source: RuleSource
    where: str
    matcher: Matcher
    timeout: float
    strict: bool = False
    from_repository: bool = False
    condition: str = ""
    script: str = ""
    shell: str = "sh"
    argv: tuple[str, ...] = ()
    url: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    variables: tuple[str, ...] = ()
    prompt: str = ""
    model: str = ""
    goes_on: bool = False
    background: bool = False
    callback: Callback | None = None

    @property
    def text(self) -> str:
        """What it runs, in a line."""
        return self.script or " ".join(self.argv) or self.url or self.prompt or self.type

    @property
    def own(self) -> bool:
        """Whether it was placed by one who may place things on the host: managed settings, the user, the SDK."""
        return self.source.layer in OWN or self.callback is not None

    @property
    def trusted_answer(self) -> bool:
        """Whether its answer to a question of the mode's counts: it ran on the host, placed there by its owner."""
        return self.where == HOST and self.own and self.type in (COMMAND, HTTP, FUNCTION)

    @property
    def digest(self) -> str:
        """Of what runs and how."""
        where = [self.event, self.type, self.where, self.shell, self.strict]
        return digest([*where, self.script, list(self.argv), self.url, dict(self.headers), self.prompt, self.model])


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """What came of a handler, before it is understood. `failure`: why it did not end by itself, "" where it did.
    `body`: a value that was given as such (HTTP, functions), None where there is text.
    """

    code: int | None = None
    stdout: str = ""
    stderr: str = ""
    failure: str = ""
    seconds: float = 0.0
    body: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A hook that wants to run, as the gate is asked. `sent` is what the Judged's digest is of. `own`: it carries
    its own allow.
    """

    call: str
    cause: str
    effects: tuple[Effect, ...]
    sent: dict[str, Any]
    source: RuleSource
    own: bool
    digest: str


class Door(Protocol):
    """What the gate does for hooks: nothing of theirs runs but through it."""

    def admit(self, wanted: Wanted) -> Verdict:
        """Judge it and record that; only what is allowed may go on."""
        ...

    async def start(self, wanted: Wanted, command: Command) -> Process:
        """Run an admitted one in the box. Raises SandboxError; RuntimeError for what was not admitted."""
        ...
