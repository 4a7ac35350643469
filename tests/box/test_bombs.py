"""Whatever a command does with the box's resources, the server answers and can end it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from sandbox.box import ContainerBox
from sandbox.spec import Capture, Command, Exited, Limits, Stdout
from tests.support.boxes import TMP, Boxes, run

pytestmark = pytest.mark.box
LIMITS = Limits(pids=128, memory=512 << 20)
FORKS = "bomb() { bomb | bomb & }; bomb; sleep 60"
SESSIONS = """exec python3 -c '
import os
while True:
    try:
        if os.fork() == 0:
            os.setsid()
    except OSError:
        pass
'"""
MEMORY = "exec python3 -c 'x = []\nwhile True: x.append(bytearray(1 << 20))'"
SEVERAL = "for i in 1 2 3 4 5 6 7 8; do python3 -c 'x = []\nwhile True: x.append(bytearray(1 << 20))' & done; wait"
LENIENT = "echo 0 > /proc/self/oom_score_adj; " + MEMORY
DESCRIPTORS = (
    "exec python3 -c 'import os, time\nx = []\ntry:\n  while True: x.append(os.pipe())\nexcept OSError: time.sleep(60)'"
)
FILL = "for d in /tmp /dev/shm /run /home/box; do dd if=/dev/zero of=$d/fill bs=1M; done; sleep 60"
FLOOD = "yes"
SPIN = "for i in 1 2 3 4 5 6 7 8; do while :; do :; done & done; wait"


@pytest.fixture(params=[1000, 0])
async def box(request: pytest.FixtureRequest, boxes: Boxes) -> AsyncIterator[ContainerBox]:
    async with boxes.box(request.param, limits=LIMITS) as opened:
        yield opened


async def pinged(box: ContainerBox, seconds: float) -> int:
    """Ask for so long; how many answers came. An answer that takes 30 s is none."""
    count, until = 0, time.monotonic() + seconds
    while time.monotonic() < until:
        async with asyncio.timeout(30):
            await box.ping()
            await box.resolve((TMP,))
        count += 1
        await asyncio.sleep(0.1)
    return count


async def survives(box: ContainerBox, script: str, seconds: float = 3.0) -> Exited:
    """The server answers while the script runs, ends it, and starts the next command. The script's end."""
    running = asyncio.create_task(run(box, script))
    assert await pinged(box, seconds) > 3
    async with asyncio.timeout(60):
        await box.kill_all()
        _, end = await running
        for _ in range(50):
            text, _ = await run(
                box, "echo recovered; ps -eo pid= | wc -l; rm -f /tmp/fill /dev/shm/fill /run/fill ~/fill"
            )
            if int(text.split()[1]) < 10:
                break
            await asyncio.sleep(0.1)
    assert text.split()[0] == "recovered"
    assert int(text.split()[1]) < 10, "everything was killed and reaped"
    return end


async def test_a_fork_bomb_is_survived_and_ended(box: ContainerBox) -> None:
    end = await survives(box, FORKS)
    assert end.code != 0


async def test_processes_that_die_slowly_with_their_memory_are_waited_for(box: ContainerBox) -> None:
    await survives(box, SEVERAL)


@pytest.mark.slow
@pytest.mark.parametrize(
    "script",
    [SESSIONS, MEMORY, LENIENT, DESCRIPTORS, FILL, FLOOD, SPIN],
    ids=["sessions", "memory", "lenient", "descriptors", "fill", "flood", "spin"],
)
async def test_bombs_are_survived_and_ended(box: ContainerBox, script: str) -> None:
    await survives(box, script)


@pytest.mark.slow
async def test_a_fork_bomb_with_a_timeout_ends_by_itself(box: ContainerBox) -> None:
    async with asyncio.timeout(60):
        _, end = await run(box, FORKS, timeout=1.5, grace=0.5)
    assert end.killed in {"timeout", "cancelled"}
    text, _ = await run(box, "echo next")
    assert text == "next\n"


@pytest.mark.slow
async def test_a_bomb_of_sessions_with_a_timeout_ends_by_itself(box: ContainerBox) -> None:
    async with asyncio.timeout(60):
        _, end = await run(box, SESSIONS, timeout=1.5, grace=0.5)
    assert end.killed in {"timeout", "cancelled"}
    text, _ = await run(box, "echo next")
    assert text == "next\n"


async def test_running_out_of_memory_is_told(box: ContainerBox) -> None:
    _, end = await run(box, MEMORY)
    assert (end.code, end.killed) == (-9, "memory")
    await box.ping()


async def test_too_many_processes_is_told_and_passes(box: ContainerBox) -> None:
    script = "exec python3 -c 'import os, time\ntry:\n  while os.fork(): pass\nexcept OSError: pass\ntime.sleep(60)'"
    bomb = asyncio.create_task(run(box, script))
    await asyncio.sleep(1)
    await box.ping()
    await box.kill_all()
    await bomb
    text, _ = await run(box, "echo next")
    assert text == "next\n"


@pytest.mark.slow
async def test_a_gigabyte_of_output_is_taken_at_the_readers_pace(box: ContainerBox) -> None:
    size = 0
    process = await box.exec(Command(argv=("head", "-c", "1000000000", "/dev/zero"), cwd=TMP))
    async for item in process:
        if isinstance(item, Stdout):
            size += len(item.data)
            if size % (100 << 20) < 70_000:
                await box.ping()
    assert size == 1_000_000_000


@pytest.mark.parametrize("feed", ["yes", "cat /dev/urandom", "tr -d '\\n' < /dev/zero"])
async def test_output_that_nobody_reads_stops_only_its_command(box: ContainerBox, feed: str) -> None:
    process = await box.exec(Command(argv=("sh", "-c", feed), cwd=TMP))
    assert await pinged(box, 1.0) > 3
    text, _ = await run(box, "echo others go on")
    assert text == "others go on\n"
    await process.kill()


@pytest.mark.slow
async def test_captured_output_that_fills_the_disk_is_counted_on(box: ContainerBox) -> None:
    capture = Capture(inline=100, tail=100, path=TMP / "all", limit=1 << 40)
    _, end = await run(box, "head -c 400000000 /dev/zero", capture=capture)
    assert (end.code, end.size, len(end.tail)) == (0, 400_000_000, 100)
    assert (await box.stat(TMP / "all")).size < 400_000_000
