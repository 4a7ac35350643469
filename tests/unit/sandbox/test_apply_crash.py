"""kill -9 at every step of an apply and of an undo: what the next command finds is brought to an end,
and the tree is what it was before or what it was to become.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sandbox.beneath import Beneath
from sandbox.errors import SandboxError
from sandbox.reversal import UndoRefusedError
from sandbox.selection import ApplyConflictError, Selection
from tests.support.applying import AFTER, BEFORE, Work, file_times, fresh, times
from tests.support.layers_by_hand import Stage, read

# Every step is a case; one in four of them without --slow.
STEPS = pytest.mark.parametrize(
    "first", [0, *(pytest.param(number, marks=pytest.mark.slow) for number in (1, 2, 3))], ids=str
)
STRIDE = 4


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
