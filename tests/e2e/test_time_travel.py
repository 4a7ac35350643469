"""Taking back, as a user does it: turns with all that their shell commands did, and the conversation with them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.e2e.conftest import Bench, bash, tree_digest

pytestmark = [pytest.mark.box, pytest.mark.timeout(240)]

LOOK = "cat ~/note /tmp/t one two .git/mark; ls -A; true"


def test_undo_takes_back_files_and_conversation_and_redo_brings_both_again(repository: Bench) -> None:
    before = tree_digest(repository.place)
    one = repository.script({"tools": [bash("echo 1 > one; echo home > ~/note; echo t > /tmp/t")]}, {"text": "did one"})
    two = repository.script(
        {"tools": [bash("echo 2 > two; rm one calc.py; echo changed > ~/note; rm /tmp/t; echo x > .git/mark")]},
        {"text": "did two"},
    )
    repository.run("-p", "--model", one, "the first thing")
    repository.run("-p", "--continue", "--model", two, "the second thing")

    dry = json.loads(repository.run("undo", "--dry-run", "--json").stdout)
    assert [turn["text"] for turn in dry["turns"]] == ["the second thing"]
    said = repository.run("undo").stdout
    assert "the second thing" in said
    assert "files and conversation taken back" in said
    diff = repository.run("diff", "--stat").stdout
    assert ("one" in diff, "two" in diff, "calc.py" in diff) == (True, False, False)

    look = repository.script(
        {"expect": "took back the last 1 turns", "tools": [bash(LOOK)]}, {"text": "looked", "expect": "home\nt\n1\n"}
    )
    repository.run("-p", "--continue", "--model", look, "look")
    (session,) = repository.sessions()
    shown = [r["body"] for r in repository.records(session["session"]) if r["type"] == "ToolFinished"][-1]["content"]
    assert "calc.py" in shown
    assert "mark: No such file" in shown

    repository.run("undo")
    assert "redo" not in repository.run("redo").stdout
    assert repository.run("redo", check=2).stderr
    assert tree_digest(repository.place) == before


def test_rewind_goes_to_any_message_or_checkpoint_and_show_reads_old_files(repository: Bench) -> None:
    script = repository.script(
        {"tools": [bash("echo a > f")]},
        {"tools": [bash("echo b > f")]},
        {"tools": [bash("echo c > f; echo h > ~/home; echo t > /tmp/temporary")]},
        {"text": "done"},
    )
    repository.run("-p", "--model", script, "write thrice")
    rows = json.loads(repository.run("checkpoints", "--json").stdout)["checkpoints"]
    assert [(row["label"], row["tool"]) for row in rows] == [
        ("start of turn", "Bash"), ("call", "Bash"), ("call", "Bash"), ("end of turn", ""),
    ]  # fmt: skip
    listed = repository.run("checkpoints").stdout
    assert "write thrice" in listed
    last = listed.splitlines()[-1].split()
    assert {name.rstrip(",") for name in last[-3:]} == {"f", "~/home", "/tmp/temporary"}
    assert [repository.run("show", f"{last[1]}:{name.rstrip(',')}").stdout for name in sorted(last[-3:])] == [
        "t\n", "c\n", "h\n",
    ]  # fmt: skip
    middle = rows[2]["checkpoint"]
    assert repository.run("show", f"{middle}:f").stdout == "b\n"
    assert "a + b" not in repository.run("show", f"{middle}:calc.py").stdout
    repository.run("rewind", middle, "--files")
    assert "+b\n" in repository.run("diff", "f").stdout
    repository.run("rewind", "1")
    assert repository.run("diff").stdout == ""
    repository.run("redo")
    assert "+b\n" in repository.run("diff", "f").stdout
    assert repository.run("rewind", "nowhere", check=2).stderr


def test_undo_on_a_live_session_goes_through_its_owner(repository: Bench) -> None:
    script = repository.script(
        {"tools": [bash("echo a > f")]},
        {"tools": [bash("sleep 60")]},
        {"text": "done"},
    )
    running = repository.start("-p", "--model", script, "write and sleep")
    for _ in range(200):
        rows = repository.run("checkpoints", "--json", check=None).stdout
        if rows and len(json.loads(rows)["checkpoints"]) >= 2:
            break
    assert "a turn is running" in repository.run("undo", check=2).stderr
    running.kill()
    running.wait()
    repository.run("undo")
    assert repository.run("diff").stdout == ""


def test_what_left_the_box_is_listed_as_not_taken_back(repository: Bench) -> None:
    script = repository.script({"tools": [bash("echo a > f")]}, {"text": "done"})
    repository.run("-p", "--model", script, "write")
    repository.run("apply")
    assert "not taken back: apply wrote 1 paths on the host" in repository.run("undo").stdout
    assert (repository.place / "f").read_text() == "a\n"


def test_two_checkpoints_are_compared_in_every_place_of_the_box(repository: Bench) -> None:
    script = repository.script(
        {"tools": [bash("echo a > f; echo a > ~/note; echo a > /tmp/t")]},
        {"tools": [bash("echo b > f; echo b > ~/note; rm -r /tmp/t calc.py; mkdir -p deep/er; echo d > deep/er/d")]},
        {"tools": [bash("echo c > f")]},
        {"text": "done"},
    )
    repository.run("-p", "--model", script, "write thrice")
    rows = json.loads(repository.run("checkpoints", "--json").stdout)["checkpoints"]
    start, first, second, _ = (row["checkpoint"] for row in rows)

    stat = repository.run("diff", first, second, "--stat").stdout
    names = [line.split("|")[0].strip() for line in stat.splitlines()[:-1]]
    assert names == ["calc.py", "deep/er/d", "f", "home/box/note", "tmp/t"]
    assert "5 files changed, 3 insertions(+), 5 deletions(-)" in stat
    assert repository.run("diff", first, second, "f").stdout.endswith("@@ -1 +1 @@\n-a\n+b\n")
    assert repository.run("diff", first, second, "~/note").stdout.endswith("@@ -1 +1 @@\n-a\n+b\n")
    assert repository.run("diff", second[:6], "f").stdout.endswith("@@ -1 +1 @@\n-b\n+c\n")
    (session,) = repository.sessions()
    since = json.loads(repository.run("diff", session["session"][:8], start, "--json").stdout)
    assert {row["path"]: row["kind"] for row in since} == {
        "calc.py": "deleted", "deep": "added", "deep/er": "added", "deep/er/d": "added", "f": "added", "note": "added",
    }  # fmt: skip
    (repository.place / "calc.py").write_text("changed on the host since\n")
    assert "a - b" in repository.run("show", f"{start}:calc.py").stdout
    assert "a - b" in repository.run("diff", start, "calc.py").stdout
    assert "no checkpoint of this session" in repository.run("diff", "0123456789ab", check=49).stderr


def test_what_sessions_take_is_shown_collected_and_checked(repository: Bench) -> None:
    for number in range(3):
        script = repository.script({"tools": [bash(f"seq {number} 9999 > f; date +%N > ~/note")]}, {"text": "done"})
        repository.run("-p", *(["--continue"] if number else []), "--model", script, "write")
    (session,) = repository.sessions()
    usage = json.loads(repository.run("du", "--json").stdout)
    (row,) = usage["sessions"]
    assert row["session"] == session["session"]
    assert min(row["parts"][name]["disk"] for name in ("layers", "store", "journal")) > 0
    assert session["session"][:8] in repository.run("du").stdout
    assert "all is well" in repository.run("fsck").stdout

    points = [row["checkpoint"] for row in json.loads(repository.run("checkpoints", "--json").stdout)["checkpoints"]]
    dry = json.loads(repository.run("gc", "--dry-run", "--max-age", "0", "--json", FUMEHOOD_KEEP_TURNS="1").stdout)
    done = json.loads(repository.run("gc", "--max-age", "0", "--json", FUMEHOOD_KEEP_TURNS="1").stdout)
    assert dry["rows"][0]["checkpoints"] == done["rows"][0]["checkpoints"] == len(points) - 2
    rows = json.loads(repository.run("checkpoints", "--json").stdout)["checkpoints"]
    assert [row["kept"] for row in rows] == [False] * (len(points) - 2) + [True] * 2
    assert "(collected)" in repository.run("checkpoints").stdout
    assert "were collected" in repository.run("undo", "2", check=2).stderr
    assert "all is well" in repository.run("fsck", "--all").stdout
    repository.run("undo")
    assert "+1\n+2\n" in repository.run("diff", "f").stdout
    assert "+0\n" not in repository.run("diff", "f").stdout

    (log,) = (Path(repository.environ["FUMEHOOD_HOME"]) / "sessions").glob("*/store/checkpoints")
    data = bytearray(log.read_bytes())
    data[100] ^= 1
    log.write_bytes(data)
    assert "store/checkpoints: " in repository.run("fsck", check=51).stdout
    assert json.loads(repository.run("fsck", "--json", check=51).stdout)[0]["findings"]
