"""Directories and names that are odd, closed, gone or on an overlay file system, and text that attacks a terminal."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.e2e.conftest import PATIENCE, Bench, bash, wait_for
from tests.support.model_server import WireReply
from tests.support.serving import environment, replies, serving

pytestmark = [pytest.mark.box, pytest.mark.timeout(240)]
OLD = "".join(f"line {number}\n" for number in range(20))
ODD = ["a b,c:d=e", "'a\"b\\c\nx", "-rf $(x)`y` %s{} ü€", os.fsdecode(b"a\xff\xfe"), "é" * 100]
HOSTILE = "\x1b]0;owned\x07\x1b]52;c;aGk=\x07\x1b[2J\u202eevil"


@pytest.mark.parametrize("name", ODD, ids=range(len(ODD)))
def test_a_directory_with_an_odd_name_is_worked_in_diffed_and_applied(bench: Bench, name: str) -> None:
    place = bench.place / name
    place.mkdir()
    (place / name).write_text(OLD)
    model = bench.script(
        {"tools": [bash('for f in ./*; do echo new >> "$f"; done; mkdir d; mv ./*[!d] d; ls -A')]}, {"text": "ok"}
    )
    assert bench.run("-p", "--model", model, "x", cwd=place).stdout == "ok\n"
    assert (place / name).read_text() == OLD
    changes = json.loads(bench.run("diff", "--json", cwd=place).stdout)
    assert [(c["kind"], c["added"], c["removed"]) for c in changes if c["path"] != "d"] == [("renamed", 1, 0)]
    bench.run("apply", cwd=place)
    assert [path.name for path in place.iterdir()] == ["d"]
    assert (place / "d" / name).read_text() == OLD + "new\n"
    assert bench.run("sessions").stdout.count("\n") == 1


def test_an_empty_directory_that_stays_empty_has_nothing_to_apply(bench: Bench) -> None:
    model = bench.script({"tools": [bash("ls -A; touch x; rm x")]}, {"text": "empty"})
    done = bench.run("--model", model, "x")
    assert "nothing changed in the box" in done.stdout
    assert bench.run("diff").stdout == ""
    assert bench.run("apply").stdout == "nothing applied\n"
    assert list(bench.place.iterdir()) == []


def test_a_directory_that_cannot_be_read_is_refused_or_left_alone(bench: Bench) -> None:
    closed = bench.scratch / "closed"
    (closed / "sub").mkdir(parents=True)
    (bench.place / "secret").mkdir()
    (bench.place / "secret" / "key").write_text("k")
    for path in (closed, bench.place / "secret"):
        path.chmod(0)
    model = bench.script({"tools": [bash("cat secret/key; rm -f secret/key; echo done > f")]}, {"text": "ok"})
    try:
        if os.geteuid():  # root reads everything
            for arguments, cwd in ((("--add-dir", str(closed)), bench.place), ((), bench.place)):
                if not arguments:
                    bench.place.chmod(0o300)
                refused = bench.run("-p", "--model", model, *arguments, "x", cwd=cwd, check=49)
                assert "cannot be read by you" in refused.stderr.splitlines()[0]
                assert "chmod" in refused.stderr.splitlines()[1]
            bench.place.chmod(0o755)
            assert bench.sessions() == []
        assert bench.run("-p", "--model", model, "x").stdout == "ok\n"
        changed = [c["path"] for c in json.loads(bench.run("diff", "--json").stdout)]
        assert changed == ["f"], "root in the box is nobody special either"
        bench.run("apply", str(bench.place / "f"))
        assert (bench.place / "f").read_text() == "done\n"
    finally:
        for path in (closed, bench.place / "secret"):
            path.chmod(0o755)
    assert (bench.place / "secret" / "key").read_text() == "k"


def test_directories_that_are_none_are_refused_in_a_line(bench: Bench) -> None:
    model = bench.script({"text": "never"})
    (bench.scratch / "file").write_text("")
    for directory in ("nowhere", "file"):
        refused = bench.run("-p", "--model", model, "--add-dir", str(bench.scratch / directory), "x", check=49)
        assert str(bench.scratch / directory) in refused.stderr
    assert "--really" in bench.run("-p", "--model", model, "x", cwd=Path("/"), check=49).stderr
    closed = bench.scratch / "closed"
    closed.write_text("a file where the state should be")
    assert "cannot keep sessions" in bench.run("-p", "--model", model, "x", check=2, FUMEHOOD_HOME=str(closed)).stderr
    assert bench.sessions() == []


def test_a_current_directory_that_is_gone_is_said_by_every_command(bench: Bench) -> None:
    for command in (["-p", "--model", "x", "x"], ["diff"], ["apply"], ["discard", "--yes"]):
        gone = bench.place / "gone"
        gone.mkdir()
        script = 'cd "$0" && rmdir "$0" && exec "$@"'
        done = subprocess.run(
            ["sh", "-c", script, str(gone), *bench.command(*command)],
            env=bench.environ,
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
        )
        assert done.returncode == 49, done.stderr
        assert done.stderr.splitlines()[0] == "fumehood: the current directory is gone"


def test_output_that_nobody_takes_loses_no_session(bench: Bench) -> None:
    reply = {"text": "a long line\n" * 20_000}
    ends = (("| head -1", 141), ("> /dev/full", 48), (">&-", 0), ("2>&-", 0), ("<&- >&- 2>&-", 0))
    for number, (redirection, code) in enumerate(ends, 1):
        command = bench.command("-p", "--model", bench.script({"tools": [bash(f"echo {number} >> f")]}, reply), "x")
        done = subprocess.run(
            ["bash", "-c", f'"$@" {redirection}; exit ${{PIPESTATUS[0]}}', "bash", *command],
            cwd=bench.place,
            env=bench.environ,
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
        )
        assert done.returncode == code, (redirection, done.stderr)
        assert "Traceback" not in done.stderr
        assert f"+{number}\n" in bench.run("diff").stdout
        assert [row["state"] for row in bench.sessions()] == ["idle"] * number


def test_a_repository_on_overlayfs_is_worked_in_as_a_copy_and_applied(bench: Bench) -> None:
    """Mounted in a namespace of the command's own; within it a user is who they were before."""
    for name in ("lower", "upper", "work", "at"):
        (bench.scratch / name).mkdir()
    (bench.scratch / "lower" / "old").write_text("old\n")
    top = bench.scratch
    options = f"lowerdir={top}/lower,upperdir={top}/upper,workdir={top}/work"
    mapped = ["--user", "--map-root-user"] if os.geteuid() else []
    back = ["unshare", "--user", f"--map-user={os.getuid()}", f"--map-group={os.getgid()}"] if os.geteuid() else []
    model = bench.script({"tools": [bash("echo new >> old; mkdir -p d/e; mv d g; cat old")]}, {"text": "ok"})
    run, apply = (
        " ".join(f"'{word}'" for word in [*back, *bench.command(*arguments)])
        for arguments in (["--model", model, "x"], ["apply"])
    )
    userxattr = ",userxattr" if os.geteuid() else ""
    script = f"mount -t overlay overlay -o {options}{userxattr} {top}/at && cd {top}/at && {run} && {apply}"
    done = subprocess.run(
        ["unshare", "--mount", *mapped, "sh", "-c", script],
        env=bench.environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "copy" in done.stdout.splitlines()[1], done.stdout
    assert (top / "lower" / "old").read_text() == "old\n"
    assert (top / "upper" / "old").read_text() == "old\nnew\n"
    assert (top / "upper" / "g" / "e").is_dir()


def test_hostile_text_reaches_no_terminal_from_any_command(bench: Bench) -> None:
    name = "n" + HOSTILE.replace("/", "")
    (bench.place / name).write_text(f"{HOSTILE}\n")
    make = bash('for f in *; do echo more >> "$f"; cat "$f"; done; cp "$f" "copy $f"; mkdir .git; echo "$f" > .git/x')
    model = bench.script({"text": HOSTILE, "tools": [make]}, {"text": HOSTILE})
    bench.environ["TERM"] = "xterm-256color"
    script = shutil.which("script")
    assert script is not None
    commands = (
        ["--model", model, HOSTILE],
        ["diff"],
        ["diff", "--stat"],
        ["sessions"],
        ["apply", "--dry-run"],
        ["apply", HOSTILE],
        ["apply"],
        ["discard", "--yes"],
    )
    for command in commands:
        line = " ".join("'" + word.replace("'", "'\\''") + "'" for word in bench.command(*command))
        done = subprocess.run(
            [script, "--quiet", "--return", "--command", line, "/dev/null"],
            cwd=bench.place,
            env=bench.environ,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            check=False,
            timeout=PATIENCE,
        )
        assert b"Traceback" not in done.stdout
        for attack in (b"\x1b]", b"\x1b[2J", b"\x07", "\u202e".encode()):
            assert attack not in done.stdout, (command, done.stdout)
        if command[0] != "apply" or HOSTILE not in command:
            assert done.returncode == 0, (command, done.stdout)


def test_a_machine_that_sleeps_in_mid_turn_goes_on_when_it_wakes(bench: Bench) -> None:
    """The controller stands still; meanwhile the command ends, and the provider gives the connection up."""
    slow = replies({"text": "half of it " * 40, "pace": 0.1})[0]
    given_up = WireReply(body=slow.body, pace=slow.pace, chunk=slow.chunk, stop_at=len(slow.body) // 2, then="reset")
    wire = [
        *replies({"tools": [bash("echo begun > begun; sleep 1; echo ended > ended")]}),
        given_up,
        *replies({"tools": [bash("cat begun ended")]}, {"text": "awake"}),
    ]
    with serving(wire) as server:
        process = bench.start("-p", "--model", "claude-sonnet-5", "x", **environment(server))
        wait_for(lambda: bench.layer("begun"), "the command")
        process.send_signal(signal.SIGSTOP)
        wait_for(lambda: bench.layer("ended"), "the command's end")
        process.send_signal(signal.SIGCONT)
        wait_for(lambda: len(server.requests) == 2, "the second request")
        process.send_signal(signal.SIGSTOP)
        wait_for(lambda: not server.busy, "the provider to give up")
        process.send_signal(signal.SIGCONT)
        out, err = process.communicate(timeout=PATIENCE)
        assert (process.returncode, out) == (0, "awake\n")
        assert re.fullmatch(r"fumehood: the reply broke off: .*; trying again in .* s \(attempt 2 of 11\)\n", err), err
        assert len(server.requests) == 4
    assert sorted(c["path"] for c in json.loads(bench.run("diff", "--json").stdout)) == ["begun", "ended"]
