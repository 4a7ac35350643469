"""Random writes, checkpoints, undos, redos, applies and host edits against a plain model of a file tree: over
whole copies for everybody, over real overlay mounts where this process may make them.
"""

from __future__ import annotations

import unittest
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from sandbox.spec import Rung
from tests.support.time_machine import LocalBed, TimeMachine, can_mount_overlays

LONG = [pytest.mark.slow, pytest.mark.torture, pytest.mark.timeout(900)]


class CopyMachine(TimeMachine):
    def make_bed(self) -> LocalBed:
        return LocalBed(Rung.COPY)


class OverlayMachine(TimeMachine):
    def make_bed(self) -> LocalBed:
        return LocalBed(Rung.OVERLAY)


def settled(machine: type[TimeMachine], examples: int, steps: int, *marks: pytest.MarkDecorator) -> type[Any]:
    more = {"attributed": ("file", "dir")} if marks else {}
    case: type[unittest.TestCase] = type(machine.__name__, (machine,), more).TestCase  # type: ignore[attr-defined]
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
