"""Figures of the box alone: milliseconds per call, calls per second of several boxes side by side, and
the start, each a function that returns numbers. The floors they stand against are in `floors`.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path, PurePosixPath

from sandbox.box import ContainerBox
from sandbox.engine import Engine, connect
from sandbox.spec import BoxSpec, Command, Owner
from sandbox.toolbox import Toolbox

TMP = PurePosixPath("/tmp")
TRUE = Command(argv=("true",), cwd=TMP, shell=True, merge=True)


def make(engine: Engine, image: str, toolbox: Toolbox, scratch: Path, uid: int = 1000) -> ContainerBox:
    """A box with nothing but its toolbox."""
    spec = BoxSpec(session="bench", image=image, owner=Owner(uid=uid, gid=uid), cwd=TMP, mounts=(toolbox.mount,))
    return ContainerBox(spec, engine, scratch=scratch)


async def bash_true(box: ContainerBox) -> None:
    """One Bash call, to its end."""
    async for _ in await box.exec(TRUE):
        pass


async def each(call: Callable[[], Awaitable[object]], times: int) -> list[float]:
    """Milliseconds of each call, sorted."""
    await call()
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        await call()
        taken.append((time.perf_counter() - began) * 1e3)
    return sorted(taken)


async def calls(image: str, toolbox: Toolbox, scratch: Path, *, times: int = 300, uid: int = 1000) -> dict[str, float]:
    """p50 in ms of a ping, a read of a small file, and a Bash call of `true`."""
    engine = connect(os.environ)
    try:
        async with make(engine, image, toolbox, scratch, uid) as box:
            await box.write(TMP / "small", b"x" * 1000)
            found = {
                "ping": await each(box.ping, times),
                "read": await each(lambda: box.read(TMP / "small"), times),
                "bash": await each(lambda: bash_true(box), times),
            }
    finally:
        engine.close()
    return {name: taken[len(taken) // 2] for name, taken in found.items()}


async def start_to_first_answer(image: str, toolbox: Toolbox, scratch: Path, *, times: int = 9) -> list[float]:
    """Milliseconds from nothing to the end of a first Bash call, in a process that is warm; sorted."""
    taken = []
    engine = connect(os.environ)
    for _ in range(times):
        began = time.perf_counter()
        async with make(engine, image, toolbox, scratch) as box:
            await bash_true(box)
            taken.append((time.perf_counter() - began) * 1e3)
    engine.close()
    return sorted(taken)


def docker_exec_true(image: str, *, times: int = 20) -> float:
    """p50 in ms of `docker exec true` through the command line."""
    container = subprocess.run(
        ["docker", "run", "-d", "--rm", "--network", "none", image, "sleep", "600"],
        check=True, capture_output=True, text=True,
    ).stdout.strip()  # fmt: skip
    taken = []
    try:
        for _ in range(times):
            began = time.perf_counter()
            subprocess.run(["docker", "exec", container, "true"], check=True)
            taken.append((time.perf_counter() - began) * 1e3)
    finally:
        subprocess.run(["docker", "rm", "-f", container], check=True, capture_output=True)
    return sorted(taken)[times // 2]


def _controller(image: str, toolbox: Toolbox, scratch: Path, meeting: tuple[object, object], seconds: float) -> None:
    start, out = meeting

    async def main() -> tuple[int, float]:
        engine = connect(os.environ)
        async with make(engine, image, toolbox, scratch) as box:
            await bash_true(box)
            await asyncio.to_thread(start.wait)  # type: ignore[attr-defined]
            began, count = time.perf_counter(), 0
            while time.perf_counter() - began < seconds:
                await bash_true(box)
                count += 1
            return count, time.perf_counter() - began

    out.put(asyncio.run(main()))  # type: ignore[attr-defined]


def side_by_side(image: str, toolbox: Toolbox, scratch: Path, *, boxes: int = 8, seconds: float = 5.0) -> float:
    """Bash calls per second in all, each box with a controller process of its own."""
    context = multiprocessing.get_context("spawn")
    start, out = context.Barrier(boxes), context.Queue()
    workers = [
        context.Process(target=_controller, args=(image, toolbox, scratch, (start, out), seconds)) for _ in range(boxes)
    ]
    for worker in workers:
        worker.start()
    rates: list[float] = [count / taken for count, taken in (out.get(timeout=120) for _ in workers)]
    for worker in workers:
        worker.join()
    return sum(rates)


if __name__ == "__main__":
    from sandbox.images import ensure_image
    from sandbox.toolbox import ensure_toolbox

    cache = Path.home() / ".cache/fumehood-tests"
    _engine = connect(os.environ)
    _image = ensure_image(_engine, "base", cache=cache, progress=print)
    _toolbox = ensure_toolbox(_engine, base=_image, cache=cache, progress=print)
    floor = docker_exec_true(_image.id)
    for _uid in (1000, 0):
        found = asyncio.run(calls(_image.id, _toolbox, cache, uid=_uid))
        print(
            f"uid {_uid}: docker exec {floor:.1f} ms", {k: f"{v:.3f} ms = 1/{floor / v:.0f}" for k, v in found.items()}
        )
    print("start", [round(t) for t in asyncio.run(start_to_first_answer(_image.id, _toolbox, cache))])
    if "fast" not in sys.argv:
        print(f"8 boxes: {side_by_side(_image.id, _toolbox, cache):.0f} calls/s")
