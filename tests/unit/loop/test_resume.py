"""A session that is taken up again, after a proper end and after a crash."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from runner.events import ModelReplied, TaskUpdated, ToolFinished, ToolRequested, TurnEnded
from runner.journal import Journal
from runner.loop.operations import Prompt

from .conftest import Stage, call, settle


async def test_a_session_goes_on_with_its_conversation(stage: Stage) -> None:
    stage.script({"tools": [call("Look")]}, {"text": "one"})
    async with stage.open() as session:
        await stage.play(session, "first")
        before = session.history
    stage.script({"text": "two"})
    async with stage.open() as session:
        assert session.history == before
        await stage.play(session, "second")
    messages = stage.model.requests[0].messages
    assert messages[: len(before)] == before
    assert messages[-1]["content"] == [{"type": "text", "text": "second"}]
    assert [b.number for b in stage.bodies(TurnEnded)] == [1, 2]
    assert session.usage.report().models["scripted"]["requests"] == 3
    assert stage.journal.verify().ok


async def test_searches_of_before_count(stage: Stage) -> None:
    stage.script({"text": "ok"})
    async with stage.open() as session:
        for n, failed in enumerate((False, True, False)):
            session.record(ToolFinished(call=str(n), name="WebSearch", content="x", is_error=failed))
    async with stage.open() as session:
        assert session.gate.state.searches == 2


async def test_what_a_crash_left_open_is_ended_on_resume(stage: Stage, tmp_path: Path) -> None:
    stage.journal = Journal.create(tmp_path / "s1", "s1")
    task = TaskUpdated(kind="command", task="b1", state="running", detail={"command": "make"})
    stage.script({"tools": [call("Look", 1, wait=True), call("Change", 2)]})
    async with stage.open() as session:
        session.record(task)
        await session.submit(Prompt.text("go"))
        await settle(lambda: bool(stage.look.diary) and "ModelReplied" in stage.kinds())
        crashed = (tmp_path / "s1" / "journal.jsonl").read_bytes()
    (tmp_path / "s2").mkdir()
    (tmp_path / "s2" / "journal.jsonl").write_bytes(crashed + b'{"torn')
    stage.journal = Journal.open(tmp_path / "s2")
    stage.script({"text": "ok"})
    async with stage.open() as session:
        await stage.play(session, "go on")
    ends = stage.bodies(ToolFinished)
    assert [(b.call, b.name, b.is_error) for b in ends] == [("toolu_1", "Look", True), ("toolu_2", "Change", True)]
    assert [b.state for b in stage.bodies(TaskUpdated)] == ["running", "killed"]
    assert [(b.number, b.reason) for b in stage.bodies(TurnEnded)] == [(1, "interrupted"), (2, "completed")]
    content = stage.model.requests[0].messages[-1]["content"]
    assert [b["type"] for b in content] == ["tool_result", "tool_result", "text", "text"]
    assert "is killed" in content[2]["text"]
    assert stage.journal.verify().ok


async def test_a_turn_that_crashed_before_any_reply_keeps_its_prompt(stage: Stage, tmp_path: Path) -> None:
    stage.journal = Journal.create(tmp_path / "s1", "s1")
    stage.script({"error": {"type": "hang", "after": 0}, "text": "never"})
    async with stage.open() as session:
        await session.submit(Prompt.text("first"))
        await settle(lambda: "ModelAsked" in stage.kinds())
        crashed = (tmp_path / "s1" / "journal.jsonl").read_bytes()
    (tmp_path / "s2").mkdir()
    (tmp_path / "s2" / "journal.jsonl").write_bytes(crashed)
    stage.journal = Journal.open(tmp_path / "s2")
    stage.script({"text": "ok"})
    async with stage.open() as session:
        await stage.play(session, "second")
    texts = [b["text"] for m in stage.model.requests[0].messages for b in m["content"]]
    assert [t for t in texts if t in ("first", "second")] == ["first", "second"]


async def test_the_list_of_things_to_do_is_remembered(stage: Stage) -> None:
    todo: dict[str, Any] = {"content": "x", "status": "pending", "activeForm": "xing"}
    stage.script({"tools": [call("TodoWrite", todos=[todo])]}, {"text": "ok"})
    async with stage.open() as session:
        await stage.play(session)
    async with stage.open() as session:
        assert session.gate.state.todos == [todo]


async def test_every_cut_of_a_journal_can_be_gone_on_with(stage: Stage, tmp_path: Path) -> None:
    stage.journal = Journal.create(tmp_path / "s1", "s1")
    stage.script(
        {"text": "a", "thinking": "t", "tools": [call("Look", 1), call("Look", 2), call("Change", 3)]},
        {"text": "b", "tools": [call("Nothing", 4)]},
        {"text": "c"},
    )
    async with stage.open() as session:
        await stage.play(session)
    lines = (tmp_path / "s1" / "journal.jsonl").read_bytes().splitlines(keepends=True)
    for count in range(1, len(lines)):
        directory = tmp_path / f"cut{count}"
        directory.mkdir()
        (directory / "journal.jsonl").write_bytes(b"".join(lines[:count]))
        stage.journal = Journal.open(directory)
        stage.script({"text": "ok"})
        async with stage.open() as session:
            await asyncio.wait_for(stage.play(session, "go on"), 10)
        requested = [b.call for b in stage.bodies(ToolRequested)]
        assert sorted(b.call for b in stage.bodies(ToolFinished)) == sorted(requested)
        assert stage.bodies(ModelReplied)[-1].content == [{"type": "text", "text": "ok"}]
        assert stage.journal.verify().ok
        stage.journal.close()
