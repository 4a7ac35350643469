"""The loop with the shipped tools in the shipped local box: what a session does, without an engine."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from runner.approval import DenyApprover
from runner.effects import Mode, Place
from runner.events import Event, Judged, TaskUpdated, ToolFinished, TurnEnded
from runner.journal import Journal
from runner.loop.context import Context
from runner.loop.session import Session
from runner.models.script import Script
from runner.models.scripted import ScriptedModel
from runner.policy.policy import build_policy
from runner.tools.registry import default_tools
from sandbox.local import LocalBox

Open = Callable[..., AbstractAsyncContextManager[Session]]


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    (tmp_path / "repo").mkdir()
    (tmp_path / "repo" / "a.py").write_text("print(1 + 1)\n")
    return tmp_path / "repo"


@pytest.fixture
def start(tmp_path: Path, repo: Path) -> Open:
    @asynccontextmanager
    async def opened(
        *replies: dict[str, Any], mode: Mode = Mode.BYPASS, **rules: tuple[str, ...]
    ) -> AsyncIterator[Session]:
        at, home = PurePosixPath(repo), PurePosixPath(tmp_path)
        policy = build_policy(mode=mode, place=Place(cwd=at, home=home, roots=(at,)))
        journal = Journal.create(tmp_path / "session", "s1")
        async with LocalBox(tmp_path) as box:

            async def given() -> LocalBox:
                return box

            session = Session(
                journal=journal,
                model=ScriptedModel(Script.model_validate({"replies": list(replies)})),
                tools=default_tools(),
                policy=policy,
                approver=DenyApprover(),
                box=given,
                context=Context(
                    home=tmp_path,
                    root=repo,
                    at=at,
                    cwd=at,
                    roots=(at,),
                    box_home=home,
                    now=lambda: datetime(2026, 11, 20, tzinfo=UTC),
                ),
                cost_of=lambda model, usage: 0.0,
            )
            async with session:
                yield session
        assert journal.verify().ok
        journal.close()

    return opened


def use(tool: str, /, **sent: Any) -> dict[str, Any]:
    return {"name": tool, "input": sent}


async def play(session: Session, text: str = "go") -> list[Event]:
    return [event async for event in session.turn(text)]


def bodies(session: Session, kind: type[Any]) -> list[Any]:
    return [event.body for event in session.journal.read() if isinstance(event.body, kind)]


async def test_an_agent_reads_edits_and_runs(start: Open, repo: Path) -> None:
    path = str(repo / "a.py")
    replies = (
        {"tools": [use("Read", file_path=path), use("Bash", command="python3 a.py")]},
        {
            "tools": [
                use("Edit", file_path=path, old_string="1 + 1", new_string="2 + 2"),
                use("Bash", command="python3 a.py"),
            ]
        },
        {"text": "Four.", "expect": "4"},
    )
    async with start(*replies) as session:
        await play(session)
        assert [b.is_error for b in bodies(session, ToolFinished)] == [False] * 4
        (end,) = bodies(session, TurnEnded)
        assert (end.reason, end.result) == ("completed", "Four.")
    assert (repo / "a.py").read_text() == "print(2 + 2)\n"


async def test_the_directory_carries_over_and_paths_are_judged_from_there(start: Open, repo: Path) -> None:
    (repo / "sub").mkdir()
    replies = (
        {
            "tools": [
                use("Bash", command="cd sub"),
                use("Bash", command="pwd"),
                use("Write", file_path="b", content="x"),
            ]
        },
        {"text": "ok"},
    )
    async with start(*replies) as session:
        await play(session)
        assert bodies(session, ToolFinished)[1].content == str(repo / "sub")
        judged = bodies(session, Judged)[-1]
        assert judged.effects[-1]["target"] == str(repo / "sub" / "b")
    assert (repo / "sub" / "b").read_text() == "x"


async def test_a_link_is_written_where_it_was_judged_to_lead(start: Open, repo: Path, tmp_path: Path) -> None:
    (repo / "link").symlink_to(tmp_path / "outside")
    replies = ({"tools": [use("Write", file_path=str(repo / "link"), content="x")]}, {"text": "ok"})
    async with start(*replies, mode=Mode.ACCEPT_EDITS) as session:
        await play(session)
        (end,) = bodies(session, ToolFinished)
        assert end.is_error
        assert "was not given" in end.content
    assert not (tmp_path / "outside").exists()


async def test_a_read_only_command_is_judged_by_the_files_it_names(start: Open, repo: Path) -> None:
    (repo / "link").symlink_to("/etc/passwd")
    replies = (
        {"tools": [use("Bash", command="cat a.py"), use("Bash", command="cat link"), use("Bash", command="touch x")]},
        {"text": "ok"},
    )
    async with start(*replies, mode=Mode.DEFAULT) as session:
        await play(session)
        assert [b.is_error for b in bodies(session, ToolFinished)] == [False, True, True]
    assert not (repo / "x").exists()


async def test_a_background_command_tells_its_end_in_a_later_request(start: Open) -> None:
    replies = (
        {"tools": [use("Bash", command="sleep 1", run_in_background=True)]},
        {"text": "one"},
        {"text": "two", "expect": "is completed (exit code 0)"},
    )
    async with start(*replies) as session:
        await play(session)
        async for event in session.events():
            if isinstance(event.body, TaskUpdated) and event.body.state == "completed":
                break
        await play(session)
        assert [b.reason for b in bodies(session, TurnEnded)] == ["completed", "completed"]


async def test_long_output_is_one_record_with_its_payload_beside_the_chain(start: Open, tmp_path: Path) -> None:
    async with start({"tools": [use("Bash", command="seq 100000")]}, {"text": "ok"}) as session:
        await play(session)
        (end,) = bodies(session, ToolFinished)
        assert end.truncated
    lines = (tmp_path / "session" / "journal.jsonl").read_bytes().splitlines()
    assert max(map(len, lines)) < 6000
    assert list((tmp_path / "session" / "blobs").iterdir())
