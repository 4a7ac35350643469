"""How a box begins and ends: nothing outlives its controller, nothing waits for a box that is gone."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path, PurePosixPath
from typing import Any

import docker
import pytest

from sandbox.box import ContainerBox
from sandbox.containers import owner_alive
from sandbox.engine import Engine, NotFoundError
from sandbox.errors import BoxLostError, EngineRefusedError, ImageMissingError, PathError
from sandbox.spec import Command, Exited, Limits, Stdout
from tests.support.boxes import TMP, Boxes, run

pytestmark = pytest.mark.box

CONTROLLER = """
import asyncio, json, os, sys
from pathlib import Path
from tests.support.boxes import Boxes, run
from sandbox.engine import connect
from sandbox.toolbox import Toolbox

async def main():
    engine = connect(os.environ)
    given = json.loads(sys.argv[1])
    toolbox = Toolbox(volume=given["volume"], digest="")
    boxes = Boxes(engine=engine, image=engine.images.find(given["image"]), toolbox=toolbox, cache=Path(given["cache"]))
    async with boxes.box(session=given["session"]) as box:
        await run(box, "sleep 1000 & (setsid sleep 1000 &) ; true")
        print(box.container, flush=True)
        await run(box, "trap '' TERM INT HUP; sleep 1000; sleep 1000")

asyncio.run(main())
"""


@pytest.fixture
async def box(boxes: Boxes) -> AsyncIterator[ContainerBox]:
    async with boxes.box() as opened:
        yield opened


async def gone(engine: Engine, container: str, seconds: float = 10.0) -> bool:
    """Whether the engine knows the container no more, within so long."""
    async with asyncio.timeout(seconds):
        while True:
            try:
                await asyncio.to_thread(engine.containers.inspect, container)
            except NotFoundError:
                return True
            await asyncio.sleep(0.1)


async def test_a_box_leaves_nothing_behind(boxes: Boxes) -> None:
    async with boxes.box() as box:
        container = box.container
        info = await asyncio.to_thread(boxes.engine.containers.inspect, container)
        labels = info["Config"]["Labels"]
        assert (labels["fumehood"], labels["fumehood.session"]) == ("1", "c0ffee00-tests")
        assert owner_alive(labels["fumehood.owner"])
    assert await gone(boxes.engine, container, 5)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
async def test_the_container_ends_when_its_controller_is_killed(boxes: Boxes, how: signal.Signals) -> None:
    given = {
        "image": boxes.image.id,
        "volume": boxes.toolbox.volume,
        "cache": str(boxes.cache),
        "session": f"c0ffee00-kill-{how}",
    }
    controller = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        CONTROLLER,
        json.dumps(given),
        stdout=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    assert controller.stdout is not None
    async with asyncio.timeout(30):
        container = (await controller.stdout.readline()).decode().strip()
    assert len(container) == 64
    controller.send_signal(how)
    await controller.wait()
    assert await gone(boxes.engine, container)


async def test_losing_the_container_wakes_every_call_at_once(box: ContainerBox, engine: Engine) -> None:
    calls = [asyncio.create_task(run(box, "sleep 100")) for _ in range(3)]
    await run(box, "true")
    await asyncio.to_thread(engine.containers.kill, box.container)
    async with asyncio.timeout(10):
        for call in calls:
            with pytest.raises(BoxLostError):
                await call
        await box.lost.wait()
    with pytest.raises(BoxLostError):
        await box.read(PurePosixPath("/etc/passwd"))
    with pytest.raises(BoxLostError):
        await box.exec(Command(argv=("true",), cwd=TMP))


async def test_a_cut_connection_is_the_end_of_the_box(box: ContainerBox, engine: Engine) -> None:
    call = asyncio.create_task(run(box, "sleep 100"))
    await run(box, "true")
    box.pipe.close()
    with pytest.raises(BoxLostError):
        await call
    assert await gone(engine, box.container)


async def test_what_is_no_frame_ends_the_box(box: ContainerBox, engine: Engine) -> None:
    box.pipe.control(b"this is no frame\n")
    async with asyncio.timeout(10):
        await box.lost.wait()
    assert await gone(engine, box.container)


async def test_kill_all_ends_what_ran_and_the_next_command_runs(box: ContainerBox) -> None:
    await run(box, "(setsid sleep 1000 >/dev/null 2>&1 &); nohup sleep 1000 >/dev/null 2>&1 &")
    calls = [asyncio.create_task(run(box, "sleep 100")) for _ in range(3)]
    await asyncio.sleep(0.2)
    await box.kill_all()
    assert [(await call)[1].killed for call in calls] == ["cancelled"] * 3
    text, _ = await run(box, "ps -eo args= | grep -c '[s]leep 1000'")
    assert text == "0\n"


async def test_the_forker_is_replaced_when_it_dies(box: ContainerBox) -> None:
    """Nothing in the box can kill it; the kernel may, when memory ends. Here the engine does, with its uid."""
    before = await helpers(box)
    await asyncio.to_thread(kill_as_server, box.container, before)
    for _ in range(50):  # what the dead one had been given is refused: it may have begun
        try:
            await run(box, "true")
            break
        except PathError as refused:
            if refused.code != "no_process":
                raise
            await asyncio.sleep(0.02)
    assert (await run(box, "echo next"))[0] == "next\n"
    after = await helpers(box)
    assert len(before) == len(after) == 1
    assert before != after


async def helpers(box: ContainerBox) -> list[int]:
    """The server's processes but the first."""
    text, _ = await run(box, "for p in /proc/[0-9]*; do test -O $p || echo ${p#/proc/}; done")
    return [int(pid) for pid in text.split() if pid != "1"]


def kill_as_server(container: str, pids: list[int]) -> None:
    client = docker.from_env()
    try:
        killing = ["sh", "-c", "kill -9 " + " ".join(map(str, pids))]
        assert client.containers.get(container).exec_run(killing, user="64999").exit_code == 0
    finally:
        client.close()


async def test_an_image_that_is_not_there(boxes: Boxes) -> None:
    with pytest.raises(ImageMissingError):
        async with boxes.box(image="fumehood/no-such-image:ever"):
            pass


async def test_a_runtime_that_is_not_there(boxes: Boxes) -> None:
    with pytest.raises(EngineRefusedError):
        async with boxes.box(runtime="no-such-runtime"):
            pass


async def test_a_start_that_is_cancelled_leaves_nothing(boxes: Boxes) -> None:
    session = f"c0ffee00-cancel-{os.getpid()}"
    for delay in (0.0, 0.02, 0.06, 0.12):
        entering = asyncio.create_task(_enter(boxes, session))
        await asyncio.sleep(delay)
        entering.cancel()
        await asyncio.gather(entering, return_exceptions=True)
    found = await asyncio.to_thread(boxes.engine.containers.list, f"fumehood.session={session}")
    assert found == []


async def _enter(boxes: Boxes, session: str) -> None:
    async with boxes.box(session=session):
        await asyncio.sleep(60)


async def test_limits_are_the_containers(boxes: Boxes) -> None:
    limits = Limits(pids=77, memory=300 << 20, cpus=0.5, nofile=333, file_size=1 << 20)
    async with boxes.box(limits=limits) as box:
        info: dict[str, Any] = dict(await asyncio.to_thread(boxes.engine.containers.inspect, box.container))
        host = info["HostConfig"]
        assert (host["PidsLimit"], host["Memory"], host["MemorySwap"]) == (77, 300 << 20, 300 << 20)
        assert host["NanoCpus"] == 500_000_000
        text, _ = await run(
            box, "ulimit -n; ulimit -c; ulimit -f; head -c 2000000 /dev/zero > /tmp/f; stat -c %s /tmp/f"
        )
        assert text.split()[:3] == ["333", "0", "1024"]
        assert text.split()[-1] == str(1 << 20)


async def test_only_loopback_is_there(box: ContainerBox) -> None:
    text, _ = await run(box, "cat /proc/net/route | wc -l; python3 -c 'import socket; s = socket.socket();"
                             " s.bind((\"127.0.0.1\", 0)); s.listen(); print(\"loopback\")'")  # fmt: skip
    assert text.split() == ["1", "loopback"]


async def test_the_environment_is_ours_and_nothing_of_the_controllers(boxes: Boxes) -> None:
    os.environ["FUMEHOOD_TEST_SECRET"] = "sk-secret"
    try:
        async with boxes.box(environment={"GIVEN": "yes"}, locale="C.UTF-8", timezone="Europe/Zurich") as box:
            text, _ = await run(box, "env; date +%Z; whoami; echo ~; cat /proc/1/environ 2>&1")
    finally:
        del os.environ["FUMEHOOD_TEST_SECRET"]
    lines = text.split("\n")
    assert "secret" not in text
    for line in ("GIVEN=yes", "HOME=/home/box", "USER=box", "LANG=C.UTF-8", "TZ=Europe/Zurich", "box", "/home/box"):
        assert line in lines


async def test_many_commands_leave_no_descriptor_and_no_zombie(box: ContainerBox) -> None:
    async def one(number: int) -> None:
        process = await box.exec(Command(argv=("sh", "-c", f"echo {number}; exit {number % 7}"), cwd=TMP, stdin=True))
        items = [item async for item in process]
        assert items[0] == Stdout(data=b"%d\n" % number)
        end = items[-1]
        assert isinstance(end, Exited)
        assert end.code == number % 7

    for batch in range(20):
        await asyncio.gather(*(one(batch * 10 + n) for n in range(10)))
    reports = "ls -A /run/fumehood /dev/shm/.fumehood 2>/dev/null | grep -c '^[0-9]'"
    text, _ = await run(box, f"ps -eo stat= | grep -c Z; grep FDSize /proc/1/status; {reports}")
    zombies, _, table, left = text.split()
    assert (zombies, left) == ("0", "0")
    assert int(table) <= 64


@pytest.mark.slow
async def test_the_server_does_not_grow_with_the_number_of_commands(box: ContainerBox) -> None:
    """Nothing collects cycles in it: so there must be none."""

    async def size() -> int:
        text, _ = await run(box, "grep VmRSS /proc/1/status")
        return int(text.split()[1])

    async def many(count: int) -> None:
        for _ in range(count):
            await run(box, "echo x")
            await box.read(PurePosixPath("/etc/passwd"))

    await many(500)
    before = await size()
    await many(3000)
    assert await size() - before < 1024, "in kB"
