"""Events as the messages of `--output-format stream-json`, so that scripts and SDK clients written for
Claude Code read our sessions. Source: reference/claude-code-interfaces.md, section 5.3.

Translation only: no I/O, no decision. Ids are derived from the events', so one journal always gives the
same messages.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import field
from datetime import UTC, datetime
from typing import Any

from runner.dataclass import dataclass
from runner.effects import ConnectHost
from runner.events import (
    ApprovalGiven,
    Compacted,
    Event,
    Failed,
    HookRan,
    Judged,
    ModeChanged,
    ModelAsked,
    ModelReplied,
    PolicyLoaded,
    TaskUpdated,
    TextDelta,
    ThinkingDelta,
    ToolFinished,
    ToolRequested,
    TurnEnded,
    TurnStarted,
)
from runner.policy.network import shown
from runner.serve.partial import PartialReply
from runner.serve.result import Totals, error_kind, failure_result, is_model_failure, turn_result

MAIN = "main"
HOOK = "Hook"
RETRYING = "Retrying"
PROTOCOL_VERSION = "2.1.321"  # the interface that these messages follow; clients refuse what is below 2.0.0
Message = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Init:
    """What system/init says and no event does. `model` and `mode` hold until an event says otherwise."""

    session: str
    cwd: str
    model: str
    mode: str
    version: str
    tools: tuple[str, ...]
    api_key_source: str = "none"
    mcp_servers: tuple[dict[str, Any], ...] = ()
    slash_commands: tuple[str, ...] = ()
    agents: tuple[str, ...] = ()
    skills: tuple[str, ...] = ()
    plugins: tuple[dict[str, Any], ...] = ()
    output_style: str = "default"


@dataclass(slots=True)
class Messages:
    """The translator of one session. `partial`: stream events too. `last` is the last result message,
    `failure` what it failed with; `sizes(model)` gives a model's context window and longest reply, in tokens, where
    they are known.
    """

    init: Init
    partial: bool = False
    sizes: Callable[[str], tuple[int, int] | None] | None = None
    last: Message | None = None
    failure: Failed | None = None
    _mode: str = ""
    _model: str = ""
    _totals: Totals = field(default_factory=Totals)
    _calls: dict[str, tuple[str, dict[str, Any]]] = field(default_factory=dict)
    _asked: dict[str, tuple[str, str]] = field(default_factory=dict)
    _denials: list[Message] = field(default_factory=list)
    _reply: PartialReply | None = None
    _tasks: set[str] = field(default_factory=set)
    _held: list[Message] = field(default_factory=list)
    _in_tools: bool = False

    def of(self, event: Event) -> list[Message]:
        """The messages for one event, in order; most events have none."""
        made = self._translate(event)
        for index, message in enumerate(made):
            message["session_id"] = self.init.session
            message["uuid"] = _uuid(event.id, index)
        return self._release(event, made)

    def abort(self, reason: str, *, seconds: float = 0.0) -> list[Message]:
        """The result for a run that failed before its turn began or ended without one."""
        self.last = failure_result(reason, seconds=seconds) | {
            "session_id": self.init.session,
            "uuid": str(uuid.uuid4()),
        }
        return [self.last]

    @property
    def denials(self) -> list[Message]:
        """What was denied in this turn so far, as the result lists it."""
        return self._denials

    def _release(self, event: Event, made: list[Message]) -> list[Message]:
        """Hold back what a broken reply gave until it is known whether it is asked for again: then it is
        void, and clients that join texts must not see it.
        """
        if isinstance(event.body, ModelReplied) and event.body.partial and event.agent == MAIN:
            self._held += made
            return []
        if self._held and isinstance(event.body, ToolFinished):
            self._held += made
            return []
        if isinstance(event.body, Failed) and event.body.error == RETRYING:
            self._held = []
        held, self._held = self._held, []
        return [*held, *made]

    def _translate(self, event: Event) -> list[Message]:
        match event.body:
            case TurnStarted() | TurnEnded() if event.agent == MAIN:
                return self._turn(event)
            case ModelAsked() | ModelReplied() | TextDelta() | ThinkingDelta():
                return self._model_said(event)
            case ToolRequested() | ToolFinished() | Judged() | ApprovalGiven():
                return self._called(event)
            case Failed() as failed:
                return self._failed(failed)
            case TaskUpdated(kind="command") as task:
                return self._task(task, event.cause)
            case _:
                return self._system(event)

    def _system(self, event: Event) -> list[Message]:
        match event.body:
            case PolicyLoaded(mode=mode):
                self._mode = mode
                return []
            case ModeChanged(mode=mode):
                self._mode = mode
                return [_system("status", status=None, permissionMode=mode)]
            case HookRan(output=output) if output.get("systemMessage"):
                return [_system("informational", content=output["systemMessage"], level="info")]
            case HookRan(outcome="error", event=name, output=output):
                text = f"{name} hook error: {output.get('failure', '')}"
                return [_system("informational", content=text, level="warning")]
            case Compacted() as done:
                meta = {"trigger": done.trigger, "pre_tokens": done.tokens_before, "post_tokens": done.tokens_after}
                return [_system("compact_boundary", compact_metadata=meta)]
            case _:
                return []

    def _turn(self, event: Event) -> list[Message]:
        if isinstance(event.body, TurnEnded):
            result = turn_result(
                event.body,
                self._totals,
                failure=self.failure,
                denials=self._denials,
                in_tools=self._in_tools,
            )
            self.last = result
            return [result]
        self.failure, self._denials, self._calls, self._asked = None, [], {}, {}
        self._totals.begin_turn()
        return [self._init_message()]

    def _init_message(self) -> Message:
        init = self.init
        return _system(
            "init",
            cwd=init.cwd,
            tools=list(init.tools),
            mcp_servers=list(init.mcp_servers),
            model=(self._model or init.model).removeprefix("anthropic:"),
            permissionMode=self._mode or init.mode,
            slash_commands=list(init.slash_commands),
            apiKeySource=init.api_key_source,
            claude_code_version=PROTOCOL_VERSION,
            fumehood_version=init.version,
            output_style=init.output_style,
            agents=list(init.agents),
            skills=list(init.skills),
            plugins=list(init.plugins),
        )

    def _model_said(self, event: Event) -> list[Message]:
        match event.body:
            case ModelAsked(model=model) if event.agent == MAIN:
                self._model, self._in_tools = model, False
                self._reply = PartialReply(f"msg_{event.id}", model)
                return [_system("status", status="requesting")] if self.partial else []
            case TextDelta(text=text) if event.agent == MAIN:
                return self._pieces("text", text)
            case ThinkingDelta(text=text) if event.agent == MAIN:
                return self._pieces("thinking", text)
            case ModelReplied() as reply:
                self._totals.add(reply)
                if event.agent == MAIN:
                    self._in_tools = not reply.partial and any(b.get("type") == "tool_use" for b in reply.content)
                self._name_sizes(reply.model)
                return self._assistant(event, reply)
            case _:
                return []

    def _pieces(self, kind: str, text: str) -> list[Message]:
        if not self.partial or self._reply is None:
            return []
        return [_stream(raw) for raw in self._reply.piece(kind, text)]

    def _assistant(self, event: Event, reply: ModelReplied) -> list[Message]:
        """One message per finished block, each between its stream events."""
        streaming = self._reply if self.partial and event.agent == MAIN else None
        made: list[Message] = []
        for index, block in enumerate(reply.content):
            last = index == len(reply.content) - 1
            before, after = streaming.block(index, block) if streaming else ([], [])
            made += [_stream(raw) for raw in before]
            made.append(_assistant_message(event, reply, block, last=last, streamed=streaming))
            made += [_stream(raw) for raw in after]
        if streaming:
            made += [_stream(raw) for raw in streaming.end(reply)]
            self._reply = None
        return made

    def _called(self, event: Event) -> list[Message]:
        match event.body:
            case ToolRequested(call=call, name=name, input=args):
                self._calls[call] = (name, args)
            case Judged(tool=tool, verdict=verdict) as judged if tool != HOOK and verdict.get("decision") != "allow":
                return self._judged(event, judged)
            case ApprovalGiven(call=call, allowed=False, by=by, reason=reason) if call in self._calls:
                asked, kind = self._asked.get(call, ("", "other"))
                reason = "; ".join(filter(None, (asked, reason or f"denied by {by}")))
                return [self._denied(call, *self._calls[call], reason, kind)]
            case ToolFinished() as done:
                self._calls.pop(done.call, None)
                self._asked.pop(done.call, None)
                return [_tool_result(event, done)]
            case _:
                pass
        return []

    def _judged(self, event: Event, judged: Judged) -> list[Message]:
        """What a call that is not simply allowed is told as. A request of a command's counts for its call."""
        verdict, call = judged.verdict, judged.call
        reason = str(verdict.get("reason") or verdict.get("rule") or "denied")
        kind = "rule" if verdict.get("rule") else "mode" if verdict.get("source") == "mode" else "other"
        if verdict.get("decision") == "ask":
            self._asked[call] = reason, kind
            return []
        if call in self._calls:
            return [self._denied(call, *self._calls[call], reason, kind)]
        return [self._denied(event.cause or call, judged.tool, _requested(judged.effects), reason, kind)]

    def _denied(self, call: str, name: str, args: dict[str, Any], reason: str, kind: str) -> Message:
        self._denials.append({"tool_name": name, "tool_use_id": call, "tool_input": args})
        return _system(
            "permission_denied",
            tool_name=name,
            tool_use_id=call,
            message=reason,
            decision_reason_type=kind,
            decision_reason=reason,
        )

    def _failed(self, failed: Failed) -> list[Message]:
        detail = failed.detail
        if failed.retrying and failed.error != RETRYING:
            return [_system("informational", content=failed.message, level="warning")]
        if failed.retrying:
            delay = round(float(detail.get("delay", 0.0)) * 1000)
            return [
                _system(
                    "api_retry",
                    attempt=detail.get("attempt", 2) - 1,  # ours counts the first request too
                    max_retries=detail.get("attempts", 2) - 1,
                    retry_delay_ms=delay,
                    error_status=detail.get("status"),
                    error=error_kind(failed),
                    message=failed.message,
                )
            ]
        self.failure = failed
        if not is_model_failure(failed):
            return []
        body = {
            "id": "msg_failed",
            "type": "message",
            "role": "assistant",
            "model": "<synthetic>",
            "content": [{"type": "text", "text": failed.message}],
            "stop_reason": "stop_sequence",
            "stop_sequence": "",
            "usage": {"input_tokens": 0, "output_tokens": 0},
        }
        return [{"type": "assistant", "message": body, "parent_tool_use_id": None, "error": error_kind(failed)}]

    def _task(self, task: TaskUpdated, call: str) -> list[Message]:
        command = str(task.detail.get("command", ""))
        common: Message = {"task_id": task.task}
        if call:
            common["tool_use_id"] = call
        if task.task not in self._tasks:
            self._tasks.add(task.task)
            made = [_system("task_started", **common, description=command, task_type="local_bash")]
        else:
            made = [_system("task_updated", task_id=task.task, patch={"status": task.state})]
        if task.state in _TASK_ENDS:
            output = str(task.detail.get("output", ""))
            made.append(
                _system(
                    "task_notification",
                    **common,
                    status=_TASK_ENDS[task.state],
                    output_file=output,
                    summary=f"Background command {command!r}: {task.state}",
                )
            )
        return made

    def _name_sizes(self, model: str) -> None:
        if self.sizes and (sizes := self.sizes(model)):
            self._totals.models[model] |= {"contextWindow": sizes[0], "maxOutputTokens": sizes[1]}


_TASK_ENDS = {"completed": "completed", "failed": "failed", "killed": "stopped"}


def _system(subtype: str, **fields: Any) -> Message:
    return {"type": "system", "subtype": subtype, **fields}


def _stream(raw: dict[str, Any]) -> Message:
    return {"type": "stream_event", "event": raw, "parent_tool_use_id": None}


def _assistant_message(
    event: Event, reply: ModelReplied, block: dict[str, Any], *, last: bool, streamed: PartialReply | None
) -> Message:
    shown = {"signature": ""} | block if block.get("type") == "thinking" else block
    body = {
        "id": streamed.request if streamed else reply.message,
        "type": "message",
        "role": "assistant",
        "model": reply.model,
        "content": [shown],
        "stop_reason": reply.stop_reason if last else None,
        "stop_sequence": None,
        "usage": reply.usage,
    }
    made: Message = {"type": "assistant", "message": body, "parent_tool_use_id": _parent(event)}
    if reply.request:
        made["request_id"] = reply.request
    if reply.partial:
        made["aborted"] = True
    return made | {"timestamp": _timestamp(event.at)}


def _tool_result(event: Event, done: ToolFinished) -> Message:
    block: Message = {"tool_use_id": done.call, "type": "tool_result", "content": done.content}
    if done.is_error:
        block["is_error"] = True
    made: Message = {
        "type": "user",
        "message": {"role": "user", "content": [block]},
        "parent_tool_use_id": _parent(event),
        "timestamp": _timestamp(event.at),
    }
    if done.result is not None:
        made["tool_use_result"] = done.result
    return made


def _requested(effects: list[Any]) -> dict[str, Any]:
    """Where a request was to go, in place of a call's input."""
    to = next((effect for effect in effects if effect.get("type") == "ConnectHost"), None)
    if to is None:
        return {}
    effect = ConnectHost(**{name: value for name, value in to.items() if name != "type"})
    known = f"{effect.method} {effect.path}".strip()
    return {"to": shown(effect)} | ({"request": known} if known else {})


def _parent(event: Event) -> str | None:
    """A sub-agent's messages name the call that started it."""
    return None if event.agent == MAIN else event.agent


def _timestamp(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _uuid(event: str, index: int) -> str:
    try:
        base = uuid.UUID(event)
    except ValueError:
        base = uuid.uuid5(uuid.NAMESPACE_OID, event)
    return str(base) if index == 0 else str(uuid.uuid5(base, str(index)))
