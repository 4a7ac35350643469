"""The loop in a real box, through the public door: interrupts, a box that dies, background commands, denials."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from runner import Interrupt, Prompt, SessionSpec, new_spec, run
from runner.effects import Mode
from runner.events import (
    BoxEnded,
    BoxStarted,
    Event,
    Failed,
    Judged,
    PromptGiven,
    TaskUpdated,
    ToolChunk,
    ToolFinished,
    TurnEnded,
)
from runner.loop.session import Session
from sandbox.engine import Engine
from sandbox.spec import Command, Exited

pytestmark = [pytest.mark.box, pytest.mark.timeout(180), pytest.mark.usefixtures("base_image", "toolbox")]
Build = Callable[..., SessionSpec]


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "home").mkdir()
    return {**os.environ, "FUMEHOOD_HOME": str(tmp_path / "state"), "HOME": str(tmp_path / "home")}


@pytest.fixture
def build(tmp_path: Path, environ: dict[str, str]) -> Build:
    """A repository with one commit, and a spec whose model plays the given replies in it."""
    repo = tmp_path / "repo"
    repo.mkdir()
    (repo / "a.txt").write_text("one\n")
    git = ["git", "-C", str(repo), "-c", "user.name=n", "-c", "user.email=e@example.com"]
    for words in (["init", "-q", "-b", "trunk"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*git, *words], check=True, env=environ)

    def made(*replies: dict[str, Any], **fields: Any) -> SessionSpec:
        script = tmp_path / "script.yaml"
        script.write_text(yaml.safe_dump(list(replies)))
        return new_spec(repo, environ=environ, model=f"scripted:{script}", **fields)

    return made


def bash(command: str, **more: Any) -> dict[str, Any]:
    return {"tools": [{"name": "Bash", "input": {"command": command, **more}}]}


async def play(session: Session, text: str = "go") -> list[Event]:
    return [event async for event in session.turn(text)]


def bodies(session: Session, kind: type[Any]) -> list[Any]:
    return [event.body for event in session.journal.read() if isinstance(event.body, kind)]


async def test_an_interrupt_stops_the_command_and_the_conversation_goes_on(
    build: Build, environ: dict[str, str]
) -> None:
    spec = build(bash("sleep 300 & echo begun; sleep 300"), bash("pgrep -c sleep; echo after"), {"text": "ok"})
    async with run(spec, environ=environ) as session:
        async for event in session.turn("go"):
            if isinstance(event.body, ToolChunk):
                await session.submit(Interrupt())
        await play(session, "go on")
        first, second = bodies(session, ToolFinished)
        assert (first.is_error, second.content) == (True, "0\nafter")
        assert "begun" in first.content
        assert [b.reason for b in bodies(session, TurnEnded)] == ["interrupted", "completed"]


async def test_a_box_that_is_killed_is_started_again_with_its_files(
    build: Build, environ: dict[str, str], engine: Engine
) -> None:
    spec = build(bash("echo kept > b.txt; echo begun; sleep 300"), bash("cat b.txt"), {"text": "ok"})
    async with run(spec, environ=environ) as session:
        async for event in session.turn("go"):
            if isinstance(event.body, ToolChunk) and "begun" in event.body.text:
                (own,) = engine.containers.list(f"fumehood.session={spec.session}")
                await asyncio.to_thread(engine.containers.remove, own.id)
        first, second = bodies(session, ToolFinished)
        assert first.is_error
        assert "gets a new one" in first.content
        assert second.content == "kept"
        assert len(bodies(session, BoxStarted)) == 2
        assert [b.reason for b in bodies(session, BoxEnded)] == ["lost"]
        assert [b.retrying for b in bodies(session, Failed)] == [True]


async def test_the_end_of_a_background_command_is_told_with_the_next_request(
    build: Build, environ: dict[str, str]
) -> None:
    spec = build(bash("sleep 2", run_in_background=True), {"text": "one"}, {"text": "two", "expect": "is completed"})
    async with run(spec, environ=environ) as session:
        async for event in session.turn("go"):
            del event
        async for event in session.events():
            if isinstance(event.body, TaskUpdated) and event.body.state == "completed":
                break
        await play(session, "on")
        assert [b.reason for b in bodies(session, TurnEnded)] == ["completed", "completed"]


async def test_git_state_is_told_as_it_is_in_the_box(build: Build, environ: dict[str, str]) -> None:
    spec = build(bash("true"), bash("true"), {"text": "ok"})
    async with run(spec, environ=environ) as session:
        await session.gate.box.get()
        await play(session)
        told = str([b.context for b in bodies(session, PromptGiven)])
        assert "## trunk" in told
        assert "first" in told
        (helper,) = [b for b in bodies(session, Judged) if b.tool == "git_state"]
        assert helper.verdict["source"] == "fumehood"


async def test_what_is_denied_does_not_happen(build: Build, environ: dict[str, str], tmp_path: Path) -> None:
    write = {"name": "Write", "input": {"file_path": "b.txt", "content": "x"}}
    spec = build(
        {"tools": [write]},
        bash("true; touch c.txt"),
        bash("ls"),
        {"text": "ok"},
        mode=Mode.PLAN,
        deny=("Bash(touch *)",),
    )
    async with run(spec, environ=environ) as session:
        await play(session)
        wrote, touched, listed = bodies(session, ToolFinished)
        assert (wrote.is_error, touched.is_error) == (True, True)
        assert "plan" in wrote.content
        assert "Bash(touch *)" in touched.content
        assert listed.content == "a.txt"
    assert [path.name for path in (tmp_path / "repo").iterdir() if path.name != ".git"] == ["a.txt"]


async def test_links_are_judged_as_they_resolve_in_the_box(build: Build, environ: dict[str, str]) -> None:
    read = {"tools": [{"name": "Read", "input": {"file_path": "link"}}]}
    unseen = """python3 -c "import os; os.symlink('/e' + 'tc/passwd', 'link')" """
    spec = build(bash(unseen), read, {"text": "ok"}, deny=("Read(//etc/**)",))
    async with run(spec, environ=environ) as session:
        await play(session)
        made, looked = bodies(session, ToolFinished)
        assert not made.is_error
        assert "Read(//etc/**)" in looked.content


async def test_a_users_own_command_runs_and_is_recorded(build: Build, environ: dict[str, str]) -> None:
    async with run(build({"text": "ok"}), environ=environ) as session:
        command = Command(argv=("sh", "-c", "exit 3"), cwd=session.gate.place.cwd)
        items = [item async for item in await session.gate.user_command(command)]
        assert isinstance(items[-1], Exited)
        assert items[-1].code == 3
        (judged,) = [b for b in bodies(session, Judged) if b.tool == "shell"]
        assert judged.verdict["source"] == "user"


async def test_closing_in_mid_call_ends_it_and_verifies(build: Build, environ: dict[str, str]) -> None:
    async with run(build(bash("echo begun; sleep 300")), environ=environ) as session:
        await session.submit(Prompt.text("go"))
        async for event in session.events():
            if isinstance(event.body, ToolChunk):
                break
        await session.close()
        assert [b.reason for b in bodies(session, TurnEnded)] == ["interrupted"]
        assert len(bodies(session, ToolFinished)) == 1
        assert session.journal.verify().ok
