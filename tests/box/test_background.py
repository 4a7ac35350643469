"""Background commands that settings declare, in a real box: they run with it, and again after going back."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from runner import new_spec
from runner.app import own, resume_spec
from runner.events import HeadMoved, Judged, TaskUpdated, ToolFinished
from runner.loop.session import Session

pytestmark = [pytest.mark.box, pytest.mark.timeout(180), pytest.mark.usefixtures("base_image", "toolbox")]

SERVE = "echo begun >> log; exec python3 -m http.server 8123 --bind 127.0.0.1"
LOOK = (
    "python3 - <<'.'\nimport time, urllib.request\nfor _ in range(100):\n    try:\n"
    "        print(urllib.request.urlopen('http://127.0.0.1:8123/log').read().decode()); break\n"
    "    except OSError: time.sleep(0.1)\n."
)


def bodies(session: Session, kind: type[Any]) -> list[Any]:
    return [event.body for event in session.journal.read() if isinstance(event.body, kind)]


async def test_declared_commands_run_with_the_box_and_again_after_an_undo_and_in_the_next(tmp_path: Path) -> None:
    repo, script, home = tmp_path / "repo", tmp_path / "script.yaml", tmp_path / "home"
    repo.mkdir()
    (home / "fumehood").mkdir(parents=True)
    look: dict[str, Any] = {"tools": [{"name": "Bash", "input": {"command": f"{LOOK}\necho x >> f; cat f"}}]}
    told = look | {"expect": "- web (`echo begun"}
    script.write_text(yaml.safe_dump([look, {"text": "one"}, told, {"text": "two"}, told, {"text": "three"}]))
    environ = {**os.environ, "FUMEHOOD_HOME": str(tmp_path / "state"), "HOME": str(home), "XDG_CONFIG_HOME": str(home)}
    declared = [{"name": "web", "command": SERVE}, {"name": "gone", "command": "touch gone"}]
    settings = {"background": declared, "permissions": {"deny": ["Bash(touch *)"]}}
    (home / "fumehood" / "settings.yaml").write_text(yaml.safe_dump(settings))
    spec = new_spec(repo, environ=environ, model=f"scripted:{script}")

    async with own(spec, environ=environ) as running:
        session = running.session
        _ = [event async for event in session.turn("go")]
        report = await running.access.travel({"kind": "undo"})
        _ = [event async for event in session.turn("again")]
        (web,) = report["started"]
        assert (web["name"], web["command"]) == ("web", SERVE)
        assert web["task"] not in {task["task"] for task in report["ended"]}
        assert {task["command"] for task in report["ended"]} == {SERVE}
        (moved,) = bodies(session, HeadMoved)
        assert "Those that the settings declare (web) are started again for you." in moved.reason
        states = {body.task: body.state for body in bodies(session, TaskUpdated)}
        assert states[web["task"]] == "running"
    spec = resume_spec(spec.session, cwd=repo, environ=environ)
    async with own(spec, environ=environ) as running:
        session = running.session
        _ = [event async for event in session.turn("third")]
        shown = [body.content for body in bodies(session, ToolFinished)]
        assert shown == ["begun\n\nx", "begun\n\nx", "begun\nbegun\n\nx\nx"]  # the undo took the first start's line too
        found = [body for body in bodies(session, Judged) if body.tool == "Background"]
        verdicts = [(body.verdict["decision"], body.verdict["rule"]) for body in found]
        assert verdicts == [("allow", "background web"), ("deny", "Bash(touch *)")] * 3
        (fork,) = (await running.access.fork({}))["forks"]
    async with own(resume_spec(fork, cwd=repo, environ=environ), environ=environ) as running:
        box = await running.session.gate.need_box()
        (process,) = [task for task in running.session.gate.state.tasks.values() if task.state == "running"]
        assert process.command == SERVE
        assert (await box.read(running.session.gate.place.cwd / "log")).data.startswith(b"begun\n")
    assert not (repo / "log").exists()
