"""Bad input and bad luck, through the command line: one clear line, a stable exit code, nothing left behind."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sandbox.engine import Engine
from tests.e2e.conftest import Bench, bash
from tests.support.model_server import ModelServer, WireReply, error

pytestmark = [pytest.mark.box, pytest.mark.timeout(240)]


@contextmanager
def provider(*replies: WireReply) -> Iterator[str]:
    """A provider on this machine, in a thread; its URL."""
    ready, stop = threading.Event(), threading.Event()
    url: list[str] = []

    async def serve() -> None:
        async with ModelServer(replies) as server:
            url.append(server.url)
            ready.set()
            await asyncio.to_thread(stop.wait)

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    try:
        assert ready.wait(10)
        yield url[0]
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize(
    ("status", "kind", "message", "code"),
    [
        (401, "authentication_error", "invalid x-api-key", 21),
        (404, "not_found_error", "model: nonsense", 22),
        (400, "invalid_request_error", "prompt is too long: 300000 tokens > 200000 maximum", 23),
        (400, "invalid_request_error", "messages: something else", 24),
        (529, "overloaded_error", "Overloaded", 25),
    ],
)
def test_what_a_provider_refuses_has_its_exit_code(
    repository: Bench, status: int, kind: str, message: str, code: int
) -> None:
    with provider(error(status, kind, message)) as url:
        done = repository.run(
            *("-p", "--model", "anthropic:claude-sonnet-5", "x"),
            check=code,
            ANTHROPIC_BASE_URL=url,
            ANTHROPIC_API_KEY="sk-ant-secret-0123456789",
            CLAUDE_CODE_MAX_RETRIES="0",
        )
    assert message in done.stdout + done.stderr
    assert "sk-ant-secret-0123456789" not in done.stdout + done.stderr
    (session,) = repository.sessions()
    journal = Path(repository.environ["FUMEHOOD_HOME"]) / "sessions" / session["session"] / "journal.jsonl"
    assert "sk-ant-secret" not in journal.read_text()


def test_a_wait_for_the_provider_is_said_while_it_lasts(repository: Bench) -> None:
    busy = error(529, "overloaded_error", "Overloaded")
    with provider(busy, busy) as url:
        done = repository.run(
            *("-p", "--model", "anthropic:claude-sonnet-5", "x"),
            check=25,
            ANTHROPIC_BASE_URL=url,
            ANTHROPIC_API_KEY="sk-ant-secret-0123456789",
            CLAUDE_CODE_MAX_RETRIES="1",
        )
    (line,) = [line for line in done.stderr.splitlines() if "trying again" in line]
    assert line.startswith("fumehood: ")
    assert "Overloaded" in line
    assert line.endswith("(attempt 2 of 2)")


def test_no_key_is_said_before_anything_else(repository: Bench) -> None:
    done = repository.run("-p", "--model", "anthropic:claude-sonnet-5", "x", check=21)
    assert "ANTHROPIC_API_KEY" in done.stdout + done.stderr


def test_no_engine_is_said_with_what_to_do(repository: Bench) -> None:
    model = repository.script({"text": "never"})
    done = repository.run("-p", "--model", model, "x", check=41, DOCKER_HOST="unix:///nonexistent/engine.sock")
    assert "/nonexistent/engine.sock" in done.stderr
    assert done.stdout == ""
    assert repository.sessions() == []
    done = repository.run(
        *("-p", "--output-format", "json", "--model", model, "x"),
        check=41,
        DOCKER_HOST="unix:///nonexistent/engine.sock",
    )
    result = json.loads(done.stdout)
    assert (result["type"], result["is_error"]) == ("result", True)


def test_an_image_that_does_not_exist_is_said(repository: Bench) -> None:
    model = repository.script({"text": "never"})
    done = repository.run("-p", "--model", model, "--image", "localhost:1/no/such:image", "x", check=45)
    assert "no/such:image" in done.stderr
    assert repository.sessions() == []


def test_an_unknown_runtime_is_said_when_the_box_is_needed(repository: Bench) -> None:
    model = repository.script({"tools": [bash("true")]}, {"text": "never"})
    done = repository.run("-p", "--model", model, "--runtime", "nonsense", "x", check=44)
    assert "nonsense" in done.stdout + done.stderr


def test_a_script_that_ends_too_early_or_cannot_be_read_is_said(repository: Bench, tmp_path: Path) -> None:
    model = repository.script({"tools": [bash("true")]})
    repository.run("-p", "--model", model, "x", check=27)
    broken = tmp_path / "broken.yaml"
    broken.write_text("replies: [{colour: red}]")
    assert "colour" in repository.run("-p", "--model", f"scripted:{broken}", "x", check=24).stderr


def test_limits_end_a_run_with_an_error_result(repository: Bench) -> None:
    model = repository.script(*({"tools": [bash("true")]} for _ in range(5)))
    done = repository.run("-p", "--output-format", "json", "--max-turns", "2", "--model", model, "x", check=1)
    assert json.loads(done.stdout)["subtype"] == "error_max_turns"


def test_a_root_that_went_away_is_said_and_the_work_is_kept(repository: Bench, fix: str, tmp_path: Path) -> None:
    repository.run("-p", "--model", fix, "--session-id", "33333333-2222-4333-8444-555555555555", "x")
    away = tmp_path / "away"
    repository.place.rename(away)
    done = repository.run("apply", "33333333", cwd=tmp_path, check=49)
    assert str(repository.place) in done.stderr
    away.rename(repository.place)
    assert "calc.py" in repository.run("apply", "33333333", cwd=tmp_path).stdout


def test_a_damaged_journal_is_said_and_not_written_to(repository: Bench, fix: str) -> None:
    repository.run("-p", "--model", fix, "x")
    (session,) = repository.sessions()
    journal = Path(repository.environ["FUMEHOOD_HOME"]) / "sessions" / session["session"] / "journal.jsonl"
    text = journal.read_text().replace("Mended.", "Broken.")
    journal.write_text(text)
    repository.run("-p", "-c", "--model", repository.script({"text": "no"}), "y", check=5)
    assert journal.read_text() == text
    repository.run("apply", check=5)
    assert "calc.py" in repository.run("diff", "--stat").stdout


def test_a_damaged_session_can_still_be_discarded_and_does_not_stop_clean(repository: Bench, fix: str) -> None:
    home = Path(repository.environ["FUMEHOOD_HOME"]) / "sessions"
    repository.run("-p", "--model", fix, "x")
    repository.run("-p", "--model", repository.script({"text": "ok"}), "y")
    for session in home.iterdir():
        (session / "layers" / "layers.json").write_text('{"version": 99}')
    repository.run("discard", "--yes")
    assert len(list(home.iterdir())) == 1
    assert "discarded 1 sessions" in repository.run("clean", "--all", "--yes").stdout
    assert list(home.iterdir()) == []


def test_nothing_on_the_screen_acts_on_the_terminal(repository: Bench) -> None:
    evil = "\x1b]52;c;eA==\x07\x1b[2J\x9b31m"
    model = repository.script(
        {"text": f"reply {evil}", "tools": [bash("printf '\\033]0;title\\007\\033[2J'; touch $'\\033]52;c;x\\007'")]},
        {"text": f"end {evil}"},
    )
    done = repository.run("--model", model, f"prompt {evil}")
    listed = (
        repository.run("diff", "--stat").stdout + repository.run("sessions").stdout + repository.run("apply").stdout
    )
    for text in (done.stdout, done.stderr, listed):
        assert not set("\x1b\x07\x9b") & set(text)


def test_a_session_that_fails_to_start_leaves_nothing_behind(repository: Bench, engine: Engine) -> None:
    model = repository.script({"text": "never"})
    home = Path(repository.environ["FUMEHOOD_HOME"])
    for flags in (["--allowedTools", "Bash(("], ["--tools", "Nonsense"], ["--image", "localhost:1/no/such:image"]):
        repository.run("-p", "--model", model, *flags, "x", check=None)
        assert not list((home / "sessions").glob("*")), flags


def test_a_key_that_cannot_be_had_starts_nothing_and_leaves_nothing(repository: Bench) -> None:
    settings = Path(repository.environ["HOME"]) / ".config/fumehood/settings.yaml"
    settings.parent.mkdir(parents=True)
    settings.write_text("credentials:\n  - {hosts: [a.example], file: /nowhere/key}\n")
    done = repository.run("-p", "x", "--model", repository.script({"text": "done"}), check=6)
    assert "credentials: /nowhere/key: No such file or directory" in done.stderr
    assert list((Path(repository.environ["FUMEHOOD_HOME"]) / "sessions").glob("*")) == []
