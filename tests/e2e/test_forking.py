"""Several ways on from one point, as a user takes them: fork, go on in each, compare, keep one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.e2e.conftest import Bench, bash, tree_digest, wait_for

pytestmark = [pytest.mark.box, pytest.mark.timeout(300)]
MUCH = "mkdir -p much/{1..20}; for d in much/*; do for f in {1..40}; do echo $d $f > $d/$f; done; done"


def test_forks_go_on_from_one_point_each_for_itself_and_one_is_kept(repository: Bench) -> None:
    before = tree_digest(repository.place)
    first = repository.script({"tools": [bash(f"{MUCH}; echo 1 > one; echo home > ~/note")]}, {"text": "did it"})
    repository.run("-p", "--model", first, "begin")
    (origin,) = repository.sessions()
    report = json.loads(repository.run("fork", "-n", "3", "--json").stdout)
    a, b, c = report["forks"]
    assert (report["session"], report["copied"]) == (origin["session"], [])

    for fork, text in ((a, "same"), (b, "same"), (c, "other")):
        script = repository.script(
            {"tools": [bash(f"cat one ~/note much/7/7; echo {text} > two; echo {fork} > own")]},
            {"expect": "1\nhome\nmuch/7 7", "text": f"wrote {text}"},
        )
        repository.run("-p", "--resume", fork, "--model", script, "go on")
    found = json.loads(repository.run("compare", a, b, c, "--json").stdout)
    assert [(row["reply"], row["turns"]) for row in found["sessions"]] == [
        ("wrote same", 1), ("wrote same", 1), ("wrote other", 1),
    ]  # fmt: skip
    files = {row["path"]: row for row in found["files"]}
    assert [files["two"]["sessions"][name]["version"] for name in (a, b, c)] == [1, 1, 2]
    assert (files["one"]["same"], files["two"]["same"], files["own"]["same"]) == (True, False, False)
    assert "! two" in repository.run("compare", a, c).stdout

    said = json.loads(repository.run("undo", "--session", c, "--json").stdout)
    assert [turn["text"] for turn in said["turns"]] == ["go on"]
    assert "two" not in repository.run("diff", c, "--stat").stdout
    repository.run("undo", "--session", c)
    assert repository.run("diff", c).stdout == ""
    repository.run("redo", "--session", c)
    assert "one" in repository.run("diff", c, "--stat").stdout

    assert repository.run("keep", origin["session"], "--yes", check=2).stderr
    repository.run("discard", origin["session"], "--yes")
    repository.run("keep", a, "--yes")
    assert [row["session"] for row in repository.sessions()] == [a]
    assert tree_digest(repository.place) == before
    repository.run("apply", a)
    assert (repository.place / "two").read_text() == "same\n"
    assert (repository.place / "much/20/40").read_text() == "much/20 40\n"
    repository.run("discard", a, "--yes")
    pool = Path(repository.environ["FUMEHOOD_HOME"]) / "layers"
    assert [each.name for each in pool.iterdir() if each.is_dir()] == []


def test_a_running_session_is_forked_without_being_disturbed(repository: Bench) -> None:
    script = repository.script(
        {"tools": [bash(f"{MUCH}; echo early > early")]},
        {"tools": [bash("echo mid > mid; touch go; while [ ! -e stop ]; do sleep 0.1; done; echo end > end")]},
        {"text": "done", "expect": "exit"},
    )
    running = repository.start("-p", "--model", script, "work on")
    wait_for(lambda: repository.layer("go"), "the second command")
    report = json.loads(repository.run("fork", "--json").stdout)
    (fork,) = report["forks"]
    look = repository.script(
        {"tools": [bash("cat early mid much/3/3; ls end stop; touch stop")]},
        {"text": "saw", "expect": "early\nmid\nmuch/3 3"},
    )
    repository.run("-p", "--resume", fork, "--model", look, "look")
    assert running.poll() is None
    assert "end" not in repository.run("diff", fork, "--stat").stdout
    running.kill()
    running.wait()
