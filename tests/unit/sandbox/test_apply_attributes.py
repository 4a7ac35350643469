"""What an apply makes of modes, attributes, holes, special files and second names."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from sandbox.bases import Bases
from sandbox.manifest import Manifest
from sandbox.selection import Selection
from sandbox.store import Store
from sandbox.trees import LocalTree
from sandbox.walk import encode, walk
from tests.support.applying import Work
from tests.support.layers_by_hand import Stage, read

pytestmark = pytest.mark.user


def test_setuid_and_special_bits_are_dropped(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {"old": (0o4755, b"1")})
    stage.change({"old": (0o4755, b"2"), "new": (0o6777, b"x"), "d": {}})
    (stage.upper / "d").chmod(0o2777)
    (stage.upper / "new").chmod(0o6777)
    (stage.upper / "old").chmod(0o4755)
    Work(stage).apply()
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in stage.root.iterdir()}
    assert modes == {"old": 0o755, "new": 0o777, "d": 0o777}


def test_fifos_sockets_and_devices_are_dropped_and_said_so(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {})
    os.mkfifo(stage.upper / "pipe")
    plan, done = Work(stage).planned()
    assert [(remark.path, remark.why) for remark in plan.dropped] == [("pipe", "a fifo is never applied")]
    assert (done, read(stage.root)) == ((), {})


def test_user_attributes_come_along(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {})
    (stage.upper / "f").write_bytes(b"x")
    os.setxattr(stage.upper / "f", "user.note", b"kept")
    os.setxattr(stage.upper / "f", "user.overlay.origin", b"not")
    Work(stage).apply()
    assert {name: os.getxattr(stage.root / "f", name) for name in os.listxattr(stage.root / "f")} == {
        "user.note": b"kept"
    }


def test_sparse_file_stays_sparse(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {})
    with (stage.upper / "big").open("wb") as file:
        file.truncate(20 << 30)
        file.seek(10 << 30)
        file.write(b"middle")
    Work(stage).apply()
    found = (stage.root / "big").stat()
    assert found.st_size == 20 << 30
    assert found.st_blocks * 512 < 1 << 20
    with (stage.root / "big").open("rb") as file:
        file.seek(10 << 30)
        assert file.read(6) == b"middle"
    assert stage.changes() == []


def test_names_of_one_file_that_both_changed_are_applied_together_and_taken_back(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {"a": (0o644, b"1")})
    os.link(stage.root / "a", stage.root / "b")
    os.link(stage.root / "a", stage.root / "c")
    (stage.base / "manifest").write_bytes(encode(walk(os.fsencode(stage.root)), 0))
    stage.lower = dict.fromkeys("abc", (420, b"1"))
    stage.change({"a": (0o644, b"2"), "b": (0o644, b"3")})
    Work(stage).apply()
    assert read(stage.root) == {"a": (0o644, b"2"), "b": (0o644, b"3")}
    with LocalTree(stage.root), Store(stage.store, writable=True) as store:
        Work(stage).applies.undo({"root": Bases("root", None, store, began_ns=0)})
    assert read(stage.root) == stage.lower


def test_attributes_alone_are_a_change(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {"a": (0o644, b"1")})
    os.setxattr(stage.root / "a", "user.old", b"1")
    (stage.base / "manifest").write_bytes(encode(walk(os.fsencode(stage.root)), 0))
    (stage.upper / "a").write_bytes(b"1")
    os.setxattr(stage.upper / "a", "user.new", b"2")
    Work(stage).apply()
    assert os.listxattr(stage.root / "a") == ["user.new"]
    assert Work(stage).apply() == ()


def test_special_bits_alone_are_dropped_by_name_and_are_no_step(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {"a": (0o755, b"1")})
    stage.change({"a": (0o4755, b"1"), "new": (0o4755, b"2")})
    plan, done = Work(stage).planned()
    assert [(remark.path, remark.why) for remark in plan.dropped] == [
        ("a", "setuid, setgid and sticky bits are never applied")
    ]
    assert [(remark.path, remark.why) for remark in plan.pointed_out] == [
        ("new", "its setuid, setgid and sticky bits are left behind")
    ]
    assert [step.path for step in done] == ["new"]
    assert read(stage.root) == {"a": (0o755, b"1"), "new": (0o755, b"2")}
    assert Work(stage).apply() == ()


def test_a_merge_keeps_the_attributes_of_both_sides(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {"a": (0o644, b"1\n2\n3\n4\n5\n")})
    stage.change({"a": (0o644, b"box\n2\n3\n4\n5\n")})
    os.setxattr(stage.upper / "a", "user.box", b"b")
    Work(stage).capture()
    (stage.root / "a").write_bytes(b"1\n2\n3\n4\nhost\n")
    os.setxattr(stage.root / "a", "user.host", b"h")
    Work(stage).apply(Selection(merge=True))
    assert (stage.root / "a").read_bytes() == b"box\n2\n3\n4\nhost\n"
    assert sorted(os.listxattr(stage.root / "a")) == ["user.box", "user.host"]


def test_an_attribute_that_follows_a_merge_is_a_change(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {"a": (0o644, b"1\n2\n3\n")})
    stage.change({"a": (0o644, b"box\n2\n3\n")})
    Work(stage).capture()
    (stage.root / "a").write_bytes(b"1\n2\nhost\n")
    Work(stage).apply(Selection(merge=True))
    manifest = Manifest(stage.base / "manifest")
    with Store(stage.store, writable=True) as store, LocalTree(stage.upper) as upper:
        bases = Bases("root", manifest, store, began_ns=0)
        (change,) = stage.changes(store=store)
        assert bases.is_taken(change, upper)
        os.setxattr(stage.upper / "a", "user.later", b"1")
        (change,) = stage.changes(store=store)
        assert not bases.is_taken(change, upper)
    manifest.close()
