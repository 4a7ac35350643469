"""Figures of checkpoints: small ones over a small and a large repository, none, a very large one beside tar,
going back, and forks. Run by itself: `python -m tests.bench.checkpoints [HOME]`.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from runner.sessions.housing import Housing
from runner.sessions.store import Store
from sandbox.conformance import collect
from sandbox.copies import remove_tree
from sandbox.disk import usage_of
from sandbox.points import Checkpoint
from sandbox.spec import Command
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


def small(repositories: Sequence[Path], home: Path, rounds: int = 3) -> list[dict[str, float]]:
    """p50 in ms, for each repository, of a checkpoint of 100 changed files, the same durable, and of none. They take
    turns, so that an unquiet minute meets all of them.
    """
    taken = [_Small() for _ in repositories]
    for _ in range(rounds):
        for each, repository in zip(taken, repositories, strict=True):
            asyncio.run(each.measure(repository, home))
    return [{name: median(times) for name, times in each.times.items()} for each in taken]


class _Small:
    """Times in ms of small checkpoints."""

    def __init__(self) -> None:
        self.times: dict[str, list[float]] = {"taken": [], "durable": [], "none": []}

    async def measure(self, repository: Path, home: Path, rounds: int = 7) -> None:
        """Take some of each kind in a session of its own."""
        async with housed(repository, home) as (housing, _):
            await housing.box()
            workspace = housing.workspace
            assert workspace is not None
            (upper,) = [workspace._places.top(layer) for layer in workspace.layers if layer.host == repository]
            files(upper, CHANGED, 3000)
            points = workspace.checkpoints
            points.take("first")
            await workspace.changes()  # the manifest is whole: a model's first answer takes longer than its walk
            for number in range(rounds):
                for name, durable in (("taken", False), ("durable", True)):
                    for path in upper.glob("d*/f*"):
                        path.write_bytes(b"%d %r " % (number, durable) * 300)
                    took = timed(lambda durable=durable: points.take("x", durable=durable))  # type: ignore[misc]
                    self.times[name].append(took)
                self.times["none"].append(timed(lambda: points.take("x")))


async def large(repository: Path, home: Path) -> dict[str, float | str]:
    """ms of a checkpoint of 30,000 new files (frozen where that can be: `way`), of tar of the same, of going back from
    it and forth again under a running box where that can be (`box`), and of the same for 100 changed files.
    """
    async with housed(repository, home) as (housing, cwd):
        box = await housing.box()
        workspace = housing.workspace
        assert workspace is not None
        first = await _taken(workspace)
        (upper,) = [workspace._places.top(layer) for layer in workspace.layers if layer.host == repository]
        files(upper, NEW, 9000)
        found: dict[str, float | str] = {
            "tar": timed(lambda: subprocess.run(["tar", "-cf", home / "x.tar", "-C", upper, "."], check=True))
        }
        (home / "x.tar").unlink()
        began = time.perf_counter()
        frozen = await _taken(workspace)
        found |= {"taken": _ms(began), "way": frozen.way}
        found["back"], found["box"] = await _gone(workspace, housing, first.id)
        found["forth"], _ = await _gone(workspace, housing, frozen.id)
        box = await housing.box()
        command = f"cd {cwd}; for i in $(seq 0 {CHANGED - 1}); do echo $i > d$i/f$((i * 30)); done"
        await collect(await box.exec(Command(argv=("/bin/sh", "-c", command), cwd=cwd)))
        small = await _taken(workspace)
        found["small back"], _ = await _gone(workspace, housing, frozen.id)
        found["small forth"], _ = await _gone(workspace, housing, small.id)
        return found


async def back(repository: Path, home: Path, rounds: int = 7) -> float:
    """p50 in ms of undoing 100 changed files under a running box, each time after they were brought forth again."""
    async with housed(repository, home) as (housing, cwd):
        box = await housing.box()
        workspace = housing.workspace
        assert workspace is not None
        first = await _taken(workspace)
        command = f"for i in $(seq {CHANGED}); do echo $i > f$i; done"
        await collect(await box.exec(Command(argv=("/bin/sh", "-c", command), cwd=cwd)))
        changed = await _taken(workspace)
        took = []
        for _ in range(rounds):
            took.append((await _gone(workspace, housing, first.id))[0])
            await _gone(workspace, housing, changed.id)
        return median(took)


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


async def forks(repository: Path, home: Path, count: int = 3) -> dict[str, float | str]:
    """ms for each of some forks of a box with 300 MB written, MB that they took, and p50 in ms from the wish for a fork
    to the first answer of its own box.
    """
    async with housed(repository, home) as (housing, cwd):
        box = await housing.box()
        workspace = housing.workspace
        assert workspace is not None
        await collect(await box.exec(Command(argv=("/bin/sh", "-c", "head -c 300M /dev/urandom > large"), cwd=cwd)))
        before, began = _used(home), time.perf_counter()
        taken = await _taken(workspace)
        targets = [(f"{number:08}-0000-4000-8000-000000000000", home / f"fork{number}") for number in range(count)]
        for _, target in targets:
            target.mkdir(mode=0o700)
        await workspace.fork(taken.id, targets)
        found: dict[str, float | str] = {"each": _ms(began) / count, "way": taken.way}
        found["MB more"] = (_used(home) - before) / 1e6
        for _, target in targets:
            remove_tree(target)
        answers = []
        for _ in range(count):
            times: list[float] = []

            async def fill(session: str, directory: Path, times: list[float] = times) -> None:
                times.append(time.perf_counter())
                await workspace.fork(taken.id, [(session, directory)])

            async with housed(repository, home, fill=fill) as (fork, place):
                await bash(await fork.box(), place)
                answers.append(_ms(times[0]))
        found["answers"] = median(answers)
        return found


async def _taken(workspace: Workspace) -> Checkpoint:
    made = await workspace.checkpoint("x")
    assert made is not None
    return made


async def _gone(workspace: Workspace, housing: Housing, checkpoint: str) -> tuple[float, str]:
    began, kept = time.perf_counter(), "kept"
    if await workspace.restore(checkpoint) is None:
        await housing.end("bench")
        assert await workspace.restore(checkpoint) is not None
        kept = "ended"
    workspace.checkpoints.settle()
    took = _ms(began)
    if kept == "ended":
        await housing.restart()
    return took, kept


def _ms(began: float) -> float:
    return round((time.perf_counter() - began) * 1000, 1)


def _used(home: Path) -> int:
    return sum(usage_of(home / name) for name in ("sessions", "layers", "fork0", "fork1", "fork2"))


def main() -> None:
    """Print all of it."""
    home = Path(sys.argv[1]) if len(sys.argv) > 1 else Path.home() / ".cache/fumehood-bench"
    Store(home).prepare()
    with tempfile.TemporaryDirectory(prefix="fumehood-bench-") as work:
        repositories = [Path(work) / f"r{count}" for count in (100, 100_000)]
        for count, repository in zip((100, 100_000), repositories, strict=True):
            files(repository, count, 100)
        print("small", small(repositories, home), flush=True)
        print("installed", asyncio.run(installed(Path(work) / "r100", home)), flush=True)
        print("30,000 new", asyncio.run(large(Path(work) / "r100", home)), flush=True)
        print("forks", asyncio.run(forks(Path(work) / "r100", home)), flush=True)


if __name__ == "__main__":
    main()
