"""How a reply may end, and what the loop makes of each end."""

from __future__ import annotations

from typing import Any

import pytest

from runner.errors import BrokenStreamError, PromptTooLongError
from runner.events import (
    Failed,
    ModelAsked,
    ToolFinished,
    TurnEnded,
)
from runner.models.base import BlockDone, Finished, Retrying, TextPart

from .conftest import BEGUN, DONE, Parts, Stage, call, tool_use


async def test_a_reply_that_is_tried_again_leaves_no_trace_in_history(stage: Stage) -> None:
    again = Retrying(attempt=2, attempts=5, delay=0.5, error="overloaded", status=529)
    text = {"type": "text", "text": "whole"}
    stage.model = Parts(
        [BEGUN, TextPart(text="bro"), tool_use("Look", 1), again, BEGUN, BlockDone(index=0, block=text), DONE],
        [BEGUN, BlockDone(index=0, block=text), DONE],
    )
    async with stage.open() as session:
        await stage.play(session)
        await stage.play(session)
    assert stage.kinds()[2:9] == [
        "ModelAsked",
        "ToolRequested",
        "ModelReplied",
        "ToolFinished",
        "Failed",
        "ModelAsked",
        "ModelReplied",
    ]
    assert [b.attempt for b in stage.bodies(ModelAsked)] == [1, 2, 1]
    assert [m["content"] for m in stage.model.requests[1].messages if m["role"] == "assistant"] == [[text]]
    assert stage.look.diary == []


@pytest.mark.parametrize(
    ("error", "code"), [(BrokenStreamError("cut"), 26), (PromptTooLongError("too long"), 23), (KeyError("bug"), 1)]
)
async def test_a_failing_model_ends_the_turn_and_the_session_goes_on(stage: Stage, error: Any, code: int) -> None:
    stage.model = Parts(
        [BEGUN, TextPart(text="ha"), error], [BEGUN, BlockDone(index=0, block={"type": "text", "text": "ok"}), DONE]
    )
    async with stage.open() as session:
        await stage.play(session)
        await stage.play(session)
    (failed,) = stage.bodies(Failed)
    assert (failed.error, failed.exit_code, failed.retrying) == (type(error).__name__, code, False)
    assert [b.reason for b in stage.bodies(TurnEnded)] == ["failed", "completed"]
    assert stage.model.requests[1].messages[1]["content"] == [{"type": "text", "text": "ha"}]


async def test_a_stream_without_an_end_is_a_broken_one(stage: Stage) -> None:
    stage.model = Parts([BEGUN, TextPart(text="ha")])
    async with stage.open() as session:
        await stage.play(session)
    assert [b.error for b in stage.bodies(Failed)] == ["BrokenStreamError"]


async def test_pause_turn_is_sent_again_as_it_is(stage: Stage) -> None:
    block = {"type": "server_tool_use", "id": "srv", "name": "web_search", "input": {}}
    stage.model = Parts(
        [BEGUN, BlockDone(index=0, block=block), Finished(stop_reason="pause_turn", usage={})],
        [BEGUN, BlockDone(index=0, block={"type": "text", "text": "ok"}), DONE],
    )
    async with stage.open() as session:
        await stage.play(session)
    assert stage.model.requests[1].messages[-1] == {"role": "assistant", "content": [block]}


@pytest.mark.parametrize(("stop", "reason"), [("refusal", "refusal"), ("max_tokens", "max_tokens")])
async def test_a_stop_reason_of_the_provider_is_the_turns(stage: Stage, stop: str, reason: str) -> None:
    stage.script({"text": "no", "stop_reason": stop})
    async with stage.open() as session:
        await stage.play(session)
    assert [b.reason for b in stage.bodies(TurnEnded)] == [reason]


async def test_calls_of_a_refused_reply_are_not_run(stage: Stage) -> None:
    stage.script({"tools": [call("Change")], "stop_reason": "refusal"})
    async with stage.open() as session:
        await stage.play(session)
    assert stage.change.diary == []
    assert len(stage.bodies(ToolFinished)) == 1
