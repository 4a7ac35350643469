"""One owner, many clients: a second command beside a live session, and what stays when an owner dies."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
import uuid
from pathlib import Path

import pytest

from sandbox.engine import Engine
from tests.e2e.conftest import PATIENCE, Bench, bash, tree_digest, wait_for

pytestmark = [pytest.mark.box, pytest.mark.timeout(240)]


def written(bench: Bench, session: str, name: str) -> Path:
    """A file of the first root's layer, on the host."""
    layers = Path(bench.environ["FUMEHOOD_HOME"]) / "sessions" / session / "layers"
    return layers / bench.place.name / "upper" / name


SESSION = str(uuid.uuid4())  # one of this process, since several test side by side


def start_long_run(bench: Bench) -> subprocess.Popen[str]:
    """A session whose command has written a file and goes on for long."""
    model = bench.script({"tools": [bash("echo begun > begun && sleep 300")]}, {"text": "over"})
    process = bench.start("-p", "--model", model, "--session-id", SESSION, "take long")
    wait_for(lambda: written(bench, SESSION, "begun").exists() or process.poll() is not None, "the command")
    assert process.poll() is None
    return process


def containers_of(engine: Engine, session: str) -> list[str]:
    return [c.id for c in engine.containers.list(f"fumehood.session={session}")]


def test_a_second_owner_is_refused_and_other_commands_are_clients(repository: Bench) -> None:
    process = start_long_run(repository)
    model = repository.script({"text": "no"})

    refused = repository.run("-p", "--resume", SESSION, "--model", model, "me too", check=4)
    assert str(process.pid) in refused.stderr
    assert [row["state"] for row in repository.sessions()] == ["running"]
    assert "+begun\n" in repository.run("diff").stdout
    assert repository.run("shell", "-c", "cat begun; pwd", stdin="").stdout == f"begun\n{repository.at}\n"
    assert repository.run("shell", "-c", "exit 7", check=7).stdout == ""
    assert repository.run("shell", "-c", "wc -c", stdin="x" * 100_000).stdout.strip() == "100000"
    assert "begun" in repository.run("apply").stdout
    assert (repository.place / "begun").read_text() == "begun\n"
    assert repository.run("discard", "--yes", check=4).stdout == ""
    assert process.poll() is None

    process.send_signal(signal.SIGINT)
    process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    judged = [r["body"] for r in repository.records(SESSION) if r["type"] == "Judged" and r["body"]["tool"] == "shell"]
    assert {verdict["verdict"]["source"] for verdict in judged} == {"user"}
    assert len(judged) == 3


def test_after_kill_9_work_is_kept_and_goes_on(repository: Bench, engine: Engine) -> None:
    before = tree_digest(repository.place)
    process = start_long_run(repository)
    process.kill()
    process.wait()

    assert [row["state"] for row in repository.sessions()] == ["stale"]
    assert "+begun\n" in repository.run("diff").stdout
    assert containers_of(engine, SESSION) == []
    model = repository.script({"tools": [bash("cat begun && echo more >> begun")]}, {"text": "went on"})
    assert repository.run("-p", "--continue", "--model", model, "go on").stdout == "went on\n"
    assert [row["state"] for row in repository.sessions()] == ["idle"]
    assert tree_digest(repository.place) == before
    repository.run("apply")
    assert (repository.place / "begun").read_text() == "begun\nmore\n"
    types = [record["type"] for record in repository.records(SESSION)]
    assert types.count("TurnStarted") == types.count("TurnEnded") == 2
    assert types.count("ToolRequested") == types.count("ToolFinished") == 2


def test_a_box_ends_by_itself_when_its_controller_is_killed(repository: Bench, engine: Engine) -> None:
    process = start_long_run(repository)
    assert len(containers_of(engine, SESSION)) == 1
    process.kill()
    process.wait()

    def running() -> list[str]:
        return [c.id for c in engine.containers.list(f"fumehood.session={SESSION}") if c.state == "running"]

    wait_for(lambda: not running(), "the end of the box")
    repository.run("clean")
    assert containers_of(engine, SESSION) == []
    assert [v.name for v in engine.volumes.list(f"fumehood.session={SESSION}")] == []
    assert "+begun\n" in repository.run("diff").stdout


def test_a_start_removes_what_dead_owners_left_and_nothing_that_lives(repository: Bench, engine: Engine) -> None:
    start_long_run(repository).kill()
    wait_for(lambda: repository.sessions()[0]["state"] == "stale", "the death")
    other = "22222222-2222-4333-8444-555555555555"
    model = repository.script({"tools": [bash("echo x > there && sleep 300")]})
    living = repository.start("-p", "--model", model, "--session-id", other, "live")
    wait_for(lambda: written(repository, other, "there").exists(), "the other command")
    wait_for(lambda: engine.volumes.list(f"fumehood.session={SESSION}") == [], "the clean-up")
    assert containers_of(engine, SESSION) == []
    assert len(containers_of(engine, other)) == 1
    assert "removed 0 containers" in repository.run("clean").stdout
    assert living.poll() is None


def test_the_first_interrupt_ends_the_turn_and_sigterm_ends_the_program(repository: Bench, engine: Engine) -> None:
    process = start_long_run(repository)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    last = [r["body"] for r in repository.records(SESSION) if r["type"] == "TurnEnded"][-1]
    assert last["reason"] == "interrupted"
    assert [row["state"] for row in repository.sessions()] == ["idle"]
    assert containers_of(engine, SESSION) == []

    model = repository.script({"tools": [bash("echo x > again && sleep 300")]})
    process = repository.start("-p", "-c", "--model", model, "again")
    wait_for(lambda: written(repository, SESSION, "again").exists(), "the second command")
    process.terminate()
    process.communicate(timeout=PATIENCE)
    assert process.returncode == 143
    assert containers_of(engine, SESSION) == []


def test_no_container_volume_or_process_is_left_behind(repository: Bench, engine: Engine, fix: str) -> None:
    repository.run("-p", "--model", fix, "--session-id", SESSION, "x")
    repository.run("shell", "-c", "true")
    repository.run("diff")
    repository.run("apply")
    assert containers_of(engine, SESSION) == []
    assert [v.name for v in engine.volumes.list(f"fumehood.session={SESSION}")] == []
    assert list((Path(repository.environ["FUMEHOOD_HOME"]) / "run").glob("*")) == []


class Terminal:
    """A command in a pseudo-terminal."""

    def __init__(self, bench: Bench, *arguments: str) -> None:
        command = bench.command(*arguments)
        self.pid, self.master = pty.fork()
        if self.pid == 0:  # no thread runs in this process
            os.chdir(bench.place)
            os.execvpe(command[0], command, bench.environ | {"TERM": "xterm"})
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 110, 0, 0))
        self.seen = b""

    def until(self, text: bytes) -> None:
        limit = time.monotonic() + PATIENCE
        while text not in re.sub(rb"\x1b\[[0-9;?]*[a-zA-Z]", b"", self.seen):
            ready, _, _ = select.select([self.master], [], [], max(0.0, limit - time.monotonic()))
            assert ready, self.seen[-2000:]
            try:
                data = os.read(self.master, 65536)
            except OSError:
                data = b""
            assert data, self.seen[-2000:]
            self.seen += data

    def type(self, text: bytes) -> None:
        os.write(self.master, text)

    def end(self) -> int:
        limit = time.monotonic() + PATIENCE
        while time.monotonic() < limit:
            try:
                if not (data := os.read(self.master, 65536)):
                    break
            except OSError:
                break
            self.seen += data
        os.close(self.master)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def _use_shell(terminal: Terminal) -> None:
    terminal.type(b"stty size; echo $((40 + 2)); tty\n")
    terminal.until(b"42\r\n")
    terminal.until(b"/dev/pts/")
    # Said by the job itself: it has the terminal by then, so that Ctrl-C reaches it and not the shell that makes it.
    terminal.type(b"bash -c 'echo going; exec sleep 100'\n")
    terminal.until(b"\rgoing\r\n")
    terminal.type(b"\x03")
    terminal.until(b"^C")
    terminal.type(b"\recho caught=$((6 * 7))\n")
    terminal.until(b"caught=42")
    terminal.type(b"exit 5\n")
    assert terminal.end() == 5


def test_a_shell_is_a_terminal_in_the_box_at_rest(repository: Bench, fix: str) -> None:
    repository.run("-p", "--model", fix, "x")
    terminal = Terminal(repository, "shell")
    terminal.type(b"grep return calc.py\n")
    terminal.until(b"return a + b")
    _use_shell(terminal)


def test_a_shell_is_a_terminal_in_a_live_box_too(repository: Bench) -> None:
    process = start_long_run(repository)
    terminal = Terminal(repository, "shell")
    terminal.type(b"cat begun\n")
    terminal.until(b"begun\r\n")
    _use_shell(terminal)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=PATIENCE)


def test_a_question_in_the_terminal_is_answered_there(repository: Bench) -> None:
    model = repository.script({"tools": [bash("echo asked > asked")]}, {"text": "finished"})
    for key, names in ((b"n", []), (b"y", ["asked"])):
        terminal = Terminal(repository, "--permission-mode", "default", "--model", model, "x")
        terminal.until(b"echo asked > asked")
        terminal.until(b"Allow this?")
        time.sleep(0.6)  # keys are heard after a moment, so that nobody answers by accident
        terminal.type(key)
        terminal.until(b"finished")
        assert terminal.end() == 0
        assert [c["path"] for c in json.loads(repository.run("diff", "--json").stdout)] == names
