"""Operations travel as JSON, and only as what they are."""

from __future__ import annotations

import json
from typing import Any

import pytest

from runner.approval import ClientApprover, DenyApprover
from runner.effects import Mode
from runner.events import ApprovalAsked, ApprovalGiven
from runner.loop.operations import (
    Answer,
    Close,
    Interrupt,
    Operation,
    Prompt,
    SetMode,
    SetModel,
    Undo,
    operation_from_json,
    operation_to_json,
)

ASKED = ApprovalAsked(call="c", tool="Bash", input={}, reason="r")


@pytest.mark.parametrize(
    "operation",
    [
        Prompt.text("hi"),
        Interrupt(),
        Answer(call="c", allowed=True, reason="r"),
        SetMode(mode=Mode.PLAN),
        SetModel(model="m"),
        Undo(steps=2),
        Close(),
    ],
)
def test_an_operation_comes_back_as_it_was(operation: Operation) -> None:
    assert operation_from_json(json.loads(json.dumps(operation_to_json(operation)))) == operation


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"type": "Explode"},
        {"type": "Prompt"},
        {"type": "Prompt", "content": "hi"},
        {"type": "Prompt", "content": [{"type": "tool_result"}]},
        {"type": "Prompt", "content": ["hi"]},
        {"type": "Interrupt", "now": True},
        {"type": "Interrupt", "call": "c"},
        {"type": "Answer", "call": "c", "allowed": 1},
        {"type": "Answer", "call": "c", "allowed": "false"},
        {"type": "SetMode", "mode": "god"},
        {"type": "Undo", "steps": True},
    ],
)
def test_anything_else_is_refused(data: Any) -> None:
    with pytest.raises(ValueError, match=r"operation|: field|: content|missing|unexpected|not a valid"):
        operation_from_json(data)


async def test_an_approval_that_nobody_gives_is_refused_after_its_deadline() -> None:
    given = await ClientApprover(deadline=0.01).ask(ASKED)
    assert given == ApprovalGiven(call="c", allowed=False, by="nobody", reason="no answer in time")


async def test_where_nobody_can_be_asked_the_answer_is_no() -> None:
    approver = DenyApprover()
    assert not (await approver.ask(ASKED)).allowed
    assert not approver.answer(ApprovalGiven(call="c", allowed=True, by="client"))
