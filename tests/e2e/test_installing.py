"""`--system writable` as a user has it: what was installed stays over the end of the box, is taken back and done again
with the conversation, and goes with the session.
"""

from __future__ import annotations

import json
import os
import signal

import pytest

from sandbox.engine import Engine
from tests.e2e.conftest import Bench, bash, wait_for
from tests.support.apt import INSTALL, REPOSITORY

pytestmark = [pytest.mark.box, pytest.mark.timeout(300)]


def left(engine: Engine, session: str) -> list[str]:
    """What the engine has of a session: containers, volumes, images."""
    label = f"fumehood.session={session}"
    found = [container.name for container in engine.containers.list(label)]
    return found + [volume.name for volume in engine.volumes.list(label)] + [i.id for i in engine.images.list(label)]


def test_what_was_installed_is_taken_back_done_again_and_discarded(repository: Bench, engine: Engine) -> None:
    one = repository.script({"tools": [bash(REPOSITORY)]}, {"text": "made"})
    two = repository.script(
        {"tools": [bash(f"{INSTALL} one-box; echo 2 > two")]},
        {"tools": [bash("one-box")], "expect": "Setting up one-box"},
        {"text": "installed", "expect": "one-box answers"},
    )
    repository.run("-p", "--system", "writable", "--model", one, "make a repository")
    repository.run("-p", "--continue", "--model", two, "install")
    (session,) = (row["session"] for row in repository.sessions())
    assert repository.run("shell", "-c", "one-box").stdout.strip() == "one-box answers"

    repository.run("undo")
    assert repository.run("shell", "-c", "one-box", check=127)
    look = repository.script(
        {
            "expect": "with the packages that were installed then",
            "tools": [bash("two-box; ls; apt-cache policy one-box")],
        },
        {"text": "looked", "expect": "Installed: (none)"},
    )
    repository.run("-p", "--resume", session, "--model", look, "look")
    repository.run("undo")
    told = json.loads(repository.run("redo", "--json").stdout)
    assert told["what"] == "both"
    repository.run("rewind", "2", "--files")
    repository.run("redo")
    rows = json.loads(repository.run("checkpoints", "--json").stdout)["checkpoints"]
    assert any("system/" in row["changed"] for row in rows)

    for row in rows:
        if "system/" in row["changed"] and row["turn"] == 2:
            repository.run("rewind", row["checkpoint"], "--files")
    assert "one-box answers" in repository.run("shell", "-c", "one-box; cat two").stdout
    assert left(engine, session)
    repository.run("clean")
    assert "one-box answers" in repository.run("shell", "-c", "one-box").stdout
    repository.run("discard", "--yes")
    assert left(engine, session) == []


def test_what_was_installed_outlives_a_controller_that_is_killed(repository: Bench, engine: Engine) -> None:
    script = repository.script(
        {"tools": [bash("echo first > /srv/first; echo 1 > one")]},
        {"tools": [bash("echo second > /srv/second; echo 2 > two; sleep 100")]},
        {"text": "done"},
    )
    running = repository.start("-p", "--system", "writable", "--model", script, "write and sleep")
    wait_for(lambda: repository.layer("two"), "the second command")
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    (session,) = (row["session"] for row in repository.sessions())
    assert "two" in repository.run("diff", "--stat").stdout
    repository.run("clean")
    repository.run("clean", FUMEHOOD_HOME=str(repository.scratch / "another"))
    shown = repository.run("shell", "-c", "cat /srv/first /srv/second one two").stdout.split()
    assert shown == ["first", "second", "1", "2"]
    repository.run("undo")
    assert repository.run("shell", "-c", "cat /srv/first || cat one || echo nothing").stdout.strip() == "nothing"
    repository.run("redo")
    shown = repository.run("shell", "-c", "cat /srv/first /srv/second one two").stdout.split()
    assert shown == ["first", "second", "1", "2"]
    repository.run("discard", "--yes")
    assert left(engine, session) == []


def test_a_fork_has_what_was_installed_when_its_origin_is_gone(repository: Bench, engine: Engine) -> None:
    script = repository.script({"tools": [bash("echo installed > /srv/installed; echo 1 > one")]}, {"text": "done"})
    repository.run("-p", "--system", "writable", "--model", script, "install")
    (origin,) = (row["session"] for row in repository.sessions())
    (fork,) = json.loads(repository.run("fork", "--json").stdout)["forks"]
    repository.run("discard", origin, "--yes")
    repository.run("clean")
    repository.run("clean", FUMEHOOD_HOME=str(repository.scratch / "another"))
    assert repository.run("shell", fork, "-c", "cat /srv/installed one; echo 2 > /srv/two").stdout.split() == [
        "installed", "1",
    ]  # fmt: skip
    assert repository.run("shell", fork, "-c", "cat /srv/installed /srv/two").stdout.split() == ["installed", "2"]
    repository.run("discard", fork, "--yes")
    repository.run("clean")
    assert left(engine, origin) == left(engine, fork) == []
