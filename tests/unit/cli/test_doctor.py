from __future__ import annotations

import io

from runner.cli.doctor import check_key, check_terminal, is_fit, report
from sandbox.checks import Level, fail, ok, warn


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
