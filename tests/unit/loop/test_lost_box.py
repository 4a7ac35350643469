"""A box that does not start, is lost, or is not needed at all, as the loop takes it."""

from __future__ import annotations

import asyncio
from typing import Any

from runner.events import (
    BoxEnded,
    Failed,
    ToolFinished,
    TurnEnded,
)
from sandbox.errors import BoxLostError, BoxStartError

from .conftest import Stage, call


async def test_a_call_without_effects_never_waits_for_the_box(stage: Stage) -> None:
    async def never() -> Any:
        await asyncio.Event().wait()

    todo = {"content": "x", "status": "pending", "activeForm": "xing"}
    stage.script({"tools": [call("TodoWrite", todos=[todo])]}, {"text": "ok"})
    async with stage.open(box=never) as session:
        await stage.play(session)
    assert [b.is_error for b in stage.bodies(ToolFinished)] == [False]


async def test_a_box_that_does_not_start_ends_the_turn_with_its_reason(stage: Stage) -> None:
    async def broken() -> Any:
        raise BoxStartError("no hello", hint="Look at doctor.")

    stage.script({"tools": [call("Look"), call("Change", 2)]})
    async with stage.open(box=broken) as session:
        await stage.play(session)
    (failed,) = stage.bodies(Failed)
    assert failed == Failed(error="BoxStartError", message="no hello; Look at doctor", exit_code=46)
    assert len(stage.bodies(ToolFinished)) == 2
    assert [b.reason for b in stage.bodies(TurnEnded)] == ["failed"]


async def test_a_lost_box_is_started_again_once(stage: Stage) -> None:
    async def again() -> Any:
        stage.box = type(stage.box)()
        return stage.box

    stage.box.lost = BoxLostError("the pipe ended")
    stage.script({"tools": [call("Change", 1), call("Change", 2)]}, {"text": "ok"})
    async with stage.open(restart_box=again) as session:
        await stage.play(session)
    assert stage.bodies(BoxEnded) == [BoxEnded(reason="lost", detail="the pipe ended")]
    ends = stage.bodies(ToolFinished)
    assert [b.is_error for b in ends] == [True, False]
    assert "The next call gets a new one" in str(ends[0].content)


async def test_a_lost_box_without_another_ends_the_turn(stage: Stage) -> None:
    stage.box.lost = BoxLostError("the pipe ended")
    stage.script({"tools": [call("Look", 1), call("Change", 2)]})
    async with stage.open() as session:
        await stage.play(session)
    assert stage.bodies(BoxEnded) == [BoxEnded(reason="lost", detail="the pipe ended")]
    assert [b.exit_code for b in stage.bodies(Failed)] == [47]
    assert len(stage.bodies(ToolFinished)) == 2


async def test_a_box_that_was_lost_for_good_is_tried_again_in_the_next_turn(stage: Stage) -> None:
    starts: list[str] = []

    async def again() -> Any:
        starts.append("again")
        if len(starts) == 1:
            raise BoxStartError("not yet")
        stage.box = type(stage.box)()
        return stage.box

    stage.box.lost = BoxLostError("the pipe ended")
    stage.script(
        {"tools": [call("Look", 1)]}, {"tools": [call("Look", 2)]}, {"tools": [call("Look", 3)]}, {"text": "ok"}
    )
    async with stage.open(restart_box=again) as session:
        await stage.play(session)
        await stage.play(session)
    assert [b.reason for b in stage.bodies(TurnEnded)] == ["failed", "completed"]
    assert [b.is_error for b in stage.bodies(ToolFinished)] == [True, True, False]
