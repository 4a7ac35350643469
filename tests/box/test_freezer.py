"""Holding a real box still: nothing in it moves, whichever way it is held, and it is not left so by one who dies."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path, PurePosixPath

import pytest

from sandbox.freezer import Freezer
from tests.support.boxes import TMP, Boxes, run

pytestmark = [pytest.mark.box, pytest.mark.timeout(120)]
PROJECT = Path(__file__).resolve().parents[2]
COUNT = "n=0; while :; do n=$((n+1)); echo $n; done > /dev/shm/n & sleep 0.3"
HOLD = """
import os, sys, time
from sandbox.engine import connect
from sandbox.freezer import Freezer
with Freezer(connect(os.environ), sys.argv[1]).frozen():
    print("held", flush=True)
    time.sleep(600)
"""


def _ways(freezer: Freezer) -> list[str]:
    return (
        ["engine"] if freezer._switch is None or not os.access(freezer._switch.file, os.W_OK) else ["cgroup", "engine"]
    )


async def test_nothing_moves_while_a_box_is_held(boxes: Boxes) -> None:
    async with boxes.box() as box:
        freezer = await asyncio.to_thread(Freezer, boxes.engine, box.container)
        if os.geteuid() == 0:
            assert _ways(freezer) == ["cgroup", "engine"]
        await run(box, COUNT)
        assert freezer.busy()
        for way in _ways(freezer):
            if way == "engine":
                freezer._switch = None
            with freezer.frozen():
                before = _processor_time(freezer)
                await asyncio.sleep(0.3)
                assert _processor_time(freezer) == before, way
            await box.ping()
            assert _moves(freezer, before), way


def _processor_time(freezer: Freezer) -> dict[str, bytes]:
    """Of every process of the box, what it used."""
    assert freezer._procs is not None
    return {
        pid: b" ".join(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[11:13])
        for pid in freezer._procs.read_text().split()
    }


def _moves(freezer: Freezer, before: dict[str, bytes]) -> bool:
    for _ in range(100):
        if _processor_time(freezer) != before:
            return True
        time.sleep(0.05)
    return False


async def test_a_box_whose_holder_dies_is_not_in_the_way(boxes: Boxes) -> None:
    """Held by the cgroup it goes on by itself; paused by the engine it can be removed."""
    async with boxes.box() as box:
        holder = await asyncio.create_subprocess_exec(
            sys.executable, "-c", HOLD, box.container, cwd=PROJECT, stdout=subprocess.PIPE, start_new_session=True
        )
        assert holder.stdout is not None
        assert await holder.stdout.readline() == b"held\n"
        os.killpg(holder.pid, signal.SIGKILL)
        await holder.wait()
        if os.geteuid() == 0:
            async with asyncio.timeout(30):
                await box.ping()
            assert (await box.stat(PurePosixPath(TMP))).kind == "directory"
        await asyncio.to_thread(boxes.engine.containers.remove, box.container)
