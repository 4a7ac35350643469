"""What gc takes away, and what it never does."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest

from runner.sessions.collecting import DAY, Collection, Collector, Rules
from runner.sessions.store import Store
from sandbox.copies import remove_tree
from sandbox.recipe import plain_digest
from sandbox.store import PACK
from sandbox.store import Store as Log
from tests.support.kept_sessions import KeptSession
from tests.support.layers_by_hand import Shape

NOW = 2_000_000_000.0
LONG_AGO = NOW - 100 * DAY


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path / "home")
    made.prepare()
    return made


def noise(seed: int) -> Shape:
    """What does not compress."""
    return {"f": (0o644, b"begun\n"), "n": (0o644, random.Random(seed).randbytes(20_000))}


def kept(session: KeptSession) -> list[str]:
    with Log(session.log, writable=False) as log:
        return [note["id"] for note in log.notes() if note["type"] == "checkpoint"]


def collect(
    store: Store,
    *,
    dry: bool = False,
    turns: int = 2,
    max_size: int = 1 << 40,
    emptied: list[str] | None = None,
    now: float = NOW,
) -> Collection:
    def empty(session: str) -> None:
        assert emptied is not None
        emptied.append(session)

    return Collector(store, Rules(turns=turns, max_size=max_size, dry=dry), empty=empty, clock=lambda: now).run()


def worked(store: Store, base: Path, turns: int = 5, at: float = LONG_AGO) -> KeptSession:
    session = KeptSession(store, base)
    for number in range(turns):
        session.turn(noise(number), at=at)
    return session


def test_old_checkpoints_go_but_not_those_of_the_last_turns(store: Store, tmp_path: Path) -> None:
    session = worked(store, tmp_path / "s", turns=8)
    points, size = list(session.points), session.log.stat().st_size
    session.rest()

    dry = collect(store, dry=True)
    assert (dry.rows[0].checkpoints, kept(session), session.log.stat().st_size) == (len(points) - 3, points, size)
    done = collect(store)
    assert (done.rows[0].checkpoints, done.rows[0].name) == (len(points) - 3, session.id)
    assert kept(session) == points[-3:]
    assert size - session.log.stat().st_size > 5 * 20_000
    assert done.freed > 5 * 20_000
    assert not collect(store).rows

    session.stage.workspace = session.stage.open()
    checkpoints = session.stage.workspace.checkpoints
    assert checkpoints.present == points[-1]
    checkpoints.restore(points[-3])
    assert (session.stage.layers / "root/upper/n").read_bytes() == random.Random(5).randbytes(20_000)
    checkpoints.close()


def test_young_checkpoints_stay_and_are_compressed(store: Store, tmp_path: Path) -> None:
    session = KeptSession(store, tmp_path / "s")
    for number in range(5):
        session.turn({"t": (0o644, b"line %d\n" % number * 5000)}, at=NOW - DAY)
    session.rest()
    size = session.log.stat().st_size
    done = collect(store)
    assert kept(session) == session.points
    assert session.log.stat().st_size < size / 10
    assert done.rows[0].checkpoints == 0
    with Log(session.log, writable=False) as log:
        assert any(record.kind == PACK for record in log.records)


def test_over_the_size_the_session_that_rested_longest_loses_first_and_never_what_it_needs(
    store: Store, tmp_path: Path
) -> None:
    sessions = [worked(store, tmp_path / f"s{number}", turns=6, at=NOW - 1) for number in range(3)]
    for number, session in enumerate(sessions):
        session.rest(updated=NOW - 100 + number)
    total = sum(session.log.stat().st_size for session in sessions)
    collect(store, max_size=total - 30_000)
    assert [len(kept(each)) < len(each.points) for each in sessions] == [True, False, False]
    collect(store, max_size=0)
    assert [kept(each) for each in sessions] == [each.points[-3:] for each in sessions]
    done = collect(store, max_size=0)
    assert not done.rows
    assert done.stores > 0


def test_what_a_redo_would_go_to_stays_at_any_age(store: Store, tmp_path: Path) -> None:
    session = worked(store, tmp_path / "s")
    session.undo(session.points[1])
    session.rest()
    collect(store, turns=0)
    assert kept(session) == [session.points[1], session.points[-1]]


def test_a_session_that_broke_off_in_mid_turn_loses_nothing(store: Store, tmp_path: Path) -> None:
    session = worked(store, tmp_path / "s")
    session.turn(noise(9), at=LONG_AGO, ended=False)
    session.rest()
    collect(store, turns=0, max_size=0)
    assert kept(session) == session.points


def test_a_session_at_work_is_left_alone(store: Store, tmp_path: Path) -> None:
    session = worked(store, tmp_path / "s")
    session.rest()
    before = session.log.read_bytes()
    with store.lock(session.id):
        done = collect(store, max_size=0)
    assert [(row.name, row.skipped) for row in done.rows] == [(session.id, "at work")]
    assert session.log.read_bytes() == before


def test_what_was_cut_off_or_is_damaged_is_named_and_left_alone(store: Store, tmp_path: Path) -> None:
    restore, apply, damaged, readable = (worked(store, tmp_path / f"s{number}") for number in range(4))
    for session in (restore, apply, damaged, readable):
        session.rest()
    (restore.directory / "store/restore.json").write_text("{}")
    (apply.directory / "store/applies").mkdir()
    (apply.directory / "store/applies/000001.open").touch()
    data = bytearray(damaged.log.read_bytes())
    data[-40_000] ^= 1
    damaged.log.write_bytes(data)
    skipped = {row.name: row.skipped for row in collect(store).rows if row.skipped}
    assert "a way back" in skipped.pop(restore.id)
    assert "an apply" in skipped.pop(apply.id)
    assert "damaged" in skipped.pop(damaged.id)
    assert skipped == {}
    assert damaged.log.read_bytes() == data
    assert kept(readable) == readable.points[-3:]


def test_leftovers_of_crashes_go_when_they_are_old(store: Store, tmp_path: Path) -> None:
    now = time.time()
    long_ago = now - 2 * DAY
    session = worked(store, tmp_path / "s", turns=1, at=now)
    session.rest()
    old, fresh = (session.directory / "blobs" / (letter * 64) for letter in "ab")
    for path, at in ((old, long_ago), (fresh, now)):
        path.write_bytes(b"nobody names it")
        os.utime(path, (at, at))
    (session.directory / "layers/root/.trash-1").mkdir()
    begun, young = (store.sessions / f"{letter * 8}-1111-4111-8111-111111111111" for letter in "12")
    for place, at in ((begun, long_ago), (young, now)):
        place.mkdir()
        (place / "lock").touch()
        os.utime(place / "lock", (at, at))
        os.utime(place, (at, at))
    emptied: list[str] = []
    rows = {row.name: row for row in collect(store, emptied=emptied, now=now).rows}
    assert (rows[session.id].blobs, rows[session.id].trash, emptied) == (1, 1, [session.id])
    assert (old.exists(), fresh.exists(), begun.exists(), young.exists()) == (False, True, False, True)


def test_old_caches_go_but_not_what_todays_recipes_make_nor_beside_a_live_session(store: Store, tmp_path: Path) -> None:
    names = [f"images/base-{digest}-x86_64.tar.gz" for digest in (plain_digest("base")[:12], "0" * 12, "1" * 12)]
    paths = [store.cache / name for name in (*names, "boxes/accounts/0123/passwd")]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * 5000)
        os.utime(path, (LONG_AGO, LONG_AGO))
    os.utime(paths[2], (NOW, NOW))
    os.utime(paths[3].parent, (LONG_AGO, LONG_AGO))
    session = KeptSession(store, tmp_path / "s")
    session.rest()
    with store.lock(session.id):
        collect(store)
    assert all(path.exists() for path in paths)
    assert {row.name: row.files for row in collect(store).rows} == {"cache/images": 1, "cache/boxes": 1}
    assert [path.exists() for path in paths] == [True, False, True, False]


def test_caches_that_other_state_homes_share_are_left_alone(store: Store, tmp_path: Path) -> None:
    old = tmp_path / "shared/images" / f"base-{'0' * 12}-x86_64.tar.gz"
    old.parent.mkdir(parents=True)
    old.write_bytes(b"x")
    os.utime(old, (LONG_AGO, LONG_AGO))
    store.cache.rmdir()
    store.cache.symlink_to(tmp_path / "shared")
    assert collect(store).rows == []
    assert old.exists()


def test_frozen_layers_go_with_the_last_checkpoint_that_stood_on_them(store: Store, tmp_path: Path) -> None:
    session = KeptSession(store, tmp_path / "s")
    first = session.frozen_turn("a", at=LONG_AGO)
    session.frozen_turn("b", at=LONG_AGO)
    session.undo(first)
    last = session.frozen_turn("c", at=LONG_AGO)
    session.turn({}, at=LONG_AGO)
    session.rest()
    assert len(session.pool.layers()) == 3
    assert collect(store, turns=1, emptied=[]).rows
    assert last in kept(session)
    assert session.points[1] not in kept(session)
    users = session.pool.references()
    assert [users[name] for name in session.pool.layers()] == [(session.id,)] * 2
    checkpoints = session.stage.open().checkpoints
    rows = checkpoints.state(last)["root"]
    assert {"a3", "c3"} <= rows.keys()
    assert list(checkpoints.pieces(rows["c3"].payload)) == [b"c 3\n"]
    checkpoints.close()
    session.store.forget(session.store.load(session.id))
    assert [(row.name, row.files) for row in collect(store, emptied=[]).rows] == [("layers", 2)]
    assert session.pool.layers() == ()


def test_a_fork_keeps_what_it_took_over_and_is_packed_all_the_same(store: Store, tmp_path: Path) -> None:
    session = worked(store, tmp_path / "s")
    fork = KeptSession(store, tmp_path / "fork")
    fork.rest()
    for name in ("store", "layers"):
        remove_tree(fork.directory / name)
    session.stage.workspace.checkpoints.fork(session.points[2], [(fork.id, fork.directory)])
    session.rest()
    fork.stage.workspace = fork.stage.open()
    (fork.directory / "layers/root/upper/t").write_bytes(b"of the fork\n" * 20_000)
    made = fork.stage.workspace.checkpoints.take("x")
    assert made is not None
    states = [fork.stage.workspace.checkpoints.state(name) for name in (session.points[2], made.id)]
    fork.stage.workspace.checkpoints.close()
    size = fork.log.stat().st_size
    rows = {row.name: row for row in collect(store, turns=0, emptied=[]).rows}
    assert (rows[fork.id].checkpoints, rows[session.id].checkpoints) == (0, len(session.points) - 1)
    assert fork.log.stat().st_size < size / 10
    checkpoints = fork.stage.open().checkpoints
    assert [checkpoints.state(name) for name in (session.points[2], made.id)] == states
    rows_of = checkpoints.state(session.points[2])["root"]
    assert b"".join(map(_bytes, checkpoints.pieces(rows_of["n"].payload))) == random.Random(1).randbytes(20_000)
    checkpoints.close()


def _bytes(piece: bytes | int) -> bytes:
    return bytes(piece) if isinstance(piece, int) else piece
