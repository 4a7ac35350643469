"""The loop through its public door: scripts in, records out."""

from __future__ import annotations

import asyncio
from pathlib import PurePosixPath
from typing import Any

import pytest

from runner.approval import ClientApprover
from runner.effects import Mode
from runner.errors import UsageError
from runner.events import (
    ApprovalAsked,
    ApprovalGiven,
    Drifted,
    Judged,
    ModelAsked,
    ModelReplied,
    PromptGiven,
    TextDelta,
    ToolChunk,
    ToolFinished,
    ToolOutput,
    ToolRequested,
    TurnEnded,
    UsageReported,
)
from runner.hooks.config import Configured, function
from runner.hooks.run import Hooks
from runner.journal import digest
from runner.loop.history import request_json
from runner.loop.operations import Answer, Interrupt, Prompt, SetMode, SetModel
from runner.models.base import BlockDone

from .conftest import BEGUN, CALLS, DONE, Parts, Stage, call, settle, tool_use, until


async def test_a_turn_is_recorded_step_by_step(stage: Stage) -> None:
    stage.script({"text": "Let me look.", "tools": [call("Look", name="a")]}, {"text": "It is fine."})
    async with stage.open() as session:
        events = await stage.play(session)
    kinds = stage.kinds()
    of_the_call = [kind for kind in kinds if kind in ("ToolRequested", "Resolved", "Judged", "ToolFinished")]
    assert of_the_call == ["ToolRequested", "Resolved", "Judged", "ToolFinished"]
    assert [kind for kind in kinds if kind not in ("Resolved", "Judged")] == [
        "PromptGiven",
        "TurnStarted",
        "ModelAsked",
        "ToolRequested",
        "ModelReplied",
        "ToolFinished",
        "ModelAsked",
        "ModelReplied",
        "UsageReported",
        "TurnEnded",
    ]
    (end,) = stage.bodies(TurnEnded)
    assert (end.number, end.reason, end.result, end.rounds, end.cost) == (1, "completed", "It is fine.", 2, 1.0)
    assert [e.id for e in events if e.hash] == [e.id for e in stage.journal.read()]
    assert "".join(e.body.text for e in events if isinstance(e.body, TextDelta)) == "Let me look.It is fine."
    assert stage.journal.verify().ok


async def test_live_deltas_are_numbered_within_the_record_that_completes_them(stage: Stage) -> None:
    stage.script({"text": "One two three four five six seven."})
    async with stage.open() as session:
        events = await stage.play(session)
    (replied,) = [e for e in events if isinstance(e.body, ModelReplied)]
    deltas = [e for e in events if isinstance(e.body, TextDelta)]
    assert [(e.parent, e.seq, e.hash) for e in deltas] == [(replied.id, n, "") for n in range(len(deltas))]
    assert deltas


async def test_the_request_holds_what_the_records_say_and_its_digest_is_theirs(stage: Stage) -> None:
    stage.script({"tools": [call("Look", 1, name="a"), call("Look", 2, name="b")]}, {"text": "ok"}, {"text": "again"})
    async with stage.open() as session:
        await stage.play(session, "first")
        await stage.play(session, "second")
    asked = stage.bodies(ModelAsked)
    assert [body.digest for body in asked] == [digest(request_json(request)) for request in stage.model.requests]
    last = stage.model.requests[-1].messages
    assert [message["role"] for message in last] == ["user", "assistant", "user", "assistant", "user"]
    assert last[2]["content"] == [
        {"type": "tool_result", "tool_use_id": "toolu_1", "content": "did a"},
        {"type": "tool_result", "tool_use_id": "toolu_2", "content": "did b"},
    ]
    assert last[4]["content"] == [{"type": "text", "text": "second"}]
    assert last[: len(stage.model.requests[1].messages)] == stage.model.requests[1].messages


async def test_reads_run_side_by_side_and_writes_in_order(stage: Stage) -> None:
    calls = [call("Look", 1, name="a", wait=True), call("Look", 2, name="b"), call("Change", 3, name="c")]
    stage.script({"tools": [*calls, call("Look", 4, name="d")]}, {"text": "ok"})
    diary = stage.look.diary = stage.change.diary
    async with stage.open() as session:
        await session.submit(Prompt.text("go"))
        await settle(lambda: "-b" in diary)
        assert diary == ["+a", "+b", "-b"]
        stage.look.go.set()
        await until(session, TurnEnded)
    assert diary == ["+a", "+b", "-b", "-a", "+c", "-c", "+d", "-d"]


async def test_a_read_begins_while_its_reply_still_streams_and_ends_after_it(stage: Stage) -> None:
    more = asyncio.Event()
    stage.model = Parts(
        [
            BEGUN,
            tool_use("Look", 1, name="a"),
            tool_use("Change", 2, name="b"),
            tool_use("Look", 3, name="c"),
            more,
            CALLS,
        ],
        [BEGUN, BlockDone(index=0, block={"type": "text", "text": "ok"}), DONE],
    )
    stage.change.diary = stage.look.diary
    async with stage.open() as session:
        await session.submit(Prompt.text("go"))
        await settle(lambda: "-a" in stage.look.diary)
        await asyncio.sleep(0.01)
        assert stage.look.diary == ["+a", "-a"]
        assert "ToolFinished" not in stage.kinds()
        more.set()
        await until(session, TurnEnded)
    assert stage.look.diary == ["+a", "-a", "+b", "-b", "+c", "-c"]
    kinds = stage.kinds()
    assert kinds.index("ModelReplied") < kinds.index("ToolFinished")
    assert kinds.count("ToolFinished") == 3


async def test_a_read_of_a_reply_that_breaks_off_is_stopped_and_ended(stage: Stage) -> None:
    stage.model = Parts(
        [BEGUN, tool_use("Look", 1, name="a"), tool_use("Look", 2, name="b", wait=True), asyncio.Event()],
        [BEGUN, BlockDone(index=0, block={"type": "text", "text": "ok"}), DONE],
    )
    async with stage.open() as session:
        await session.submit(Prompt.text("go"))
        await settle(lambda: "-a" in stage.look.diary and "+b" in stage.look.diary)
        await session.submit(Interrupt())
        await until(session, TurnEnded)
        await stage.play(session, "on")
    assert stage.look.diary == ["+a", "+b", "-a", "!b"]
    assert [(b.call, b.is_error) for b in stage.bodies(ToolFinished)] == [("toolu_1", False), ("toolu_2", True)]
    results = stage.model.requests[1].messages[2]["content"]
    assert [b["type"] for b in results] == ["tool_result", "tool_result", "text"]


@pytest.mark.parametrize(("environment", "most"), [({}, 10), ({"CLAUDE_CODE_MAX_TOOL_USE_CONCURRENCY": "3"}, 3)])
async def test_no_more_than_so_many_reads_run_at_once(stage: Stage, environment: dict[str, str], most: int) -> None:
    stage.script({"tools": [call("Look", n, name=str(n), wait=True) for n in range(13)]}, {"text": "ok"})
    async with stage.open(environment=environment) as session:
        await session.submit(Prompt.text("go"))
        await settle(lambda: len(stage.look.diary) >= most)
        for _ in range(50):
            await asyncio.sleep(0)
        assert len(stage.look.diary) == most
        stage.look.go.set()
        await until(session, TurnEnded)
    assert len(stage.look.diary) == 26


async def test_a_denied_call_never_reaches_the_tool(stage: Stage) -> None:
    stage.script({"tools": [call("Change", name="a")]}, {"text": "ok"})
    async with stage.open(deny=("Edit(/a)", "Change")) as session:
        await stage.play(session)
    assert stage.change.diary == []
    (end,) = stage.bodies(ToolFinished)
    assert end.is_error
    assert "No such tool available: Change" in str(end.content)


async def test_the_decision_that_is_logged_is_the_one_enforced(stage: Stage) -> None:
    stage.script({"tools": [call("Change", name="a")]}, {"text": "ok"})
    async with stage.open(mode=Mode.PLAN) as session:
        await stage.play(session)
    (judged,) = stage.bodies(Judged)
    assert judged.verdict["decision"] == "deny"
    assert judged.digest == digest({"name": "a"})
    assert judged.effects == [{"type": "WritePath", "path": "/repo/a", "link": "/repo/a", "target": "/repo/a"}]
    assert stage.change.diary == []


async def test_what_is_asked_is_denied_where_nobody_can_be_asked(stage: Stage) -> None:
    stage.script({"tools": [call("Change", name="a")]}, {"text": "ok"})
    async with stage.open(mode=Mode.DEFAULT) as session:
        await stage.play(session)
    assert stage.bodies(ApprovalAsked) == []
    (given,) = stage.bodies(ApprovalGiven)
    assert (given.allowed, given.by) == (False, "nobody")
    assert stage.change.diary == []


@pytest.mark.parametrize("allowed", [True, False])
async def test_a_client_answers_an_approval(stage: Stage, allowed: bool) -> None:
    stage.script({"tools": [call("Change", name="a")]}, {"text": "ok"})
    async with stage.open(mode=Mode.DEFAULT, approver=ClientApprover()) as session:
        await session.submit(Prompt.text("go"))
        asked = (await until(session, ApprovalAsked)).body
        assert isinstance(asked, ApprovalAsked)
        await session.submit(Answer(call=asked.call, allowed=allowed, reason="because"))
        await session.submit(Answer(call=asked.call, allowed=not allowed))
        await until(session, TurnEnded)
    assert stage.change.diary == (["+a", "-a"] if allowed else [])
    assert stage.bodies(ApprovalGiven) == [
        ApprovalGiven(call="toolu_1", allowed=allowed, by="client", reason="because")
    ]


async def test_a_tool_gets_the_judged_target_of_each_path(stage: Stage) -> None:
    stage.box.links["/repo/link"] = "/repo/real"
    stage.script({"tools": [call("Look", path="link")]}, {"text": "ok"})
    async with stage.open(mode=Mode.DEFAULT) as session:
        await stage.play(session)
    assert stage.look.targets == [{"/repo/link": "/repo/real"}]


async def test_a_link_out_of_the_roots_is_not_followed_without_asking(stage: Stage) -> None:
    stage.box.links["/repo/link"] = "/etc/shadow"
    stage.script({"tools": [call("Look", path="link")]}, {"text": "ok"})
    async with stage.open(mode=Mode.DEFAULT) as session:
        await stage.play(session)
    assert stage.look.diary == []


async def test_a_path_that_cannot_be_resolved_ends_the_call(stage: Stage) -> None:
    stage.box.errors["/repo/loop"] = "loop"
    stage.script({"tools": [call("Look", path="loop")]}, {"text": "ok"})
    async with stage.open() as session:
        await stage.play(session)
    assert stage.look.diary == []
    assert "loop" in str(stage.model.requests[1].messages[-1]["content"])


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"name": "Look", "id": "t", "raw": '{"name": '}, "not valid JSON"),
        ({"name": "Nothing", "id": "t", "input": {}}, "No such tool available: Nothing"),
        ({"name": "Look", "id": "t", "input": {"nmae": "a"}}, "nmae: Extra inputs"),
        ({"name": "Look", "id": "t", "input": {"wait": "perhaps"}}, "wait: Input should be a valid boolean"),
    ],
)
async def test_a_call_that_makes_no_sense_goes_back_to_the_model(stage: Stage, bad: Any, words: str) -> None:
    stage.script({"tools": [bad]}, {"text": "sorry"})
    async with stage.open() as session:
        await stage.play(session)
    (result,) = stage.model.requests[1].messages[-1]["content"]
    assert result["is_error"]
    assert words in result["content"]
    assert [b.call for b in stage.bodies(ToolRequested, ToolFinished)] == ["t", "t"]
    assert stage.bodies(Judged) == []


async def test_a_fault_in_a_tool_ends_the_call_and_not_the_session(stage: Stage) -> None:
    stage.script({"tools": [call("Look", fail="oh"), call("Look", 2, name="b")]}, {"text": "ok"})
    async with stage.open() as session:
        await stage.play(session)
    ends = stage.bodies(ToolFinished)
    assert {b.call: b.is_error for b in ends} == {"toolu_1": True, "toolu_2": False}
    assert any("Internal error in Look: KeyError" in str(b.content) for b in ends)
    (end,) = stage.bodies(TurnEnded)
    assert end.reason == "completed"


async def test_shown_output_is_live_and_then_one_record(stage: Stage) -> None:
    stage.script({"tools": [call("Look", say="one|two")]}, {"text": "ok"})
    async with stage.open() as session:
        events = await stage.play(session)
    chunks = [e for e in events if isinstance(e.body, ToolChunk)]
    (output,) = [e for e in events if isinstance(e.body, ToolOutput)]
    assert [(e.body, e.parent, e.seq) for e in chunks] == [
        (ToolChunk(call="toolu_1", text=text), output.id, number) for number, text in enumerate(["one", "two"])
    ]
    assert output.body == ToolOutput(call="toolu_1", text="onetwo")


async def test_a_write_waits_for_its_checkpoint_and_a_read_does_not(stage: Stage) -> None:
    taken: list[str] = []

    async def checkpoint(call: str) -> None:
        assert stage.change.diary == []
        taken.append(call)

    stage.script({"tools": [call("Look", 1), call("Change", 2)]}, {"text": "ok"})
    async with stage.open(before_write=checkpoint) as session:
        await stage.play(session)
    assert taken == ["toolu_2"]


async def test_a_hook_may_replace_the_input_and_what_is_judged_is_what_runs(stage: Stage) -> None:
    async def elsewhere(told: dict[str, Any]) -> dict[str, Any]:
        return {"hookSpecificOutput": {"updatedInput": told["tool_input"] | {"path": "/repo/other"}}}

    stage.script({"tools": [call("Look", path="/repo/a")]}, {"text": "ok"})
    configured = Configured(handlers=(function("PreToolUse", elsewhere),))
    hooks = Hooks(configured=lambda: configured, session="s1", root=PurePosixPath("/repo"))
    async with stage.open(hooks=hooks) as session:
        await stage.play(session)
    of_the_hook, judged = stage.bodies(Judged)
    assert (of_the_hook.tool, judged.digest) == ("Hook", digest({"path": "/repo/other"}))
    assert stage.look.targets == [{"/repo/other": "/repo/other"}]


async def test_the_mode_changes_from_the_next_decision_on(stage: Stage) -> None:
    stage.script({"tools": [call("Change", 1)]}, {"text": "ok"}, {"tools": [call("Change", 2)]}, {"text": "ok"})
    async with stage.open(mode=Mode.PLAN) as session:
        await stage.play(session)
        await session.submit(SetMode(mode=Mode.BYPASS))
        assert session.mode is Mode.BYPASS
        await stage.play(session)
    assert [b.is_error for b in stage.bodies(ToolFinished)] == [True, False]


async def test_the_model_changes_with_the_next_request(stage: Stage) -> None:
    stage.script({"text": "one"})
    other = Parts([BEGUN, BlockDone(index=0, block={"type": "text", "text": "two"}), DONE])
    async with stage.open(resolve_model=lambda name: other) as session:
        await stage.play(session)
        await session.submit(SetModel(model="other"))
        await stage.play(session)
    assert len(other.requests) == 1
    assert other.requests[0].model == "parts"


async def test_prompts_wait_for_each_other(stage: Stage) -> None:
    stage.script({"text": "one"}, {"text": "two"})
    async with stage.open() as session:
        await session.submit(Prompt.text("first"))
        second = await stage.play(session, "second")
    assert [b.result for b in stage.bodies(TurnEnded)] == ["one", "two"]
    assert {e.turn for e in second} == {2}


async def test_a_closed_session_takes_nothing_and_its_readers_end(stage: Stage) -> None:
    stage.script({"text": "one"})
    async with stage.open() as session:
        reader = asyncio.create_task(_all(session))
        await stage.play(session)
    assert [e.id for e in await reader if e.hash] == [e.id for e in stage.journal.read()]
    with pytest.raises(UsageError):
        await session.submit(Prompt.text("more"))


async def _all(session: Any) -> list[Any]:
    return [event async for event in session.events()]


async def test_what_others_journal_is_told_to_the_model_too(stage: Stage) -> None:
    stage.script({"text": "ok"})
    async with stage.open() as session:
        stage.journal.append(Drifted(paths=["a.py"], count=1))
        await stage.play(session)
    assert "changed on the host" in str(stage.model.requests[0].messages[0])


async def test_usage_adds_up_over_turns(stage: Stage) -> None:
    usage = {"input_tokens": 10, "output_tokens": 3}
    stage.script({"text": "one", "usage": usage}, {"text": "two", "usage": usage})
    async with stage.open() as session:
        await stage.play(session)
        await stage.play(session)
    last = stage.bodies(UsageReported)[-1]
    assert last.cost == 1.0
    assert last.models["scripted"]["input_tokens"] == 20
    assert last.models["scripted"]["requests"] == 2


async def test_a_known_secret_is_in_no_event(stage: Stage) -> None:
    secret = "sk-ant-geheim"
    stage.journal.secrets.add("key", secret)
    stage.script({"text": f"It is {secret}.", "tools": [call("Look", name=secret, say=f"a {secret}")]}, {"text": "ok"})
    async with stage.open() as session:
        events = await stage.play(session, f"my key is {secret}")
    shown = [repr(e.body) for e in events if not isinstance(e.body, TextDelta)]
    assert not any(secret in text for text in shown)
    assert any("[secret:key]" in text for text in shown)


async def test_the_opening_comes_once_and_names_place_and_time(stage: Stage) -> None:
    stage.script({"text": "one"}, {"text": "two"})
    (stage.root / "CLAUDE.md").write_text("Use tabs.")
    async with stage.open() as session:
        await stage.play(session)
        await stage.play(session)
    first, second = stage.bodies(PromptGiven)
    text = "\n".join(block["text"] for block in first.context)
    for words in ("Working directory in the box: /repo", "Date: 2026-11-20", "Use tabs."):
        assert words in text
    assert second.context == []
