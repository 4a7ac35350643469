"""Taking an apply back: in order, refused where the host changed since, and exactly what was there before."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox.errors import WorkspaceError
from sandbox.reversal import UndoRefusedError
from sandbox.selection import ApplyConflictError, Selection
from sandbox.walk import encode, walk
from tests.support.applying import Work, fresh, times
from tests.support.layers_by_hand import Shape, Stage, build, read
from tests.support.shapes import shapes

pytestmark = pytest.mark.user


def test_undo_refuses_and_names_what_the_host_changed_since(tmp_path: Path) -> None:
    stage = fresh(tmp_path, 0)
    Work(stage).apply()
    (stage.root / "file").write_bytes(b"edited on the host")
    (stage.root / "new" / "mine").write_bytes(b"made on the host")
    with pytest.raises(UndoRefusedError) as raised:
        Work(stage).undo()
    assert [remark.path for remark in raised.value.conflicts] == ["file", "new"]
    assert (stage.root / "new" / "mine").read_bytes() == b"made on the host"


def test_applies_are_undone_one_by_one_latest_first(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {"a": (0o644, b"0")})
    for content in (b"1", b"2"):
        stage.change({"a": (0o644, content)})
        Work(stage).apply()
    for expected in (b"1", b"0"):
        Work(stage).undo()
        assert read(stage.root) == {"a": (0o644, expected)}
    assert Work(stage).undo() == ()
    Work(stage).apply()
    assert read(stage.root) == {"a": (0o644, b"2")}


def test_undo_of_a_forced_apply_leaves_the_conflict_as_it_was(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {"a": (0o644, b"base")})
    stage.change({"a": (0o644, b"box"), "new": (0o644, b"box")})
    (stage.root / "a").write_bytes(b"host")
    (stage.root / "new").write_bytes(b"host")
    Work(stage).apply(Selection(force=True))
    assert read(stage.root) == {"a": (0o644, b"box"), "new": (0o644, b"box")}
    Work(stage).undo()
    assert read(stage.root) == {"a": (0o644, b"host"), "new": (0o644, b"host")}
    with pytest.raises(ApplyConflictError) as raised:
        Work(stage).apply()
    assert [remark.path for remark in raised.value.conflicts] == ["a", "new"]


def test_sparse_file_that_gives_way_is_kept_sparse_and_comes_back(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {})
    with (stage.root / "big").open("wb") as file:
        file.truncate(20 << 30)
        file.seek(10 << 30)
        file.write(b"middle")
    (stage.base / "manifest").write_bytes(encode(walk(os.fsencode(stage.root)), 0))
    os.mknod(stage.upper / "big", 0o020000, 0)
    Work(stage).apply()
    assert read(stage.root) == {}
    assert sum(path.stat().st_blocks for path in (stage.base / "applies").iterdir()) * 512 < 1 << 20
    Work(stage).undo()
    found = (stage.root / "big").stat()
    assert (found.st_size, found.st_blocks * 512 < 1 << 20) == (20 << 30, True)


@settings(max_examples=40, deadline=None)
@given(before=shapes, after=shapes, opaque=st.booleans())
def test_apply_then_undo_is_identity(
    before: Shape, after: Shape, opaque: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    stage = Stage(tmp_path_factory.mktemp("undo"), before)
    was = times(stage.root)
    stage.change(after, opaque=opaque)
    Work(stage).apply()
    assert read(stage.root) == after
    Work(stage).undo()
    assert (read(stage.root), times(stage.root)) == (before, was)


@settings(max_examples=40, deadline=None)
@given(data=st.data(), before=shapes, after=shapes)
def test_nothing_outside_the_root_is_ever_written_whatever_links_lie_in_the_way(
    data: st.DataObject, before: Shape, after: Shape, tmp_path_factory: pytest.TempPathFactory
) -> None:
    tmp = tmp_path_factory.mktemp("links")
    outside = tmp / "outside"
    outside.mkdir()
    build(outside, {"a": (0o644, b"precious"), "b c": {"a": (0o644, b"precious")}})
    was, then = read(outside), times(outside)
    stage = Stage(tmp, before)
    stage.change(after)
    for path in [p for p in stage.root.rglob("*") if data.draw(st.booleans(), label=str(p))]:
        if os.path.lexists(path) and not any(above.is_symlink() for above in path.parents):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
            path.symlink_to(outside)
    for selection in (Selection(), Selection(merge=True, held=True), Selection(force=True, held=True)):
        try:
            Work(stage).apply(selection)
            Work(stage).undo()
        except (ApplyConflictError, WorkspaceError):
            continue
    assert (read(outside), times(outside)) == (was, then)
