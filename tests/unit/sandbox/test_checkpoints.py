"""Checkpoints over layers made by hand: what is kept, what comes back, and what a crash leaves."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sandbox.checkpoints import Checkpoints
from sandbox.copies import remove_tree
from sandbox.errors import StoreError, WorkspaceError
from sandbox.keeper import Keeper, KeeperImage
from sandbox.layers import Layer
from sandbox.places import Places
from sandbox.pool import Pool
from sandbox.spec import Owner, Rung
from tests.support.whole_tree import tree

pytestmark = pytest.mark.user

SESSION = "4f2a91c0-1111-4222-8333-444455556666"


class Stand:
    """Two layers (a root's and HOME) in a directory, and the session's checkpoints."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.layers = base / "layers"
        self.keeper = Keeper(None, None, session=SESSION, layers=self.layers, roots={})
        places = self.places()
        self.layers.mkdir(parents=True)
        rows = [
            Layer(name="root", at=PurePosixPath("/r"), host=base, rung=Rung.OVERLAY),
            Layer(name="home", at=PurePosixPath("/home/box"), host=None, rung=Rung.OVERLAY),
        ]
        for layer in rows:
            (self.layers / layer.name / "upper").mkdir(parents=True)
            (self.layers / layer.name / "work").mkdir()
        places._record(rows, 0)
        self.root, self.home = self.layers / "root" / "upper", self.layers / "home" / "upper"
        self.checkpoints = self.open()

    def places(self, pool: Pool | None = None, layers: Path | None = None) -> Places:
        def image() -> KeeperImage:
            raise AssertionError

        return Places(
            layers or self.layers,
            session=SESSION,
            owner=Owner(uid=os.getuid(), gid=os.getgid()),
            roots=(),
            own=(),
            chown=self.keeper.chown,
            image=image,
            frozen=(pool or Pool(self.base / "store" / "frozen")).tree,
        )

    def open(self) -> Checkpoints:
        """As a new process has them."""
        return Checkpoints(self.places(), self.keeper, directory=self.base / "store")

    def take(self) -> str:
        made = self.checkpoints.take("x")
        assert made is not None
        return made.id

    def seen(self) -> dict[str, Any]:
        return {name: tree(self.layers / name / "upper") for name in ("root", "home")}


@pytest.fixture
def stand(tmp_path: Path) -> Iterator[Stand]:
    made = Stand(tmp_path / "s")
    yield made
    made.checkpoints.close()


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


class KilledError(Exception):
    """Stands for kill -9: nothing after it runs."""


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

    steps = iter(range(100))

    def counted(name: str) -> None:
        real = getattr(Path, name)

        def wrapped(*arguments: Any, **options: Any) -> Any:
            if next(steps) >= after:
                raise KilledError
            return real(*arguments, **options)

        monkeypatch.setattr(Path, name, wrapped)

    with monkeypatch.context() as patched:
        monkeypatch = patched
        for name in ("rename", "replace", "mkdir"):
            counted(name)
        with suppress(KilledError):
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


NAMES = st.sampled_from(["a", "b", "c", "d\udcff\n", "é", " "])
CONTENTS = st.binary(max_size=40)
CHANGES = st.lists(
    st.tuples(
        st.sampled_from(
            ["write", "append", "unlink", "mkdir", "rmtree", "link", "hard", "whiteout", "opaque", "mode", "attribute",
             "no attribute", "mtime", "fifo", "rename", "sparse", "chown"]
        ),
        st.sampled_from(["root", "home"]),
        st.lists(NAMES, min_size=1, max_size=3),
        NAMES,
        CONTENTS,
    ),
    max_size=12,
)  # fmt: skip


def change(  # noqa: C901, PLR0912, PLR0917 (one row per kind)
    stand: Stand, kind: str, layer: str, parts: list[str], other: str, data: bytes
) -> None:
    """One change as an overlay would leave it, if it can be made here."""
    top = getattr(stand, layer)
    path = top.joinpath(*parts)
    beside = path.with_name(other)
    if kind == "rmtree" and not path.is_dir():
        return  # shutil would open a fifo, and wait
    if kind in ("write", "append", "sparse") and os.path.lexists(path) and not stat.S_ISREG(path.lstat().st_mode):
        return
    try:
        match kind:
            case "write":
                path.write_bytes(data)
            case "append":
                with path.open("ab") as file:
                    file.write(data)
            case "unlink":
                path.unlink()
            case "mkdir":
                path.mkdir()
            case "rmtree":
                shutil.rmtree(path)
            case "link":
                path.symlink_to(other)
            case "hard":
                os.link(beside, path, follow_symlinks=False)
            case "whiteout":
                os.mknod(path, stat.S_IFCHR, 0)
            case "opaque":
                path.mkdir()
                os.setxattr(path, "user.overlay.opaque", b"y")
            case "mode":
                path.chmod(0o4755 if len(data) % 2 else 0o640, follow_symlinks=path.is_symlink() is False)
            case "attribute":
                os.setxattr(path, "user.own", data)
            case "no attribute":
                os.removexattr(path, "user.own")
            case "mtime":
                os.utime(path, ns=(len(data), 10**18 + len(data)), follow_symlinks=False)
            case "fifo":
                os.mkfifo(path)
            case "rename":
                path.rename(beside)
            case "sparse":
                with path.open("wb") as file:
                    file.truncate(9 << 20)
                    file.seek(5 << 20)
                    file.write(data)
            case "chown" if os.getuid() == 0:
                os.chown(path, 1234, 5678, follow_symlinks=False)
    except (OSError, NotImplementedError):
        pass


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
