"""Auditing a real session: what its journal tells of what was done, and what becomes of who changes it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.e2e.conftest import Bench, bash
from tests.support.audited import lines_of, made_anew, put_lines

pytestmark = [pytest.mark.box, pytest.mark.timeout(240)]


def test_a_session_is_reported_anchored_and_its_rewriting_found(repository: Bench, tmp_path: Path) -> None:
    work = repository.script(
        {"tools": [bash("echo 1 > one")]},
        {"tools": [bash("echo 2 > two; true")]},
        {"tools": [bash("git push origin")]},
        {"text": "done"},
    )
    repository.run("-p", "--model", work, "--disallowedTools", "Bash(git push *)", "--", "write two files")
    repository.run("apply")
    repository.run("policy", "sign", "--new-key", str(tmp_path / "company"))
    repository.run("audit", "anchor", "--key", str(tmp_path / "company.key"))
    public = ("--public-key", str(tmp_path / "company.pub"))
    repository.run("undo")

    rows = [json.loads(line) for line in repository.run("audit", "export").stdout.splitlines()]
    calls = [row for row in rows if row["type"] == "Call" and row["tool"] == "Bash"]
    assert [(row["decision"], row["decided_by"], row["rule"], row["outcome"]) for row in calls] == [
        ("allow", "mode", "", "ok"),
        ("allow", "mode", "", "ok"),
        ("deny", "command_line", "Bash(git push *)", "error"),
    ]
    name = repository.place.name
    assert [row["changed"] for row in calls] == [[f"{name}/one"], [f"{name}/two"], []]
    assert [row["type"] for row in rows if row["type"] in ("Applied", "HeadMoved")] == ["Applied", "HeadMoved"]
    assert not any(row["in_history"] for row in calls)

    said = repository.run("audit", "report", *public).stdout
    assert "(taken back)" in said
    assert f"changed {name}/one\n" in said
    assert "apply on the host, 2 paths: " in said
    session = repository.sessions()[0]["session"]
    directory = Path(repository.environ["FUMEHOOD_HOME"]) / "sessions" / session
    lines = lines_of(directory)
    assert f"records {len(lines) - 1} to {len(lines) - 1}: consistent, not anchored" in said

    seq = next(row["seq"] for row in calls if row["decision"] == "deny")
    put_lines(directory, made_anew([line.replace(b"git push origin", b"git log --one-l") for line in lines]))
    told = json.loads(repository.run("audit", "verify", "--json", *public, check=5).stdout)
    changed = [number for number, line in enumerate(lines) if b"git push origin" in line]
    assert changed[0] <= seq
    assert [(p["seq"], p["kind"]) for p in told["problems"]] == [(changed[0], "anchor_rewritten")]
    repository.run("fsck")  # the chain alone holds
