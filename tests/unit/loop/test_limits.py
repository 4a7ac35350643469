"""What ends a turn from outside: rounds, tokens, cost and time."""

from __future__ import annotations

import pytest

from runner.events import (
    Failed,
    ToolFinished,
    ToolRequested,
    TurnEnded,
)
from runner.spec import TurnLimits

from .conftest import Stage, call


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (TurnLimits(max_turns=2), "max_turns"),
        (TurnLimits(max_budget_usd=0.9), "max_budget"),
        (TurnLimits(max_tokens=1), "max_tokens"),
    ],
)
async def test_a_limit_stops_the_turn_after_its_calls_ended(stage: Stage, limits: TurnLimits, reason: str) -> None:
    stage.script({"tools": [call("Look")], "repeat": 9})
    async with stage.open(limits=limits) as session:
        await stage.play(session)
    (end,) = stage.bodies(TurnEnded)
    assert end.reason == reason
    assert len(stage.bodies(ToolRequested)) == len(stage.bodies(ToolFinished)) == end.rounds


async def test_a_budget_that_cannot_be_kept_is_an_error(stage: Stage) -> None:
    stage.script({"tools": [call("Look")], "repeat": 9})
    async with stage.open(limits=TurnLimits(max_budget_usd=5), price=None) as session:
        await stage.play(session)
    (failed,) = stage.bodies(Failed)
    assert "no price is known" in failed.message


async def test_wall_time_stops_a_call_that_runs(stage: Stage) -> None:
    stage.script({"tools": [call("Look", wait=True)]})
    async with stage.open(limits=TurnLimits(max_seconds=0.05)) as session:
        await stage.play(session)
    assert [b.reason for b in stage.bodies(TurnEnded)] == ["max_time"]
    assert len(stage.bodies(ToolFinished)) == 1
