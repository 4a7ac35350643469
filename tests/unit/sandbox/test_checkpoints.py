"""Checkpoints over layers made by hand: what is kept, what comes back, and what a crash leaves."""

from __future__ import annotations

import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sandbox.copies import remove_tree
from sandbox.errors import StoreError, WorkspaceError
from tests.support.stand import CHANGES, Stand, change, killed_after

pytestmark = pytest.mark.user


def test_nothing_is_stored_where_nothing_changed(stand: Stand) -> None:
    stand.take()
    log = stand.base / "store" / "checkpoints"
    size = log.stat().st_size
    assert stand.checkpoints.take("again") is None
    assert log.stat().st_size == size


def test_all_layers_come_back_together_and_a_second_process_knows_the_checkpoints(stand: Stand) -> None:
    (stand.root / "a").write_text("one")
    (stand.home / "h").write_text("one")
    first, then = stand.take(), stand.seen()
    (stand.root / "a").write_text("two")
    (stand.root / "new").mkdir()
    (stand.home / "h").unlink()
    second, later = stand.take(), stand.seen()

    assert set(stand.checkpoints.restore(first)) == {"root", "home"}
    assert stand.seen() == then
    stand.checkpoints.close()
    stand.checkpoints = stand.open()
    assert stand.checkpoints.present == first
    assert [each.id for each in stand.checkpoints.list()] == [first, second]
    stand.checkpoints.settle()
    stand.checkpoints.restore(second)
    assert stand.seen() == later


def test_content_is_read_from_any_thread_and_a_reader_that_stops_holds_nothing_up(stand: Stand) -> None:
    (stand.root / "a").write_text("one")
    row = stand.checkpoints.state(stand.take())["root"]["a"]
    half_read = stand.checkpoints.pieces(row.payload)
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as another:
        assert one.submit(next, half_read).result() == b"one"
        assert another.submit(stand.checkpoints.list).result(timeout=10)
        assert another.submit(next, half_read, None).result() is None
        assert another.submit(stand.checkpoints.close).result(timeout=10) is None


def test_a_layer_that_is_as_wanted_is_left_alone(stand: Stand) -> None:
    first = stand.take()
    (stand.root / "a").write_text("two")
    stand.take()
    inode = stand.home.stat().st_ino
    assert stand.checkpoints.restore(first) == ("root",)
    assert stand.home.stat().st_ino == inode


def test_after_going_back_nothing_is_new(stand: Stand) -> None:
    for name in ("a", "b"):
        (stand.root / name).write_text(name)
    os.link(stand.root / "a", stand.root / "twin")
    (stand.root / "b").touch()
    first = stand.take()
    (stand.root / "c").write_text("c")
    stand.take()
    stand.checkpoints.restore(first)
    stand.checkpoints.empty_trash()
    (stand.root / "b").write_text("changed")
    changed = stand.checkpoints.take("x")
    assert changed is not None
    stand.checkpoints.restore(first)
    assert (stand.root / "b").read_text() == "b"
    assert (stand.root / "a").stat().st_ino == (stand.root / "twin").stat().st_ino


def test_a_sparse_file_stays_sparse_in_log_and_layer(stand: Stand) -> None:
    with (stand.root / "big").open("wb") as file:
        file.truncate(20 << 30)
        file.seek(5 << 30)
        file.write(b"x" * 10_000)
    first = stand.take()
    assert (stand.base / "store" / "checkpoints").stat().st_size < 1 << 20
    (stand.root / "big").unlink()
    stand.take()
    stand.checkpoints.restore(first)
    seen = (stand.root / "big").stat()
    assert (seen.st_size, seen.st_blocks * 512 < 1 << 20) == (20 << 30, True)


def test_two_hundred_edits_of_the_same_files_store_each_content_once(stand: Stand) -> None:
    for number in range(60):
        for name in range(10):
            (stand.root / f"f{name}").write_bytes(b"%d %d " % (number % 5, name) * 400)
        stand.checkpoints.take("x")
    log = (stand.base / "store" / "checkpoints").stat().st_size
    distinct = 5 * 10 * 400 * 4
    assert log < distinct + 60 * 4000


def test_a_checkpoint_torn_by_a_crash_does_not_count_and_those_before_do(stand: Stand) -> None:
    (stand.root / "a").write_text("one")
    first, then = stand.take(), stand.seen()
    log = stand.base / "store" / "checkpoints"
    whole = log.stat().st_size
    (stand.root / "a").write_text("two, longer")
    stand.take()
    data = log.read_bytes()
    for cut in range(whole + 1, len(data), 7):
        stand.checkpoints.close()
        log.write_bytes(data[:cut])
        stand.checkpoints = stand.open()
        assert [each.id for each in stand.checkpoints.list()] == [first]
    stand.checkpoints.take("after the crash")
    stand.checkpoints.restore(first)
    assert stand.seen() == then


def test_damaged_content_is_told_and_changes_nothing(stand: Stand) -> None:
    (stand.root / "a").write_text("a precious text")
    first = stand.take()
    (stand.root / "a").write_text("two")
    stand.take()
    now = stand.seen()
    stand.checkpoints.close()
    log = stand.base / "store" / "checkpoints"
    log.write_bytes(log.read_bytes().replace(b"a precious text", b"a precious t3xt"))
    stand.checkpoints = stand.open()
    with pytest.raises(StoreError, match="damaged"):
        stand.checkpoints.restore(first)
    stand.checkpoints.finish()
    assert stand.seen() == now


def test_unknown_and_ambiguous_ids_are_refused(stand: Stand) -> None:
    stand.take()
    for wanted in ("", "zz"):
        with pytest.raises(WorkspaceError):
            stand.checkpoints.find(wanted)


@pytest.mark.parametrize("after", range(12))
def test_a_restore_that_is_killed_at_any_step_is_done_or_not_done(
    stand: Stand, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    (stand.root / "a").write_text("one")
    (stand.home / "h").write_text("one")
    first, then = stand.take(), stand.seen()
    (stand.root / "a").write_text("two")
    (stand.home / "h").write_text("two")
    second, later = stand.take(), stand.seen()

    with killed_after(after, ("rename", "replace", "mkdir"), monkeypatch):
        stand.checkpoints.restore(first, note={"what": "undo"})

    stand.checkpoints.close()
    stand.checkpoints = stand.open()
    stand.checkpoints.finish()
    if stand.checkpoints.pending is None:
        assert (stand.seen(), stand.checkpoints.present) == (later, second)
    else:
        assert stand.checkpoints.pending == {"what": "undo"}
        assert (stand.seen(), stand.checkpoints.present) == (then, first)
    stand.checkpoints.settle()
    stand.checkpoints.empty_trash()
    assert sorted(each.name for each in (stand.layers / "root").iterdir()) == ["upper", "work"]


ROUNDS = st.lists(CHANGES, min_size=1, max_size=4)
BACK = st.lists(st.tuples(st.integers(0, 9), st.booleans(), CHANGES), min_size=1, max_size=3)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(ROUNDS, BACK)
def test_going_back_to_any_checkpoint_brings_all_of_it_back(rounds: list[Any], back: list[Any]) -> None:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as base:
        stand = Stand(Path(base) / "s")
        known: dict[str, Any] = {}

        def take(changes: list[Any]) -> None:
            for each in changes:
                change(stand, *each)
            made = stand.checkpoints.take("x")
            known[made.id if made else stand.checkpoints.present] = stand.seen()

        try:
            for changes in rounds:
                take(changes)
            for choice, emptied, changes in back:
                wanted = list(known)[choice % len(known)]
                stand.checkpoints.restore(wanted)
                stand.checkpoints.settle()
                assert stand.seen() == known[wanted]
                if emptied:
                    stand.checkpoints.empty_trash()
                take(changes)
        finally:
            stand.checkpoints.close()
            remove_tree(Path(base) / "s")
