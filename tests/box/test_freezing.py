"""Freezing with real boxes: what grew large becomes a frozen layer, under the box where that can be, and whatever was
done comes back from it.
"""

from __future__ import annotations

import asyncio
import os
import uuid
from pathlib import Path

import pytest

from sandbox.changes import Kind
from sandbox.freezer import Freezer
from sandbox.points import Checkpoint
from sandbox.pool import Pool
from sandbox.spec import Rung
from tests.support.box_changes import CHANGES, LOOK, MORE
from tests.support.sessions import Bench, Inside

pytestmark = [pytest.mark.box, pytest.mark.timeout(240)]
MUCH = "mkdir -p much/{1..20}; for d in much/*; do for f in {1..40}; do echo $d $f > $d/$f; done; done"


async def take(inside: Inside) -> Checkpoint:
    made = await inside.workspace.checkpoint("x")
    assert made is not None
    return made


async def entered(inside: Inside) -> None:
    """As a session tells its workspace of the box."""
    assert inside.box is not None
    inside.workspace.freezer = await asyncio.to_thread(Freezer, inside.bench.engine, inside.box.container)


async def again(inside: Inside) -> None:
    await inside.again()
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


# A mount beneath a running box is replaced by root only.
@pytest.mark.parametrize("alive", [pytest.param(True, marks=pytest.mark.root), False])
async def test_whatever_was_done_before_and_after_a_freeze_comes_back(
    bench: Bench, repo: Path, place: Path, alive: bool
) -> None:
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


@pytest.mark.root
async def test_a_process_that_holds_the_place_is_left_alone_and_contents_are_copied(
    bench: Bench, repo: Path, place: Path
) -> None:
    async with bench.session(repo, place / "state") as inside:
        try:
            await entered(inside)
            inside.workspace.checkpoints.most = (60, 16 << 20)
            holders = ("cd dir", "exec 3<file", "exec 3>>file")
            for number, hold in enumerate(holders, 1):
                await inside.run(f"nohup sh -c '{hold}; echo >> ~/ready; exec sleep 60' > /dev/null 2>&1 &")
                await inside.run(f'until [ "$(wc -l < ~/ready)" = {number} ]; do sleep 0.05; done')
                await inside.run(f"{MUCH}; touch {number}")
                assert (await take(inside)).way == "log"
                assert inside.workspace.freezer is not None
                assert await asyncio.to_thread(inside.workspace.freezer.end_others)
            await inside.run("rm -r much; rm file; " + MUCH)
            assert (await take(inside)).way == "live"
        finally:
            await inside.discard()


@pytest.mark.root
async def test_going_back_ends_what_runs_and_keeps_the_box(bench: Bench, repo: Path, place: Path) -> None:
    async with bench.session(repo, place / "state") as inside:
        try:
            await entered(inside)
            await inside.run("echo one > f; echo one > ~/f")
            first = await take(inside)
            await inside.run("echo two > f; echo two > ~/f")
            await inside.run("nohup sh -c 'while :; do date >> log; done' > /dev/null 2>&1 &")
            await take(inside)
            container = inside.box.container if inside.box else ""
            restored = await inside.workspace.restore(first.id)
            assert restored is not None
            assert restored.alive
            assert await inside.run("cat f ~/f; test ! -e log") == "one\none\n"
            assert inside.workspace.freezer is not None
            assert not inside.workspace.freezer.busy()
            assert bench.engine.containers.inspect(container)["State"]["Running"]
        finally:
            await inside.discard()


async def test_where_mounts_cannot_be_replaced_the_log_and_the_next_start_do(
    bench: Bench, repo: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a user without rights has it: the box's processes are another user's."""
    monkeypatch.setattr("sandbox.footing.Remount.of", lambda _: None)
    async with bench.session(repo, place / "state") as inside:
        try:
            await entered(inside)
            inside.workspace.checkpoints.most = (60, 16 << 20)
            await inside.run("echo one > f")
            first = await take(inside)
            await inside.run(MUCH)
            second = await take(inside)
            assert second.way == "log"
            assert await inside.workspace.restore(first.id) is None
            seen = await inside.python(LOOK)
            await inside.end()
            (layer,) = [layer for layer in inside.workspace.layers if layer.host == repo]
            assert len(layer.lowers) == 1
            await again(inside)
            assert (await inside.python(LOOK)).splitlines() == seen.splitlines()
            assert await inside.workspace.checkpoint("nothing changed") is None
            await back_to(inside, first.id, alive=False)
            assert await inside.run("cat f; ls") == "one\ndir\nf\nfile\ngone\nlink\nscript\ntree\n"
            await back_to(inside, second.id, alive=False)
            assert (await inside.python(LOOK)).splitlines() == seen.splitlines()
        finally:
            await inside.discard()


def blocks(*tops: Path) -> int:
    """Bytes on disk, what is linked several times once."""
    found = {
        (seen.st_dev, seen.st_ino): seen.st_blocks * 512
        for top in tops
        for directory, _, files in os.walk(top)
        for path in [directory, *(f"{directory}/{name}" for name in files)]
        if (seen := os.lstat(path))
    }
    return sum(found.values())


async def forked(inside: Inside, place: Path, count: int) -> list[Path]:
    made = await inside.workspace.checkpoint("fork")
    checkpoint = made.id if made else inside.workspace.checkpoints.present
    targets = [(str(uuid.uuid4()), place / f"fork{number}") for number in range(count)]
    for _, target in targets:
        target.mkdir(mode=0o700)
    await inside.workspace.fork(checkpoint, targets)
    return [target for _, target in targets]


@pytest.mark.parametrize("rung", [Rung.OVERLAY, Rung.COPY])
async def test_forks_of_a_large_box_share_its_blocks_and_none_sees_the_others(
    bench: Bench, repo: Path, place: Path, rung: Rung
) -> None:
    pool = Pool(place / "pool")
    async with bench.session(repo, place / "state", rung=rung, pool=pool) as inside:
        try:
            await entered(inside)
            await inside.run(
                "head -c 300M /dev/urandom > large; echo origin > own; rm gone; chmod 700 dir; echo h > ~/h"
            )
            await inside.run("mkdir -p ~/.cache && head -c 20M /dev/urandom > ~/.cache/large")
            seen = await inside.python(LOOK)
            if os.geteuid() != 0:
                await inside.end()
            before = blocks(place)
            targets = await forked(inside, place, 3)
            if rung is Rung.OVERLAY:
                assert blocks(place) - before < 8 << 20
            for number, target in enumerate(targets):
                async with bench.session(repo, target, rung=rung, pool=pool) as fork:
                    await entered(fork)
                    assert (await fork.python(LOOK)).splitlines() == seen.splitlines()
                    assert await fork.workspace.checkpoint("nothing changed") is None
                    await fork.run(f"echo {number} > own; rm large")
                    paths = {change.path for change in await fork.workspace.changes() if change.kind is not Kind.MODE}
                    assert paths == {"own", "gone"}
            if inside.box is not None:
                assert (await inside.python(LOOK)).splitlines() == seen.splitlines()
        finally:
            await inside.discard()
