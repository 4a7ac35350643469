"""The time machine of the unit tests, on short walks over real boxes: all is written through a box's own mounts."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.support.box_bed import BoxBed
from tests.support.sessions import Bench
from tests.support.time_machine import TimeMachine

pytestmark = [pytest.mark.box, pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(600)]


def test_a_real_box_agrees_with_the_model(bench: Bench, place: Path) -> None:
    class BoxMachine(TimeMachine):
        def make_bed(self) -> BoxBed:
            return BoxBed(bench, Path(tempfile.mkdtemp(dir=place)))

    run_state_machine_as_test(
        BoxMachine,
        settings=settings(
            max_examples=6,
            stateful_step_count=20,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )
