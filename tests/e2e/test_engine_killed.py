"""kill -9 of the engine in the middle of what changes a session: the command ends and says so, or is done; nothing is
lost, nothing half done, and the next command goes on when the engine is there again.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.images import ensure_image
from sandbox.toolbox import ensure_toolbox
from tests.e2e.conftest import Bench, furnished, opened
from tests.support.engines import OwnEngine
from tests.support.struck import COMMANDS, KilledWalk, travelled

pytestmark = [pytest.mark.box, pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def own(image_cache: Path, base_image: object, toolbox: object) -> Iterator[OwnEngine]:
    """What is in the cache by now is put into it."""
    made = OwnEngine()
    try:
        made.start()
        engine = made.engine()
        ensure_image(engine, "base", cache=image_cache, progress=print)
        busybox = ensure_image(engine, "busybox", cache=image_cache, progress=print)
        ensure_toolbox(engine, base=busybox, cache=image_cache, progress=print)
        engine.close()
        yield made
    finally:
        made.close()


@pytest.fixture
def walk(own: OwnEngine, tmp_path: Path, image_cache: Path) -> Iterator[EngineWalk]:
    with opened(tmp_path, image_cache, DOCKER_HOST=own.endpoint) as bench:
        travelled(furnished(bench))
        yield EngineWalk(bench, own)
        own.start()


class EngineWalk(KilledWalk):
    """The engine is killed at one of the command's calls that change something."""

    def __init__(self, bench: Bench, own: OwnEngine) -> None:
        super().__init__(bench)
        self.own = own

    @property
    def act(self) -> str:
        return f"kill:{self.own.pid}"

    def struck(self, *arguments: str, drawn: int) -> bool:
        done = super().struck(*arguments, drawn=drawn)
        self.own.start()
        return done


def test_the_engine_killed_in_a_turn_and_in_an_undo_costs_nothing(walk: EngineWalk) -> None:
    walk.walk(["checkpoint", "undo"], 0)


@pytest.mark.torture
def test_the_engine_killed_at_twenty_points_costs_nothing(walk: EngineWalk) -> None:
    walk.walk([*COMMANDS] * 4, 1)
