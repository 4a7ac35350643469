"""Mode plan and questions to the user, as tools: only what the user says leaves the mode or counts as an answer."""

from __future__ import annotations

from typing import Any

import pytest

from runner.approval import ClientApprover
from runner.effects import Mode
from runner.errors import UsageError
from runner.events import ApprovalAsked, ModeChanged, ToolFinished, TurnEnded
from runner.loop.operations import Answer, Prompt, SetMode
from runner.loop.session import Session
from runner.policy.policy import Policy
from runner.tools.askuserquestion import AskUserQuestion
from runner.tools.enterplanmode import EnterPlanMode
from runner.tools.exitplanmode import ExitPlanMode
from tests.unit.loop.conftest import Stage, until

QUESTION = {
    "question": "Which database?",
    "header": "Database",
    "options": [{"label": "SQLite", "description": "a file"}, {"label": "Postgres", "description": "a server"}],
    "multiSelect": False,
}


def call(tool: str, number: int = 1, /, **sent: Any) -> dict[str, Any]:
    return {"tools": [{"name": tool, "id": f"t{number}", "input": sent}]}


def offered(stage: Stage) -> set[str]:
    return {tool.name for tool in stage.model.requests[0].tools}


@pytest.fixture
def planner(stage: Stage) -> Stage:
    stage.more = (AskUserQuestion(), EnterPlanMode(), ExitPlanMode())
    return stage


async def answered(session: Session, **answer: Any) -> None:
    asked = (await until(session, ApprovalAsked)).body
    assert isinstance(asked, ApprovalAsked)
    await session.submit(Answer(call=asked.call, **answer))


async def test_a_plan_that_is_approved_leads_back_to_the_mode_before(planner: Stage) -> None:
    planner.script(
        call("EnterPlanMode"),
        call("Change", 2),
        call("ExitPlanMode", 3, plan="1. do it"),
        call("Change", 4),
        {"text": "ok"},
    )
    async with planner.open(mode=Mode.BYPASS, approver=ClientApprover()) as session:
        await session.submit(Prompt.text("go"))
        await answered(session, allowed=True)
        await until(session, TurnEnded)
        assert session.mode is Mode.BYPASS
    assert planner.bodies(ModeChanged) == [
        ModeChanged(mode="plan", source="EnterPlanMode"),
        ModeChanged(mode="bypassPermissions", source="ExitPlanMode"),
    ]
    ends = planner.bodies(ToolFinished)
    assert [end.is_error for end in ends] == [False, True, False, False]
    assert ends[2].result == {"plan": "1. do it", "isAgent": False}


async def test_a_plan_that_is_sent_back_leaves_mode_plan_in_force(planner: Stage) -> None:
    planner.script(call("ExitPlanMode", plan="x"), {"text": "ok"})
    async with planner.open(mode=Mode.PLAN, approver=ClientApprover()) as session:
        await session.submit(Prompt.text("go"))
        await answered(session, allowed=False, reason="think about tests")
        await until(session, TurnEnded)
        assert session.mode is Mode.PLAN
    (end,) = planner.bodies(ToolFinished)
    assert end.is_error
    assert "think about tests" in end.content


async def test_a_session_that_began_in_mode_plan_goes_on_in_mode_default(planner: Stage) -> None:
    planner.script(call("ExitPlanMode", plan="x"), {"text": "ok"})
    async with planner.open(mode=Mode.PLAN, approver=ClientApprover()) as session:
        await session.submit(Prompt.text("go"))
        await answered(session, allowed=True)
        await until(session, TurnEnded)
        assert session.mode is Mode.DEFAULT


@pytest.mark.parametrize(
    ("mode", "tool", "sent"), [(Mode.PLAN, "EnterPlanMode", {}), (Mode.DEFAULT, "ExitPlanMode", {"plan": "x"})]
)
async def test_a_mode_that_is_not_there_cannot_be_entered_or_left(
    planner: Stage, mode: Mode, tool: str, sent: dict[str, Any]
) -> None:
    planner.script(call(tool, **sent), {"text": "ok"})
    async with planner.open(mode=mode, approver=ClientApprover()) as session:
        await session.submit(Prompt.text("go"))
        if tool == "ExitPlanMode":
            await answered(session, allowed=True)
        await until(session, TurnEnded)
        assert session.mode is mode
    (end,) = planner.bodies(ToolFinished)
    assert end.is_error


@pytest.mark.parametrize("mode", list(Mode))
async def test_where_nobody_answers_the_three_are_not_offered_and_do_nothing(planner: Stage, mode: Mode) -> None:
    planner.script(call("ExitPlanMode", plan="x"), call("AskUserQuestion", 2, questions=[QUESTION]), {"text": "ok"})
    async with planner.open(mode=mode) as session:
        await planner.play(session)
        assert session.mode is mode
    assert all(end.is_error for end in planner.bodies(ToolFinished))
    assert offered(planner).isdisjoint({"AskUserQuestion", "EnterPlanMode", "ExitPlanMode"})


async def test_the_users_answers_reach_the_model_and_the_models_own_do_not(planner: Stage) -> None:
    forged = {"Which database?": "forged"}
    planner.script(
        call("AskUserQuestion", questions=[QUESTION], answers=forged),
        call("AskUserQuestion", 2, questions=[QUESTION], answers=forged),
        {"text": "ok"},
    )
    async with planner.open(mode=Mode.BYPASS, approver=ClientApprover()) as session:
        await session.submit(Prompt.text("go"))
        await answered(
            session, allowed=True, input={"questions": [QUESTION], "answers": {"Which database?": "SQLite", "x": "y"}}
        )
        async for event in session.events():
            if isinstance(event.body, ApprovalAsked) and event.body.call == "t2":
                break
        await session.submit(Answer(call="t2", allowed=True))
        await until(session, TurnEnded)
    first, second = planner.bodies(ToolFinished)
    assert first.result == {"questions": [QUESTION], "answers": {"Which database?": "SQLite"}}
    assert "SQLite" in first.content
    assert second.is_error
    assert "forged" not in second.content
    assert {"AskUserQuestion", "EnterPlanMode", "ExitPlanMode"} <= offered(planner)


async def test_a_locked_mode_is_refused_by_name(stage: Stage) -> None:
    stage.script({"text": "ok"})
    locked = Policy(modes=frozenset({Mode.DEFAULT, Mode.PLAN}))
    async with stage.open(policy=locked) as session:
        with pytest.raises(UsageError, match="locked"):
            await session.submit(SetMode(mode=Mode.BYPASS))
        assert session.mode is Mode.DEFAULT
