from __future__ import annotations

import io
from pathlib import Path

from runner.cli.doctor import attack_report, check_key, check_settings, check_terminal, is_fit, report
from sandbox.attack import KINDS, Attacked
from sandbox.checks import Level, fail, ok, warn
from tests.support.policies import manage, places, put


def test_the_key_is_never_shown() -> None:
    secret = "sk-ant-secret"
    check = check_key({"ANTHROPIC_API_KEY": secret, "ANTHROPIC_BASE_URL": "http://localhost:1"})
    assert check == ok("model key", "ANTHROPIC_API_KEY is set, for http://localhost:1")
    assert secret not in repr(check)
    assert check_key({}).level is Level.WARN


def test_output_that_is_no_terminal_is_said() -> None:
    assert check_terminal({}, io.StringIO()) == ok("terminal", "none: output is plain text")


def test_warnings_leave_a_machine_fit_and_failures_do_not() -> None:
    assert is_fit([ok("a", "x"), warn("b", "y", "do z")])
    assert not is_fit([ok("a", "x"), fail("b", "y")])


def test_the_report_is_one_line_per_check_and_one_per_advice() -> None:
    checks = [ok("engine", "docker\x1b[2J"), warn("disk", "1 GiB free", "make room"), fail("box", "no")]
    assert report(checks, colour=False) == [
        "ok    engine  docker␛[2J",
        "warn  disk    1 GiB free",
        "              make room",
        "fail  box     no",
        "",
        "1 of 3 checks failed",
    ]
    assert report(checks[:2], colour=True)[0].startswith("\x1b[32mok  \x1b[0m")
    assert report(checks[:2], colour=False)[-1] == "everything needed works; 1 remark"
    assert report(checks[:1], colour=False)[-1] == "everything needed works"


def test_settings_are_named_with_what_means_nothing_here_and_what_cannot_be_used(tmp_path: Path) -> None:
    where, home, place = places(tmp_path), tmp_path / "home", tmp_path / "proj"
    place.mkdir()
    environ = {"HOME": str(home), "FUMEHOOD_HOME": str(tmp_path / "state")}
    assert [(c.level, c.found) for c in check_settings(environ, place, where)] == [(Level.OK, "no files")]
    put(home / ".claude/settings.json", {"theme": "dark", "permissions": {"new": 1}, "hooks": {"Stop": []}})
    assert [(c.level, c.found) for c in check_settings(environ, place, where)] == [
        (Level.OK, "~/.claude/settings.json"),
        (Level.WARN, "~/.claude/settings.json: without a meaning here: theme (line 1), permissions.new (line 1)"),
        (Level.OK, "none count"),
    ]
    manage(where, "permissions: [")
    (check,) = check_settings(environ, place, where)
    assert check.level is Level.FAIL
    assert "managed-settings.yaml:2:1: is no YAML" in check.found
    manage(where, 'permissions: {deny: ["WebSearch(x)"]}')
    (check,) = check_settings(environ, place, where)
    assert (check.level, "WebSearch takes no such specifier" in check.found) == (Level.FAIL, True)
    assert check.advice.startswith("ask who administrates this machine")


def test_what_got_through_is_named_below_its_kind() -> None:
    found = Attacked(
        engine="docker 1",
        runtime="runc",
        uid=1000,
        rungs=("overlay",),
        fallbacks=("no user namespaces",),
        tried=dict.fromkeys(KINDS, 7),
        won={"mount \x1b[1m": "0"},
        kinds={"mount \x1b[1m": "kernel"},
        seconds=1.26,
    )
    lines = attack_report(found)
    at = next(number for number, line in enumerate(lines) if line.startswith("THROUGH"))
    assert "kernel" in lines[at]
    assert "mount" in lines[at + 1]
    assert not any("\x1b" in line for line in lines)
    assert sum(line.startswith("blocked") for line in lines) == len(KINDS) - 1
    assert "fallback no user namespaces" in lines
    assert lines[-1] == "1 of 35 attempts got through, in 1.3 s"
