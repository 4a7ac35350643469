"""Figures of checkpoints: small ones over a small and a large repository, none, a very large one beside tar, and
going back. Run by itself: `python -m tests.bench.checkpoints [HOME]`.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from runner.sessions.store import Store
from sandbox.workspace import Workspace
from tests.bench.boxes import bash, housed
from tests.bench.figures import median

CHANGED = 100
NEW = 30_000


def files(at: Path, count: int, size: int) -> None:
    """`count` files, thirty to a directory."""
    for number in range(count):
        directory = at / f"d{number // 30}"
        if number % 30 == 0:
            directory.mkdir(parents=True, exist_ok=True)
        (directory / f"f{number}").write_bytes(os.urandom(64) + b"%d\n" % number * (size // 8))


def timed(work: Callable[[], object]) -> float:
    """ms."""
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1000


async def small(repository: Path, home: Path, rounds: int = 15) -> dict[str, float]:
    """p50 in ms of a checkpoint of 100 changed files, the same durable, and of none."""
    async with housed(repository, home) as (housing, _):
        await housing.box()
        workspace = housing.workspace
        assert workspace is not None
        (upper,) = [workspace._places.top(layer) for layer in workspace.layers if layer.host == repository]
        files(upper, CHANGED, 3000)
        taken: dict[str, list[float]] = {"taken": [], "durable": [], "none": []}
        points = workspace.checkpoints
        points.take("first")
        for number in range(rounds):
            for name, durable in (("taken", False), ("durable", True)):
                for path in upper.glob("d*/f*"):
                    path.write_bytes(b"%d %r " % (number, durable) * 300)
                taken[name].append(timed(lambda durable=durable: points.take("x", durable=durable)))  # type: ignore[misc]
            taken["none"].append(timed(lambda: points.take("x")))
        return {name: median(each) for name, each in taken.items()}


async def large(repository: Path, home: Path) -> dict[str, float]:
    """ms of a checkpoint of 30,000 new files, of tar of the same, and of going back from them."""
    async with housed(repository, home) as (housing, _):
        await housing.box()
        workspace = housing.workspace
        assert workspace is not None
        first = workspace.checkpoints.take("first")
        assert first is not None
        (upper,) = [workspace._places.top(layer) for layer in workspace.layers if layer.host == repository]
        files(upper, NEW, 9000)
        found = {"tar": timed(lambda: subprocess.run(["tar", "-cf", home / "x.tar", "-C", upper, "."], check=True))}
        found["taken"] = timed(lambda: workspace.checkpoints.take("x"))
        (home / "x.tar").unlink()
        await housing.end("bench")
        found["back"] = timed(lambda: _back(workspace, first.id))
        return found


async def installed(repository: Path, home: Path, rounds: int = 5) -> dict[str, float]:
    """p50 in ms, with a writable root file system: a checkpoint of 500 files and 20 MB that were installed there, one
    of none, and undo of it, until the files are back and until the next box answers.
    """
    install = (
        "mkdir -p /opt/p; cd /opt/p; for n in $(seq 500); do head -c 40000 /dev/urandom > $n; done; cp -r . /opt/q"
    )
    async with housed(repository, home, system=True) as (housing, cwd):
        found: dict[str, list[float]] = {"taken": [], "none": [], "undone": [], "answers": []}
        box = await housing.box()
        workspace = housing.workspace
        assert workspace is not None
        first = await workspace.checkpoint("first")
        assert first is not None
        for _ in range(rounds):
            await bash(box, cwd, install)
            for name in ("taken", "none"):
                began = time.perf_counter()
                await workspace.checkpoint("x")
                found[name].append((time.perf_counter() - began) * 1000)
            began = time.perf_counter()
            await housing.end("bench")
            await workspace.restore(first.id)
            workspace.checkpoints.settle()
            found["undone"].append((time.perf_counter() - began) * 1000)
            box = await housing.restart()
            await bash(box, cwd)
            found["answers"].append((time.perf_counter() - began) * 1000)
        return {name: median(each) for name, each in found.items()}


def _back(workspace: Workspace, checkpoint: str) -> None:
    workspace.checkpoints.restore(checkpoint)
    workspace.checkpoints.settle()


def main() -> None:
    """Print all of it."""
    home = Path(sys.argv[1]) if len(sys.argv) > 1 else Path.home() / ".cache/fumehood-bench"
    Store(home).prepare()
    with tempfile.TemporaryDirectory(prefix="fumehood-bench-") as work:
        for count in (100, 100_000):
            repository = Path(work) / f"r{count}"
            files(repository, count, 100)
            print(count, asyncio.run(small(repository, home)), flush=True)
        print("installed", asyncio.run(installed(Path(work) / "r100", home)), flush=True)
        print("30,000 new", asyncio.run(large(Path(work) / "r100", home)), flush=True)


if __name__ == "__main__":
    main()
