"""Forks over layers that are frozen, and over those that could not be."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from sandbox.checkpoints import Checkpoints
from sandbox.layers import LayerTable
from tests.support.stand import Stand, lowers, take


def test_a_fork_shares_what_is_frozen_and_goes_its_own_way(stand: Stand, tmp_path: Path) -> None:
    (stand.root / "large").write_bytes(os.urandom(1 << 20))
    first = take(stand, freeze=True)
    (stand.root / "small").write_text("origin")
    second = take(stand, freeze=False)
    (stand.root / "later").write_text("later")
    take(stand, freeze=False)
    for name in ("root", "home"):
        (stand.layers / name / "lower").mkdir()

    fork = tmp_path / "fork"
    fork.mkdir()
    assert stand.checkpoints.fork(second, [("5f2a91c0-1111-4222-8333-444455556666", fork)]) == ()
    table = LayerTable.read(fork / "layers" / "layers.json")
    assert table is not None
    assert table.layers[0].lowers == lowers(stand, "root")
    assert set(table.layers[0].lowers) <= set(table.frozen)
    assert (fork / "layers/root/upper/small").read_text() == "origin"
    assert not (fork / "layers/root/upper/later").exists()

    pool = stand.checkpoints.pool
    places = stand.places(pool, fork / "layers")
    other = Checkpoints(places, stand.keeper, directory=fork / "store", pool=pool)
    assert [each.id for each in other.list()] == [first, second]
    size = (fork / "store" / "checkpoints").stat().st_size
    assert other.take("nothing changed") is None
    assert (fork / "store" / "checkpoints").stat().st_size == size
    (fork / "layers/root/upper/small").write_text("fork")
    third = other.take("x")
    assert third is not None
    stand.checkpoints.close()
    shutil.rmtree(stand.base / "store" / "checkpoints", ignore_errors=True)
    (stand.base / "store" / "checkpoints").unlink()
    for wanted, text in ((first, None), (second, "origin"), (third.id, "fork")):
        other.restore(wanted)
        other.settle()
        small = fork / "layers/root/upper/small"
        assert (small.read_text() if small.exists() else None) == text
    other.close()


def test_what_could_not_be_frozen_is_copied_once_for_all_forks(stand: Stand, tmp_path: Path) -> None:
    (stand.root / "large").write_bytes(os.urandom(1 << 20))
    only = take(stand, freeze=False)
    for name in ("root", "home"):
        (stand.layers / name / "lower").mkdir()
    stand.checkpoints.most = (500, 1000)
    places = [(f"{number}f2a91c0-1111-4222-8333-444455556666", tmp_path / f"fork{number}") for number in range(3)]
    for _, place in places:
        place.mkdir()
    assert stand.checkpoints.fork(only, places) == ("root",)
    tables = [LayerTable.read(place / "layers" / "layers.json") for _, place in places]
    stacks = {table.layers[0].lowers for table in tables if table is not None}
    assert len(stacks) == 1
    (frozen,) = stacks.pop()
    assert (stand.checkpoints.pool.tree(frozen) / "large").stat().st_size == 1 << 20
    own = LayerTable.read(stand.layers / "layers.json")
    assert own is not None
    assert own.frozen == ()
