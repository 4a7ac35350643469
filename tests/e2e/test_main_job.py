"""The main job, as a user does it: run, look, apply; go on, discard; in pipes and in scripts."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from sandbox.engine import Engine, ImageInfo
from tests.e2e.conftest import Bench, bash, tree_digest

pytestmark = [pytest.mark.box, pytest.mark.timeout(240)]


def test_a_run_leaves_the_repository_alone_until_apply_brings_the_work_over(repository: Bench, fix: str) -> None:
    before = tree_digest(repository.place)

    done = repository.run("--model", fix, "make the check pass")

    assert "Mended." in done.stdout
    assert "fumehood apply" in done.stdout
    assert "\x1b" not in done.stdout
    assert tree_digest(repository.place) == before

    patch = repository.run("diff").stdout
    assert "-    return a - b\n+    return a + b\n" in patch
    assert "calc.py | 2 +-" in repository.run("diff", "--stat").stdout
    changes = json.loads(repository.run("diff", "--json").stdout)
    assert [(c["path"], c["kind"], c["added"], c["removed"]) for c in changes] == [("calc.py", "modified", 1, 1)]
    subprocess.run(["git", "apply", "--check", "-"], cwd=repository.place, input=patch, text=True, check=True)
    assert repository.run("diff", "check.py").stdout == ""
    assert "1 path would be applied" in repository.run("apply", "--dry-run").stdout
    assert tree_digest(repository.place) == before

    report = json.loads(repository.run("apply", "--json").stdout)
    assert [row["path"] for row in report["applied"]] == ["calc.py"]
    assert (repository.place / "calc.py").read_text() == "def add(a, b):\n    return a + b\n"
    assert repository.run("diff").stdout == ""
    assert repository.run("apply").stdout == "nothing applied\n"
    (session,) = repository.sessions()
    assert (session["state"], session["title"]) == ("idle", "make the check pass")
    assert [r["body"]["count"] for r in repository.records(session["session"]) if r["type"] == "Applied"] == [1]


def test_a_directory_without_git_and_an_empty_one_work_the_same(bench: Bench) -> None:
    model = bench.script(
        {"tools": [bash("mkdir -p new && echo hello > new/file && ln -s file new/link")]}, {"text": "ok"}
    )
    assert "  2 files changed in the box (+2 -0)" in bench.run("--model", model, "write").stdout
    assert list(bench.place.iterdir()) == []
    assert "new file mode 100644" in bench.run("diff").stdout
    assert "no such path here" in bench.run("diff", "nothing-like-it", check=2).stderr
    assert bench.run("apply").stdout == "A new\nA new/file\nL new/link\n3 paths applied\n"
    assert (bench.place / "new" / "file").read_text() == "hello\n"
    assert os.readlink(bench.place / "new" / "link") == "file"  # noqa: PTH115


def test_paths_that_need_care_are_seen_and_applied(bench: Bench, tmp_path: Path) -> None:
    odd = tmp_path / "with space, comma: and\nnewline é"
    odd.mkdir()
    name = os.fsdecode(b"not utf-8 \xff")
    (odd / name).write_text("one\n")
    model = bench.script(
        {"tools": [bash("for f in *; do echo two >> \"$f\"; done; touch $'new\\nname'")]}, {"text": "ok"}
    )
    bench.run("-p", "--model", model, "write", cwd=odd)
    assert (odd / name).read_text() == "one\n"
    bench.run("apply", cwd=odd)
    assert (odd / name).read_text() == "one\ntwo\n"
    assert (odd / "new\nname").exists()


def test_further_directories_are_seen_and_applied_too(repository: Bench, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "notes").write_text("a\n")
    model = repository.script({"tools": [bash("echo b >> /workspace/other/notes")]}, {"text": "ok"})
    repository.run("-p", "--model", model, "--add-dir", str(other), "write")
    assert (other / "notes").read_text() == "a\n"
    assert repository.run("diff").stdout.startswith(f"# in {other}\ndiff --git a/notes b/notes\n")
    repository.run("apply", str(other))
    assert (other / "notes").read_text() == "a\nb\n"


def test_a_worktree_works_and_its_repository_is_held_back_by_its_path(repository: Bench, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    subprocess.run(["git", "worktree", "add", "-q", "-b", "side", str(tree)], cwd=repository.place, check=True)
    model = repository.script(
        {"tools": [bash("echo more > more && git add more && git -c user.name=t -c user.email=t@e commit -qm x")]},
        {"text": "ok"},
    )
    repository.run("-p", "--model", model, "write", cwd=tree)
    told = repository.run("apply", cwd=tree).stdout
    assert f"held back: {repository.place / '.git'} (git obeys it" in told
    assert "git: refs/heads/side went from" in told
    assert (tree / "more").read_text() == "more\n"


def test_a_subdirectory_is_the_working_directory_and_finds_its_session(repository: Bench) -> None:
    sub = repository.place / "sub"
    sub.mkdir()
    model = repository.script({"tools": [bash("pwd > here")]}, {"text": "ok"})
    repository.run("-p", "--model", model, "x", cwd=sub)
    assert repository.run("diff", cwd=sub).stdout.count(f"+{repository.at}/sub\n") == 1
    assert "sub/here" in repository.run("diff", "--stat").stdout


def test_continue_and_resume_go_on_with_the_conversation_in_its_box(repository: Bench) -> None:
    first = repository.script(
        {"tools": [bash("echo kept > ~/note && echo one > one.txt && echo t > /tmp/t")]}, {"text": "one"}
    )
    repository.run("-p", "--model", first, "the first thing")
    (session,) = repository.sessions()
    second = repository.script(
        {"tools": [bash("cat ~/note one.txt /tmp/t")], "expect": {"contains": "the second thing"}},
        {"text": "two", "expect": {"contains": "kept\none\nt"}},
    )
    assert repository.run("-p", "-c", "--model", second, "the second thing").stdout == "two\n"
    third = repository.script({"text": "three", "expect": {"contains": "the third thing"}})
    done = repository.run("-p", "--resume", session["session"][:8], "--model", third, "the third thing", cwd=Path("/"))
    assert done.stdout == "three\n"
    fourth = repository.script({"text": "four"})
    told = repository.run("--continue", "--model", fourth, "the fourth thing").stdout
    assert told.startswith(f"{session['session'][:8]} · scripted:{Path(fourth).name} · bypassPermissions\n")
    assert " · 0 calls · " in told
    (again,) = repository.sessions()
    assert (again["session"], again["title"]) == (session["session"], "the first thing")
    prompts = [r for r in repository.records(session["session"]) if r["type"] == "PromptGiven" and r["body"]["content"]]
    assert len(prompts) == 4


def test_discard_removes_the_session_and_nothing_else(repository: Bench, fix: str) -> None:
    before = tree_digest(repository.place)
    repository.run("-p", "--model", fix, "x")
    assert "add --yes" in repository.run("discard", check=2).stderr
    assert "discarded" in repository.run("discard", "--yes").stdout
    assert repository.sessions() == []
    assert list((Path(repository.environ["FUMEHOOD_HOME"]) / "sessions").iterdir()) == []
    assert tree_digest(repository.place) == before


def test_apply_refuses_to_lose_what_changed_on_the_host_meanwhile(repository: Bench, fix: str) -> None:
    repository.run("-p", "--model", fix, "x")
    mine = "def add(a, b):\n    return sum((a, b))\n"
    (repository.place / "calc.py").write_text(mine)
    refused = repository.run("apply", check=53)
    assert "calc.py" in refused.stderr
    assert (repository.place / "calc.py").read_text() == mine
    repository.run("apply", "--force")
    assert (repository.place / "calc.py").read_text() == "def add(a, b):\n    return a + b\n"


def test_the_prompt_comes_from_standard_input_and_from_a_file(repository: Bench, tmp_path: Path) -> None:
    model = repository.script({"text": "piped", "expect": {"contains": "from a pipe", "of": "prompt"}})
    assert repository.run("-p", "--model", model, stdin="from a pipe").stdout == "piped\n"
    (tmp_path / "prompt").write_text("from a file")
    model = repository.script({"text": "read", "expect": {"contains": "from a file", "of": "prompt"}})
    assert repository.run("-p", "--model", model, "--file", str(tmp_path / "prompt")).stdout == "read\n"
    model = repository.script({"text": "a command's name", "expect": {"contains": "diff", "of": "prompt"}})
    assert repository.run("--model", model, "-p", "--", "diff").stdout == "a command's name\n"


def test_json_and_stream_json_are_what_scripts_read(repository: Bench) -> None:
    replies = ({"text": "I look.", "tools": [bash("echo hi")]}, {"text": "Done."})
    result = json.loads(
        repository.run("-p", "--output-format", "json", "--model", repository.script(*replies), "x").stdout
    )
    assert (
        result | {"type": "result", "subtype": "success", "is_error": False, "result": "Done.", "num_turns": 2}
        == result
    )

    lines = repository.run(
        "-p", "--output-format", "stream-json", "--verbose", "--model", repository.script(*replies), "x"
    ).stdout.splitlines()
    messages = [json.loads(line) for line in lines]
    assert [m["type"] for m in messages] == ["system", "assistant", "assistant", "user", "assistant", "result"]
    start = messages[0]
    assert (start["subtype"], start["cwd"]) == ("init", str(repository.place))
    assert {"Bash", "Read", "Edit"} <= set(start["tools"])
    assert {m["session_id"] for m in messages} == {start["session_id"]}
    assert messages[3]["message"]["content"][0]["content"] == "hi"


def test_rules_and_modes_of_the_command_line_decide(repository: Bench) -> None:
    calls = ({"tools": [bash("touch made")]}, {"text": "end"})
    for flags in (
        ["--disallowedTools", "Bash(touch:*)"],
        ["--permission-mode", "plan"],
        ["--permission-mode", "default"],
    ):
        done = repository.run("-p", "--output-format", "json", "--model", repository.script(*calls), *flags, "x")
        result = json.loads(done.stdout)
        assert [denial["tool_name"] for denial in result["permission_denials"]] == ["Bash"], flags
        assert repository.run("diff", "--stat").stdout == ""
    allowed = ["--permission-mode", "default", "--allowedTools", "Bash(touch:*)", "Read"]
    repository.run("-p", "--model", repository.script(*calls), *allowed, "x")
    assert "made" in repository.run("diff", "--stat").stdout


def test_a_session_can_be_given_its_id_and_not_twice(repository: Bench) -> None:
    name = "0f0e0d0c-0b0a-4908-8706-050403020100"
    repository.run("-p", "--session-id", name, "--model", repository.script({"text": "ok"}), "x")
    assert [row["session"] for row in repository.sessions()] == [name]
    again = repository.run("-p", "--session-id", name, "--model", repository.script({"text": "ok"}), "x", check=2)
    assert "--resume" in again.stderr


def test_what_the_host_changed_meanwhile_is_told_to_the_model_once(repository: Bench) -> None:
    repository.run("-p", "--model", repository.script({"tools": [bash("true")]}, {"text": "ok"}), "x")
    (repository.place / "calc.py").write_text("# mine\n")
    told = {"contains": "calc.py", "of": "last"}
    repository.run("-p", "-c", "--model", repository.script({"text": "seen", "expect": told}), "y")
    (session,) = repository.sessions()
    drifted = [r["body"] for r in repository.records(session["session"]) if r["type"] == "Drifted"]
    assert [[(path["path"], path["kind"]) for path in body["paths"]] for body in drifted] == [[("calc.py", "changed")]]


def test_a_file_that_both_sides_changed_is_a_conflict_even_when_the_host_came_first(
    repository: Bench, fix: str
) -> None:
    repository.run("-p", "--model", fix, "x")
    (repository.place / "calc.py").write_text("def add(a, b):\n    return a - b  # still\n")
    assert "calc.py" in repository.run("apply", check=53).stderr
    patch = repository.run("diff").stdout
    assert "-    return a - b\n+    return a + b\n" in patch, "the diff is against the base, which was kept"


def test_a_session_goes_on_in_the_image_it_began_in(repository: Bench, engine: Engine, base_image: ImageInfo) -> None:
    name = "fumehood-test/kept:one"
    engine.images.tag(base_image.id, repository="fumehood-test/kept", tag="one")
    try:
        repository.run(
            "-p", "--image", name, "--model", repository.script({"tools": [bash("true")]}, {"text": "ok"}), "x"
        )
    finally:
        engine.images.remove(name)
    more = repository.script({"tools": [bash("echo here")]}, {"text": "ok", "expect": "here"})
    repository.run("-p", "-c", "--model", more, "y")
    (session,) = repository.sessions()
    started = [r["body"] for r in repository.records(session["session"]) if r["type"] == "BoxStarted"]
    assert [body["image"] for body in started] == [base_image.id] * 2
    assert name in repository.run("-p", "-c", "--image", name, "--model", more, "z", check=45).stderr
