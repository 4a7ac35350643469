"""What an auditor reads of a session: each tool call joined with all that belongs to it (verdict, hooks, approval,
files, end), and every other event. Pure: events in, rows out.

A row is a flat object: its values are text, numbers, booleans, null, or lists of text. Every row has `version` (of
this form, 1), `session`, `seq` and `id` (of the record that it begins with), `time` (UTC, ISO 8601), `turn`, `agent`,
`type`, `cause`, `hash` (of that record, as the chain has it), and `in_history`: whether it is part of the
conversation as it stands (undo takes out of it). `type` is Call for joined calls, with the fields of `Call`; for
every other event it is the event's own name, with the fields that `FIELDS` lists, which mean what `runner.events`
says. What the model wrote and what tools gave back is not repeated here; inputs are.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, field, fields, replace
from datetime import UTC, datetime
from typing import Any

from runner.dataclass import dataclass
from runner.events import (
    ApprovalAsked,
    ApprovalGiven,
    Body,
    CheckpointTaken,
    Egress,
    Event,
    HeadMoved,
    HookRan,
    Judged,
    PromptGiven,
    Resolved,
    ToolFinished,
    ToolOutput,
    ToolRequested,
)
from runner.journal import digest
from runner.sessions.timeline import WRITES

FORM_VERSION = 1
CALL = "Call"
JOINED = frozenset(
    kind.__name__ for kind in (ToolRequested, Resolved, Judged, ApprovalAsked, ApprovalGiven, ToolOutput, ToolFinished)
)
# Of each event that is no part of a call: its fields in a row. `a:b` is field a under the name b.
FIELDS: dict[str, str] = {
    "SessionStarted": "version:program_version spec",
    "PolicyLoaded": "digest mode sources problem",
    "BoxStarted": "container image engine runtime limits_missing seconds",
    "BoxEnded": "reason detail",
    "PromptGiven": "text source",
    "TurnStarted": "number",
    "ModelAsked": "model digest messages attempt",
    "ModelReplied": "model message stop_reason usage cost partial request seconds",
    "HookRan": "hook event where source outcome exit_code output seconds digest verdict",
    "CheckpointTaken": "checkpoint label files size before changed way",
    "Egress": "host port scheme method path decision rule decided_by reason sent received seconds",
    "Drifted": "count paths",
    "Compacted": "trigger tokens_before tokens_after",
    "ModeChanged": "mode source",
    "TaskUpdated": "kind task state detail",
    "UsageReported": "models cost",
    "HeadMoved": "to reason kind what left before checkpoint",
    "Forked": "session:other_session at direction",
    "Applied": "count paths undone",
    "Redacted": "blobs reason",
    "TurnEnded": "number reason rounds seconds api_seconds usage cost",
    "Failed": "error message exit_code retrying",
}


@dataclass(slots=True, kw_only=True)
class Call:
    """A joined call. `input`: JSON text, as the model sent it. `decision`, `rule`, `decided_by`, `file`, `line`,
    `reason`: the last verdict on it; `verdicts`: how many there were; `input_replaced`: what was judged is another
    input than what was sent. `approved`: None where nobody was asked. `hooks` and `egress` as `hook_text` and
    `request_text` make them. `changed`: paths that changed between the checkpoints around it; `changed_with`: other
    calls that ran in between. `outcome`: ok, error, or open (it never ended).
    """

    call: str
    tool: str
    input: str = ""
    invalid: str = ""
    effects: list[str] = field(default_factory=list)
    decision: str = ""
    rule: str = ""
    decided_by: str = ""
    file: str = ""
    line: int = 0
    reason: str = ""
    digest: str = ""
    verdicts: int = 0
    input_replaced: bool = False
    asked: bool = False
    approved: bool | None = None
    approved_by: str = ""
    approved_always: bool = False
    approval_reason: str = ""
    hooks: list[str] = field(default_factory=list)
    egress: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    changed_with: list[str] = field(default_factory=list)
    outcome: str = "open"
    truncated: bool = False
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A row to be: the record that it begins with, and the joined call, or None for another event."""

    event: Event
    here: bool
    call: Call | None = None

    def row(self) -> dict[str, Any]:
        """The flat object."""
        event = self.event
        body = asdict(self.call) if self.call is not None else dict(_fields(event.body))
        return {
            "version": FORM_VERSION,
            "session": event.session,
            "seq": event.seq,
            "id": event.id,
            "time": utc(event.at, "milliseconds"),
            "turn": event.turn,
            "agent": event.agent,
            "type": CALL if self.call is not None else event.type,
            "cause": event.cause,
            "hash": event.hash,
            "in_history": self.here,
        } | body


@dataclass(slots=True)
class _Joining:
    """Calls that are open, by their ids; those that ran since the last checkpoint; those that wait for an answer."""

    calls: dict[str, Call] = field(default_factory=dict)
    sent: dict[str, str] = field(default_factory=dict)
    ran: list[str] = field(default_factory=list)
    asked: set[str] = field(default_factory=set)

    def take(self, body: Body, cause: str) -> Call | None:
        """Put what an event says to its call; the call where this is its beginning."""
        match body:
            case ToolRequested(call=name):
                return self._begin(name, body)
            case Judged(call=name):
                known = name in self.calls
                call = self.calls.setdefault(name, Call(call=name, tool=body.tool))
                self._judge(call, body)
                return None if known else call
            case ApprovalAsked(call=name) if name in self.calls:
                self.calls[name].asked = True
            case ApprovalGiven(call=name) if name in self.calls:
                self._approve(self.calls[name], body)
            case ToolFinished(call=name) if name in self.calls:
                call = self.calls[name]
                call.outcome = "error" if body.is_error else "ok"
                call.truncated, call.seconds = body.truncated, body.seconds
            case HookRan() if cause in self.calls:
                self.calls[cause].hooks.append(hook_text(body))
            case Egress() if cause in self.calls:
                self.calls[cause].egress.append(request_text(body))
            case CheckpointTaken():
                self._keep(body)
            case HeadMoved():
                self.ran = []  # what they left is not what comes next
            case _:
                pass
        return None

    def _begin(self, name: str, body: ToolRequested) -> Call:
        call = Call(call=name, tool=body.name, input=_text(body.input), invalid=body.error)
        self.calls[name], self.sent[name] = call, digest(body.input)
        return call

    def _judge(self, call: Call, body: Judged) -> None:
        verdict = body.verdict
        call.decision, call.rule = str(verdict.get("decision", "")), str(verdict.get("rule", ""))
        call.decided_by, call.reason = str(verdict.get("source", "")), str(verdict.get("reason", ""))
        call.file, call.line = str(verdict.get("file", "")), int(verdict.get("line", 0))
        call.effects = [_effect(effect) for effect in body.effects]
        call.digest, call.verdicts = body.digest, call.verdicts + 1
        call.input_replaced = self.sent.get(call.call, body.digest) != body.digest
        writes = any(effect.get("type") in WRITES for effect in body.effects)
        self.ran = [name for name in self.ran if name != call.call]
        self.asked.discard(call.call)
        if writes and call.decision == "ask" and not call.approved:
            self.asked.add(call.call)  # it runs once somebody says yes, not before
        elif writes and call.decision != "deny":
            self.ran.append(call.call)

    def _approve(self, call: Call, body: ApprovalGiven) -> None:
        call.approved, call.approved_by = body.allowed, body.by
        call.approved_always, call.approval_reason = body.always, body.reason
        if body.allowed and call.call in self.asked:
            self.ran.append(call.call)
        self.asked.discard(call.call)

    def _keep(self, body: CheckpointTaken) -> None:
        """What changed up to a checkpoint is of the calls that ran since the one before, not of the next."""
        done = [name for name in self.ran if name != body.before]
        for name in done:
            call = self.calls[name]
            call.changed = list(dict.fromkeys((*call.changed, *body.changed)))
            call.changed_with = list(dict.fromkeys((*call.changed_with, *(other for other in done if other != name))))
        self.ran = [name for name in self.ran if name == body.before]


def join(events: Iterable[Event]) -> list[Entry]:
    """All of a session's events, in their order; a call stands where it began."""
    events = list(events)
    here, joining = _in_history(events), _Joining()
    entries = []
    for event in events:
        call = joining.take(event.body, event.cause)
        if call is not None or event.type not in JOINED:
            entries.append(Entry(event=event, here=here[event.id], call=call))
    return entries


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A prompt of the user's and all that came of it, up to the next one; of the first part no prompt: what came
    before.
    """

    prompt: Entry | None
    entries: tuple[Entry, ...]


def parts(entries: Iterable[Entry]) -> list[Part]:
    """The entries by prompt, in order. What is told without a turn (an apply at rest) stands where it happened."""
    found = [Part(prompt=None, entries=())]
    gathered: list[Entry] = []
    for entry in entries:
        if isinstance(entry.event.body, PromptGiven) and entry.event.body.source == "user":
            found[-1] = replace(found[-1], entries=tuple(gathered))
            gathered = []
            found.append(Part(prompt=entry, entries=()))
        else:
            gathered.append(entry)
    found[-1] = replace(found[-1], entries=tuple(gathered))
    return found


def _in_history(events: list[Event]) -> dict[str, bool]:
    """Of each record's id, whether it lies on the way from the root to the head; another agent's, whether what it
    follows does.
    """
    before = {event.id: event.parent for event in events}
    at = next((event.id for event in reversed(events) if event.agent == "main"), "")
    path = set[str]()
    while at and at not in path:
        path.add(at)
        at = before.get(at, "")
    here: dict[str, bool] = {}
    for event in events:
        here[event.id] = event.id in path if event.agent == "main" else here.get(event.parent, True)
    return here


def _fields(body: Body) -> Iterator[tuple[str, Any]]:
    values: dict[str, Any] = {each.name: getattr(body, each.name) for each in fields(body)}
    if isinstance(body, PromptGiven):
        values["text"] = prompt_text(body)
    if isinstance(body, Egress):
        verdict = body.verdict
        values |= {name: str(verdict.get(name, "")) for name in ("decision", "rule", "reason")}
        values["decided_by"] = str(verdict.get("source", ""))
    for named in FIELDS[type(body).__name__].split():
        name, _, shown = named.partition(":")
        yield shown or name, _flat(values[name])


def utc(at: float, precision: str = "seconds") -> str:
    """A time in ISO 8601, "" for what is none."""
    try:
        return datetime.fromtimestamp(at, UTC).isoformat(timespec=precision).replace("+00:00", "Z")
    except (TypeError, ValueError, OverflowError, OSError):
        return ""


def prompt_text(body: PromptGiven) -> str:
    """The words of a prompt; a block that is no text as its type."""
    blocks = [block for block in body.content if isinstance(block, dict)]
    return "\n".join(str(block.get("text", f"[{block.get('type', '?')}]")) for block in blocks)


def _flat(value: Any) -> Any:
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, list | tuple):
        return [one if isinstance(one, str) else _text(one) for one in value]
    return _text(value)


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _effect(effect: Mapping[str, Any]) -> str:
    """`WritePath /a` in one text; of a path what it resolved to, where that differs."""
    names = ("command", "path", "host", "server", "tool", "task", "about")
    about = " ".join(str(effect[name]) for name in names if effect.get(name))
    target = effect.get("target")
    aside = f" -> {target}" if target and target != effect.get("path") else ""
    return f"{effect.get('type', '?')} {about}{aside}".rstrip()


def hook_text(body: HookRan) -> str:
    """`EVENT WHERE SOURCE: OUTCOME[, VERDICT]`."""
    return f"{body.event} {body.where} {body.source}: {body.outcome}" + (f", {body.verdict}" if body.verdict else "")


def request_text(body: Egress) -> str:
    """`METHOD host:port/path: DECISION[ by RULE][ (replayed)]`."""
    rule = f" by {body.verdict['rule']}" if body.verdict.get("rule") else ""
    replayed = " (replayed)" if body.verdict.get("replayed") else ""
    return f"{body.method} {body.host}:{body.port}{body.path}: {body.verdict.get('decision', '?')}{rule}{replayed}"
