from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox.errors import WorkspaceError
from sandbox.selection import Action, ApplyConflictError, Selection
from tests.support.applying import Work
from tests.support.layers_by_hand import Shape, Stage, read
from tests.support.shapes import shapes

pytestmark = pytest.mark.user


@settings(max_examples=150, deadline=None)
@given(before=shapes, after=shapes, opaque=st.booleans())
def test_after_an_apply_the_root_is_what_the_box_saw(
    before: Shape, after: Shape, opaque: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    stage = Stage(tmp_path_factory.mktemp("apply"), before)
    stage.change(after, opaque=opaque)
    Work(stage).apply()
    assert read(stage.root) == after
    again, done = Work(stage).planned()
    assert (again.steps, done) == ((), ())


def test_apply_reports_each_step_in_the_order_taken(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {"d": {"x": (0o644, b"")}, "f": (0o644, b"1"), "m": (0o644, b"1")})
    stage.change({"d": (0o644, b"file"), "f": {"y": (0o644, b"")}, "m": (0o755, b"1"), "l": "f"})
    done = Work(stage).apply()
    assert [(step.action.value, step.path) for step in done] == [
        ("delete", "f"),
        ("delete", "d/x"),
        ("rmdir", "d"),
        ("mkdir", "f"),
        ("write", "d"),
        ("write", "f/y"),
        ("link", "l"),
        ("chmod", "m"),
    ]


def test_host_edit_is_never_overwritten_unless_forced_and_then_kept(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {"a": (0o644, b"base"), "b": (0o644, b"base"), "c": (0o644, b"base")})
    stage.change({"a": (0o644, b"box"), "c": (0o644, b"base"), "new": (0o644, b"box")})
    Work(stage).capture()
    (stage.root / "a").write_bytes(b"host")
    (stage.root / "new").write_bytes(b"host")
    with pytest.raises(ApplyConflictError) as raised:
        Work(stage).apply()
    assert [(remark.path, remark.why) for remark in raised.value.conflicts] == [
        ("a", "changed on the host since the session began"),
        ("new", "made on the host too since the session began"),
    ]
    assert read(stage.root) == {
        "a": (0o644, b"host"), "b": (0o644, b"base"), "c": (0o644, b"base"), "new": (0o644, b"host")
    }  # fmt: skip
    Work(stage).apply(Selection(paths=(("root", "b"),)))
    Work(stage).apply(Selection(force=True))
    assert read(stage.root) == {"a": (0o644, b"box"), "c": (0o644, b"base"), "new": (0o644, b"box")}


def test_deleting_what_the_host_edited_is_a_conflict(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {"d": {"a": (0o644, b"1")}})
    stage.change({})
    (stage.root / "d" / "b").write_bytes(b"made on the host")
    with pytest.raises(ApplyConflictError):
        Work(stage).apply()
    assert read(stage.root) == {"d": {"a": (0o644, b"1"), "b": (0o644, b"made on the host")}}


def test_touched_host_file_whose_content_is_the_kept_base_is_no_conflict(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {"a": (0o644, b"base")})
    stage.change({"a": (0o644, b"box")})
    Work(stage).capture()
    os.utime(stage.root / "a", (1, 1))
    Work(stage).apply()
    assert read(stage.root) == {"a": (0o644, b"box")}


def test_host_change_between_plan_and_commit_stops_everything(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {"a": (0o644, b"1"), "b": (0o644, b"1")})
    stage.change({"a": (0o644, b"2"), "b": (0o644, b"2")})
    with pytest.raises(ApplyConflictError) as raised:
        Work(stage).apply(between=lambda: (stage.root / "b").write_bytes(b"3"))
    assert [remark.why for remark in raised.value.conflicts] == ["changed on the host just now"]
    assert read(stage.root) == {"a": (0o644, b"1"), "b": (0o644, b"3")}


def test_applied_files_can_be_changed_and_applied_again(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {"a": (0o644, b"1")})
    stage.change({"a": (0o644, b"2"), "n": (0o644, b"2")})
    Work(stage).apply()
    stage.change({"a": (0o644, b"3"), "n": (0o644, b"3")})
    Work(stage).apply()
    assert read(stage.root) == {"a": (0o644, b"3"), "n": (0o644, b"3")}
    (stage.root / "a").write_bytes(b"host")
    stage.change({"a": (0o644, b"4"), "n": (0o644, b"3")})
    with pytest.raises(ApplyConflictError):
        Work(stage).apply()


@pytest.mark.parametrize("where", ["parent", "grandparent", "itself"])
def test_no_link_on_the_host_is_ever_followed(tmp_path: Path, where: str) -> None:
    outside = tmp_path / "outside"
    (outside / "e").mkdir(parents=True)
    (outside / "f").write_bytes(b"precious")
    (outside / "e" / "f").write_bytes(b"precious")
    stage = Stage(tmp_path, {"d": {"e": {"f": (0o644, b"1")}, "f": (0o644, b"1")}})
    stage.change({"d": {"e": {"f": (0o644, b"evil")}, "f": (0o644, b"1")}})
    target = {"parent": "d/e", "grandparent": "d", "itself": "d/e/f"}[where]
    path = stage.root / target
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    path.symlink_to({"parent": outside / "e", "grandparent": outside, "itself": outside / "f"}[where])
    for selection in (Selection(), Selection(force=True)):
        try:
            Work(stage).apply(selection)
        except (ApplyConflictError, WorkspaceError):
            continue
    assert (outside / "f").read_bytes() == (outside / "e" / "f").read_bytes() == b"precious"


def test_parent_swapped_for_a_link_in_mid_apply_is_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    stage = Stage(tmp_path, {"d": {"f": (0o644, b"1")}})
    stage.change({"d": {"f": (0o644, b"evil")}})

    def swap() -> None:
        (stage.root / "d").rename(stage.root / "moved")
        (stage.root / "d").symlink_to(outside)

    with pytest.raises((ApplyConflictError, WorkspaceError)):
        Work(stage).apply(between=swap)
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize(
    ("host", "box"), [("README", "readme"), ("caf\u00e9", "cafe\u0301"), ("stra\u00dfe", "STRASSE")]
)
def test_names_equal_but_for_case_or_form_are_refused(tmp_path: Path, host: str, box: str) -> None:
    stage = Stage(tmp_path, {host: (0o644, b"1")})
    stage.change({host: (0o644, b"1"), box: (0o644, b"2")})
    with pytest.raises(ApplyConflictError, match="but for case or Unicode form"):
        Work(stage).apply()
    stage.change({box: (0o644, b"2")})
    Work(stage).apply()
    assert read(stage.root) == {box: (0o644, b"2")}


def test_two_new_names_that_differ_in_case_only_are_refused(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {})
    stage.change({"A": (0o644, b"1"), "a": (0o644, b"2")})
    with pytest.raises(ApplyConflictError):
        Work(stage).apply()


def test_selected_paths_only_with_the_directories_they_need(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {"x": (0o644, b"1")})
    stage.change({"x": (0o644, b"2"), "d": {"e": {"f": (0o644, b"")}, "g": (0o644, b"")}, "de": (0o644, b"")})
    Work(stage).apply(Selection(paths=(("root", "d/e"),)))
    assert read(stage.root) == {"x": (0o644, b"1"), "d": {"e": {"f": (0o644, b"")}}}
    Work(stage).apply(Selection(paths=(("other", "x"),)))
    assert read(stage.root)["x"] == (0o644, b"1")


def test_what_a_host_program_would_obey_is_held_back_until_named(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {".git": {"config": (0o644, b"")}, "package.json": (0o644, b'{"name":"x"}')})
    held: Shape = {
        ".git": {"config": (0o644, b"[core]fsmonitor=x"), "hooks": {"pre-commit": (0o755, b"")}},
        ".vscode": {"tasks.json": (0o644, b"{}")},
        "package.json": (0o644, b'{"name":"x","scripts":{"postinstall":"x"}}'),
        "out": "/etc/passwd",
        "up": "../x",
        "ok": "a/../b",
        "f": (0o644, b""),
    }
    stage.change(held)
    plan, _ = Work(stage).planned()
    assert sorted(remark.path for remark in plan.held_back) == [
        ".git", ".vscode", ".vscode/tasks.json", "out", "package.json", "up"
    ]  # fmt: skip
    assert sorted(read(stage.root)) == [".git", "f", "ok", "package.json"]
    assert read(stage.root)[".git"] == {"config": (0o644, b"")}
    Work(stage).apply(Selection(paths=(("root", "."),)))
    assert ".vscode" not in read(stage.root)
    Work(stage).apply(Selection(paths=(("root", ".vscode"), ("root", "out"))))
    assert read(stage.root)[".vscode"] == {"tasks.json": (0o644, b"{}")}
    assert read(stage.root)["out"] == "/etc/passwd"
    Work(stage).apply(Selection(held=True))
    assert read(stage.root) == held


def test_directory_that_holds_something_held_back_stays(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {".github": {"workflows": {"ci.yml": (0o644, b"")}, "x": (0o644, b"")}})
    stage.change({})
    Work(stage).apply()
    assert read(stage.root) == {".github": {"workflows": {"ci.yml": (0o644, b"")}}}


def test_directory_without_rights_for_its_owner_is_made_with_what_it_holds(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {})
    stage.change({"d": {"e": {"f": (0o600, b"x")}}})
    for name in ("d/e", "d"):
        (stage.upper / name).chmod(0o500)
    Work(stage).apply()
    assert stat.S_IMODE((stage.root / "d").stat().st_mode) == 0o500
    assert (stage.root / "d/e/f").read_bytes() == b"x"
    for path in (stage.root / "d", stage.root / "d/e", stage.upper / "d", stage.upper / "d/e"):
        path.chmod(0o700)


def test_many_files_go_over_as_well(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {})
    after: Shape = {f"d{i}": {f"f{j}": (0o644, b"%d" % j) for j in range(20)} for i in range(5)}
    stage.change(after)
    done = Work(stage).apply()
    assert len(done) == 105
    assert read(stage.root) == after


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_directory_that_may_not_be_written_is_a_clear_error(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {"d": {"f": (0o644, b"1")}})
    stage.change({"d": {"f": (0o644, b"2")}})
    (stage.root / "d").chmod(0o500)
    with pytest.raises(WorkspaceError, match="cannot be written"):
        Work(stage).apply()
    (stage.root / "d").chmod(0o700)
    assert read(stage.root) == {"d": {"f": (0o644, b"1")}}


def test_steps_have_an_order_that_cannot_collide() -> None:
    assert list(Action) == [Action.DELETE, Action.RMDIR, Action.MKDIR, Action.WRITE, Action.LINK, Action.CHMOD]
