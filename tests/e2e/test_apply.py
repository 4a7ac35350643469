"""Taking the work over, in all its ways, as a user types them; over a real box."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.conftest import Bench, bash, tree_digest

pytestmark = [pytest.mark.box, pytest.mark.timeout(240)]
LINES = "".join(f"{number}\n" for number in range(40))


def git(where: Path, *arguments: str, stdin: bytes = b"") -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    done = subprocess.run(["git", *identity, *arguments], cwd=where, input=stdin, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode("utf-8", "surrogateescape")


@pytest.fixture
def lines(repository: Bench) -> Bench:
    """A committed file of 40 lines, of which the box changed three, and more that the box made."""
    (repository.place / "lines").write_text(LINES)
    git(repository.place, "add", "-A")
    git(repository.place, "commit", "-qm", "two")
    work = (
        "sed -i 's/^3$/three/; s/^20$/twenty/; s/^30$/thirty/' lines; printf 'a\\0b' > bin; mkdir d; ln -s ../lines d/l"
    )
    repository.run("-p", "--model", repository.script({"tools": [bash(work)]}, {"text": "ok"}), "x")
    return repository


def text(bench: Bench) -> str:
    return (bench.place / "lines").read_text()


def test_an_apply_is_taken_back_as_if_it_had_never_been(lines: Bench) -> None:
    before, stamp = tree_digest(lines.place), (lines.place / "lines").stat().st_mtime_ns
    planned = json.loads(lines.run("apply", "--dry-run", "--json").stdout)
    assert tree_digest(lines.place) == before
    done = json.loads(lines.run("apply", "--json").stdout)
    assert done["applied"] == planned["applied"]
    assert tree_digest(lines.place) != before
    assert "taken back" in lines.run("apply", "--undo").stdout
    assert (tree_digest(lines.place), (lines.place / "lines").stat().st_mtime_ns) == (before, stamp)
    assert lines.run("apply", "--undo").stdout == "nothing taken back\n"
    lines.run("apply")
    (lines.place / "lines").write_text("mine\n")
    assert "lines" in lines.run("apply", "--undo", check=54).stderr
    assert text(lines) == "mine\n"
    (session,) = lines.sessions()
    applied = [r["body"] for r in lines.records(session["session"]) if r["type"] == "Applied"]
    assert [body.get("undone", False) for body in applied] == [False, True, False]


def test_lines_of_both_sides_are_merged_once_and_not_again(lines: Bench) -> None:
    (lines.place / "lines").write_text(LINES.replace("\n10\n", "\nten\n"))
    assert "--3way" in lines.run("apply", check=53).stderr
    lines.run("apply", "--3way")
    merged = LINES.replace("\n3\n", "\nthree\n").replace("\n20\n", "\ntwenty\n").replace("\n30\n", "\nthirty\n")
    merged = merged.replace("\n10\n", "\nten\n")
    assert text(lines) == merged
    assert lines.run("apply").stdout == "nothing applied\n"
    assert lines.run("diff").stdout == ""
    more = lines.script({"tools": [bash("sed -i 's/^35$/more/' lines")]}, {"text": "ok"})
    lines.run("-p", "-c", "--model", more, "y")
    lines.run("apply", "--3way")
    assert text(lines) == merged.replace("\n35\n", "\nmore\n")


def test_colliding_lines_are_refused_marked_or_decided_as_asked(lines: Bench) -> None:
    mine = LINES.replace("\n3\n", "\nmine\n")
    (lines.place / "lines").write_text(mine)
    before = tree_digest(lines.place)
    collided = lines.run("apply", "--3way", check=53).stderr
    assert "the same lines in 1 place" in collided
    assert "--markers" in collided
    assert tree_digest(lines.place) == before
    lines.run("apply", "--ours")
    assert text(lines) == mine
    assert (lines.place / "bin").exists()
    lines.run("apply", "--3way", "--markers")
    assert "<<<<<<< host\nmine\n||||||| base\n3\n=======\nthree\n>>>>>>> box\n" in text(lines)
    assert "\nthirty\n" in text(lines)
    lines.run("apply", "--undo")
    assert text(lines) == mine
    lines.run("apply", "--theirs")
    assert "\nthree\n" in text(lines)


def test_hunks_are_taken_by_number_and_the_rest_later(lines: Bench) -> None:
    assert "hunks 1 to 3" in lines.run("apply", "--hunk", "lines:4", check=2).stderr
    lines.run("apply", "--hunk", "lines:1,3")
    assert text(lines) == LINES.replace("\n3\n", "\nthree\n").replace("\n30\n", "\nthirty\n")
    assert not (lines.place / "bin").exists()
    assert lines.run("diff", "lines").stdout.count("@@ -") == 1
    lines.run("apply", "lines")
    assert "\ntwenty\n" in text(lines)


def test_a_patch_holds_all_of_it_and_git_takes_it(lines: Bench, tmp_path: Path) -> None:
    before = tree_digest(lines.place)
    lines.run("apply", "--as-patch", str(tmp_path / "p"))
    assert tree_digest(lines.place) == before
    git(lines.place, "apply", str(tmp_path / "p"))
    assert (lines.place / "bin").read_bytes() == b"a\0b"
    assert "\ntwenty\n" in text(lines)
    assert os.readlink(lines.place / "d" / "l") == "../lines"  # noqa: PTH115
    assert lines.run("apply", "--as-patch", "-", "lines").stdout == ""


def test_commits_of_the_box_become_a_new_branch_and_nothing_else_moves(lines: Bench) -> None:
    more = bash("git add bin && git -c user.name=b -c user.email=b@example.org commit -qm 'in the box'")
    lines.run("-p", "-c", "--model", lines.script({"tools": [more]}, {"text": "ok"}), "y")
    refs, before = git(lines.place, "show-ref"), tree_digest(lines.place)
    made = json.loads(lines.run("apply", "--as-branch", "agent/work", "-m", "the rest", "--json").stdout)
    (session,) = lines.sessions()
    assert made["ref"] == f"refs/fumehood/{session['session']}"
    assert tree_digest(lines.place) == before
    now = git(lines.place, "show-ref").splitlines()
    assert sorted(set(now) - set(refs.splitlines())) == sorted(
        f"{made['commit']} {ref}" for ref in ("refs/heads/agent/work", made["ref"])
    )
    assert set(refs.splitlines()) <= set(now)
    assert git(lines.place, "log", "--format=%s", "agent/work").split("\n")[:3] == ["the rest", "in the box", "two"]
    git(lines.place, "fsck", "--strict")
    assert "\ntwenty\n" in git(lines.place, "show", "agent/work:lines")
    assert "nothing is ever overwritten" in lines.run("apply", "--as-branch", "agent/work", check=57).stderr
    again = json.loads(lines.run("apply", "--as-branch", "again", "--json").stdout)
    assert (again["ref"], again["objects"] > 0) == (f"{made['ref']}-2", True)
    judged = [r["body"] for r in lines.records(session["session"]) if r["type"] == "Judged"]
    assert {body["tool"] for body in judged if body["verdict"]["source"] == "fumehood"} >= {
        "branch_commit",
        "branch_pack",
    }


def test_what_was_cut_off_is_brought_to_its_end_by_any_command(lines: Bench) -> None:
    before = tree_digest(lines.place)
    (session,) = lines.sessions()
    code = (
        "import os, signal, sys\n"
        "from sandbox import steps\n"
        "real = steps.Steps.take\n"
        "def take(self, row):\n"
        "    if row.path == b'lines':\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    real(self, row)\n"
        "steps.Steps.take = take\n"
        "from runner.__main__ import main\n"
        "sys.argv = ['fumehood', 'apply']\n"
        "main()\n"
    )
    killed = subprocess.run([sys.executable, "-c", code], cwd=lines.place, env=lines.environ, check=False)
    assert killed.returncode == -9
    assert tree_digest(lines.place) != before
    assert lines.run("diff").stdout == ""
    assert "\ntwenty\n" in text(lines)
    assert list(lines.place.rglob(".fumehood-*")) == []
    lines.run("apply", "--undo")
    assert tree_digest(lines.place) == before
    assert session["state"] == "idle"


def test_a_branch_that_is_checked_out_on_the_host_between_turns_loses_neither_side(bench: Bench) -> None:
    place, lines = bench.place, [f"line {number}\n" for number in range(9)]
    (place / "text").write_text("".join(lines))
    git(place, "init", "-q", "-b", "one")
    git(place, "add", "-A")
    git(place, "commit", "-q", "-m", "one")
    git(place, "checkout", "-q", "-b", "two")
    (place / "text").write_text("".join(["the branch's\n", *lines[1:]]))
    (place / "new").write_text("new\n")
    git(place, "add", "-A")
    git(place, "commit", "-q", "-m", "two")
    git(place, "checkout", "-q", "one")

    bench.run(
        "-p", "--model", bench.script({"tools": [bash("sed -i '$d' text; echo m > mine")]}, {"text": "done"}), "1"
    )
    git(place, "checkout", "-q", "two")
    again = bench.script({"tools": [bash("cat text new; echo t > third")]}, {"text": "done"})
    bench.run("-p", "--continue", "--model", again, "2")
    on_host = tree_digest(place)
    refused = bench.run("apply", check=53)
    assert "text" in refused.stdout + refused.stderr
    assert tree_digest(place) == on_host
    bench.run("undo")
    bench.run("redo")
    assert tree_digest(place) == on_host
    bench.run("apply", "--3way")
    assert (place / "text").read_text() == "".join(["the branch's\n", *lines[1:-1]])
    assert {path.name for path in place.iterdir()} == {".git", "text", "new", "mine", "third"}
    bench.run("apply", "--undo")
    assert tree_digest(place) == on_host
