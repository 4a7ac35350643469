"""The event union: everything that happens in a session, and the record that carries it.

Journalled events are written, hash-chained, before they are shown; live events
(TextDelta, ThinkingDelta, ToolChunk) are only shown, numbered within the record they
grow into. Nothing here does I/O: `runner.journal` writes, `runner.ui` draws.
"""

from __future__ import annotations

from dataclasses import field, fields
from typing import Any, TypeAlias

from runner.dataclass import dataclass

Json: TypeAlias = Any  # a JSON value: dict, list, str, int, float, bool or None
RECORD_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionStarted:
    """First record of a journal. `spec` is SessionSpec.to_json(); holds no secret."""

    spec: dict[str, Json]
    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyLoaded:
    """The policy in force from here on. `sources`: `level:file` of each settings file that counted. `problem`: why
    nothing is allowed any more, "" where that is not so.
    """

    digest: str
    mode: str
    sources: tuple[str, ...] = ()
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class BoxStarted:
    """A container answers. `rungs` maps each root to overlay, reflink or copy; `limits_missing`
    names the protections that this engine could not give.
    """

    container: str
    image: str
    engine: str
    runtime: str
    rungs: dict[str, str]
    toolbox: str = ""
    seconds: float = 0.0
    limits_missing: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class BoxEnded:
    """The container is gone. `reason`: closed, lost, disk, killed."""

    reason: str
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptGiven:
    """The user's words. `content`: a list of content blocks in the Messages API's form.
    `context`: blocks that we put before them (CLAUDE.md, git state, drift); the model sees both.
    """

    content: list[Json]
    context: list[Json] = field(default_factory=list)
    source: str = "user"


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnStarted:
    """A turn goes from one prompt to the agent's rest; it holds any number of model rounds."""

    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelAsked:
    """A request went out. `digest`: sha256 of its canonical JSON; `parameters`: all of it but
    messages, system and tools; `system` is the digest of system prompt and tools.
    """

    model: str
    digest: str
    parameters: dict[str, Json]
    messages: int
    system: str = ""
    attempt: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelReplied:
    """Content blocks exactly as received (signatures too). `partial`: the stream broke.
    `usage`: the provider's own numbers; `cost` in USD, None where no price is known.
    """

    message: str
    model: str
    content: list[Json]
    stop_reason: str | None
    usage: dict[str, Json]
    cost: float | None = None
    partial: bool = False
    request: str = ""
    seconds: float = 0.0
    first_token: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolRequested:
    """A tool call as the stream completed it. `error`: why it cannot run (bad JSON, unknown
    tool, arguments that do not validate); then `raw` holds the text that was sent.
    """

    call: str
    name: str
    input: dict[str, Json]
    error: str = ""
    raw: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class HookRan:
    """A hook ended. `where`: box or host. `source`: `level:file:line`. `outcome`: success, error, cancelled, blocked.
    `digest`: of what ran and how; `verdict`: its word (allow, ask, deny, block, stop), "" for none.
    """

    hook: str
    event: str
    where: str
    source: str
    outcome: str
    exit_code: int | None = None
    output: dict[str, Json] = field(default_factory=dict)
    seconds: float = 0.0
    digest: str = ""
    verdict: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """The paths of a call as the box resolved them: [{path, link, target, exists}]."""

    call: str
    paths: list[Json]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """The one decision on a call. `digest`: sha256 of the final input's canonical JSON; the
    gate runs no input without a Judged of its digest.
    """

    call: str
    tool: str
    digest: str
    effects: list[Json]
    verdict: dict[str, Json]


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalAsked:
    """The verdict was ask, and somebody can be asked. `always`: the rule that may be allowed for always, "" for
    none; `kept`: the file that it would be written to.
    """

    call: str
    tool: str
    input: dict[str, Json]
    reason: str
    always: str = ""
    kept: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalGiven:
    """The answer. `by`: terminal, client, remote, hook, nobody. `always`: the rule that was offered is allowed from
    here on, too. `input`: what is to be run in place of what was asked for (the user's answers in it); it is judged
    again.
    """

    call: str
    allowed: bool
    by: str
    reason: str = ""
    always: bool = False
    input: dict[str, Json] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolOutput:
    """The output of a call that was shown while it ran, completed (blob when large)."""

    call: str
    text: str
    truncated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolFinished:
    """Every ToolRequested gets exactly one. `content`: what the model sees (text or blocks);
    `result`: the structured object that clients get as tool_use_result. `seconds`: without the wait for an answer.
    """

    call: str
    name: str
    content: str | list[Json]
    result: Json = None
    is_error: bool = False
    truncated: bool = False
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointTaken:
    """A state that can be restored. `before` names the call it was taken for; `files` counts the paths that
    changed since the last one, `changed` names the first of them, each with its layer. `way`: whether contents were
    copied (log), or layers frozen, under the running box (live) or without one (rest).
    """

    checkpoint: str
    label: str
    files: int
    size: int
    seconds: float
    before: str = ""
    changed: tuple[str, ...] = ()
    way: str = "log"


@dataclass(frozen=True, slots=True, kw_only=True)
class Egress:
    """One request that left, or was refused, when it is over. The verdict's `failure`: why nothing came of one
    that was allowed; its `replayed`: a recording answered, and nothing left. Bytes as they went over the box's
    connection.
    """

    host: str
    port: int
    scheme: str
    method: str
    path: str
    verdict: dict[str, Json]
    sent: int = 0
    received: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Drifted:
    """Host files changed under the session. `paths` is capped; `count` is not."""

    paths: list[Json]
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Compacted:
    """History up to here is replaced by `summary` in later requests."""

    trigger: str
    summary: str
    tokens_before: int
    tokens_after: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModeChanged:
    """The permission mode from here on."""

    mode: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskUpdated:
    """A to-do list (`kind` todos: `items`) or a background command (`kind` command) changed."""

    kind: str
    task: str
    state: str
    items: list[Json] = field(default_factory=list)
    detail: dict[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageReported:
    """Totals of the session so far, by model."""

    models: dict[str, Json]
    cost: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadMoved:
    """History goes on from another record. `kind`: undo, redo, rewind; `what`: both, files, conversation.
    `reason`: what the model is told. `left`: the record that history went on from until now; `before` and
    `checkpoint`: the checkpoints that the files were at and are at now ("" where files stayed).
    """

    to: str
    reason: str
    kind: str = "undo"
    what: str = "both"
    left: str = ""
    before: str = ""
    checkpoint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forked:
    """This session came from, or gave rise to, another one."""

    session: str
    at: str
    direction: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """Changes went over to the host; `undone`: the latest such came back by `apply --undo`. Nothing that
    `undo` of the session touches.
    """

    paths: list[Json]
    count: int
    undone: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Redacted:
    """A payload was removed; the chain still verifies, since blobs lie outside it."""

    blobs: list[str]
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnEnded:
    """The agent rests. `reason`: completed, interrupted, max_turns, max_budget, max_time,
    max_tokens, refusal, hook (one stopped it), failed. `result`: the last text, of `hook` the hook's reason.
    Seconds: wall, and waiting for the model.
    """

    number: int
    reason: str
    result: str
    rounds: int
    seconds: float
    api_seconds: float
    usage: dict[str, Json]
    cost: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """Ours or the provider's failure, for the user. `error` is the class's name."""

    error: str
    message: str
    exit_code: int
    retrying: bool = False
    detail: dict[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class TextDelta:
    """Live only: a piece of the reply."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ThinkingDelta:
    """Live only: a piece of the thinking."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolChunk:
    """Live only: a piece of a running tool's output."""

    call: str
    text: str


Recorded: TypeAlias = (
    SessionStarted
    | PolicyLoaded
    | BoxStarted
    | BoxEnded
    | PromptGiven
    | TurnStarted
    | ModelAsked
    | ModelReplied
    | ToolRequested
    | HookRan
    | Resolved
    | Judged
    | ApprovalAsked
    | ApprovalGiven
    | ToolOutput
    | ToolFinished
    | CheckpointTaken
    | Egress
    | Drifted
    | Compacted
    | ModeChanged
    | TaskUpdated
    | UsageReported
    | HeadMoved
    | Forked
    | Applied
    | Redacted
    | TurnEnded
    | Failed
)
Live: TypeAlias = TextDelta | ThinkingDelta | ToolChunk
Body: TypeAlias = Recorded | Live


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A record. `at`: seconds since the epoch (UTC). `parent`: id of the record it follows in its
    branch; `cause`: id of the call that gave rise to it; `agent`: main or a sub-agent's id.
    `prev` and `hash`: hex sha256 of the chain (empty on live events, whose `seq` counts within
    `parent`). Source: design.md, central types.
    """

    v: int
    seq: int
    id: str
    at: float
    session: str
    agent: str
    turn: int
    parent: str
    cause: str
    body: Body
    prev: str = ""
    hash: str = ""

    @property
    def type(self) -> str:
        """The body's class name, which is its name on disk and on every wire."""
        return type(self.body).__name__


BODY_TYPES: dict[str, type[Any]] = {t.__name__: t for t in Body.__args__}


def body_to_json(body: Body) -> dict[str, Json]:
    """The body's fields as JSON; shallow, since its members already are JSON values."""
    return {f.name: getattr(body, f.name) for f in fields(body)}


def body_from_json(kind: str, data: dict[str, Json]) -> Body:
    """Raises KeyError for a kind, TypeError for fields, that this version does not know."""
    made = BODY_TYPES[kind](**data)
    for f in fields(made):
        value = getattr(made, f.name)
        if isinstance(value, list) and str(f.type).startswith("tuple"):
            object.__setattr__(made, f.name, tuple(value))
    return made  # type: ignore[no-any-return]
