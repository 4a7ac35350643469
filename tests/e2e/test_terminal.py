"""The command in a real terminal, over a real box, with a script in the model's place."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyte
import pytest

from sandbox.authority import Authority

pytestmark = pytest.mark.box
PATIENCE = 60.0


@dataclass(slots=True)
class Run:
    """`fumehood ARGUMENTS` in a terminal of its own."""

    pid: int
    master: int
    screen: pyte.HistoryScreen
    stream: pyte.ByteStream
    raw: bytearray
    code: int | None = None

    def lines(self) -> list[str]:
        past = ["".join(row[x].data for x in range(self.screen.columns)) for row in self.screen.history.top]
        return [line.rstrip() for line in [*past, *self.screen.display]]

    def until(self, pattern: str) -> str:
        """Read until the screen shows it; returns the line."""
        return self._read(lambda: next((line for line in self.lines() if re.search(pattern, line)), None), pattern)

    def end(self) -> int:
        """Read to the end; the exit code."""
        self._read(lambda: None, "", to_end=True)
        _, status = os.waitpid(self.pid, 0)
        self.code = os.waitstatus_to_exitcode(status)
        return self.code

    def _read(self, found: object, what: str, *, to_end: bool = False) -> str:
        assert callable(found)
        limit = time.monotonic() + PATIENCE
        while True:
            if line := found():
                return str(line)
            if not select.select([self.master], [], [], max(limit - time.monotonic(), 0))[0]:
                raise AssertionError(f"{what!r} was never shown:\n" + "\n".join(self.lines()))
            try:
                data = os.read(self.master, 1 << 16)
            except OSError:  # EIO: the other side is closed
                data = b""
            if not data:
                if to_end:
                    return ""
                raise AssertionError(f"ended before {what!r}:\n" + "\n".join(self.lines()))
            self.raw += data
            self.stream.feed(data)

    def resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.screen.resize(rows, columns)


@dataclass(slots=True)
class Desk:
    """A repository, a state directory, and a script for the model."""

    repository: Path
    environ: dict[str, str]
    script: Path

    def run(self, *arguments: str, **environ: str) -> Run:
        columns, rows = 100, 40
        command = [sys.executable, "-m", "runner", *arguments]
        pid, master = pty.fork()
        if pid == 0:  # no thread runs in this process
            os.chdir(self.repository)
            os.execvpe(command[0], command, self.environ | environ)
        screen = pyte.HistoryScreen(columns, rows, history=2000, ratio=1)
        run = Run(pid, master, screen, pyte.ByteStream(screen), bytearray())
        run.resize(columns, rows)
        return run

    def write(self, script: str) -> None:
        self.script.write_text("version: 1\nmodel: scripted\nreplies:\n" + script)

    def prompt(self, *more: str, **environ: str) -> Run:
        return self.run("--model", f"scripted:{self.script}", *more, "do it", **environ)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    repository = tmp_path / "repo"
    repository.mkdir()
    (repository / "a.txt").write_text("one\n")
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "FUMEHOOD_HOME": str(tmp_path / "state"),
        "TERM": "xterm-256color",
        "LC_ALL": "C.UTF-8",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    } | {name: os.environ[name] for name in ("DOCKER_HOST",) if name in os.environ}
    desk = Desk(repository, environ, tmp_path / "script.yaml")
    yield desk
    subprocess.run([sys.executable, "-m", "runner", "discard", "--yes"], cwd=repository, env=environ, check=False)


def test_a_run_shows_its_story_and_the_next_commands(desk: Desk) -> None:
    desk.write("""\
  - text: I will change the file.
    tools:
      - name: Bash
        input: {command: "echo two >> a.txt && cat a.txt"}
  - text: Done.
""")
    run = desk.prompt()
    assert run.end() == 0
    shown = run.lines()
    assert "✓ Bash echo two >> a.txt && cat a.txt" in [line.partition("  ")[0] for line in shown]
    assert "  │ two" in shown
    assert "Done." in shown
    assert any(re.match(r"✓ done · .* · 2 rounds · 1 call ·", line) for line in shown)
    assert "  1 file changed in the box (+1 -0); your own files are as they were" in shown
    assert "  fumehood apply            take them into your files" in shown
    assert not run.screen.cursor.hidden
    assert (desk.repository / "a.txt").read_text() == "one\n"

    diff = desk.run("diff")
    assert diff.end() == 0
    assert "+two" in diff.lines()


def test_what_runs_is_seen_while_it_runs_and_ctrl_c_stops_it(desk: Desk) -> None:
    desk.write("""\
  - tools:
      - name: Bash
        input: {command: "for i in 1 2 3; do echo step $i; done; sleep 300"}
  - text: Never said.
""")
    run = desk.prompt()
    run.until(r"│ step 3")
    run.until(r"running Bash · .*Ctrl-C stops")
    run.resize(50, 20)
    run.until(r"running Bash")
    os.write(run.master, b"\x03")
    assert run.end() == 130
    assert any("stopped by you" in line for line in run.lines())
    assert not any("Ctrl-C stops" in line for line in run.lines())
    assert not run.screen.cursor.hidden


def test_hostile_output_and_replies_do_nothing_to_the_terminal(desk: Desk) -> None:
    desk.write(r"""
  - text: "\e]0;owned\a\e]52;c;aGk=\a\e[2J\u202eevil"
    tools:
      - name: Bash
        input:
          command: |
            printf '\033]0;owned\007\033]52;c;aGk=\007\033[2Jx\n'
            touch "$(printf 'a\033]0;y\007')"
  - text: Done.
""")
    run = desk.prompt()
    assert run.end() == 0
    assert any("␛]0;owned␇␛]52;c;aGk=␇␛[2J\\u202eevil" in line for line in run.lines())
    assert "  │ x" in run.lines()  # the tool has taken the sequences out already
    diff = desk.run("diff", "--stat")
    assert diff.end() == 0
    for told in (run.raw, diff.raw):
        assert b"\x1b]" not in told
        assert b"\x1b[2J" not in told
        assert b"\x07" not in told
        assert "\u202e".encode() not in told


def test_a_permission_question_is_asked_and_its_answer_holds(desk: Desk) -> None:
    desk.write("""\
  - tools:
      - name: Bash
        input: {command: "echo asked > b.txt"}
  - text: Done.
""")
    run = desk.prompt("--permission-mode", "default")
    run.until(r"\? Bash asks for permission")
    run.until(r"echo asked > b.txt")
    run.until(r"Allow this\?")
    time.sleep(0.6)
    os.write(run.master, b"n")
    assert run.end() == 0
    assert any("denied" in line for line in run.lines())
    assert any("nothing changed in the box" in line for line in run.lines())


def test_the_terminal_is_given_back_when_the_run_is_terminated(desk: Desk) -> None:
    desk.write("""\
  - tools:
      - name: Bash
        input: {command: "sleep 300"}
""")
    run = desk.prompt()
    run.until(r"running Bash")
    assert not termios.tcgetattr(run.master)[3] & termios.ECHO
    os.kill(run.pid, signal.SIGTERM)
    run._read(lambda: None, "", to_end=True)
    _, status = os.waitpid(run.pid, 0)
    assert os.waitstatus_to_exitcode(status) == 143
    assert not run.screen.cursor.hidden


def test_ctrl_z_gives_the_terminal_to_the_shell_and_going_on_takes_it_back(desk: Desk) -> None:
    desk.write("""\
  - tools:
      - name: Bash
        input: {command: "sleep 4"}
  - text: Done.
""")
    run = desk.prompt()
    run.until(r"running Bash")
    os.kill(run.pid, signal.SIGTSTP)
    _, status = os.waitpid(run.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    assert termios.tcgetattr(run.master)[3] & termios.ECHO
    while select.select([run.master], [], [], 0.2)[0]:
        run.stream.feed(os.read(run.master, 1 << 16))
    assert not any("running Bash" in line for line in run.lines())
    assert not run.screen.cursor.hidden
    os.kill(run.pid, signal.SIGCONT)
    run.until(r"running Bash")
    assert not termios.tcgetattr(run.master)[3] & termios.ECHO
    assert run.end() == 0


def test_another_locale_gets_ascii(desk: Desk) -> None:
    desk.write("""\
  - text: Größe.
""")
    run = desk.prompt(LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert run.end() == 0
    assert run.raw.isascii()
    assert "Gr\\xf6\\xdfe." in run.lines()


def kept(desk: Desk) -> str:
    """What was allowed for always, as `policy approvals` lists it."""
    command = [sys.executable, "-m", "runner", "policy", "approvals"]
    done = subprocess.run(command, cwd=desk.repository, env=desk.environ, check=True, capture_output=True, text=True)
    return done.stdout


def answer(run: Run, key: bytes) -> None:
    """Answer a permission question, once it is open: keys typed before do not count."""
    run.until(r"Allow this\?")
    time.sleep(0.6)
    os.write(run.master, key)


def test_a_yes_for_always_is_shown_kept_and_not_asked_again(desk: Desk) -> None:
    desk.write(
        "  - tools: [{name: Bash, input: {command: make --version}}]\n"
        "  - tools: [{name: Bash, input: {command: make --version}}]\n"
        "  - text: done\n"
    )
    run = desk.prompt("--permission-mode", "default")
    assert "always: Bash(make --version)  in this workspace" in run.until(r"always:")
    answer(run, b"a")
    run.until(r"done")
    assert run.end() == 0
    assert len([line for line in run.lines() if "asks for permission" in line]) == 1
    assert "Bash(make --version)" in kept(desk)
    again = desk.prompt("--permission-mode", "default")
    again.until(r"done")
    assert again.end() == 0
    assert not any("asks for permission" in line for line in again.lines())


@pytest.mark.parametrize("key", ["y", "n"])
def test_a_repositorys_settings_are_asked_about_before_a_run_and_not_again(desk: Desk, key: str) -> None:
    (desk.repository / ".claude").mkdir()
    (desk.repository / ".claude" / "settings.json").write_text('{"permissions": {"allow": ["Bash(make --version)"]}}')
    desk.write("  - tools: [{name: Bash, input: {command: make --version}}]\n  - text: done\n")
    run = desk.prompt("--permission-mode", "default")
    assert "permissions.allow: Bash(make --version)" in run.until(r"permissions\.allow")
    run.until(r"Let them count.*\[y/N\]")
    os.write(run.master, f"{key}\n".encode())
    if key == "n":
        answer(run, b"n")
    run.until(r"done")
    assert run.end() == 0
    again = desk.prompt("--permission-mode", "default")
    if key == "n":
        again.until(r"Let them count.*\[y/N\]")
        os.write(again.master, b"n\n")
        answer(again, b"n")
    again.until(r"done")
    assert again.end() == 0
    assert any("Let them count" in line for line in again.lines()) is (key == "n")


class Site(BaseHTTPRequestHandler):
    """Says yes to every request."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "3")
        self.end_headers()
        self.wfile.write(b"yes")

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the library's)
        return


@pytest.fixture
def site(tmp_path: Path) -> Iterator[str]:
    """A site over TLS, whose authority is `site.pem`."""
    authority = Authority(datetime.now(UTC))
    (tmp_path / "site.pem").write_bytes(authority.certificate)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    server.socket = authority.context("127.0.0.1").wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"https://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.network
@pytest.mark.parametrize("key", ["i", "y", "n"])
def test_a_question_for_a_host_is_answered_with_yes_no_or_a_look_inside(
    desk: Desk, site: str, tmp_path: Path, key: str
) -> None:
    fetch = f"unset no_proxy NO_PROXY; curl -sk {site}/a; curl -sk -X POST {site}/b"
    desk.write(f'  - tools: [{{name: Bash, input: {{command: "{fetch}"}}}}]\n  - text: done\n')
    run = desk.prompt(SSL_CERT_FILE=str(tmp_path / "site.pem"))
    run.until(rf"to  {site}$")
    assert "i yes, and look into each request" in run.until(r"Allow this\?")
    answer(run, key.encode())
    assert run.end() == 0
    lines = run.lines()
    said = {"i": "yes, and look into each request", "y": "yes", "n": "no"}[key]
    assert [line for line in lines if "you said" in line] == [f"  you said {said}"]
    assert ("  │ yesyes" in lines) is (key != "n")
    assert any("1 call · 2 requests refused ·" in line for line in lines) is (key == "n")
    command = [sys.executable, "-m", "runner", "net", "log"]
    log = subprocess.run(command, cwd=desk.repository, env=desk.environ, check=True, capture_output=True, text=True)
    seen = [" ".join(line.split()[1:4]) for line in log.stdout.splitlines() if site in line and "--allow" not in line]
    assert (
        seen
        == {
            "i": [f"allow CONNECT {site}", f"allow GET {site}/a", f"allow POST {site}/b"],
            "y": [f"allow CONNECT {site}"] * 2,
            "n": [f"deny CONNECT {site}"] * 2,
        }[key]
    )
