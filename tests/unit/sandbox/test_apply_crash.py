"""kill -9 at every step of an apply and of an undo: what the next command finds is brought to an end,
and the tree is what it was before or what it was to become.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox.apply import Applied, Applies, Part, Recovered
from sandbox.bases import Bases
from sandbox.beneath import Beneath
from sandbox.errors import SandboxError, WorkspaceError
from sandbox.held import HeldBack
from sandbox.manifest import Manifest
from sandbox.plan import make_plan
from sandbox.reversal import UndoRefusedError
from sandbox.selection import ApplyConflictError, Selection
from sandbox.store import Store
from sandbox.transaction import nothing
from sandbox.trees import LocalTree
from sandbox.walk import encode, walk
from tests.support.layers_by_hand import Node, Shape, Stage, build, read

HELD = HeldBack.load()
BEFORE: Shape = {
    "kept": (0o644, b"same"),
    "file": (0o640, b"old content"),
    "gone": (0o600, b"deleted"),
    "dir": {"x": (0o644, b"x"), "sub": {"y": (0o755, b"y")}},
    "swap": (0o644, b"a file"),
    "mode": (0o644, b"mode only"),
    "link": "kept",
}
AFTER: Shape = {
    "kept": (0o644, b"same"),
    "file": (0o640, b"new content, longer"),
    "dir": (0o644, b"a file now"),
    "swap": {"inside": (0o644, b"a directory now"), "deep": {"z": (0o600, b"z")}},
    "mode": (0o755, b"mode only"),
    "link": "file",
    "new": {"n": (0o644, b"n")},
}


# Every step is a case; one in four of them without --slow.
STEPS = pytest.mark.parametrize(
    "first", [0, *(pytest.param(number, marks=pytest.mark.slow) for number in (1, 2, 3))], ids=str
)
STRIDE = 4


class Work:
    """The applies of a stage, opened as a session does."""

    def __init__(self, stage: Stage, reached: Callable[[str], None] = nothing) -> None:
        self.stage = stage
        self.applies = Applies(stage.base / "applies", {"root": stage.root}, session="0123456789", reached=reached)

    def apply(self, selection: Selection | None = None) -> tuple[Applied, ...]:
        with ExitStack() as stack:
            bases, upper, lower = self._open(stack)
            changes = [c for c in self.stage.changes(store=self._store) if not bases.is_taken(c, upper)]
            plan = make_plan(changes, selection or Selection(), upper=upper, host=lower, bases=bases, held=HELD)
            if plan.conflicts:
                raise ApplyConflictError(plan.conflicts)
            with self.applies.begin([Part(top=self.stage.root, plan=plan, upper=upper, bases=bases)]) as work:
                work.stage()
                work.check()
                return work.commit()

    def undo(self) -> tuple[Applied, ...]:
        with ExitStack() as stack:
            return self.applies.undo({"root": self._open(stack)[0]})

    def recover(self) -> list[Recovered]:
        with ExitStack() as stack:
            return self.applies.recover({"root": self._open(stack)[0]})

    def _open(self, stack: ExitStack) -> tuple[Bases, LocalTree, LocalTree]:
        manifest = stack.enter_context(closing(Manifest(self.stage.base / "manifest")))
        self._store = stack.enter_context(Store(self.stage.store, writable=True))
        return (
            Bases("root", manifest, self._store, began_ns=0),
            stack.enter_context(LocalTree(self.stage.upper)),
            stack.enter_context(LocalTree(self.stage.root)),
        )


def times(root: Path) -> dict[str, int]:
    return {str(path.relative_to(root)): path.lstat().st_mtime_ns for path in [root, *root.rglob("*")]}


def file_times(root: Path, found: dict[str, int]) -> dict[str, int]:
    """Without the directories': a name of ours that came and went moves these."""
    return {name: found[name] for name in found if not (root / name).is_dir()}


def killed_at(number: int, stage: Stage, work: Callable[[Work], object]) -> bool:
    """Run `work` in a process of its own that is killed at its step `number`; False when it ended before."""
    child = os.fork()
    if child == 0:
        count = 0

        def reached(step: str) -> None:
            nonlocal count
            count += 1
            if count > number:
                os.kill(os.getpid(), signal.SIGKILL)

        try:
            work(Work(stage, reached))
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def fresh(tmp: Path, number: int) -> Stage:
    base = tmp / str(number)
    base.mkdir()
    stage = Stage(base, BEFORE)
    for index, path in enumerate(sorted(stage.root.rglob("*"), reverse=True)):
        if not path.is_symlink():
            os.utime(path, (1_000_000 + index, 1_000_000 + index))
    os.utime(stage.root, (999, 999))
    (base / "manifest").write_bytes(encode(walk(os.fsencode(stage.root)), 0))
    stage.change(AFTER)
    return stage


@STEPS
def test_apply_killed_at_any_step_is_all_or_nothing(tmp_path: Path, first: int) -> None:
    ends = set()
    number = first
    while True:
        stage = fresh(tmp_path, number)
        before = times(stage.root)
        if not killed_at(number, stage, Work.apply):
            break
        found = Work(stage).recover()
        shape = read(stage.root)
        assert shape in (BEFORE, AFTER), number
        assert [(item.kind, item.done) for item in found] in ([], [("apply", shape == AFTER)])
        if shape == BEFORE:
            assert file_times(stage.root, times(stage.root)) == file_times(stage.root, before)
            Work(stage).apply()
        else:
            assert Work(stage).undo()
            assert (read(stage.root), times(stage.root)) == (BEFORE, before), number
            Work(stage).apply()
        assert read(stage.root) == AFTER
        ends.add(shape == AFTER)
        shutil.rmtree(stage.base)
        number += STRIDE
    assert ends == {True, False}
    assert number > 30


@STEPS
def test_undo_killed_at_any_step_is_all_or_nothing(tmp_path: Path, first: int) -> None:
    ends = set()
    number = first
    while True:
        stage = fresh(tmp_path, number)
        before = times(stage.root)
        Work(stage).apply()
        if not killed_at(number, stage, Work.undo):
            break
        Work(stage).recover()
        shape = read(stage.root)
        assert shape in (BEFORE, AFTER), number
        ends.add(shape == BEFORE)
        if shape == AFTER:
            assert Work(stage).undo()
        assert (read(stage.root), file_times(stage.root, times(stage.root))) == (BEFORE, file_times(stage.root, before))
        assert Work(stage).undo() == ()
        Work(stage).apply()
        assert read(stage.root) == AFTER
        shutil.rmtree(stage.base)
        number += STRIDE
    assert ends == {True, False}
    assert number > 20


@pytest.mark.slow
def test_recovery_that_is_killed_itself_is_recovered(tmp_path: Path) -> None:
    for first in range(5, 60, 3):
        for second in (0, 2, 5):
            stage = fresh(tmp_path, first * 10 + second)
            killed_at(first, stage, Work.apply)
            killed_at(second, stage, Work.recover)
            Work(stage).recover()
            assert read(stage.root) in (BEFORE, AFTER)
            shutil.rmtree(stage.base)


@STEPS
def test_file_systems_without_exchange_do_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: int) -> None:
    def cannot(*_: object) -> None:
        raise OSError(22, "no exchange here")

    monkeypatch.setattr(Beneath, "exchange", cannot)
    number = first
    while True:
        stage = fresh(tmp_path, number)
        if not killed_at(number, stage, Work.apply):
            break
        Work(stage).recover()
        assert read(stage.root) in (BEFORE, AFTER), number
        shutil.rmtree(stage.base)
        number += STRIDE
    assert Work(stage).undo()
    assert read(stage.root) == BEFORE


@pytest.mark.user
@STEPS
def test_directories_that_close_themselves_are_recovered_too(tmp_path: Path, first: int) -> None:
    number = first
    while True:
        base = tmp_path / str(number)
        base.mkdir()
        stage = Stage(base, {"a": (0o644, b"1")})
        stage.change({"a": (0o644, b"2"), "closed": {"deep": {"f": (0o600, b"x")}}})
        (stage.upper / "closed" / "deep").chmod(0o500)
        (stage.upper / "closed").chmod(0o500)
        killed = killed_at(number, stage, Work.apply)
        Work(stage).recover()
        if (stage.root / "closed").exists():
            assert [(stage.root / name).stat().st_mode & 0o777 for name in ("closed", "closed/deep")] == [0o500, 0o500]
            assert (stage.root / "a").read_bytes() == b"2"
        else:
            assert read(stage.root) == {"a": (0o644, b"1")}
        for top in (stage.root, stage.upper):
            for path in ("closed", "closed/deep"):
                if (top / path).exists():
                    (top / path).chmod(0o700)
        if not killed:
            break
        number += STRIDE


@pytest.mark.parametrize("work", [Work.apply, Work.undo], ids=["apply", "undo"])
def test_log_that_cannot_grow_leaves_all_as_it_was_or_is_recovered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, work: Callable[[Work], object]
) -> None:
    ends, number = set(), 0
    while True:
        stage = fresh(tmp_path, number)
        if work is Work.undo:
            Work(stage).apply()
        count, real = 0, os.pwrite

        def full(fd: int, data: bytes, at: int) -> int:
            nonlocal count
            count += 1
            if count > number:  # noqa: B023  (called in this round only)
                raise OSError(28, "no space left")
            return real(fd, data, at)  # noqa: B023

        with monkeypatch.context() as patched:
            patched.setattr(os, "pwrite", full)
            try:
                work(Work(stage))
            except (OSError, SandboxError):
                pass
            else:
                break
        Work(stage).recover()
        shape = read(stage.root)
        assert shape in (BEFORE, AFTER), number
        ends.add(shape == AFTER)
        # What was taken back has other ctimes: it may count as the host's own, and must be asked for then.
        Work(stage).apply(Selection(force=True))
        assert read(stage.root) == AFTER
        shutil.rmtree(stage.base)
        number += 1
    assert ends == {True, False}


def test_apply_that_went_back_can_be_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = fresh(tmp_path, 0)
    real, calls = Beneath.exchange, []

    def full(*arguments: Any) -> None:
        calls.append(arguments)
        if len(calls) == 2:
            raise OSError(28, "no space left")
        real(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(Beneath, "exchange", full)
        with pytest.raises(SandboxError, match="no space"):
            Work(stage).apply()
    assert read(stage.root) == BEFORE
    assert Work(stage).recover() == []
    Work(stage).apply()
    assert read(stage.root) == AFTER


@pytest.mark.parametrize("at", [1, 2])
def test_undo_that_went_back_can_be_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """What was put back has other ctimes, and is the apply's own all the same."""
    stage = fresh(tmp_path, 0)
    Work(stage).apply()
    real, calls = Beneath.exchange, []

    def full(*arguments: Any) -> None:
        calls.append(arguments)
        if len(calls) == at:
            raise OSError(28, "no space left")
        real(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(Beneath, "exchange", full)
        with pytest.raises(SandboxError, match="no space"):
            Work(stage).undo()
    assert read(stage.root) == AFTER
    assert Work(stage).apply() == Work(stage).undo() == ()
    Work(stage).undo()
    assert read(stage.root) == BEFORE


def test_host_that_changes_in_the_middle_takes_everything_back(tmp_path: Path) -> None:
    stage = fresh(tmp_path, 0)

    def reached(step: str) -> None:
        if step.startswith("write") and "file" in step:
            (stage.root / "file").write_bytes(b"the host was quicker")

    with pytest.raises(ApplyConflictError, match="just now"):
        Work(stage, reached).apply()
    assert read(stage.root) == {**BEFORE, "file": (0o640, b"the host was quicker")}
    assert list((stage.base / "applies").iterdir()) == []


@pytest.mark.parametrize("step", ["mark taken", "clean", "name"])
def test_edit_between_a_crash_and_its_recovery_is_never_lost(tmp_path: Path, step: str) -> None:
    stage = fresh(tmp_path, 0)
    seen: list[str] = []

    def stop(reached: str) -> None:
        seen.append(reached)
        if reached.startswith(step):
            os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        Work(stage, stop).apply()
        os._exit(0)
    os.waitpid(child, 0)
    (stage.root / "file").write_bytes(b"an edit of mine")
    Work(stage).recover()
    assert read(stage.root)["file"] == (0o640, b"an edit of mine")
    with pytest.raises(UndoRefusedError, match="file"):
        Work(stage).undo()
    assert read(stage.root)["file"] == (0o640, b"an edit of mine")


def test_undo_refuses_and_names_what_the_host_changed_since(tmp_path: Path) -> None:
    stage = fresh(tmp_path, 0)
    Work(stage).apply()
    (stage.root / "file").write_bytes(b"edited on the host")
    (stage.root / "new" / "mine").write_bytes(b"made on the host")
    with pytest.raises(UndoRefusedError) as raised:
        Work(stage).undo()
    assert [remark.path for remark in raised.value.conflicts] == ["file", "new"]
    assert (stage.root / "new" / "mine").read_bytes() == b"made on the host"


def test_applies_are_undone_one_by_one_latest_first(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {"a": (0o644, b"0")})
    for content in (b"1", b"2"):
        stage.change({"a": (0o644, content)})
        Work(stage).apply()
    for expected in (b"1", b"0"):
        Work(stage).undo()
        assert read(stage.root) == {"a": (0o644, expected)}
    assert Work(stage).undo() == ()
    Work(stage).apply()
    assert read(stage.root) == {"a": (0o644, b"2")}


def test_undo_of_a_forced_apply_leaves_the_conflict_as_it_was(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {"a": (0o644, b"base")})
    stage.change({"a": (0o644, b"box"), "new": (0o644, b"box")})
    (stage.root / "a").write_bytes(b"host")
    (stage.root / "new").write_bytes(b"host")
    Work(stage).apply(Selection(force=True))
    assert read(stage.root) == {"a": (0o644, b"box"), "new": (0o644, b"box")}
    Work(stage).undo()
    assert read(stage.root) == {"a": (0o644, b"host"), "new": (0o644, b"host")}
    with pytest.raises(ApplyConflictError) as raised:
        Work(stage).apply()
    assert [remark.path for remark in raised.value.conflicts] == ["a", "new"]


def test_sparse_file_that_gives_way_is_kept_sparse_and_comes_back(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {})
    with (stage.root / "big").open("wb") as file:
        file.truncate(20 << 30)
        file.seek(10 << 30)
        file.write(b"middle")
    (stage.base / "manifest").write_bytes(encode(walk(os.fsencode(stage.root)), 0))
    os.mknod(stage.upper / "big", 0o020000, 0)
    Work(stage).apply()
    assert read(stage.root) == {}
    assert sum(path.stat().st_blocks for path in (stage.base / "applies").iterdir()) * 512 < 1 << 20
    Work(stage).undo()
    found = (stage.root / "big").stat()
    assert (found.st_size, found.st_blocks * 512 < 1 << 20) == (20 << 30, True)


names = st.sampled_from(["a", "b c", "new\nline", "b\udcffyte", "x" * 255])
files: st.SearchStrategy[Node] = st.tuples(st.sampled_from([0o644, 0o755, 0o600]), st.binary(max_size=20))
links: st.SearchStrategy[Node] = st.sampled_from(["a", "nowhere", "b c/a"])
nodes = st.recursive(st.one_of(files, files, links), lambda inner: st.dictionaries(names, inner, max_size=3))
shapes: st.SearchStrategy[Shape] = st.dictionaries(names, nodes, max_size=4)


@settings(max_examples=40, deadline=None)
@given(before=shapes, after=shapes, opaque=st.booleans())
def test_apply_then_undo_is_identity(
    before: Shape, after: Shape, opaque: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    stage = Stage(tmp_path_factory.mktemp("undo"), before)
    was = times(stage.root)
    stage.change(after, opaque=opaque)
    Work(stage).apply()
    assert read(stage.root) == after
    Work(stage).undo()
    assert (read(stage.root), times(stage.root)) == (before, was)


@settings(max_examples=40, deadline=None)
@given(data=st.data(), before=shapes, after=shapes)
def test_nothing_outside_the_root_is_ever_written_whatever_links_lie_in_the_way(
    data: st.DataObject, before: Shape, after: Shape, tmp_path_factory: pytest.TempPathFactory
) -> None:
    tmp = tmp_path_factory.mktemp("links")
    outside = tmp / "outside"
    outside.mkdir()
    build(outside, {"a": (0o644, b"precious"), "b c": {"a": (0o644, b"precious")}})
    was, then = read(outside), times(outside)
    stage = Stage(tmp, before)
    stage.change(after)
    for path in [p for p in stage.root.rglob("*") if data.draw(st.booleans(), label=str(p))]:
        if os.path.lexists(path) and not any(above.is_symlink() for above in path.parents):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
            path.symlink_to(outside)
    for selection in (Selection(), Selection(merge=True, held=True), Selection(force=True, held=True)):
        try:
            Work(stage).apply(selection)
            Work(stage).undo()
        except (ApplyConflictError, WorkspaceError):
            continue
    assert (read(outside), times(outside)) == (was, then)
