"""Commands that flood, bomb, starve, ignore or attack, run by the whole program over a real box."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Bench, bash

pytestmark = [pytest.mark.box, pytest.mark.timeout(300)]
TRACE = """
import ctypes
libc = ctypes.CDLL(None)
for p in (1, 2, 7):
    print("traced" if libc.ptrace(16, p, 0, 0) == 0 else "refused")
"""
CONTROLLER_LIMIT = 200 << 10  # KiB of memory that the controller may have taken at most
# Runs a command and writes down the KiB that it took at most, in a process that has no other child.
PEAK = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[2:], check=False).returncode
with open(sys.argv[1], "a") as file:
    print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=file)
sys.exit(code)
"""


def finished(bench: Bench) -> list[dict[str, Any]]:
    """The ends of the latest session's calls, as journalled."""
    rows = bench.records(bench.sessions()[0]["session"])
    return [row["body"] for row in rows if row["type"] == "ToolFinished"]


def text_of(bench: Bench, body: dict[str, Any]) -> str:
    """A call's content, fetched from its blob where it is long."""
    content: str | dict[str, Any] = body["content"]
    if isinstance(content, str):
        return content
    session = bench.sessions()[0]["session"]
    path = Path(bench.environ["FUMEHOOD_HOME"], "sessions", session, "blobs", content["$blob"])
    return path.read_text("utf-8", "replace")


def play(bench: Bench, *calls: dict[str, Any], arguments: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """Run the calls one after the other; a last one that must work shows that the box lived on."""
    alive = bash("echo the box is alive")
    replies = [{"tools": [call]} for call in (*calls, alive)]
    model = bench.script(*replies, {"text": "done", "expect": "the box is alive"})
    assert bench.run("-p", "--model", model, *arguments, "x").stdout == "done\n"
    return finished(bench)[:-1]


def test_the_server_in_the_box_cannot_be_killed_stopped_or_traced_by_a_command(bench: Bench) -> None:
    attacks = (
        "kill -9 1; kill -STOP 1; kill -TERM 1; kill -9 -1; true",
        "for p in /proc/[0-9]*; do [ ${p#/proc/} = $$ ] || kill -9 ${p#/proc/}; done 2>/dev/null; true",
        "pkill -9 -f .",
        f"python3 -c '{TRACE}'",
        "ls -l /proc/1/fd; cat /proc/1/mem /proc/1/environ; echo x > /proc/1/oom_score_adj; echo tried",
    )
    ends = play(bench, *(bash(attack) for attack in attacks))
    assert "Operation not permitted" in text_of(bench, ends[0])
    assert set(text_of(bench, ends[3]).split()) == {"refused"}
    assert text_of(bench, ends[4]).count("Permission denied") >= 3
    types = [row["type"] for row in bench.records(bench.sessions()[0]["session"])]
    assert types.count("BoxStarted") == 1, "the box was never lost"


def test_a_command_that_ignores_every_signal_is_killed_with_its_children(bench: Bench) -> None:
    stubborn = "trap '' TERM INT HUP; (trap '' TERM; sleep 1234) & echo begun; while :; do sleep 1; done"
    call = {"name": "Bash", "input": {"command": stubborn, "timeout": 1000}}
    timed_out, left = play(bench, call, bash("ps -eo args | grep -c '[s]leep 1234'; true"))
    assert timed_out["is_error"] is True
    assert "begun" in text_of(bench, timed_out)
    assert "timed out" in text_of(bench, timed_out)
    assert text_of(bench, left) == "0"


@pytest.mark.slow
def test_a_fork_bomb_ends_with_its_command(bench: Bench) -> None:
    bomb = {"name": "Bash", "input": {"command": ":(){ :|:& };:; sleep 300", "timeout": 3000}}
    end, left = play(bench, bomb, bash("ps -e | wc -l"), arguments=("--pids", "200"))
    assert end["is_error"] is True
    assert int(text_of(bench, left)) < 30


def test_a_command_that_takes_all_memory_dies_alone(bench: Bench) -> None:
    hungry = bash("tail /dev/zero; echo code=$?")
    tail, direct, shm = play(
        bench,
        hungry,
        bash("exec tail /dev/zero"),
        bash("head -c 1G /dev/zero > /dev/shm/x; echo code=$?"),
        arguments=("--memory", "256M"),
    )
    assert "code=137" in text_of(bench, tail)
    assert "killed" in text_of(bench, direct)
    assert "code=1" in text_of(bench, shm)
    types = [row["type"] for row in bench.records(bench.sessions()[0]["session"])]
    assert types.count("BoxStarted") == 1, "the box was never lost"


def test_output_that_is_binary_or_has_no_end_of_line_arrives(bench: Bench) -> None:
    binary, bare, cut, escapes = play(
        bench,
        bash(r"printf '\000\001\377'; head -c 50000 /dev/urandom"),
        bash("printf 'no end of line'"),
        bash(r"printf 'caf\303'"),
        bash(r"printf '\033]52;c;aGk=\007\033]0;owned\007\033[2Jplain\n'"),
    )
    assert text_of(bench, binary).startswith("[binary output")
    assert text_of(bench, bare) == "no end of line"
    assert text_of(bench, cut) == "caf\N{REPLACEMENT CHARACTER}"
    assert "plain" in text_of(bench, escapes)
    assert "\x1b" not in text_of(bench, escapes)


@pytest.mark.slow
def test_output_of_a_gigabyte_is_capped_kept_in_the_box_and_costs_the_controller_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    peaks, plain = bench.scratch / "peaks", Bench.command
    wrapped = [sys.executable, "-c", PEAK, str(peaks)]
    monkeypatch.setattr(Bench, "command", lambda self, *arguments: [*wrapped, *plain(self, *arguments)])
    flood = bash("head -c 1000000000 /dev/zero | tr '\\0' x")
    lines, kept, one = play(
        bench, bash("yes | head -c 1000000000"), bash("stat -c %s /tmp/*.output"), flood, arguments=("--disk", "4G")
    )
    for end in (lines, one):
        assert end["truncated"] is True
        assert len(text_of(bench, end)) < 40_000
    assert text_of(bench, kept) == "1000000000"
    assert 0 < max(map(int, peaks.read_text().split())) < CONTROLLER_LIMIT


def test_the_disk_budget_ends_the_call_with_a_clear_error_and_loses_nothing(bench: Bench) -> None:
    model = bench.script(
        {"tools": [bash("echo mine > mine; head -c 200M /dev/zero > big; sleep 60")]},
        {"tools": [bash("echo after")], "expect": "disk budget of 50 MiB is used up"},
        {"text": "stopped", "expect": "disk budget of 50 MiB is used up"},
    )
    done = bench.run("--model", model, "--disk", "50M", "x")
    assert "no disk space" in done.stdout
    assert "fumehood apply" in done.stdout
    assert "mine" in bench.run("apply", str(bench.place / "mine")).stdout
    assert (bench.place / "mine").read_text() == "mine\n"
    bench.run("discard", "--yes")
    assert list((bench.scratch / "state" / "sessions").iterdir()) == []


def test_a_disk_with_too_little_room_is_told_before_the_model_is_asked(bench: Bench) -> None:
    """A real small disk: a file system in memory, mounted in a namespace of its own, holds the sessions."""
    small = bench.scratch / "small"
    small.mkdir()
    for size, code, says in (("64m", 48, "MiB of free space left"), ("8k", 48, "No space left on device")):
        model = bench.script({"text": "never"})
        fill = f"head -c 1M /dev/zero > {small}/fill 2>/dev/null;" if size == "8k" else ""
        script = f'mount -t tmpfs -o size={size},mode=700 none {small} && {fill} exec "$@"'
        command = ["unshare", "--mount", "--user", "--map-root-user", "sh", "-c", script, "sh"]
        done = subprocess.run(
            [*command, *bench.command("-p", "--model", model, "x")],
            cwd=bench.place,
            env=bench.environ | {"FUMEHOOD_HOME": str(small)},
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
        )
        assert done.returncode == code, done.stderr
        line, hint = done.stderr.splitlines()
        assert says in line
        assert "FUMEHOOD_HOME" in hint
        assert done.stdout == ""
