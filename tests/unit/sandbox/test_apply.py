from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox.apply import Applied, Applies, Part
from sandbox.bases import Bases
from sandbox.errors import WorkspaceError
from sandbox.held import HeldBack
from sandbox.manifest import Manifest
from sandbox.plan import Plan, make_plan
from sandbox.selection import Action, ApplyConflictError, Selection
from sandbox.store import Store
from sandbox.transaction import nothing
from sandbox.trees import LocalTree
from sandbox.walk import encode, walk
from tests.support.layers_by_hand import Node, Shape, Stage, read

pytestmark = pytest.mark.user

HELD = HeldBack.load()


def apply(
    stage: Stage,
    selection: Selection | None = None,
    *,
    between: Callable[[], object] = lambda: None,
) -> tuple[Plan, tuple[Applied, ...]]:
    """Plan, stage, check, commit. `between`: what the host does after the plan was made."""
    manifest = Manifest(stage.base / "manifest")
    try:
        with (
            Store(stage.store, writable=True) as store,
            LocalTree(stage.upper) as upper,
            LocalTree(stage.root) as lower,
        ):
            changes = stage.changes(store=store)
            bases = Bases("root", manifest, store, began_ns=0)
            plan = make_plan(changes, selection or Selection(), upper=upper, host=lower, bases=bases, held=HELD)
            if plan.conflicts:
                raise ApplyConflictError(plan.conflicts)
            part = Part(top=stage.root, plan=plan, upper=upper, bases=bases)
            with applies(stage).begin([part]) as work:
                work.stage()
                between()
                work.check()
                return plan, work.commit()
    finally:
        manifest.close()


def applies(stage: Stage, reached: Callable[[str], None] = nothing) -> Applies:
    return Applies(stage.base / "applies", {"root": stage.root}, session="0123456789", reached=reached)


def capture(stage: Stage) -> None:
    manifest = Manifest(stage.base / "manifest")
    with Store(stage.store, writable=True) as store, LocalTree(stage.root) as lower:
        Bases("root", manifest, store, began_ns=0).capture(stage.changes(store=store), lower)
    manifest.close()


names = st.sampled_from(["a", "b c", "new\nline", "caf\u00e9", "b\udcffyte", "x" * 255])
files: st.SearchStrategy[Node] = st.tuples(st.sampled_from([0o644, 0o755, 0o600]), st.binary(max_size=20))
links: st.SearchStrategy[Node] = st.sampled_from(["a", "nowhere", "b c/a"])
nodes = st.recursive(st.one_of(files, files, links), lambda inner: st.dictionaries(names, inner, max_size=3))
shapes: st.SearchStrategy[Shape] = st.dictionaries(names, nodes, max_size=4)


@settings(max_examples=150, deadline=None)
@given(before=shapes, after=shapes, opaque=st.booleans())
def test_after_an_apply_the_root_is_what_the_box_saw(
    before: Shape, after: Shape, opaque: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    stage = Stage(tmp_path_factory.mktemp("apply"), before)
    stage.change(after, opaque=opaque)
    apply(stage)
    assert read(stage.root) == after
    again, done = apply(stage)
    assert (again.steps, done) == ((), ())


def test_apply_reports_each_step_in_the_order_taken(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {"d": {"x": (0o644, b"")}, "f": (0o644, b"1"), "m": (0o644, b"1")})
    stage.change({"d": (0o644, b"file"), "f": {"y": (0o644, b"")}, "m": (0o755, b"1"), "l": "f"})
    _, done = apply(stage)
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
    capture(stage)
    (stage.root / "a").write_bytes(b"host")
    (stage.root / "new").write_bytes(b"host")
    with pytest.raises(ApplyConflictError) as raised:
        apply(stage)
    assert [(remark.path, remark.why) for remark in raised.value.conflicts] == [
        ("a", "changed on the host since the session began"),
        ("new", "made on the host too since the session began"),
    ]
    assert read(stage.root) == {
        "a": (0o644, b"host"), "b": (0o644, b"base"), "c": (0o644, b"base"), "new": (0o644, b"host")
    }  # fmt: skip
    apply(stage, Selection(paths=(("root", "b"),)))
    apply(stage, Selection(force=True))
    assert read(stage.root) == {"a": (0o644, b"box"), "c": (0o644, b"base"), "new": (0o644, b"box")}


def test_deleting_what_the_host_edited_is_a_conflict(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {"d": {"a": (0o644, b"1")}})
    stage.change({})
    (stage.root / "d" / "b").write_bytes(b"made on the host")
    with pytest.raises(ApplyConflictError):
        apply(stage)
    assert read(stage.root) == {"d": {"a": (0o644, b"1"), "b": (0o644, b"made on the host")}}


def test_touched_host_file_whose_content_is_the_kept_base_is_no_conflict(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {"a": (0o644, b"base")})
    stage.change({"a": (0o644, b"box")})
    capture(stage)
    os.utime(stage.root / "a", (1, 1))
    apply(stage)
    assert read(stage.root) == {"a": (0o644, b"box")}


def test_host_change_between_plan_and_commit_stops_everything(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {"a": (0o644, b"1"), "b": (0o644, b"1")})
    stage.change({"a": (0o644, b"2"), "b": (0o644, b"2")})
    with pytest.raises(ApplyConflictError) as raised:
        apply(stage, between=lambda: (stage.root / "b").write_bytes(b"3"))
    assert [remark.why for remark in raised.value.conflicts] == ["changed on the host just now"]
    assert read(stage.root) == {"a": (0o644, b"1"), "b": (0o644, b"3")}


def test_applied_files_can_be_changed_and_applied_again(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {"a": (0o644, b"1")})
    stage.change({"a": (0o644, b"2"), "n": (0o644, b"2")})
    apply(stage)
    stage.change({"a": (0o644, b"3"), "n": (0o644, b"3")})
    apply(stage)
    assert read(stage.root) == {"a": (0o644, b"3"), "n": (0o644, b"3")}
    (stage.root / "a").write_bytes(b"host")
    stage.change({"a": (0o644, b"4"), "n": (0o644, b"3")})
    with pytest.raises(ApplyConflictError):
        apply(stage)


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
            apply(stage, selection)
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
        apply(stage, between=swap)
    assert list(outside.iterdir()) == []


def test_setuid_and_special_bits_are_dropped(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {"old": (0o4755, b"1")})
    stage.change({"old": (0o4755, b"2"), "new": (0o6777, b"x"), "d": {}})
    (stage.upper / "d").chmod(0o2777)
    (stage.upper / "new").chmod(0o6777)
    (stage.upper / "old").chmod(0o4755)
    apply(stage)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in stage.root.iterdir()}
    assert modes == {"old": 0o755, "new": 0o777, "d": 0o777}


def test_fifos_sockets_and_devices_are_dropped_and_said_so(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {})
    os.mkfifo(stage.upper / "pipe")
    plan, done = apply(stage)
    assert [(remark.path, remark.why) for remark in plan.dropped] == [("pipe", "a fifo is never applied")]
    assert (done, read(stage.root)) == ((), {})


def test_user_attributes_come_along(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {})
    (stage.upper / "f").write_bytes(b"x")
    os.setxattr(stage.upper / "f", "user.note", b"kept")
    os.setxattr(stage.upper / "f", "user.overlay.origin", b"not")
    apply(stage)
    assert {name: os.getxattr(stage.root / "f", name) for name in os.listxattr(stage.root / "f")} == {
        "user.note": b"kept"
    }


def test_sparse_file_stays_sparse(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {})
    with (stage.upper / "big").open("wb") as file:
        file.truncate(20 << 30)
        file.seek(10 << 30)
        file.write(b"middle")
    apply(stage)
    found = (stage.root / "big").stat()
    assert found.st_size == 20 << 30
    assert found.st_blocks * 512 < 1 << 20
    with (stage.root / "big").open("rb") as file:
        file.seek(10 << 30)
        assert file.read(6) == b"middle"
    assert stage.changes() == []


@pytest.mark.parametrize(
    ("host", "box"), [("README", "readme"), ("caf\u00e9", "cafe\u0301"), ("stra\u00dfe", "STRASSE")]
)
def test_names_equal_but_for_case_or_form_are_refused(tmp_path: Path, host: str, box: str) -> None:
    stage = Stage(tmp_path, {host: (0o644, b"1")})
    stage.change({host: (0o644, b"1"), box: (0o644, b"2")})
    with pytest.raises(ApplyConflictError, match="but for case or Unicode form"):
        apply(stage)
    stage.change({box: (0o644, b"2")})
    apply(stage)
    assert read(stage.root) == {box: (0o644, b"2")}


def test_two_new_names_that_differ_in_case_only_are_refused(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {})
    stage.change({"A": (0o644, b"1"), "a": (0o644, b"2")})
    with pytest.raises(ApplyConflictError):
        apply(stage)


def test_selected_paths_only_with_the_directories_they_need(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {"x": (0o644, b"1")})
    stage.change({"x": (0o644, b"2"), "d": {"e": {"f": (0o644, b"")}, "g": (0o644, b"")}, "de": (0o644, b"")})
    apply(stage, Selection(paths=(("root", "d/e"),)))
    assert read(stage.root) == {"x": (0o644, b"1"), "d": {"e": {"f": (0o644, b"")}}}
    apply(stage, Selection(paths=(("other", "x"),)))
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
    plan, _ = apply(stage)
    assert sorted(remark.path for remark in plan.held_back) == [
        ".git", ".vscode", ".vscode/tasks.json", "out", "package.json", "up"
    ]  # fmt: skip
    assert sorted(read(stage.root)) == [".git", "f", "ok", "package.json"]
    assert read(stage.root)[".git"] == {"config": (0o644, b"")}
    apply(stage, Selection(paths=(("root", "."),)))
    assert ".vscode" not in read(stage.root)
    apply(stage, Selection(paths=(("root", ".vscode"), ("root", "out"))))
    assert read(stage.root)[".vscode"] == {"tasks.json": (0o644, b"{}")}
    assert read(stage.root)["out"] == "/etc/passwd"
    apply(stage, Selection(held=True))
    assert read(stage.root) == held


def test_directory_that_holds_something_held_back_stays(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {".github": {"workflows": {"ci.yml": (0o644, b"")}, "x": (0o644, b"")}})
    stage.change({})
    apply(stage)
    assert read(stage.root) == {".github": {"workflows": {"ci.yml": (0o644, b"")}}}


def test_directory_without_rights_for_its_owner_is_made_with_what_it_holds(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {})
    stage.change({"d": {"e": {"f": (0o600, b"x")}}})
    for name in ("d/e", "d"):
        (stage.upper / name).chmod(0o500)
    apply(stage)
    assert stat.S_IMODE((stage.root / "d").stat().st_mode) == 0o500
    assert (stage.root / "d/e/f").read_bytes() == b"x"
    for path in (stage.root / "d", stage.root / "d/e", stage.upper / "d", stage.upper / "d/e"):
        path.chmod(0o700)


def test_many_files_go_over_as_well(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {})
    after: Shape = {f"d{i}": {f"f{j}": (0o644, b"%d" % j) for j in range(20)} for i in range(5)}
    stage.change(after)
    _, done = apply(stage)
    assert len(done) == 105
    assert read(stage.root) == after


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_directory_that_may_not_be_written_is_a_clear_error(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {"d": {"f": (0o644, b"1")}})
    stage.change({"d": {"f": (0o644, b"2")}})
    (stage.root / "d").chmod(0o500)
    with pytest.raises(WorkspaceError, match="cannot be written"):
        apply(stage)
    (stage.root / "d").chmod(0o700)
    assert read(stage.root) == {"d": {"f": (0o644, b"1")}}


def test_steps_have_an_order_that_cannot_collide() -> None:
    assert list(Action) == [Action.DELETE, Action.RMDIR, Action.MKDIR, Action.WRITE, Action.LINK, Action.CHMOD]


def test_names_of_one_file_that_both_changed_are_applied_together_and_taken_back(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {"a": (0o644, b"1")})
    os.link(stage.root / "a", stage.root / "b")
    os.link(stage.root / "a", stage.root / "c")
    (stage.base / "manifest").write_bytes(encode(walk(os.fsencode(stage.root)), 0))
    stage.lower = dict.fromkeys("abc", (420, b"1"))
    stage.change({"a": (0o644, b"2"), "b": (0o644, b"3")})
    apply(stage)
    assert read(stage.root) == {"a": (0o644, b"2"), "b": (0o644, b"3")}
    with LocalTree(stage.root), Store(stage.store, writable=True) as store:
        applies(stage).undo({"root": Bases("root", None, store, began_ns=0)})
    assert read(stage.root) == stage.lower


def test_attributes_alone_are_a_change(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {"a": (0o644, b"1")})
    os.setxattr(stage.root / "a", "user.old", b"1")
    (stage.base / "manifest").write_bytes(encode(walk(os.fsencode(stage.root)), 0))
    (stage.upper / "a").write_bytes(b"1")
    os.setxattr(stage.upper / "a", "user.new", b"2")
    apply(stage)
    assert os.listxattr(stage.root / "a") == ["user.new"]
    assert apply(stage)[1] == ()


def test_special_bits_alone_are_dropped_by_name_and_are_no_step(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {"a": (0o755, b"1")})
    stage.change({"a": (0o4755, b"1"), "new": (0o4755, b"2")})
    plan, done = apply(stage)
    assert [(remark.path, remark.why) for remark in plan.dropped] == [
        ("a", "setuid, setgid and sticky bits are never applied")
    ]
    assert [(remark.path, remark.why) for remark in plan.pointed_out] == [
        ("new", "its setuid, setgid and sticky bits are left behind")
    ]
    assert [step.path for step in done] == ["new"]
    assert read(stage.root) == {"a": (0o755, b"1"), "new": (0o755, b"2")}
    assert apply(stage)[1] == ()


def test_a_merge_keeps_the_attributes_of_both_sides(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {"a": (0o644, b"1\n2\n3\n4\n5\n")})
    stage.change({"a": (0o644, b"box\n2\n3\n4\n5\n")})
    os.setxattr(stage.upper / "a", "user.box", b"b")
    capture(stage)
    (stage.root / "a").write_bytes(b"1\n2\n3\n4\nhost\n")
    os.setxattr(stage.root / "a", "user.host", b"h")
    apply(stage, Selection(merge=True))
    assert (stage.root / "a").read_bytes() == b"box\n2\n3\n4\nhost\n"
    assert sorted(os.listxattr(stage.root / "a")) == ["user.box", "user.host"]


def test_an_attribute_that_follows_a_merge_is_a_change(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {"a": (0o644, b"1\n2\n3\n")})
    stage.change({"a": (0o644, b"box\n2\n3\n")})
    capture(stage)
    (stage.root / "a").write_bytes(b"1\n2\nhost\n")
    apply(stage, Selection(merge=True))
    manifest = Manifest(stage.base / "manifest")
    with Store(stage.store, writable=True) as store, LocalTree(stage.upper) as upper:
        bases = Bases("root", manifest, store, began_ns=0)
        (change,) = stage.changes(store=store)
        assert bases.is_taken(change, upper)
        os.setxattr(stage.upper / "a", "user.later", b"1")
        (change,) = stage.changes(store=store)
        assert not bases.is_taken(change, upper)
    manifest.close()
