"""What `fumehood audit` says in words: lines of text, each within a bound; nothing in them drives a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from runner.chain import Problem
from runner.events import (
    Applied,
    BoxEnded,
    BoxStarted,
    CheckpointTaken,
    Compacted,
    Drifted,
    Egress,
    Event,
    Failed,
    Forked,
    HeadMoved,
    HookRan,
    ModeChanged,
    PolicyLoaded,
    PromptGiven,
    Redacted,
    SessionStarted,
    TurnEnded,
)
from runner.sessions.anchors import HOLDS, Audit
from runner.sessions.auditing import Call, Part, hook_text, prompt_text, request_text, utc
from runner.ui.safe import one_line

WIDE, FEW = 400, 20


def problem_text(problem: Problem) -> str:
    """Where, and what."""
    where = f"record {problem.seq} (line {problem.line}): " if problem.line else ""
    return one_line(f"{where}{problem.kind}: {problem.detail}", WIDE)


def lines_of_audit(audit: Audit) -> Iterator[str]:
    """How far the journal can be relied on."""
    live = " (live)" if audit.live else ""
    yield f"session       {audit.session}{live}, {audit.records} records, head {audit.head[:16] or 'none'}"
    for problem in audit.problems:
        yield f"WRONG         {problem_text(problem)}"
    if audit.anchored:
        yield f"anchored      records 0 to {audit.anchored - 1}, at {utc(audit.anchored_at)}"
    if audit.ok and audit.records > audit.anchored:
        yield f"not anchored  records {audit.anchored} to {audit.records - 1}: consistent, not anchored"
    for held in audit.anchors:
        if held.state != HOLDS:
            yield f"anchor        of {held.records} records, at {utc(held.at)}: {held.state}"
    for remark in audit.remarks:
        yield f"note          {remark}"


def lines_of_part(part: Part) -> Iterator[str]:
    """A prompt and all that came of it."""
    if part.prompt is not None:
        event = part.prompt.event
        gone = "" if part.prompt.here else " (taken back)"
        text = prompt_text(event.body) if isinstance(event.body, PromptGiven) else ""
        yield ""
        yield f"turn {event.turn}{gone}  {utc(event.at)}  {one_line(text, WIDE)}"
    for entry in part.entries:
        if entry.call is not None:
            yield from _lines_of_call(entry.event.seq, entry.call)
        elif text := _event_text(entry.event):
            yield f"{entry.event.seq:>5}  {one_line(text, WIDE)}"


def _lines_of_call(seq: int, call: Call) -> Iterator[str]:
    yield f"{seq:>5}  {one_line(f'{call.tool} {call.input or _joined(call.effects)}', WIDE)}"
    for text in _about(call):
        yield f"         {one_line(text, WIDE)}"


def _about(call: Call) -> Iterator[str]:
    if call.invalid:
        yield f"invalid: {call.invalid}"
    yield from (f"hook {hook}" for hook in call.hooks)
    if call.input_replaced:
        yield f"its input was replaced; judged: {_joined(call.effects)}"
    if call.verdicts:
        where = f" in {call.file}:{call.line}" if call.file else ""
        yield f"{call.decision}: {call.rule or call.reason}{where} ({call.decided_by})"
    yield from _approval(call)
    yield from (f"egress {request}" for request in call.egress)
    if call.changed:
        yield f"changed {_few(call.changed)}" + (f" (with {_few(call.changed_with)})" if call.changed_with else "")
    if call.outcome != "open" or call.input:
        yield f"ended {call.outcome}, {call.seconds:.3g} s"


def _approval(call: Call) -> Iterator[str]:
    if call.approved is not None:
        answer = "allowed" if call.approved else "refused"
        why = f": {call.approval_reason}" if call.approval_reason else ""
        yield f"asked: {answer} by {call.approved_by}{', for always' if call.approved_always else ''}{why}"
    elif call.asked:
        yield "asked: no answer"


def _event_text(event: Event) -> str:  # noqa: PLR0911 (a table, row by row)
    """What the report says of an event; "" where it says nothing: `export` has them all."""
    match event.body:
        case HookRan() as body:
            return "" if event.cause else f"hook {hook_text(body)}"
        case Egress() as body:
            return "" if event.cause else f"egress {request_text(body)}"
        case HeadMoved(kind=kind, what=what, reason=reason):
            return f"{kind} ({what}): {reason}"
        case Applied(count=count, paths=paths, undone=undone):
            names = [str(one.get("path", one)) if isinstance(one, dict) else str(one) for one in paths]
            return f"apply{' undone' if undone else ''} on the host, {count} paths: {_few(names)}"
        case CheckpointTaken(checkpoint=name, label=label, files=files, changed=changed):
            return f"checkpoint {name} ({label}), {files} changed: {_few(list(changed))}" if files else ""
        case ModeChanged(mode=mode, source=source):
            return f"mode {mode} ({source})"
        case TurnEnded(reason=reason, seconds=seconds, cost=cost):
            return f"turn ended: {reason}, {seconds:.3g} s" + (f", ${cost:.4f}" if cost is not None else "")
        case Failed(error=error, message=message):
            return f"failed: {error}: {message}"
        case _:
            return _frame_text(event.body)


def _frame_text(body: Any) -> str:  # noqa: PLR0911 (a table, row by row)
    match body:
        case SessionStarted(version=version):
            return f"session started by version {version}"
        case PolicyLoaded(digest=digest, mode=mode, sources=sources, problem=problem):
            wrong = f"; nothing is allowed: {problem}" if problem else ""
            return f"policy {digest[:12]}, mode {mode}, of {_few(list(sources)) or 'no file'}{wrong}"
        case BoxStarted(image=image, engine=engine):
            return f"box of image {image} on {engine}"
        case BoxEnded(reason=reason, detail=detail):
            return f"box ended: {reason} {detail}"
        case Drifted(count=count):
            return f"files of the host changed: {count}"
        case Compacted(trigger=trigger):
            return f"history compacted ({trigger})"
        case Forked(session=session, direction=direction):
            return f"fork {direction} {session}"
        case Redacted(blobs=blobs, reason=reason):
            return f"payloads redacted ({len(blobs)}): {reason}"
        case PromptGiven(source=source) as prompt:
            text = prompt_text(prompt)
            return f"prompt ({source}): {text}" if text else f"context for the model ({source})"
        case _:
            return ""


def _joined(texts: list[str]) -> str:
    return "; ".join(texts)


def _few(names: list[str]) -> str:
    left = f" and {len(names) - FEW} more" if len(names) > FEW else ""
    return ", ".join(names[:FEW]) + left
