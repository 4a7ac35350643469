"""Stacks of frozen layers: read as the kernel's overlay shows them, kept whole by whatever happens in between."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sandbox.bases import filled
from sandbox.checkpoints import Checkpoints
from sandbox.copies import remove_tree
from sandbox.errors import StoreError
from sandbox.freezing import AtRest, Freezing
from sandbox.layers import LayerTable
from sandbox.pool import Pool
from sandbox.stacks import StackTree
from sandbox.states import Frozen, Row, State
from sandbox.trees import LocalTree, Tree, content
from tests.support.layers_by_hand import whiteout
from tests.support.stand import CHANGES, FREEZE_ALL, Stand, change, killed_after, lowers, take
from tests.support.whole_tree import tree


def stacked(stand: Stand, name: str, stack: ExitStack) -> StackTree:
    pool = stand.checkpoints.pool
    tops = [stand.layers / name / "upper", *map(pool.tree, lowers(stand, name))]
    return StackTree([stack.enter_context(closing(LocalTree(top))) for top in tops])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.tuples(CHANGES, st.booleans()), min_size=1, max_size=4),
    st.lists(st.tuples(st.integers(0, 9), st.booleans(), CHANGES), min_size=1, max_size=3),
)
def test_any_checkpoint_comes_back_whichever_were_frozen(rounds: list[Any], back: list[Any]) -> None:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as base:
        stand = Stand(Path(base) / "s")
        known: dict[str, Any] = {}

        def seen() -> dict[str, Any]:
            pool = stand.checkpoints.pool
            return {
                name: (tree(stand.layers / name / "upper"), [tree(pool.tree(each)) for each in lowers(stand, name)])
                for name in ("root", "home")
            }

        def go_on(changes: list[Any], *, freeze: bool) -> None:
            for each in changes:
                change(stand, *each)
            taken = take(stand, freeze=freeze)
            known[taken] = seen()
            assert stand.checkpoints.take("again", swap=AtRest()) is None or freeze

        try:
            for changes, freeze in rounds:
                go_on(changes, freeze=freeze)
            for choice, freeze, changes in back:
                wanted = list(known)[choice % len(known)]
                stand.checkpoints.restore(wanted)
                stand.checkpoints.settle()
                assert seen() == known[wanted]
                stand.checkpoints.empty_trash()
                go_on(changes, freeze=freeze)
        finally:
            stand.checkpoints.close()
            remove_tree(Path(base) / "s")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(CHANGES, st.booleans()), min_size=1, max_size=4))
def test_rows_told_of_a_stack_are_those_of_one_directory_that_holds_all_of_it(rounds: list[Any]) -> None:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as base:
        stand = Stand(Path(base) / "s")
        try:
            for changes, freeze in rounds:
                for each in changes:
                    change(stand, *each)
                taken = take(stand, freeze=freeze)
            states = stand.checkpoints.state(taken)
            for name in ("root", "home"):
                with ExitStack() as stack:
                    merged = stacked(stand, name, stack)
                    assert _by_rows(stand.checkpoints, states[name]) == _by_tree(merged)
        finally:
            stand.checkpoints.close()
            remove_tree(Path(base) / "s")


def read(checkpoints: Checkpoints, row: Row) -> bytes:
    return b"".join(filled(checkpoints.pieces(row.payload)))


def _by_rows(checkpoints: Checkpoints, state: State) -> dict[bytes, tuple[Any, ...]]:
    found = {}
    for path, row in state.items():
        own: Any = read(checkpoints, row) if row.is_file else row.payload if row.is_link else b""
        opaque = row.is_directory and "user.overlay.opaque" in row.attributes
        found[os.fsencode(path)] = (row.mode if not row.is_whiteout else 0, own, opaque)
    found.pop(b"", None)
    return found


def _by_tree(merged: Tree) -> dict[bytes, tuple[Any, ...]]:
    left, found = [b""], {}
    while left:
        for entry in merged.scan(left.pop()):
            own: Any = b""
            if entry.is_file:
                own = content(merged, entry.path, 1 << 30)
            elif entry.is_link:
                own = os.fsdecode(merged.readlink(entry.path))
            opaque = entry.is_directory and "user.overlay.opaque" in merged.attributes(entry.path)
            found[entry.path] = (entry.mode if not entry.is_whiteout else 0, own, opaque)
            left += [entry.path] if entry.is_directory else []
    return found


@pytest.mark.parametrize("after", range(16))
def test_a_freeze_that_is_killed_at_any_step_loses_nothing(
    stand: Stand, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    (stand.root / "a").write_text("one")
    first = take(stand, freeze=True)
    (stand.root / "a").write_text("two")
    (stand.root / "b").write_text("b")
    (stand.home / "h").write_text("h")
    with killed_after(after, ("rename", "replace", "mkdir", "unlink"), monkeypatch):
        take(stand, freeze=True)
    stand.checkpoints.close()
    stand.checkpoints = stand.open()
    stand.checkpoints.finish()
    with ExitStack() as stack:
        merged = {name: stacked(stand, name, stack) for name in ("root", "home")}
        assert [content(merged["root"], name, 99) for name in (b"a", b"b")] == [b"two", b"b"]
        assert content(merged["home"], b"h", 99) == b"h"
    second = take(stand, freeze=False)
    assert read(stand.checkpoints, stand.checkpoints.state(second)["root"]["a"]) == b"two"
    stand.checkpoints.restore(first)
    stand.checkpoints.settle()
    with ExitStack() as stack:
        assert content(stacked(stand, "root", stack), b"a", 99) == b"one"
    stand.checkpoints.restore(second)
    stand.checkpoints.settle()
    with ExitStack() as stack:
        assert content(stacked(stand, "root", stack), b"a", 99) == b"two"
    stand.checkpoints.empty_trash()
    assert sorted(each.name for each in (stand.layers / "root").iterdir()) == ["upper", "work"]


def test_more_layers_than_the_kernel_takes_become_one_and_every_checkpoint_stays(stand: Stand) -> None:
    known = {}
    for number in range(50):
        (stand.root / f"f{number}").write_text(str(number))
        (stand.root / "same").write_text(str(number))
        if number > 2:
            whiteout(stand.root / f"f{number - 3}")
        taken = take(stand, freeze=True)
        known[taken] = number
        assert len(lowers(stand, "root")) <= 20
    for checkpoint, number in list(known.items())[::7]:
        stand.checkpoints.restore(checkpoint)
        stand.checkpoints.settle()
        with ExitStack() as stack:
            merged = stacked(stand, "root", stack)
            names = {entry.path for entry in merged.scan(b"") if not entry.is_whiteout}
            assert content(merged, b"same", 99) == str(number).encode()
            assert names == {b"same"} | {b"f%d" % n for n in range(max(0, number - 2), number + 1)}


def test_squashed_layers_share_the_files_of_those_they_were_made_of(stand: Stand) -> None:
    (stand.root / "large").write_bytes(os.urandom(1 << 20))
    os.link(stand.root / "large", stand.root / "twin")
    take(stand, freeze=True)
    (stand.root / "small").write_text("x")
    take(stand, freeze=True)
    pool, stack = stand.checkpoints.pool, lowers(stand, "root")
    freezing: Freezing = stand.checkpoints._freezing
    with pool.shared():
        squashed = pool.tree(freezing.squash(stack, stand.checkpoints._open()))
    assert sorted(each.name for each in squashed.iterdir()) == ["large", "small", "twin"]
    inodes = {(top / name).stat().st_ino for top in (squashed, pool.tree(stack[-1])) for name in ("large", "twin")}
    assert len(inodes) == 1


def test_a_frozen_layer_that_is_missing_or_damaged_is_told_before_anything_is_done(stand: Stand) -> None:
    stamp = 10**18
    (stand.root / "a").write_text("one")
    with (stand.root / "hole").open("wb") as hole:
        hole.truncate(8 << 20)
    for name in ("a", "hole"):
        os.utime(stand.root / name, ns=(stamp, stamp))
    first = take(stand, freeze=True)
    (stand.root / "a").write_text("two")
    second = take(stand, freeze=False)
    pool, (layer,) = stand.checkpoints.pool, lowers(stand, "root")
    pool.digest([layer], lambda: True)
    assert pool.undigested([layer]) == [layer]
    pool.digest([layer], lambda: False)
    assert pool.undigested([layer]) == []
    assert pool.problems(layer) == []
    assert isinstance(stand.checkpoints.state(first)["root"]["a"].payload, Frozen)
    (pool.tree(layer) / "a").write_text("EVIL")
    (pool.tree(layer) / "b").write_text("new")
    assert [(each.path, each.what) for each in pool.problems(layer)] == [("a", "changed"), ("b", "added")]
    (pool.tree(layer) / "b").unlink()
    (pool.tree(layer) / "a").write_text("one")
    os.utime(pool.tree(layer) / "a", ns=(stamp, stamp))
    assert pool.problems(layer) == []
    with (pool.tree(layer) / "hole").open("r+b") as rotten:
        rotten.write(b"!")
    os.utime(pool.tree(layer) / "hole", ns=(stamp, stamp))
    assert [(each.path, each.what) for each in pool.problems(layer)] == [("hole", "damaged")]
    digests = pool.place(layer) / "digests"
    digests.write_bytes(digests.read_bytes()[:-2] + b"x}")
    assert ["the digests" in each.what for each in pool.problems(layer)] == [True]
    digests.unlink()
    assert pool.problems(layer) == []
    (pool.place(layer) / "rows").write_bytes(b"fhfrozn\n" + b"x" * 99)
    stand.checkpoints.close()
    stand.checkpoints = stand.open()
    with pytest.raises(StoreError, match="damaged"):
        stand.checkpoints.state(first)
    shutil.move(pool.place(layer), stand.base / "aside")
    with pytest.raises(StoreError, match="missing"):
        stand.checkpoints.restore(first)
    stand.checkpoints.finish()
    assert stand.checkpoints.present == second
    assert (stand.root / "a").read_text() == "two"


def test_what_no_table_names_is_swept_and_nothing_while_somebody_freezes(tmp_path: Path) -> None:
    stands = [Stand(tmp_path / "sessions" / name) for name in ("s1", "s2")]
    pool = Pool(tmp_path / "layers", sessions=tmp_path / "sessions")
    for stand in stands:
        stand.checkpoints.close()
        stand.checkpoints = Checkpoints(stand.places(pool), stand.keeper, directory=stand.base / "store", pool=pool)
        (stand.root / "a").write_text("a")
        take(stand, freeze=True)
    one, two = ({*lowers(stand, "root"), *lowers(stand, "home")} for stand in stands)
    assert {name for name, users in pool.references().items() if users == ("s1",)} == one
    shutil.rmtree(stands[0].base)
    with pool.shared():
        assert Pool(pool.directory, sessions=tmp_path / "sessions").sweep() == ((), ())
    assert set(pool.sweep(dry=True)[0]) == one
    assert set(pool.layers()) == one | two
    assert set(pool.sweep()[0]) == one
    assert set(pool.layers()) == two
    (stands[1].layers / "layers.json").write_text("{")
    with pytest.raises(StoreError):
        pool.sweep()
    for stand in stands:
        stand.checkpoints.close()


def test_a_pool_on_another_mount_means_the_log(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.rename

    def elsewhere(path: Path, target: Path) -> Path:
        if "frozen" in str(path) and "frozen" not in str(target):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        return real(path, target)

    monkeypatch.setattr(Path, "rename", elsewhere)
    (stand.root / "a").write_text("one")
    stand.checkpoints.most = FREEZE_ALL
    made = stand.checkpoints.take("x", swap=AtRest())
    assert made is not None
    assert (made.way, lowers(stand, "root")) == ("log", ())
    table = LayerTable.read(stand.layers / "layers.json")
    assert table is not None
    assert table.frozen == ()
    assert read(stand.checkpoints, stand.checkpoints.state(made.id)["root"]["a"]) == b"one"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_a_directory_that_its_owner_may_not_write_is_never_moved() -> None:
    """Moving it writes in it; half done, the session could not be gone on with."""
    with tempfile.TemporaryDirectory() as base:
        stand = Stand(Path(base) / "s")
        (stand.root / "a").write_text("one")
        stand.checkpoints.most = FREEZE_ALL
        for path in (Path(base), *Path(base).rglob("*")):
            os.chown(path, 1234, 1234)
        stand.root.chmod(0o555)
        child = os.fork()
        if child == 0:
            os._exit(_as_user(stand))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def _as_user(stand: Stand) -> int:
    code = 1
    with suppress(BaseException):
        os.setresgid(1234, 1234, 1234)
        os.setresuid(1234, 1234, 1234)
        made = stand.checkpoints.take("x", swap=AtRest())
        kept = made is not None and read(stand.checkpoints, stand.checkpoints.state(made.id)["root"]["a"])
        code = 0 if kept == b"one" and not lowers(stand, "root") and lowers(stand, "home") else 2
    return code
