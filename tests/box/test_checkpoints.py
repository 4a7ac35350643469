"""Checkpoints of real boxes: whatever commands do to any writable place comes back, as the box sees it."""

from __future__ import annotations

import asyncio
import os
import shlex
from pathlib import Path

import pytest

from sandbox.freezer import Freezer
from sandbox.spec import Rung
from tests.support.box_changes import CHANGES, LOOK, MORE, back_to, take
from tests.support.sessions import Bench

pytestmark = [pytest.mark.box, pytest.mark.timeout(180)]


@pytest.mark.parametrize("rung", [Rung.OVERLAY, Rung.COPY])
async def test_every_kind_of_change_is_undone_and_redone(bench: Bench, repo: Path, place: Path, rung: Rung) -> None:
    async with bench.session(repo, place / "state", rung=rung) as inside:
        try:
            await inside.run("git init -q . && git add -A && git -c user.name=a -c user.email=a@b commit -qm one")
            states = [(await take(inside), await inside.python(LOOK))]
            for script in (CHANGES, MORE, CHANGES.replace("mkdir closed", "mkdir -p closed")):
                await inside.run_any("set +e\n" + script)
                states.append((await take(inside), await inside.python(LOOK)))
            assert await inside.workspace.checkpoint("nothing changed") is None
            for number in (0, 2, 1, 3, 0):
                checkpoint, seen = states[number]
                await back_to(inside, checkpoint)
                assert (await inside.python(LOOK)).splitlines() == seen.splitlines()
                assert await inside.workspace.checkpoint("nothing changed") is None
        finally:
            await inside.discard()


async def test_a_box_that_works_in_the_background_is_held_still(bench: Bench, repo: Path, place: Path) -> None:
    async with bench.session(repo, place / "state") as inside:
        try:
            assert inside.box is not None
            freezer = inside.workspace.freezer = await asyncio.to_thread(Freezer, bench.engine, inside.box.container)
            await inside.run("true")
            await asyncio.sleep(0.2)
            assert not freezer.busy()
            turning = (
                "import itertools\nfor n in itertools.count():\n"
                "    for name in 'ab':\n        open(name, 'w').write(f'{n:09}')"
            )
            await inside.run(f"nohup python3 -c {shlex.quote(turning)} > /dev/null 2>&1 & sleep 0.3")
            assert freezer.busy()
            taken = 0
            while taken < 5:
                made = await inside.workspace.checkpoint("x")
                await asyncio.sleep(0.01)
                if made is None:  # it has not come to move since
                    continue
                taken += 1
                a, b = (b"".join(inside.workspace.past.content_at(made.id, f"{inside.cwd}/{name}")) for name in "ab")
                assert a in {b, b""} or b == b"" or int(a) == int(b) + 1
        finally:
            await inside.discard()


async def test_what_the_session_had_not_touched_is_not_stored(bench: Bench, repo: Path, place: Path) -> None:
    (repo / "large").write_bytes(os.urandom(4 << 20))
    async with bench.session(repo, place / "state") as inside:
        try:
            await inside.run("echo 1 > small")
            await take(inside)
            assert (place / "state" / "store" / "checkpoints").stat().st_size < 100_000
        finally:
            await inside.discard()


async def test_a_box_that_has_ended_needs_no_holding(bench: Bench, repo: Path, place: Path) -> None:
    async with bench.session(repo, place / "state") as inside:
        try:
            assert inside.box is not None
            freezer = inside.workspace.freezer = await asyncio.to_thread(Freezer, bench.engine, inside.box.container)
            await inside.run("echo kept > kept")
            await asyncio.to_thread(bench.engine.containers.remove, inside.box.container)
            assert freezer.busy()
            assert await inside.workspace.checkpoint("after its end") is not None
        finally:
            await inside.discard()
