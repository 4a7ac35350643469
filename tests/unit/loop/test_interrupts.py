"""A turn that the user interrupts: what stays of it, and how the conversation goes on."""

from __future__ import annotations

import asyncio

from runner.events import (
    ModelAsked,
    ModelReplied,
    TextDelta,
    TurnEnded,
)
from runner.loop.operations import Interrupt, Prompt
from runner.models.base import BlockDone, TextPart, ThinkingPart

from .conftest import BEGUN, DONE, Parts, Stage, call, settle, tool_use, until


async def test_an_interrupt_in_a_call_leaves_a_history_that_goes_on(stage: Stage) -> None:
    calls = [call("Look", 1, name="a", wait=True, say="half"), call("Change", 2, name="b"), call("Look", 3, name="c")]
    stage.script({"text": "Looking.", "tools": calls}, {"text": "ok"})
    async with stage.open() as session:
        await session.submit(Prompt.text("go"))
        await settle(lambda: "+a" in stage.look.diary and "ModelReplied" in stage.kinds())
        await session.submit(Interrupt())
        end = (await until(session, TurnEnded)).body
        assert isinstance(end, TurnEnded)
        assert end.reason == "interrupted"
        assert (stage.look.diary, stage.change.diary) == (["+a", "!a"], [])
        await stage.play(session, "go on")
    messages = stage.model.requests[1].messages
    assert [m["role"] for m in messages] == ["user", "assistant", "user"]
    assert "Its output until then:\nhalf" in messages[2]["content"][0]["content"]
    kinds = [(b["type"], b.get("tool_use_id"), b.get("is_error")) for b in messages[2]["content"]]
    assert kinds == [("tool_result", f"toolu_{n}", True) for n in (1, 2, 3)] + [("text", None, None)]


async def test_an_interrupt_of_a_stream_keeps_what_the_api_takes_back(stage: Stage) -> None:
    forever = asyncio.Event()
    thinking = {"type": "thinking", "thinking": "hm", "signature": "sig"}
    stage.model = Parts(
        [
            BEGUN,
            ThinkingPart(text="hm"),
            BlockDone(index=0, block=thinking),
            tool_use("Look", 1, name="a", wait=True),
            TextPart(text="And the"),
            forever,
        ],
        [BEGUN, TextPart(text="ok"), BlockDone(index=0, block={"type": "text", "text": "ok"}), DONE],
    )
    async with stage.open() as session:
        await session.submit(Prompt.text("go"))
        async for event in session.events():
            if isinstance(event.body, TextDelta):
                break
        await session.submit(Interrupt())
        await until(session, TurnEnded)
        await stage.play(session, "go on")
    reply = stage.bodies(ModelReplied)[0]
    assert (reply.partial, reply.stop_reason, reply.content[-1]) == (True, None, {"type": "text", "text": "And the"})
    messages = stage.model.requests[1].messages
    assert [b["type"] for b in messages[1]["content"]] == ["thinking", "tool_use", "text"]
    assert [b["type"] for b in messages[2]["content"]] == ["tool_result", "text"]
    assert stage.look.diary == ["+a", "!a"]


async def test_an_interrupt_before_any_word_sends_the_prompt_again_with_the_next(stage: Stage) -> None:
    stage.model = Parts([asyncio.Event()], [BEGUN, BlockDone(index=0, block={"type": "text", "text": "ok"}), DONE])
    async with stage.open() as session:
        await session.submit(Prompt.text("one"))
        await until(session, ModelAsked)
        await session.submit(Interrupt())
        await until(session, TurnEnded)
        await stage.play(session, "two")
    assert [m["role"] for m in stage.model.requests[1].messages] == ["user", "user"]
    assert stage.bodies(ModelReplied)[0].partial is False


async def test_an_interrupt_right_after_the_prompt_is_not_lost(stage: Stage) -> None:
    stage.model = Parts([asyncio.Event()])
    async with stage.open() as session:
        await session.submit(Prompt.text("one"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await session.submit(Interrupt())
        end = (await until(session, TurnEnded)).body
        assert isinstance(end, TurnEnded)
        assert end.reason == "interrupted"
