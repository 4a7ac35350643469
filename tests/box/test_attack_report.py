"""`doctor --attack`: what it finds where nothing stands in the way, and that a box stands in all of it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from sandbox.attack import KINDS, attack, bait, read_findings
from sandbox.engine import Engine, ImageInfo
from sandbox.errors import SandboxError
from sandbox.server import attacks
from sandbox.toolbox import Toolbox


@pytest.mark.box
async def test_nothing_gets_out_of_a_box(
    engine: Engine, base_image: ImageInfo, toolbox: Toolbox, tmp_path: Path
) -> None:
    found = await attack(engine, base_image, toolbox, state=tmp_path)
    assert found.won == {}
    assert set(found.tried) == set(KINDS)
    assert min(found.tried.values()) >= 10
    assert found.tried["server"] > 500
    assert found.rungs
    assert not await asyncio.to_thread(lambda: list(tmp_path.iterdir()))


def test_without_a_box_the_bait_is_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attacks, "OUTSIDE", ())
    monkeypatch.setattr(attacks, "NAMES", ("localhost",))
    won: dict[str, str] = {}
    monkeypatch.setattr(attacks, "won", won)
    with bait(tmp_path) as names:
        attacks.network(list(names))
        attacks.bait(list(names))
    reached = {
        "the host's 127.0.0.1",
        "the host's abstract unix socket",
        "resolve localhost",
        f"read {tmp_path}/secret",
    }
    assert reached <= set(won)


@pytest.mark.parametrize(
    "text", ["", "Killed", '{"targets": []}', '{"targets": [], "tried": {}, "won": {}, "kinds": {}}']
)
def test_attacks_that_did_not_end_are_no_good_news(text: str) -> None:
    with pytest.raises(SandboxError):
        read_findings(text)
