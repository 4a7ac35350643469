"""The command line's edges: what is quick, what is refused, and how an error looks. No engine is needed."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from runner import __version__
from runner.cli.entry import COMMANDS, find_known, report
from runner.errors import JournalError, UsageError
from runner.sessions.store import Store
from runner.spec import RootRef, SessionSpec
from sandbox.errors import EngineMissingError


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    home = tmp_path / "user"
    home.mkdir()
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "FUMEHOOD_HOME": str(tmp_path / "state"),
        "DOCKER_HOST": "unix:///nonexistent/engine.sock",
        "LANG": "C.UTF-8",
    }


@pytest.fixture
def place(tmp_path: Path) -> Path:
    made = tmp_path / "project"
    made.mkdir()
    return made


def fumehood(*arguments: str, environ: dict[str, str], cwd: Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "runner", *arguments],
        env=environ,
        cwd=cwd,
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_the_version_needs_nothing_but_the_interpreter(environ: dict[str, str], place: Path) -> None:
    code = (
        "import sys; sys.argv = ['fumehood', '--version']; from runner.__main__ import main; main();"
        "sys.stderr.write(' '.join(sorted(m for m in sys.modules if m in ('typer', 'asyncio', 'dataclasses', 'json'))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=place)
    assert done.stdout == f"{__version__} (fumehood)\n"
    assert done.stderr == ""


def test_help_names_every_command_and_imports_no_part_of_the_loop(environ: dict[str, str], place: Path) -> None:
    done = fumehood("--help", environ=environ, cwd=place)
    assert done.returncode == 0
    for command in COMMANDS:
        assert f"  {command}" in done.stdout
    code = (
        "import sys; from runner.cli.entry import run_command_line; run_command_line(['--help']);"
        "sys.stderr.write(' '.join(sorted(m for m in sys.modules if m in "
        "('pydantic', 'rich', 'typer', 'asyncio', 'yaml'))))"
    )
    quiet = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=place)
    assert quiet.stderr == ""


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_has_help(command: str, environ: dict[str, str], place: Path) -> None:
    done = fumehood(command, "--help", environ=environ, cwd=place)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"Usage: fumehood {command} ")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--nonsense", "x"], 2, "unrecognized arguments: --nonsense"),
        (["-p"], 2, "there is no prompt"),
        (["--memory", "much", "-p", "x"], 2, "'much' is not a size"),
        (["--max-turns", "0", "x"], 2, "'0' is no whole number above 0"),
        (["--max-budget-usd", "-1", "x"], 2, "'-1' is no number above 0"),
        (["--model", "opus", "x"], 21, "there is no key for the model's provider"),
        (["--resume", "a", "--continue", "x"], 2, "exclude each other"),
        (["--continue", "x"], 3, "no session was started in"),
        (["--resume", "abcd", "x"], 3, "no session begins with 'abcd'"),
        (["--session-id", "seven", "x"], 2, "is not a UUID"),
        (["--add-dir", "/nonexistent", "x"], 49, "/nonexistent"),
        (["--package", "Bad_Name", "x"], 45, "Bad_Name"),
        (["diff"], 3, "no session was started in"),
        (["apply", "abcd"], 3, "no session begins with 'abcd'"),
        (["discard", "--yes"], 3, "no session was started in"),
        (["shell", "abcd"], 3, "no session begins with 'abcd'"),
        (["images", "list"], 41, "no container engine"),
        (["clean"], 41, "no container engine"),
    ],
)
def test_bad_input_is_one_clear_line_and_a_stable_exit_code(
    arguments: list[str], code: int, words: str, environ: dict[str, str], place: Path
) -> None:
    done = fumehood(*arguments, environ=environ, cwd=place)
    assert words.lower() in done.stderr.lower()
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_home_directory_is_refused_as_a_workspace(environ: dict[str, str]) -> None:
    done = fumehood("-p", "x", environ=environ, cwd=Path(environ["HOME"]))
    assert done.returncode == 49
    assert "your home directory" in done.stderr
    assert "--really" in done.stderr


@pytest.mark.user
@pytest.mark.skipif(os.geteuid() == 0, reason="root may use every socket; the tests run as another user too")
def test_an_engine_that_this_user_may_not_use_is_told_from_none(
    environ: dict[str, str], place: Path, tmp_path: Path
) -> None:
    socket_file = tmp_path / "engine.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(socket_file))
        socket_file.chmod(0o000)
        done = fumehood("images", "list", environ=environ | {"DOCKER_HOST": f"unix://{socket_file}"}, cwd=place)
    assert done.returncode == 42
    assert "permission" in done.stderr.lower()


def test_no_sessions_is_said_and_is_an_empty_list_in_json(environ: dict[str, str], place: Path) -> None:
    assert fumehood("sessions", environ=environ, cwd=place).stdout == "no sessions yet\n"
    assert fumehood("sessions", "--json", environ=environ, cwd=place).stdout == "[]\n"


def test_sessions_show_no_escape_sequence_of_a_title_or_a_path(environ: dict[str, str], place: Path) -> None:
    spec = SessionSpec(
        session=str(uuid.uuid4()),
        cwd="/evil/\x1b]52;c;x\x07",
        roots=(RootRef(host="/evil", at="/evil", name="evil"),),
        model="scripted:x",
    )
    Store(Path(environ["FUMEHOOD_HOME"])).save(spec)
    done = fumehood("sessions", environ=environ, cwd=place)
    assert spec.session[:8] in done.stdout
    assert "\x1b" not in done.stdout
    assert "\x07" not in done.stdout


def test_an_error_of_ours_is_found_inside_groups(capsys: pytest.CaptureFixture[str]) -> None:
    inner = EngineMissingError("no container engine answers", hint="install \x1b[31mone")
    group = ExceptionGroup("a", [ValueError("x"), ExceptionGroup("b", [inner])])
    assert find_known(group) is inner
    assert report(group) == 41
    assert capsys.readouterr().err == "fumehood: no container engine answers\n  install ␛[31mone\n"
    assert find_known(UsageError("u")) is not None
    assert report(JournalError("c")) == 5


def test_an_internal_error_is_one_line_and_not_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert report(ZeroDivisionError("division by zero")) == 70
    assert capsys.readouterr().err == (
        "fumehood: internal error: ZeroDivisionError: division by zero (FUMEHOOD_DEBUG=1 shows where)\n"
    )
