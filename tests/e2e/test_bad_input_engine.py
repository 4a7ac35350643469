"""An engine, an image or a runtime that is not there, may not be used, or goes away: what a user sees of it,
and that nothing is lost or left.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sandbox.engine import Engine
from tests.e2e.conftest import PATIENCE, Bench, bash, wait_for
from tests.support.engines import answering
from tests.support.relay import Relay

pytestmark = [pytest.mark.box, pytest.mark.timeout(240)]


@pytest.fixture
def socket_path() -> Iterator[Path]:
    """Short: a socket's path has 108 bytes."""
    with tempfile.TemporaryDirectory(prefix="fh-") as place:
        yield Path(place) / "engine.sock"


def belongings(engine: Engine, session: str) -> list[str]:
    """What the engine still has of a session."""
    label = f"fumehood.session={session}"
    return [c.id for c in engine.containers.list(label)] + [v.name for v in engine.volumes.list(label)]


def assert_refused(bench: Bench, code: int, says: str, *arguments: str, **environ: Any) -> None:
    """One line and a hint on stderr (after what was tried), nothing on stdout, no session; a result for programs."""
    model = bench.script({"text": "never"})
    for form in ((), ("-p",)):
        done = bench.run(*form, "--model", model, *arguments, "x", check=code, **environ)
        *tried, line, hint = done.stderr.splitlines()
        assert all(each.startswith("fumehood: pulling ") for each in tried)  # Podman cannot be asked beforehand
        assert line.startswith("fumehood: ")
        assert says in line
        assert hint.startswith("  ")
        assert done.stdout == ""
    asked = ("-p", "--output-format", "json", "--model", model, *arguments, "x")
    result = json.loads(bench.run(*asked, check=code, **environ).stdout)
    assert result["is_error"] is True
    assert says in json.dumps(result)
    assert bench.sessions() == []


@pytest.mark.parametrize(
    ("host", "says"),
    [
        ("unix:///nowhere/engine.sock", "no container engine answers at unix:///nowhere/engine.sock"),
        ("tcp://127.0.0.1:1", "Connection refused"),
        ("tcp://nohost", "no host and port"),
        ("engine", "not unix://, tcp:// or ssh://"),
    ],
)
def test_an_engine_that_is_not_there_is_named_with_what_to_do(bench: Bench, host: str, says: str) -> None:
    assert_refused(bench, 41, says, DOCKER_HOST=host)
    for command in (["clean"], ["images", "list"]):
        assert says in bench.run(*command, check=41, DOCKER_HOST=host).stderr


def test_what_is_no_engine_is_not_taken_for_one(bench: Bench, socket_path: Path) -> None:
    for answer in (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", b"", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"):
        with answering(socket_path, answer):
            assert_refused(bench, 41, str(socket_path), DOCKER_HOST=f"unix://{socket_path}")
        socket_path.unlink()


def test_an_engine_without_permission_is_told_from_none(bench: Bench, engine: Engine, socket_path: Path) -> None:
    with Relay(socket_path, engine.endpoint, forbids="denied by a plugin") as relay:
        assert_refused(bench, 42, "denied by a plugin", DOCKER_HOST=relay.host)
    with Relay(socket_path, engine.endpoint) as relay:
        relay.path.chmod(0)
        if os.geteuid():  # root may open every socket
            assert_refused(bench, 42, "permission denied", DOCKER_HOST=relay.host)
        else:
            model = bench.script({"text": "ok"})
            assert bench.run("-p", "--model", model, "x", DOCKER_HOST=relay.host).stdout == "ok\n"


@pytest.mark.parametrize("image", ["nosuch:image", "../x", "a b", "-x", "nosuch@sha256:00"])
def test_an_image_that_does_not_exist_is_named(bench: Bench, image: str) -> None:
    assert_refused(bench, 45, image, f"--image={image}")


def test_a_runtime_that_the_engine_lacks_is_named_before_anything_is_copied(bench: Bench) -> None:
    assert_refused(bench, 44, "no runtime nosuch", "--runtime", "nosuch")


@pytest.mark.parametrize("request_line", [b"/containers/create", b"/attach", b"/start"])
def test_an_engine_that_dies_while_the_box_starts_ends_the_turn_and_the_session_goes_on_later(
    bench: Bench, engine: Engine, socket_path: Path, request_line: bytes
) -> None:
    model = bench.script({"tools": [bash("echo hi > f")]}, {"text": "never"})
    with Relay(socket_path, engine.endpoint, dies_at=request_line) as relay:
        done = bench.run("-p", "--model", model, "x", check=43, DOCKER_HOST=relay.host)
        assert relay.dead.is_set()
    assert "engine" in done.stdout
    (session,) = bench.sessions()
    again = bench.script({"tools": [bash("echo again > f")]}, {"text": "back"})
    assert bench.run("-p", "-c", "--model", again, "y").stdout == "back\n"
    assert belongings(engine, session["session"]) == []
    bench.run("apply")
    assert (bench.place / "f").read_text() == "again\n"


def test_an_engine_that_dies_in_mid_call_loses_nothing_that_was_done(
    bench: Bench, engine: Engine, socket_path: Path
) -> None:
    model = bench.script(
        {"tools": [bash("echo begun > begun; sleep 300")]}, {"tools": [bash("echo more >> begun")]}, {"text": "never"}
    )
    with Relay(socket_path, engine.endpoint) as relay:
        process = bench.start("--model", model, "x", DOCKER_HOST=relay.host)
        wait_for(lambda: bench.layer("begun"), "the command")
        relay.die()
        out, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode == 41
        assert "the box was lost" in out
        assert "no container engine answers" in out
        assert "1 file changed in the box" in out
        assert "+begun\n" in bench.run("diff", DOCKER_HOST=relay.host).stdout
        assert "begun" in bench.run("apply", "--dry-run", DOCKER_HOST=relay.host).stdout
    (session,) = bench.sessions()
    assert session["state"] == "idle"

    def running() -> list[str]:
        return [c.id for c in engine.containers.list(f"fumehood.session={session['session']}") if c.state == "running"]

    wait_for(lambda: not running(), "the box's own end")
    bench.run("clean")
    assert belongings(engine, session["session"]) == []
    again = bench.script({"tools": [bash("cat begun")]}, {"text": "back", "expect": "begun"})
    assert bench.run("-p", "-c", "--model", again, "y").stdout == "back\n"
    bench.run("apply")
    assert (bench.place / "begun").read_text() == "begun\n"


def test_an_engine_that_dies_while_the_model_speaks_does_not_spoil_the_reply(
    bench: Bench, engine: Engine, socket_path: Path
) -> None:
    model = bench.script(
        {"tools": [bash("echo done > f")]}, {"text": "a long answer " * 40, "pace": 0.05}, {"text": "never"}
    )
    with Relay(socket_path, engine.endpoint) as relay:
        process = bench.start("-p", "--model", model, "x", DOCKER_HOST=relay.host)
        wait_for(lambda: bench.layer("f"), "the command")
        (session,) = bench.sessions()
        wait_for(
            lambda: [r["type"] for r in bench.records(session["session"])].count("ModelAsked") == 2,
            "the second request",
        )
        relay.die()
        out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, err) == (0, "")
    assert out.count("a long answer") == 40
    bench.run("clean")
    assert belongings(engine, session["session"]) == []
    bench.run("apply")
    assert (bench.place / "f").read_text() == "done\n"
