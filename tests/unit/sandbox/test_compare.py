"""What changed between two checkpoints, or since one; and files as they were."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox.diff import format_stat
from sandbox.errors import WorkspaceError
from tests.support.layers_by_hand import Node, Shape, build, read
from tests.support.past import PastStage

FILES = st.tuples(st.sampled_from([0o644, 0o755]), st.sampled_from([b"", b"a\n", b"a\nb\n", b"\0bin", b"no end"]))
LINKS = st.sampled_from(["a", "nowhere"])
NAMES = st.sampled_from(["a", "b", "d", "e f"])
SHAPES = st.recursive(
    st.dictionaries(NAMES, FILES | LINKS, max_size=4),
    lambda inner: st.dictionaries(NAMES, FILES | LINKS | inner, max_size=4),
    max_leaves=12,
)


async def patch(stage: PastStage, old: str, new: str = "", paths: tuple[str, ...] = ()) -> bytes:
    return b"".join([item.patch.text async for item in stage.workspace.past.compare(old, new, paths)])


async def told(stage: PastStage, old: str, new: str = "", paths: tuple[str, ...] = ()) -> list[tuple[str, str, str]]:
    found = [item.change async for item in stage.workspace.past.compare(old, new, paths)]
    return [(change.root, change.kind.value, change.path) for change in found]


def without_empty(shape: Shape) -> Shape:
    """As git knows it: no empty directories."""
    found: dict[str, Node] = {}
    for name, node in shape.items():
        if not isinstance(node, dict):
            found[name] = node
        elif inner := without_empty(node):
            found[name] = inner
    return found


def git_apply(file: Path, tree: Path) -> None:
    subprocess.run(["git", "apply", file], cwd=tree, env=os.environ | {"GIT_CEILING_DIRECTORIES": "/"}, check=True)


@given(lower=SHAPES, one=SHAPES, two=SHAPES, opaque=st.booleans(), now=st.booleans())
@settings(max_examples=25, deadline=None)
async def test_a_patch_between_two_checkpoints_turns_the_one_into_the_other(
    lower: Shape, one: Shape, two: Shape, *, opaque: bool, now: bool
) -> None:
    base = Path(tempfile.mkdtemp(prefix="fumehood-compare-"))
    try:
        stage = PastStage(base, lower)
        stage.turn(one, opaque=opaque)
        first = stage.take()
        stage.turn(two)
        second = "" if now else stage.take()
        (base / "tree").mkdir()
        build(base / "tree", without_empty(one))
        forth = await patch(stage, first, second)
        (base / "patch").write_bytes(forth)
        if b"Binary files" not in forth and forth:
            git_apply(base / "patch", base / "tree")
            assert without_empty(read(base / "tree")) == without_empty(two)
        else:
            assert (not forth) == (without_empty(one) == without_empty(two))
        if not now:
            assert len(await told(stage, second, first)) == len(await told(stage, first, second))
        await stage.workspace.release()
    finally:
        shutil.rmtree(base)


async def test_home_is_compared_too_and_named_as_the_box_has_it(tmp_path: Path) -> None:
    stage = PastStage(tmp_path, {"f": (0o644, b"1\n")}, {".bashrc": (0o644, b"skeleton\n")})
    first = stage.take()
    stage.turn({"f": (0o644, b"2\n")})
    stage.turn({".bashrc": (0o644, b"mine\n"), "new": (0o644, b"n\n")}, place="home")
    second = stage.take()
    found = await patch(stage, first, second)
    assert b"--- a/f\n+++ b/f\n@@ -1 +1 @@\n-1\n+2\n" in found
    assert b"--- a/home/box/.bashrc\n+++ b/home/box/.bashrc\n@@ -1 +1 @@\n-skeleton\n+mine\n" in found
    assert await told(stage, first, second, ("/home/box/new",)) == [("home", "added", "new")]
    assert await told(stage, first, second, (str(stage.host),)) == [("root", "modified", "f")]
    items = [stage.workspace.past.named(item) async for item in stage.workspace.past.compare(first[:4], second[:6])]
    assert [line.split("|")[0].strip() for line in format_stat(items).splitlines()[:-1]] == [
        "f", "home/box/.bashrc", "home/box/new",
    ]  # fmt: skip
    with pytest.raises(WorkspaceError, match="no checkpoint"):
        await told(stage, "ffffffffffff")
    await stage.workspace.release()


async def test_what_the_host_changed_since_is_shown_as_it_was_when_it_was_kept(tmp_path: Path) -> None:
    stage = PastStage(tmp_path, {"f": (0o640, b"begun\n"), "other": (0o644, b"o\n"), "d": {"x": (0o644, b"x\n")}})
    first = stage.take()
    stage.turn({"f": (0o644, b"box\n"), "other": (0o644, b"o\n"), "d": {"x": (0o644, b"x\n")}})
    second = stage.take()
    await stage.workspace.capture()
    (stage.host / "f").write_bytes(b"edited on the host since\n")
    (stage.host / "late").write_bytes(b"made on the host since\n")
    assert b"-begun\n+box\n" in await patch(stage, first, second)
    assert b"old mode" not in await patch(stage, first, second)

    def show(point: str, path: str) -> bytes:
        return b"".join(stage.workspace.past.content_at(point, path))

    assert show(first, f"{stage.host}/f") == b"begun\n"
    assert show(first, "/workspace/root/f") == b"begun\n"
    assert show(second, "/workspace/root/f") == b"box\n"
    assert show(first, "/workspace/root/d/x") == b"x\n"
    (stage.host / "f").unlink()
    assert show(first, "/workspace/root/f") == b"begun\n"
    for path in ("/workspace/root/late", "/workspace/root/d", "/workspace/root/none", "/workspace/root"):
        with pytest.raises(WorkspaceError, match="was no file"):
            show(first, path)
    await stage.workspace.release()


async def test_after_an_apply_a_checkpoint_before_it_still_shows_what_was(tmp_path: Path) -> None:
    stage = PastStage(tmp_path, {"f": (0o644, b"begun\n")})
    first = stage.take()
    stage.turn({"f": (0o644, b"box\n"), "new": (0o644, b"n\n")})
    stage.take()
    await stage.workspace.capture()
    await stage.workspace.apply()
    assert (stage.host / "f").read_bytes() == b"box\n"
    assert b"-begun\n+box\n" in await patch(stage, first)
    assert ("root", "added", "new") in await told(stage, first)
    assert b"".join(stage.workspace.past.content_at(first, f"{stage.host}/f")) == b"begun\n"
    await stage.workspace.release()


async def test_a_moved_file_is_a_rename_between_checkpoints_too(tmp_path: Path) -> None:
    stage = PastStage(tmp_path, {"a": (0o644, b"one\ntwo\nthree\n")})
    first = stage.take()
    stage.turn({"b": (0o644, b"one\ntwo\nthree\n")})
    assert b"rename from a\nrename to b\n" in await patch(stage, first, stage.take())
    await stage.workspace.release()
