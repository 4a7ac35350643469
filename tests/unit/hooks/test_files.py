"""What of the user's hooks is copied into the box's HOME, and what doctor says of hooks."""

from __future__ import annotations

import os
from pathlib import Path

from runner.cli.doctor import check_settings
from runner.effects import Source
from runner.hooks.files import LARGEST, hook_files
from tests.support.policies import places, put

from .conftest import hook, hooks


def test_small_regular_files_of_the_users_are_copied(tmp_path: Path) -> None:
    top = tmp_path / ".claude/hooks"
    (top / "lib").mkdir(parents=True)
    (top / "a.sh").write_text("#!/bin/sh\n")
    (top / "lib/b.py").write_text("b")
    (top / "large").write_bytes(b"x" * (LARGEST + 1))
    os.mkfifo(top / "fifo")
    (top / "elsewhere").symlink_to("/etc", target_is_directory=True)
    (tmp_path / ".claude/credentials").write_text("secret")
    configured = hooks("Stop", hook("~/.claude/hooks/a.sh"))
    assert hook_files(configured, tmp_path, {}) == {
        ".claude/hooks/a.sh": b"#!/bin/sh\n",
        ".claude/hooks/lib/b.py": b"b",
    }
    for others in (hooks("Stop", hook("x", where="host")), hooks("Stop", hook("x"), layer=Source.PROJECT)):
        assert hook_files(others, tmp_path, {}) == {}


def test_doctor_names_the_hooks_that_count_and_what_is_never_fired(tmp_path: Path) -> None:
    home, repo = tmp_path / "home", tmp_path / "repo"
    repo.mkdir()
    value = {"hooks": {event: [{"hooks": [hook("fmt")]}] for event in ("Stop", "PreCompact", "Lunch")}}
    put(home / ".claude/settings.json", value)
    environ = {"HOME": str(home), "FUMEHOOD_HOME": str(tmp_path / "state")}
    found = [
        check.found for check in check_settings(environ, repo, places(tmp_path / "managed")) if check.name == "hooks"
    ]
    assert found[0] == "Stop (box) fmt, PreCompact (box) fmt"
    assert [line.partition(": ")[2] for line in found[1:]] == [
        "hooks PreCompact is never fired: there is no compaction",
        "hooks Lunch does not count: there is no such event",
    ]
