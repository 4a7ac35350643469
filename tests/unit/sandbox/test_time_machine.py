"""Random writes, checkpoints, undos, redos, forks, applies and host edits against a plain model of a file tree: over
whole copies for everybody, over real overlay mounts where this process may make them.
"""

from __future__ import annotations

import os
import unittest
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from sandbox.copies import remove_tree
from sandbox.spec import Rung
from tests.support.beds import LocalBed, can_mount_overlays
from tests.support.time_machine import TimeMachine

pytestmark = pytest.mark.user

LONG = [pytest.mark.slow, pytest.mark.torture, pytest.mark.timeout(900)]


class CopyMachine(TimeMachine):
    def make_bed(self) -> LocalBed:
        return LocalBed(Rung.COPY)


class OverlayMachine(TimeMachine):
    def make_bed(self) -> LocalBed:
        return LocalBed(Rung.OVERLAY)


def settled(machine: type[TimeMachine], examples: int, steps: int, *marks: pytest.MarkDecorator) -> type[Any]:
    case: type[unittest.TestCase] = type(machine.__name__, (machine,), {}).TestCase  # type: ignore[attr-defined]
    case.settings = settings(  # type: ignore[attr-defined]
        max_examples=examples, stateful_step_count=steps, deadline=None, suppress_health_check=list(HealthCheck)
    )
    case.pytestmark = list(marks)  # type: ignore[attr-defined]
    return case


TestOverCopies = settled(CopyMachine, 12, 25)
TestOverCopiesLong = settled(CopyMachine, 150, 60, *LONG)
if can_mount_overlays():
    TestOverOverlays = settled(OverlayMachine, 12, 25)
    TestOverOverlaysLong = settled(OverlayMachine, 150, 60, *LONG)


def test_a_copy_that_was_made_again_still_tells_what_the_box_did_not_touch() -> None:
    bed = LocalBed(Rung.COPY)
    try:
        made = bed.checkpoints.take("first")
        assert made is not None
        (bed.seen() / "b").write_bytes(b"the box's")
        bed.checkpoints.take("second")
        bed.checkpoints.restore(made.id)
        bed.checkpoints.settle()
        (bed.host / "a").write_bytes(b"the host's, later")
        touched = bed.views.touched_beneath(bed.layer, [b""])
        assert bed.views.changes(bed.layer, touched) == []
    finally:
        bed.close()


def test_a_fork_of_a_whole_copy_tells_what_the_box_did_not_touch() -> None:
    origin = LocalBed(Rung.COPY)
    bed = origin
    try:
        (origin.seen() / "b").write_bytes(b"the box's")
        made = origin.checkpoints.take("first")
        assert made is not None
        bed = origin.fork(made.id)
        (bed.host / "a").write_bytes(b"the host's, later")
        touched = bed.views.touched_beneath(bed.layer, [b""])
        assert [change.path for change in bed.views.changes(bed.layer, touched)] == ["b"]
    finally:
        bed.close()


def test_what_was_applied_away_has_a_place_again_when_the_box_goes_back_and_adds_to_it() -> None:
    bed = LocalBed(Rung.COPY)
    try:
        made = bed.checkpoints.take("first")
        assert made is not None
        remove_tree(bed.seen() / "d")
        bed.checkpoints.take("second")
        bed.apply()
        bed.checkpoints.restore(made.id)
        bed.checkpoints.settle()
        (bed.seen() / "d" / "new").write_bytes(b"new")
        bed.apply()
        assert (bed.host / "d" / "new").read_bytes() == b"new"
    finally:
        bed.close()


def test_an_attribute_is_seen_on_a_copy_that_was_made_again_where_the_host_has_lost_the_file() -> None:
    bed = LocalBed(Rung.COPY)
    try:
        made = bed.checkpoints.take("first")
        assert made is not None
        (bed.seen() / "a").rename(bed.seen() / "elsewhere")
        bed.checkpoints.take("second")
        bed.apply()
        bed.checkpoints.restore(made.id)
        bed.checkpoints.settle()
        os.setxattr(bed.seen() / "a", "user.own", b"1")
        bed.apply()
        assert os.getxattr(bed.host / "a", "user.own") == b"1"
    finally:
        bed.close()


def test_a_change_that_hides_behind_size_and_time_is_seen_on_a_copy_that_was_made_again() -> None:
    bed = LocalBed(Rung.COPY)

    def slip(name: str, data: bytes) -> None:
        path = bed.seen() / name
        seen = path.stat()
        assert seen.st_size == len(data)
        path.write_bytes(data)
        os.utime(path, ns=(seen.st_mtime_ns, seen.st_mtime_ns))

    def found() -> list[str]:
        return [change.path for change in bed.changes() if not change.in_git]

    try:
        bed.checkpoints.take("first")
        one, other = sorted(path.name for path in bed.seen().iterdir() if path.is_file() and path.stat().st_size)[:2]
        slip(one, bytes(len((bed.seen() / one).read_bytes())))
        second = bed.checkpoints.take("second")
        assert second is not None
        (bed.seen() / "more").write_bytes(b"more")
        bed.checkpoints.take("third")
        bed.checkpoints.restore(second.id)
        bed.checkpoints.settle()
        assert found() == [one]  # from before, and the copy is another by now
        assert bed.checkpoints.take("nothing changed") is None
        slip(other, bytes(len((bed.seen() / other).read_bytes())))
        assert found() == [one, other]  # since
        fourth = bed.checkpoints.take("fourth")
        assert fourth is not None
        bed = bed.fork(fourth.id)
        assert found() == [one, other]
        (bed.host / "d/late").write_bytes(b"the host's")
        assert found() == [one, other]
    finally:
        bed.close()


def test_names_of_one_file_stay_so_on_a_copy_that_was_made_again() -> None:
    """What the log told of them was true of the copy before: the new one's goes with what is new next."""
    bed = LocalBed(Rung.COPY)
    try:
        first = bed.checkpoints.take("first")
        assert first is not None
        (bed.seen() / "second").hardlink_to(bed.seen() / "a")
        linked = bed.checkpoints.take("linked")
        assert linked is not None
        for point in (first.id, linked.id):
            bed.checkpoints.restore(point)
            bed.checkpoints.settle()
        (bed.seen() / "a").rename(bed.seen() / "third")
        renamed = bed.checkpoints.take("renamed")
        assert renamed is not None
        for point in (linked.id, renamed.id):
            bed.checkpoints.restore(point)
            bed.checkpoints.settle()
        assert (bed.seen() / "second").samefile(bed.seen() / "third")
    finally:
        bed.close()
