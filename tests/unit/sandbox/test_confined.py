from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sandbox import confined

pytestmark = pytest.mark.user


@pytest.fixture(params=["openat2", "steps"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways of opening keep the same promises."""
    if request.param == "steps":
        monkeypatch.setattr(confined, "_missing", {confined._SYS_OPENAT2})
    return str(request.param)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    tree = tmp_path / "root"
    (tree / "a" / "b").mkdir(parents=True)
    (tree / "a" / "b" / "file").write_bytes(b"inside")
    (tmp_path / "secret").write_bytes(b"outside")
    return tree


@pytest.fixture
def directory(root: Path) -> Iterator[int]:
    opened = confined.open_root(root)
    yield opened
    os.close(opened)


def test_file_is_read_beneath_the_root(root: Path, way: str) -> None:
    assert confined.read_beneath(root, "a/b/file", 100) == b"inside"
    assert confined.read_beneath(root, "a//b/./file", 3) == b"ins"


@pytest.mark.parametrize("path", ["../secret", "a/../../secret", "/etc/passwd", "", ".", "a", "missing", "a/b/file/x"])
def test_what_is_no_file_beneath_the_root_reads_as_none(root: Path, way: str, path: str) -> None:
    assert confined.read_beneath(root, path, 100) is None


@pytest.mark.parametrize("target", ["../secret", "a/b/file", "/proc/self/exe", "loop"])
def test_no_link_is_followed_as_last_name_or_parent(root: Path, way: str, target: str) -> None:
    (root / "loop").symlink_to(target)
    (root / "dir").symlink_to("a/b")
    assert confined.read_beneath(root, "loop", 100) is None
    assert confined.read_beneath(root, "dir/file", 100) is None


def test_fifo_is_not_opened(root: Path, way: str) -> None:
    os.mkfifo(root / "fifo")
    assert confined.read_beneath(root, "fifo", 100) is None


def test_a_link_can_be_looked_at_but_not_through(root: Path, directory: int, way: str) -> None:
    (root / "link").symlink_to("/etc/passwd")
    assert confined.readlink_beneath(directory, "link") == b"/etc/passwd"
    assert confined.stat_beneath(directory, "link").st_size == len("/etc/passwd")
    with pytest.raises(OSError):
        confined.open_beneath(directory, "link", os.O_RDONLY)


def test_names_are_made_renamed_and_removed_beneath(root: Path, directory: int, way: str) -> None:
    confined.mkdir_beneath(directory, "a/new")
    (root / "a" / "new" / os.fsdecode(b"l\xff")).symlink_to("../../../nowhere")
    confined.rename_beneath(directory, b"a/new/l\xff", "a/l")
    assert (root / "a" / "l").readlink() == Path("../../../nowhere")
    confined.unlink_beneath(directory, "a/l")
    (root / "a" / "new").rmdir()
    assert sorted(p.name for p in (root / "a").iterdir()) == ["b"]


def test_rename_without_replace_keeps_what_is_there(root: Path, directory: int) -> None:
    (root / "x").write_bytes(b"x")
    with pytest.raises(FileExistsError):
        confined.rename_beneath(directory, "x", "a/b/file", replace=False)
    assert (root / "a/b/file").read_bytes() == b"inside"


@pytest.mark.parametrize("path", ["../x", "a/../../x", "/x", ".", "..", "a/.."])
def test_nothing_is_made_or_removed_outside(root: Path, directory: int, way: str, path: str) -> None:
    for act in (confined.mkdir_beneath, confined.unlink_beneath):
        with pytest.raises(OSError):
            act(directory, path)
    assert sorted(p.name for p in root.parent.iterdir()) == ["root", "secret"]


def test_parents_that_are_links_are_refused_for_every_change(root: Path, directory: int, way: str) -> None:
    (root / "out").symlink_to("..")
    for act in (confined.mkdir_beneath, confined.unlink_beneath):
        with pytest.raises(OSError):
            act(directory, "out/secret")
    assert (root.parent / "secret").read_bytes() == b"outside"


parts = st.sampled_from(["a", "b", "..", ".", "", "file", "link", "up", "\udcff", "x" * 255])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(path=st.lists(parts, min_size=1, max_size=8).map("/".join), steps=st.booleans())
def test_no_path_whatever_reads_a_byte_from_outside(root: Path, path: str, steps: bool) -> None:
    for name, target in (("link", "../secret"), ("up", "..")):
        if not (root / name).is_symlink():
            (root / name).symlink_to(target)
    saved, confined._missing = confined._missing, {confined._SYS_OPENAT2} if steps else set()
    try:
        assert confined.read_beneath(root, path, 100) in (None, b"inside")
    finally:
        confined._missing = saved
