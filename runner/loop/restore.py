"""Taking a journal up again: projections from its records, and an end for all that a crash left open."""

from __future__ import annotations

from runner.events import (
    ModelReplied,
    TaskUpdated,
    ToolFinished,
    ToolRequested,
    TurnEnded,
    TurnStarted,
)
from runner.journal import Journal
from runner.loop.gate import Recorder
from runner.loop.history import History
from runner.loop.usage import Usage
from runner.tools.base import ToolState, tool_error

CUT_OFF = "The session ended while this call ran. What it had done until then may be done."


def restore(journal: Journal, *, history: History, usage: Usage, state: ToolState, record: Recorder) -> None:  # noqa: C901, PLR0912 (one row per kind)
    """Fold the journal's path, then record an end for each open call, task and turn. `record` must
    fold into the same history.
    """
    calls: dict[str, str] = {}
    tasks: dict[str, TaskUpdated] = {}
    turn: TurnStarted | None = None
    for event in journal.path():
        history.fold(event)
        match event.body:
            case ModelReplied() as body:
                usage.add(body)
            case ToolRequested(call=call, name=name):
                calls[call] = name
            case ToolFinished(call=call, name=name) as body:
                calls.pop(call, None)
                state.searches += name == "WebSearch" and not body.is_error
            case TurnStarted() as body:
                turn = body
            case TurnEnded():
                turn = None
            case TaskUpdated(kind="command") as body:
                tasks[body.task] = body
            case TaskUpdated(items=items, state=state_word):
                state.todos = list(items) if state_word != "cleared" else []
            case _:
                pass
    for call, name in calls.items():
        content = tool_error(CUT_OFF).for_model
        record(ToolFinished(call=call, name=name, content=content, is_error=True), cause=call)
    for task in tasks.values():
        if task.state == "running":
            record(TaskUpdated(kind="command", task=task.task, state="killed", detail=task.detail))
    if turn is not None:
        record(
            TurnEnded(
                number=turn.number,
                reason="interrupted",
                result="",
                rounds=0,
                seconds=0.0,
                api_seconds=0.0,
                usage={},
                cost=0.0,
            )
        )
