"""Freezing with real boxes: what grew large becomes a frozen layer, under the box where that can be, and whatever was
done comes back from it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.checkpoints import Checkpoint
from sandbox.engine import Engine, ImageInfo
from sandbox.freezer import Freezer
from sandbox.toolbox import Toolbox
from tests.box.test_checkpoints import CHANGES, LOOK, MORE
from tests.support.layers_by_hand import build
from tests.support.sessions import Bench, Inside

pytestmark = [pytest.mark.box, pytest.mark.timeout(240)]
MUCH = "mkdir -p much/{1..20}; for d in much/*; do for f in {1..40}; do echo $d $f > $d/$f; done; done"


@pytest.fixture(scope="session")
def bench(engine: Engine, base_image: ImageInfo, toolbox: Toolbox) -> Bench:
    return Bench(engine, base_image, toolbox)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    for top, _, _ in os.walk(tmp_path):
        Path(top).chmod(0o700)


@pytest.fixture
def repo(place: Path) -> Path:
    top = place / "repo"
    top.mkdir()
    build(
        top,
        {
            "file": (0o644, b"one\n"),
            "script": (0o755, b"#!/bin/sh\n"),
            "gone": (0o644, b"x\n"),
            "link": "file",
            "dir": {"a": (0o644, b"a\n"), "b": (0o600, b"b\n"), "sub": {"c": (0o644, b"c\n")}},
            "tree": {"x": {"y": (0o644, b"y\n")}},
        },
    )
    return top


async def take(inside: Inside) -> Checkpoint:
    made = await inside.workspace.checkpoint("x")
    assert made is not None
    return made


async def entered(inside: Inside) -> None:
    """As a session tells its workspace of the box."""
    assert inside.box is not None
    inside.workspace.freezer = await asyncio.to_thread(Freezer, inside.bench.engine, inside.box.container)


async def again(inside: Inside) -> None:
    await inside._start(await inside.workspace.prepare())
    await entered(inside)


async def back_to(inside: Inside, checkpoint: str, *, alive: bool) -> None:
    if not alive:
        await inside.end()
    restored = await inside.workspace.restore(checkpoint)
    assert restored is not None
    assert restored.alive == alive
    inside.workspace.checkpoints.settle()
    if not alive:
        await again(inside)


@pytest.mark.parametrize("alive", [True, False])
async def test_whatever_was_done_before_and_after_a_freeze_comes_back(
    bench: Bench, repo: Path, place: Path, alive: bool
) -> None:
    if alive and os.geteuid() != 0:
        pytest.skip("a mount beneath a running box is replaced by root only")
    async with bench.session(repo, place / "state") as inside:
        try:
            await entered(inside)
            inside.workspace.checkpoints.most = (60, 16 << 20)
            await inside.run("git init -q . && git add -A && git -c user.name=a -c user.email=a@b commit -qm one")
            states, ways = [], []
            once_more = CHANGES.replace("mkdir closed", "mkdir -p closed")
            for script in ("true", CHANGES, MUCH, MORE, once_more, "rm -r much"):
                await inside.run_any("set +e\n" + script)
                made = await inside.workspace.checkpoint("x")
                ways.append(made.way if made else "")
                states.append((inside.workspace.checkpoints.present, await inside.python(LOOK)))
                assert await inside.workspace.checkpoint("nothing changed") is None
            if alive:
                assert "live" in ways
            for number in (0, 2, 1, 4, 3, 5, 0):
                checkpoint, seen = states[number]
                await back_to(inside, checkpoint, alive=alive)
                assert (await inside.python(LOOK)).splitlines() == seen.splitlines()
                assert await inside.workspace.checkpoint("nothing changed") is None
        finally:
            await inside.discard()
