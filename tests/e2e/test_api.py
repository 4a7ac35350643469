"""The public Python API over a real box: the example of the package's docstring, and what it promises."""

from __future__ import annotations

import asyncio
import os
import textwrap
from pathlib import Path

import pytest

import runner
from runner import Answer, Interrupt, Prompt, SetMode, TurnEnded, new_spec, resume_spec, run
from runner.approval import ClientApprover
from runner.effects import Mode
from runner.errors import SessionBusyError, UsageError
from runner.events import ApprovalAsked, Event, HeadMoved, ToolFinished
from runner.loop.operations import Undo
from tests.e2e.conftest import Bench, bash

pytestmark = [pytest.mark.box, pytest.mark.timeout(240)]


def test_the_docstrings_example_runs_as_it_stands(
    repository: Bench, fix: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert runner.__doc__ is not None
    start = runner.__doc__.index("    import asyncio")
    example = textwrap.dedent(runner.__doc__[start : runner.__doc__.index("\n`async for")])
    example = example.replace("/path/to/repository", str(repository.place))
    example = example.replace("scripted:/path/to/script.yaml", fix)
    for name, value in repository.environ.items():
        monkeypatch.setenv(name, value)
    exec(compile(example, "example", "exec"), {})
    said = capsys.readouterr().out.split()
    assert said[0] == "SessionStarted"
    assert {"BoxStarted", "PromptGiven", "ToolFinished"} <= set(said)
    assert said[-1] == "TurnEnded"
    assert "a + b" in repository.run("diff").stdout


async def test_a_spec_is_all_that_a_session_needs_and_turns_follow_each_other(repository: Bench) -> None:
    model = repository.script({"tools": [bash("echo one > made")]}, {"text": "first"}, {"text": "second"})
    spec = new_spec(repository.place, environ=repository.environ, model=model)
    assert runner.SessionSpec.from_json(spec.to_json()) == spec
    async with run(spec, environ=repository.environ) as session:
        ends = []
        for prompt in ("a", "b"):
            events: list[Event] = [event async for event in session.turn(prompt)]
            assert isinstance(events[-1].body, TurnEnded)
            ends.append(events[-1].body.result)
        assert ends == ["first", "second"]
        with pytest.raises(SessionBusyError):
            async with run(spec, environ=repository.environ):
                pass
    assert not (repository.place / "made").exists()

    more = repository.script({"tools": [bash("cat made")]}, {"text": "third"})
    again = resume_spec(spec.session, cwd="/", environ=repository.environ, model=more)
    assert (again.session, again.roots) == (spec.session, spec.roots)
    async with run(again, environ=repository.environ) as session:
        events = [event async for event in session.turn("c")]
        assert [e.body.content for e in events if isinstance(e.body, ToolFinished)] == ["one"]
        assert [message["role"] for message in session.history][:2] == ["user", "assistant"]


async def test_operations_answer_interrupt_and_change_the_mode(repository: Bench) -> None:
    model = repository.script(
        {"tools": [bash("echo asked > asked")]}, {"text": "x"}, {"tools": [bash("sleep 300")]}, {"text": "y"}
    )
    spec = new_spec(repository.place, environ=repository.environ, model=model, mode=Mode.DEFAULT)
    async with run(spec, environ=repository.environ, approver=ClientApprover()) as session:
        async for event in session.turn("a"):
            if isinstance(event.body, ApprovalAsked):
                await session.submit(Answer(call=event.body.call, allowed=True))
            if isinstance(event.body, ToolFinished):
                assert not event.body.is_error
        await session.submit(SetMode(mode=Mode.BYPASS))
        await session.submit(Prompt.text("b"))
        reasons = []
        async for event in session.events(after=session.journal.last_seq):
            if event.type == "Judged":
                await session.submit(Interrupt())
            if isinstance(event.body, TurnEnded):
                reasons.append(event.body.reason)
                break
        assert reasons == ["interrupted"]


async def test_what_going_back_ended_is_told_by_name(repository: Bench) -> None:
    """The model hears of the background command that its user's undo ended; the command itself is over."""
    background = {"name": "Bash", "input": {"command": "sleep 1000; : the-server", "run_in_background": True}}
    model = repository.script(
        {"tools": [background]},
        {"text": "serving"},
        {"tools": [bash("echo two > two")]},
        {"text": "two"},
        {"tools": [bash("ls; ps aux | grep -c '[s]leep 1000' || true")], "expect": ": the-server"},
        {"text": "seen"},
    )
    spec = new_spec(repository.place, environ=repository.environ, model=model)
    async with run(spec, environ=repository.environ) as session:
        for prompt in ("serve", "write"):
            async for _ in session.turn(prompt):
                pass
        for _ in range(100):  # a turn's end is shown a moment before all of it is on disk
            try:
                await session.submit(Undo(steps=1))
                break
            except UsageError:
                await asyncio.sleep(0.05)
        events = [event async for event in session.turn("look")]
        (content,) = [event.body.content for event in events if isinstance(event.body, ToolFinished)]
        assert isinstance(content, str)
        assert "two" not in content.split()
        assert content.split()[-1] == "0"
        (moved,) = [event.body for event in session.journal.read() if isinstance(event.body, HeadMoved)]
        assert "among them b" in moved.reason
        assert "(sleep 1000; : the-server): start again what is still needed" in moved.reason
        assert events[-1].type == "TurnEnded"


def test_importing_the_package_costs_nothing(tmp_path: Path) -> None:
    import subprocess  # noqa: PLC0415
    import sys  # noqa: PLC0415

    code = "import sys, runner; print([m for m in ('pydantic', 'asyncio', 'runner.app') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=dict(os.environ)
    )
    assert done.stdout == "[]\n"
