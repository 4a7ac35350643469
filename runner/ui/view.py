"""What a session looks like right now: `fold` adds one event to a frozen ViewState. Pure; the drawing
(`live`, `plain`) only reads it, and any later interface folds the same events.

Text in a ViewState is raw: whoever draws it passes it through `runner.ui.safe`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field, replace
from pathlib import PurePosixPath
from typing import Any

from runner.dataclass import dataclass
from runner.events import (
    Applied,
    ApprovalAsked,
    ApprovalGiven,
    BoxEnded,
    BoxStarted,
    Drifted,
    Egress,
    Event,
    Failed,
    Judged,
    ModeChanged,
    ModelAsked,
    ModelReplied,
    PolicyLoaded,
    PromptGiven,
    SessionStarted,
    TaskUpdated,
    TextDelta,
    ThinkingDelta,
    ToolChunk,
    ToolFinished,
    ToolRequested,
    TurnEnded,
    TurnStarted,
)
from runner.spec import SessionSpec

TAIL = 4096
MAIN = "main"
RETRYING = "Retrying"  # what a Failed is called whose request will be sent again


@dataclass(frozen=True, slots=True, kw_only=True)
class CallView:
    """A tool call. `state`: requested (not its turn yet), allowed, asking, denied, done, failed. Times:
    seconds since the epoch, `since` of the decision; `ended` None while it runs. `output`: the last 4 KiB
    that it showed.
    """

    id: str
    name: str
    input: dict[str, Any]
    agent: str
    since: float
    state: str = "requested"
    ended: float | None = None
    seconds: float = 0.0
    output: str = ""
    result: Any = None
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class BoxView:
    """The container. `state`: starting, running, ended. `missing`: protections the engine could not give."""

    state: str = "starting"
    engine: str = ""
    image: str = ""
    runtime: str = ""
    rungs: dict[str, str] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    seconds: float = 0.0
    reason: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryView:
    """A request that is tried again at `until` (seconds since the epoch)."""

    attempt: int
    attempts: int
    until: float
    error: str
    status: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AskView:
    """A permission question that waits for its answer. `input` is exactly what would run. `always`: the rule that
    may be allowed for always, "" for none; `kept`: the file that it goes to.
    """

    call: str
    tool: str
    input: dict[str, Any]
    reason: str
    always: str = ""
    kept: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskView:
    """A background command."""

    id: str
    state: str
    command: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnView:
    """The turn that runs, or the last one. `reason` "" while it runs, then as in TurnEnded."""

    number: int = 0
    since: float = 0.0
    reason: str = ""
    result: str = ""
    seconds: float = 0.0
    api_seconds: float = 0.0
    rounds: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens of the session; `read` of them all input, cached or not. `cost` in USD is None once a reply
    came whose price is not known.
    """

    read: int = 0
    cached: int = 0
    written: int = 0
    cost: float | None = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewState:
    """Everything an interface shows. `waiting`: a request is out; `text` and `thinking`: of the reply that streams in,
    empty between replies. `cwd`: as the box sees it. `running` holds unfinished calls in the order requested,
    `last` the call that finished with the last event, `failures` the final ones. `denied` counts calls, `egress`
    requests of the box, `refused` those of them that did not leave.
    """

    session: str = ""
    cwd: str = ""
    model: str = ""
    mode: str = ""
    spec: dict[str, Any] = field(default_factory=dict)
    box: BoxView = field(default_factory=BoxView)
    turn: TurnView = field(default_factory=TurnView)
    usage: Usage = field(default_factory=Usage)
    waiting: bool = False
    text: str = ""
    thinking: str = ""
    running: tuple[CallView, ...] = ()
    last: CallView | None = None
    calls: int = 0
    denied: int = 0
    todos: tuple[dict[str, Any], ...] = ()
    tasks: tuple[TaskView, ...] = ()
    asks: tuple[AskView, ...] = ()
    retry: RetryView | None = None
    failures: tuple[Failed, ...] = ()
    drift: Drifted | None = None
    egress: int = 0
    refused: int = 0
    applied: int = 0
    prompt: str = ""

    def call(self, call: str) -> CallView | None:
        """The running call of this id."""
        return next((c for c in self.running if c.id == call), None)


def begin(spec: SessionSpec) -> ViewState:
    """The view of a session before its events: a reader that comes after SessionStarted begins here."""
    data = spec.to_json()
    return ViewState(session=spec.session, cwd=box_cwd(data), model=spec.model, mode=spec.mode.value, spec=data)


def take_up(state: ViewState, spec: SessionSpec) -> ViewState:
    """The view of a session that goes on: what a run counts begins anew, the model may be another one."""
    return replace(state, model=spec.model, mode=spec.mode.value, calls=0, denied=0, egress=0, refused=0, usage=Usage())


def fold(state: ViewState, event: Event) -> ViewState:
    """The state after the event. Events that no interface shows leave it as it is."""
    match event.body:
        case TextDelta() | ThinkingDelta() | ToolChunk():
            return _fold_live(state, event)
        case ToolRequested() | Judged() | ApprovalAsked() | ApprovalGiven() | ToolFinished():
            return _fold_call(state, event)
        case ModelAsked() | ModelReplied() | Failed():
            return _fold_model(state, event)
        case TurnStarted() | TurnEnded() | PromptGiven() | TaskUpdated():
            return _fold_turn(state, event)
        case BoxStarted() | BoxEnded():
            return replace(state, box=_fold_box(state.box, event))
        case _:
            return _fold_session(state, event)


def _fold_live(state: ViewState, event: Event) -> ViewState:
    match event.body:
        case ToolChunk(call=call, text=text):
            return _change(state, call, lambda c: replace(c, output=(c.output + text)[-TAIL:]))
        case TextDelta(text=text) if event.agent == MAIN:
            return replace(state, text=state.text + text, retry=None)
        case ThinkingDelta(text=text) if event.agent == MAIN:
            return replace(state, thinking=(state.thinking + text)[-TAIL:], retry=None)
        case _:
            return state


HOOK = "Hook"


def _fold_call(state: ViewState, event: Event) -> ViewState:
    match event.body:
        case ToolRequested(call=call, name=name, input=args, error=error):
            made = CallView(id=call, name=name, input=args, agent=event.agent, since=event.at, message=error)
            return replace(state, running=(*state.running, made))
        case Judged(call=call, tool=tool, verdict=verdict) if tool != HOOK:
            decision = {"allow": "allowed", "ask": "asking", "deny": "denied"}[verdict["decision"]]
            denied = state.denied + (decision == "denied" and state.call(call) is not None)
            changed = _change(
                state, call, lambda c: replace(c, state=decision, since=event.at, message=_reason(verdict))
            )
            return replace(changed, denied=denied)
        case ApprovalAsked(call=call, tool=tool, input=args, reason=reason, always=always, kept=kept):
            ask = AskView(call=call, tool=tool, input=args, reason=reason, always=always, kept=kept)
            return replace(_change(state, call, lambda c: replace(c, state="asking")), asks=(*state.asks, ask))
        case ApprovalGiven(call=call, allowed=allowed, by=by, reason=reason):
            answer = "allowed" if allowed else "denied"
            why = (reason or "you said no") if not allowed and by in ("terminal", "client") else ""
            changed = _change(state, call, lambda c: replace(c, state=answer, since=event.at, message=why or c.message))
            asks = tuple(a for a in state.asks if a.call != call)
            denied = state.denied + (not allowed and state.call(call) is not None)
            return replace(changed, asks=asks, denied=denied)
        case ToolFinished() as done:
            return _finish(state, done, event.at)
        case _:
            return state


def _fold_model(state: ViewState, event: Event) -> ViewState:
    match event.body:
        case ModelAsked(model=model) if event.agent == MAIN:
            return replace(state, model=model, waiting=True, text="", thinking="")
        case ModelReplied(usage=usage, cost=cost):
            counted = replace(state, usage=_count(state.usage, usage, cost))
            if event.agent != MAIN:
                return counted
            turn = replace(state.turn, rounds=state.turn.rounds + 1)
            return replace(counted, waiting=False, text="", thinking="", retry=None, turn=turn)
        case Failed() as failed:
            return _fail(state, failed, event.at)
        case _:
            return state


def _fail(state: ViewState, failed: Failed, at: float) -> ViewState:
    if not failed.retrying:
        return replace(state, failures=(*state.failures, failed), waiting=False, retry=None)
    if failed.error != RETRYING:
        return state  # a tool or the box failed and the turn goes on: the call's own end tells it
    retry = RetryView(
        attempt=failed.detail.get("attempt", 0),
        attempts=failed.detail.get("attempts", 0),
        until=at + float(failed.detail.get("delay", 0.0)),
        error=failed.message,
        status=failed.detail.get("status"),
    )
    return replace(state, retry=retry, text="", thinking="")


def _fold_turn(state: ViewState, event: Event) -> ViewState:
    match event.body:
        case TaskUpdated() as task:
            return _update_task(state, task)
        case _ if event.agent != MAIN:
            return state
        case PromptGiven(content=content):
            return replace(state, prompt=text_of(content))
        case TurnStarted(number=number):
            return replace(state, turn=TurnView(number=number, since=event.at), failures=())
        case TurnEnded() as end:
            turn = TurnView(
                number=end.number,
                since=state.turn.since,
                reason=end.reason,
                result=end.result,
                seconds=end.seconds,
                api_seconds=end.api_seconds,
                rounds=end.rounds,
            )
            return replace(state, turn=turn, waiting=False, text="", thinking="", retry=None, running=(), asks=())
        case _:
            return state


def _update_task(state: ViewState, update: TaskUpdated) -> ViewState:
    if update.kind == "todos":
        return replace(state, todos=tuple(update.items))
    known = next((t for t in state.tasks if t.id == update.task), TaskView(id=update.task, state=update.state))
    made = replace(known, state=update.state, command=str(update.detail.get("command", known.command)))
    return replace(state, tasks=(*(t for t in state.tasks if t.id != update.task), made))


def _fold_box(box: BoxView, event: Event) -> BoxView:
    match event.body:
        case BoxStarted() as started:
            return BoxView(
                state="running",
                engine=started.engine,
                image=started.image,
                runtime=started.runtime,
                rungs=started.rungs,
                missing=started.limits_missing,
                seconds=started.seconds,
            )
        case BoxEnded(reason=reason, detail=detail):
            return replace(box, state="ended", reason=reason, detail=detail)
        case _:
            return box


def _fold_session(state: ViewState, event: Event) -> ViewState:
    match event.body:
        case SessionStarted(spec=spec):
            named = replace(state, session=event.session, spec=spec, cwd=box_cwd(spec))
            return replace(named, mode=str(spec.get("mode", "")), model=str(spec.get("model", "")))
        case PolicyLoaded(mode=mode) | ModeChanged(mode=mode):
            return replace(state, mode=mode)
        case Drifted() as drift:
            return replace(state, drift=drift)
        case Egress(verdict=verdict):
            refused = state.refused + (verdict.get("decision") != "allow")
            return replace(state, egress=state.egress + 1, refused=refused)
        case Applied(count=count):
            return replace(state, applied=state.applied + count)
        case _:
            return state


def box_cwd(spec: dict[str, Any]) -> str:
    """The session's working directory as the box sees it: what the paths in calls begin with."""
    cwd = PurePosixPath(str(spec.get("cwd", "")))
    for root in spec.get("roots", ()):
        if cwd.is_relative_to(root["host"]):
            return str(PurePosixPath(root["at"]) / cwd.relative_to(root["host"]))
    return str(spec.get("cwd", ""))


def text_of(content: str | list[Any]) -> str:
    """The text of content blocks, one paragraph per block; what is no text is left out."""
    if isinstance(content, str):
        return content
    return "\n".join(str(b.get("text", "")) for b in content if isinstance(b, dict) and b.get("type") == "text")


def _change(state: ViewState, call: str, change: Callable[[CallView], CallView]) -> ViewState:
    return replace(state, running=tuple(change(c) if c.id == call else c for c in state.running))


def _finish(state: ViewState, done: ToolFinished, at: float) -> ViewState:
    known = state.call(done.call) or CallView(id=done.call, name=done.name, input={}, agent=MAIN, since=at)
    status = "denied" if known.state == "denied" else "failed" if done.is_error else "done"
    message = known.message if status == "denied" else text_of(done.content)[-TAIL:]
    last = replace(known, state=status, ended=at, seconds=done.seconds, result=done.result, message=message)
    running = tuple(c for c in state.running if c.id != done.call)
    asks = tuple(a for a in state.asks if a.call != done.call)
    return replace(state, running=running, asks=asks, last=last, calls=state.calls + 1)


def _reason(verdict: dict[str, Any]) -> str:
    return str(verdict.get("reason") or verdict.get("rule") or "")


def _count(usage: Usage, reply: dict[str, Any], cost: float | None) -> Usage:
    fresh = _number(reply, "input_tokens")
    cached = _number(reply, "cache_read_input_tokens")
    return Usage(
        read=usage.read + fresh + cached + _number(reply, "cache_creation_input_tokens"),
        cached=usage.cached + cached,
        written=usage.written + _number(reply, "output_tokens"),
        cost=None if cost is None or usage.cost is None else usage.cost + cost,
    )


def _number(usage: dict[str, Any], key: str) -> int:
    value = usage.get(key)
    return value if isinstance(value, int) else 0
