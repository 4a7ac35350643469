from __future__ import annotations

import shutil
import subprocess

import pytest

from sandbox.checks import PROBE, Check, Level, check_files, judge_probe, parse_probe
from sandbox.spec import Limits

GOOD = {
    "seccomp": "2",
    "nnp": "1",
    "effective": "0000000000000000",
    "bounding": "0000000000000000",
    "map": "1 1 4294967294",
    "uid": "1000",
    "net": "lo",
    "system": "readonly",
    "files": "ok",
    "memory": str(2 << 30),
    "pids": "512",
    "nofile": "4096",
}


def levels(checks: list[Check]) -> dict[str, Level]:
    return {check.name: check.level for check in checks}


def test_a_box_as_it_should_be_passes() -> None:
    assert set(levels(judge_probe(GOOD, (), Limits())).values()) == {Level.OK}
    assert check_files(GOOD, 2, untouched=True).level is Level.OK


@pytest.mark.parametrize(
    ("change", "name", "level"),
    [
        ({"seccomp": "0"}, "system calls", Level.FAIL),
        ({"seccomp": ""}, "system calls", Level.FAIL),
        ({"effective": "00000000a80425fb"}, "privileges", Level.FAIL),
        ({"bounding": "00000000000001e0"}, "privileges", Level.FAIL),
        ({"effective": ""}, "privileges", Level.FAIL),
        ({"nnp": "0"}, "privileges", Level.FAIL),
        ({"map": "0 0 4294967295"}, "user namespace", Level.WARN),
        ({"net": "eth0 lo"}, "network", Level.FAIL),
        ({"net": ""}, "network", Level.FAIL),
        ({"system": "writable"}, "system", Level.FAIL),
        ({"memory": "max"}, "limits", Level.WARN),
        ({"pids": "100000"}, "limits", Level.WARN),
        ({"nofile": ""}, "limits", Level.WARN),
    ],
)
def test_each_wall_that_is_missing_is_named(change: dict[str, str], name: str, level: Level) -> None:
    found = levels(judge_probe(GOOD | change, (), Limits()))
    assert found[name] is level
    assert {other for other in found if found[other] is not Level.OK} == {name}


def test_a_box_that_says_nothing_passes_nothing() -> None:
    found = judge_probe({}, (), Limits())
    assert [check.name for check in found if check.level is Level.OK] == []
    assert check_files({}, 2, untouched=True).level is Level.FAIL


def test_a_runtime_with_its_own_kernel_is_not_credited_with_our_profile() -> None:
    found = {check.name: check for check in judge_probe(GOOD | {"seccomp": "0"}, (), Limits(), "runsc")}
    assert found["system calls"].level is Level.OK
    assert "no seccomp profile of ours is claimed" in found["system calls"].found


def test_fallbacks_are_named() -> None:
    (check,) = [each for each in judge_probe(GOOD, ("seccomp profile",), Limits()) if each.name == "fallback"]
    assert (check.level, check.found) == (Level.WARN, "seccomp profile")


def test_a_write_that_reached_the_host_is_a_failure() -> None:
    assert check_files(GOOD, 2, untouched=False).level is Level.FAIL
    assert check_files(GOOD, 0, untouched=True).level is Level.FAIL


@pytest.mark.parametrize("shell", [name for name in ("sh", "dash", "bash", "busybox") if shutil.which(name)])
def test_the_probe_runs_in_any_shell_and_says_all_it_should(shell: str, tmp_path: object) -> None:
    command = [shell, "sh"] if shell == "busybox" else [shell]
    done = subprocess.run([*command, "-c", PROBE], cwd=str(tmp_path), capture_output=True, text=True, check=True)
    seen = parse_probe(done.stdout)
    assert done.stderr == ""
    assert seen.keys() >= GOOD.keys() - {"memory", "pids"}
    assert seen["files"] == "ok"
