"""A required audit sink over real sessions: without it none starts, and one that runs does nothing more."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from runner import new_spec, run
from runner.errors import AuditSinkError
from runner.events import Failed, PolicyLoaded, ToolFinished, TurnEnded
from runner.loop.session import Session
from runner.policy.managed import Places
from runner.sessions.anchors import examine
from runner.spec import SessionSpec
from tests.support.policies import manage, places
from tests.support.sink import SECRET, SinkServer, serving_sink

pytestmark = [pytest.mark.box, pytest.mark.timeout(180), pytest.mark.usefixtures("base_image", "toolbox")]


@pytest.fixture
def server() -> Iterator[SinkServer]:
    with serving_sink() as made:
        yield made


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "home").mkdir()
    (tmp_path / "repo").mkdir()
    names = {"FUMEHOOD_HOME": str(tmp_path / "state"), "HOME": str(tmp_path / "home"), "SINK_SECRET": SECRET}
    return {**os.environ, **names}


@pytest.fixture
def where(tmp_path: Path, server: SinkServer) -> Places:
    found = places(tmp_path / "managed")
    manage(found, {"requiredAuditSink": server.setting(deadline=5, every=0.2)})
    return found


def spec_of(tmp_path: Path, environ: dict[str, str], where: Places, *replies: dict[str, Any]) -> SessionSpec:
    script = tmp_path / "script.yaml"
    script.write_text(yaml.safe_dump(list(replies)))
    return new_spec(tmp_path / "repo", environ=environ, model=f"scripted:{script}", places=where)


def bash(command: str) -> dict[str, Any]:
    return {"tools": [{"name": "Bash", "input": {"command": command}}]}


def bodies(session: Session, kind: type[Any]) -> list[Any]:
    return [event.body for event in session.journal.read() if isinstance(event.body, kind)]


async def test_a_session_whose_sink_does_not_answer_does_not_start(
    tmp_path: Path, environ: dict[str, str], where: Places, server: SinkServer
) -> None:
    server.answer = lambda _: (503, b"")
    spec = spec_of(tmp_path, environ, where, {"text": "never"})
    with pytest.raises(AuditSinkError, match="status 503"):
        async with run(spec, environ=environ, places=where):
            raise AssertionError
    assert list((tmp_path / "state" / "sessions").iterdir()) == []
    server.answer = server.acknowledge
    async with run(spec, environ=environ, places=where) as session:
        async for _ in session.turn("go"):
            pass
        assert [body.reason for body in bodies(session, TurnEnded)] == ["completed"]
    server.answer = lambda _: (503, b"")
    with pytest.raises(AuditSinkError):
        async with run(spec, environ=environ, places=where):
            raise AssertionError


async def test_every_record_is_acknowledged_in_the_end(
    tmp_path: Path, environ: dict[str, str], where: Places, server: SinkServer
) -> None:
    spec = spec_of(tmp_path, environ, where, bash("echo hi"), {"text": "one"}, {"text": "two"})
    async with run(spec, environ=environ, places=where) as session:
        async for _ in session.turn("go"):
            pass
        async for _ in session.turn("on"):
            pass
    directory = tmp_path / "state" / "sessions" / spec.session
    audit = examine(directory, session=spec.session, live=False, keys=(server.key.public,), wanted=True)
    assert (audit.ok, audit.anchored) == (True, audit.records)
    assert server.heard[-1].head == audit.head


async def test_a_sink_that_falls_silent_leaves_nothing_allowed_until_it_answers_again(
    tmp_path: Path, environ: dict[str, str], where: Places, server: SinkServer
) -> None:
    wait = "while [ ! -e go ]; do sleep 0.05; done; echo passed"
    replies = [
        bash(wait),
        bash("echo never"),
        {"text": "one"},
        {"text": "not asked"},
        bash("echo again"),
        {"text": "x"},
    ]
    spec = spec_of(tmp_path, environ, where, *replies)
    async with run(spec, environ=environ, places=where) as session:
        turn = asyncio.create_task(_whole(session, "go"))
        server.answer = lambda _: (503, b"")
        async for event in session.events(after=-1):
            if isinstance(event.body, PolicyLoaded) and event.body.problem:
                break
        box = await session.gate.box.get()
        await box.write(session.gate.state.cwd / "go", b"")
        await turn
        first, second = bodies(session, ToolFinished)
        assert (first.content, second.is_error) == ("passed", True)
        assert "No such tool available" in second.content
        assert any("503" in body.problem for body in bodies(session, PolicyLoaded))
        await _whole(session, "the sink is still away")
        assert [(body.error, body.exit_code) for body in bodies(session, Failed)] == [("AuditSinkError", 10)]
        server.answer = server.acknowledge
        await _whole(session, "it is back")
        assert [body.content for body in bodies(session, ToolFinished)][2:] == []
        assert [body.reason for body in bodies(session, TurnEnded)] == ["completed", "failed", "completed"]
        await _whole(session, "and on")
        assert [body.content for body in bodies(session, ToolFinished)][2:] == ["again"]


async def _whole(session: Session, text: str) -> None:
    async for _ in session.turn(text):
        pass
