from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox import walk
from sandbox.errors import StoreError, WorkspaceError
from sandbox.manifest import Drifted, Manifest, Stamp, find_drift, find_touched, write_manifest

pytestmark = pytest.mark.user

GOLDEN = Path(__file__).parent / "golden" / "manifest-1.bin"
ENTRIES = [
    (b".", 0o40755, 4096, 1_700_000_000_000_000_001, 1_700_000_000_000_000_002, 2),
    (b"a", 0o100644, 5, 1_700_000_000_123_456_789, 1_700_000_000_123_456_790, 3),
    (b"d", 0o40700, 4096, -1, 1, 4),
    (b"d/caf\xe9\n", 0o120777, 9, 0, 0, 1 << 40),
]


def test_manifest_of_version_1_is_written_and_read_as_ever() -> None:
    assert walk.encode(ENTRIES, 1_700_000_000_000_000_000) == GOLDEN.read_bytes()
    assert walk.decode(GOLDEN.read_bytes()) == ENTRIES


def test_paths_are_found_without_reading_the_rest() -> None:
    manifest = Manifest(GOLDEN)
    assert (manifest.count, manifest.began_ns) == (4, 1_700_000_000_000_000_000)
    for path, mode, size, mtime_ns, ctime_ns, inode in ENTRIES:
        assert manifest.stamp(path) == Stamp(mode=mode, size=size, mtime_ns=mtime_ns, ctime_ns=ctime_ns, inode=inode)
    assert list(manifest.beneath(b"d")) == [b"d/caf\xe9\n"]
    assert list(manifest.beneath(b"a")) == list(manifest.beneath(b"zz")) == []
    for missing in (b"", b"b", b"d/", b"zzz", b"d/caf"):
        assert manifest.stamp(missing) is None
    manifest.close()


@given(at=st.integers(min_value=0, max_value=len(GOLDEN.read_bytes()) - 1), bit=st.integers(0, 7))
def test_any_flipped_bit_is_noticed(at: int, bit: int) -> None:
    data = bytearray(GOLDEN.read_bytes())
    data[at] ^= 1 << bit
    if 16 <= at < 24:  # the time when it began stands outside the checksum
        return
    with pytest.raises(ValueError, match="manifest"):
        walk.check(bytes(data))


def test_damaged_and_empty_files_are_store_errors(tmp_path: Path) -> None:
    for data in (b"", b"x", GOLDEN.read_bytes()[:-1]):
        (tmp_path / "m").write_bytes(data)
        with pytest.raises(StoreError):
            Manifest(tmp_path / "m")
    with pytest.raises(FileNotFoundError):
        Manifest(tmp_path / "none")


async def test_walk_lists_every_path_with_its_stat(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "d" / "e").mkdir(parents=True)
    (root / "d" / "f").write_bytes(b"x")
    (root / "l").symlink_to("/nowhere")
    os.mkfifo(root / "p")
    await write_manifest(root, tmp_path / "m")
    manifest = Manifest(tmp_path / "m")
    found = {path: manifest.stamp(path) for path in (b".", b"d", b"d/e", b"d/f", b"l", b"p")}
    assert manifest.count == 6
    for path, stamp in found.items():
        assert stamp == Stamp.of((root / os.fsdecode(path)).lstat())
    manifest.close()
    assert not (tmp_path / "m.new").exists()


async def test_drift_is_what_the_host_changed_without_its_git_directory(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / ".git").mkdir(parents=True)
    (root / "d").mkdir()
    for name in ("same", "edited", "gone", "d/mode"):
        (root / name).write_bytes(b"1")
    await write_manifest(root, tmp_path / "m")
    assert await find_drift("r", root, tmp_path / "m") == ()
    (root / "edited").write_bytes(b"2")
    (root / "gone").unlink()
    (root / "new").write_bytes(b"3")
    (root / "d/mode").chmod(0o600)
    (root / ".git" / "index").write_bytes(b"4")
    assert await find_drift("r", root, tmp_path / "m") == (
        Drifted(root="r", path="d/mode", kind="changed"),
        Drifted(root="r", path="edited", kind="changed"),
        Drifted(root="r", path="gone", kind="deleted"),
        Drifted(root="r", path="new", kind="added"),
    )


async def test_same_size_rewrite_with_its_time_put_back_is_still_drift(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "f").write_bytes(b"one")
    seen = (root / "f").stat()
    await write_manifest(root, tmp_path / "m")
    (root / "f").write_bytes(b"two")
    os.utime(root / "f", ns=(seen.st_atime_ns, seen.st_mtime_ns))
    assert [d.path for d in await find_drift("r", root, tmp_path / "m")] == ["f"]


async def test_skipped_directory_is_not_walked(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "state" / "deep").mkdir(parents=True)
    await write_manifest(root, tmp_path / "m", (b"state",))
    manifest = Manifest(tmp_path / "m")
    assert manifest.count == 1
    manifest.close()
    assert await find_drift("r", root, tmp_path / "m", (b"state",)) == ()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
async def test_directory_that_cannot_be_read_is_told_and_its_files_are_not_called_deleted(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "d").mkdir(parents=True)
    (root / "d" / "f").write_bytes(b"1")
    await write_manifest(root, tmp_path / "m")
    (root / "d").chmod(0)
    try:
        assert await find_touched(root, tmp_path / "m") == [(b"M", b"d"), (b"U", b"d")]
    finally:
        (root / "d").chmod(0o700)


def test_closed_directories_hide_what_they_held() -> None:
    old = [(b"d", 0o40755, 0, 0, 0, 1), (b"d/f", 0o100644, 0, 0, 0, 2), (b"e", 0o100644, 0, 0, 0, 3)]
    assert walk.compare(old, old[:1], [b"d"]) == [(b"U", b"d"), (b"D", b"e")]


async def test_root_that_is_gone_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError, match="could not be walked"):
        await write_manifest(tmp_path / "none", tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_forty_levels_of_long_names_are_walked(tmp_path: Path) -> None:
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(40):
        os.mkdir("x" * 200, dir_fd=here)
        below = os.open("x" * 200, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(os.open("leaf", os.O_CREAT | os.O_WRONLY, 0o600, dir_fd=here))
    os.close(here)
    found = walk.walk(os.fsencode(tmp_path))
    assert found[-1][0] == b"/".join([b"x" * 200] * 40 + [b"leaf"])
    assert stat.S_ISREG(found[-1][1])
