from __future__ import annotations

import os
from pathlib import Path

from sandbox.bases import Bases
from sandbox.changes import Base, Kind
from sandbox.manifest import Manifest
from sandbox.store import Store
from sandbox.trees import LocalTree
from tests.support.layers_by_hand import Stage


def told(stage: Stage) -> list[tuple[str, str]]:
    return [(change.kind.value, change.path) for change in stage.changes()]


def test_added_modified_deleted_and_mode_changes_are_told_apart(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {"a": (0o644, b"1"), "b": (0o644, b"1"), "c": (0o644, b"1"), "d": {}})
    stage.change({"a": (0o644, b"2"), "c": (0o755, b"1"), "d": {"new": (0o600, b"")}, "l": "a"})
    assert told(stage) == [("modified", "a"), ("deleted", "b"), ("mode", "c"), ("added", "d/new"), ("added", "l")]


def test_what_was_only_touched_or_copied_up_is_no_change(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {"a": (0o644, b"same"), "d": {"b": (0o644, b"same")}})
    (stage.upper / "a").write_bytes(b"same")
    (stage.upper / "d").mkdir()
    os.utime(stage.upper / "a", (1, 1))
    assert told(stage) == []


def test_opaque_directory_hides_everything_beneath(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {"d": {"keep": (0o644, b"1"), "gone": (0o644, b"1"), "sub": {"x": (0o644, b"1")}}})
    stage.change({"d": {"keep": (0o644, b"1"), "sub": {}}}, opaque=True)
    assert told(stage) == [("deleted", "d/gone"), ("deleted", "d/sub/x")]


def test_removed_directory_lists_all_that_it_held(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {"d": {"a": (0o644, b""), "s": {"b": (0o644, b"")}}})
    stage.change({})
    assert told(stage) == [("deleted", "d"), ("deleted", "d/a"), ("deleted", "d/s"), ("deleted", "d/s/b")]


def test_changes_of_type_carry_what_stood_there_before(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {"f": (0o644, b"x"), "d": {"in": (0o644, b"y")}, "l": "f"})
    stage.change({"f": {"new": (0o644, b"z")}, "d": (0o644, b"now a file"), "l": (0o644, b"now a file")})
    assert sorted(told(stage)) == [("added", "f/new"), ("deleted", "d/in"), ("type", "d"), ("type", "f"), ("type", "l")]


def test_whiteout_over_nothing_is_no_change(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {"a": (0o644, b"")})
    stage.change({})
    (stage.root / "a").unlink()
    assert told(stage) == []


def test_devices_fifos_and_sockets_are_named(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {})
    os.mkfifo(stage.upper / "pipe")
    [change] = stage.changes()
    assert (change.kind, change.special) == (Kind.ADDED, "fifo")


def test_base_is_known_while_the_host_leaves_the_file_alone(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {"a": (0o644, b"1"), "b": (0o644, b"1")})
    stage.change({"a": (0o644, b"2"), "c": (0o644, b"new")})
    assert [(c.path, c.base, c.drifted) for c in stage.changes()] == [
        ("a", Base.HOST, False),
        ("b", Base.HOST, False),
        ("c", Base.ABSENT, False),
    ]


def test_base_is_unknown_when_the_host_changed_the_file_before_it_was_kept(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {"a": (0o644, b"1"), "b": (0o644, b"1"), "m": (0o644, b"1")})
    stage.change({"a": (0o644, b"2"), "c": (0o644, b"mine"), "m": (0o755, b"1")})
    (stage.root / "a").write_bytes(b"edited")
    (stage.root / "b").write_bytes(b"edited")
    (stage.root / "c").write_bytes(b"theirs")
    (stage.root / "m").unlink()
    assert [(c.path, c.base, c.drifted) for c in stage.changes()] == [
        ("a", Base.UNKNOWN, True),
        ("b", Base.UNKNOWN, True),
        ("c", Base.ABSENT, True),
        ("m", Base.UNKNOWN, True),
    ]


def test_base_is_stored_when_it_was_kept_in_time(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {"a": (0o640, b"base")})
    stage.change({"a": (0o640, b"mine")})
    manifest = Manifest(stage.base / "manifest")
    with Store(stage.store, writable=True) as store, LocalTree(stage.root) as lower:
        assert Bases("root", manifest, store, began_ns=0).capture(stage.changes(), lower) == 1
    (stage.root / "a").write_bytes(b"theirs")
    with Store(stage.store, writable=False) as store:
        [change] = stage.changes(store=store)
        assert (change.base, change.drifted) == (Base.STORED, True)
        bases = Bases("root", manifest, store, began_ns=0)
        assert (bases.stored("a"), bases.stored_mode("a") & 0o777) == (b"base", 0o640)
    manifest.close()


def test_without_a_manifest_what_is_older_than_the_session_counts_as_its_base(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {"a": (0o644, b"1")})
    stage.change({"a": (0o644, b"2")})
    [change] = stage.changes()
    assert change.old is not None
    before, after = change.old.ctime_ns - 1, change.old.ctime_ns + 1
    assert Bases("root", None, None, began_ns=after).judge(change).base is Base.HOST
    assert Bases("root", None, None, began_ns=before).judge(change).base is Base.UNKNOWN


def test_paths_inside_git_directories_are_marked_at_any_depth(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {".git": {"HEAD": (0o644, b"x")}, "sub": {}})
    stage.change({".git": {"HEAD": (0o644, b"y")}, "sub": {".git": (0o644, b"gitdir: x"), ".gitignore": (0o644, b"")}})
    assert [(c.path, c.in_git) for c in stage.changes()] == [
        (".git/HEAD", True),
        ("sub/.git", True),
        ("sub/.gitignore", False),
    ]


def test_names_that_are_no_text_pass_unharmed(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {})
    names = [b"new\nline", b"caf\xe9", "cafe\u0301".encode(), b"x" * 255, b"-rf", b"a\\b"]
    for name in names:
        (stage.upper / os.fsdecode(name)).write_bytes(name)
    assert sorted(os.fsencode(change.path) for change in stage.changes()) == sorted(names)
