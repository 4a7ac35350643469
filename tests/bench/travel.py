"""Figures of going back and forth, each beside its floor of the same run, and the curves of a checkpoint over changed
files and repository size. By itself: `python -m tests.bench.travel [HOME]`, which also writes `curves.svg`.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from runner.sessions.store import Store
from sandbox.capture import Capture
from sandbox.states import State
from sandbox.store import Store as Log
from tests.bench import checkpoints
from tests.bench.boxes import housed
from tests.bench.checkpoints import files, timed
from tests.bench.curves import draw
from tests.bench.figures import Figure, median, show

SVG = Path(__file__).with_name("curves.svg")
COUNTS = (1, 3, 10, 30, 100, 300, 1000)
TURNS = 500


async def curve(repository: Path, home: Path, rounds: int = 7) -> list[tuple[float, float]]:
    """(changed files, p50 in ms of their checkpoint): every changed file is of the same session."""
    async with housed(repository, home) as (housing, _):
        await housing.box()
        workspace = housing.workspace
        assert workspace is not None
        (upper,) = [workspace._places.top(layer) for layer in workspace.layers if layer.host == repository]
        found = []
        for count in COUNTS:
            files(upper, count, 3000)
            workspace.checkpoints.take("first")
            changed = sorted(upper.glob("d*/f*"))[:count]
            taken = []
            for number in range(rounds):
                for path in changed:
                    path.write_bytes(b"%d %d " % (number, count) * 300)
                taken.append(timed(lambda: workspace.checkpoints.take("x")))
            found.append((float(count), median(taken)))
        return found


def tar_curve(work: Path, rounds: int = 7) -> list[tuple[float, float]]:
    """The floor: `tar` of as many files of that size."""
    found = []
    for count in COUNTS:
        top = work / f"tar{count}"
        files(top, count, 3000)
        command = ["tar", "-cf", str(work / "x.tar"), "-C", str(top), "."]

        def once(command: list[str] = command) -> None:
            subprocess.run(command, check=True)

        found.append((float(count), median([timed(once) for _ in range(rounds)])))
    return found


async def by_keeper(repository: Path, home: Path, rounds: int = 25) -> tuple[float, float]:
    """p50 in ms of taking in 100 changed files by this process, and by the keeper."""
    async with housed(repository, home) as (housing, _):
        await housing.box()
        workspace = housing.workspace
        assert workspace is not None
        (upper,) = [workspace._places.top(layer) for layer in workspace.layers if layer.host == repository]
        files(upper, checkpoints.CHANGED, 3000)
        taken: dict[bool, list[float]] = {True: [], False: []}
        with tempfile.TemporaryDirectory(dir=home) as place, Log(Path(place) / "log", writable=True) as log:
            states = {True: State(), False: State()}
            for number in range(rounds + 1):
                for local, state in states.items():
                    for path in upper.glob("d*/f*"):
                        path.write_bytes(b"%d %r " % (number, local) * 300)
                    capture = Capture(upper, log, workspace._keeper, settle=False, local=local)

                    def once(capture: Capture = capture, state: State = state) -> None:
                        state.update(capture.run(state).rows)
                        log.note({"type": "bench"})

                    taken[local].append(timed(once))
        return median(taken[True][1:]), median(taken[False][1:])


async def long_session(repository: Path, home: Path) -> tuple[float, float]:
    """p50 in ms of a checkpoint of ten edits, in the first and in the last fifty of 500 turns."""
    async with housed(repository, home) as (housing, _):
        await housing.box()
        workspace = housing.workspace
        assert workspace is not None
        (upper,) = [workspace._places.top(layer) for layer in workspace.layers if layer.host == repository]
        files(upper, 10, 3000)
        workspace.checkpoints.take("first")
        taken = []
        for number in range(TURNS):
            for path in upper.glob("d*/f*"):
                path.write_bytes(b"%d " % number * 300)
            taken.append(timed(lambda: workspace.checkpoints.take("x")))
        return median(taken[:50]), median(taken[-50:])


def measure(work: Path, home: Path, small: Path, large: Path) -> list[Figure]:
    """All figures; `small` and `large`: repositories of 100 and of 100,000 files. Writes the curves too."""
    few, many = checkpoints.small((small, large), home)
    whole = asyncio.run(checkpoints.large(small, home))
    undone = asyncio.run(checkpoints.back(small, home))
    forks = asyncio.run(checkpoints.forks(small, home))
    own, kept = asyncio.run(by_keeper(small, home))
    packages = asyncio.run(checkpoints.installed(small, home))
    first, last = asyncio.run(long_session(small, home))
    series = {
        "100 files in the repository": asyncio.run(curve(small, home)),
        "100,000 files": asyncio.run(curve(large, home)),
        "tar of the changed files": tar_curve(work),
    }
    title = "A checkpoint, request to durable against kill -9"
    SVG.write_text(draw(title, series, across="changed files", up="milliseconds (p50)"))

    def number(name: str) -> float:
        return float(whole[name])

    return [
        Figure(
            name="checkpoint of 100 changed files", value=few["taken"], unit="ms", wanted=10,
            others="DeltaBox 10.8 ms, Sprites 300, docker commit 94+",
        ),
        Figure(
            name="the same, 100,000-file repository", value=many["taken"], unit="ms", floor=few["taken"],
            floor_name="100 files", wanted=1.2,
        ),
        Figure(
            name="the same, durable against power loss", value=few["durable"], unit="ms", floor=few["taken"],
            floor_name="against kill -9", wanted=3,
        ),
        Figure(
            name="the same, taken in by the keeper", value=kept, unit="ms", floor=own, floor_name="by itself", wanted=3
        ),
        Figure(name="turn that changed nothing", value=few["none"], unit="ms", wanted=1),
        Figure(
            name=f"30,000 new files, 268 MB ({whole['way']})", value=number("taken"), unit="ms", floor=number("tar"),
            floor_name="tar", wanted=1.5,
        ),
        Figure(name="undo of them", value=number("back"), unit="ms", wanted=1000, others="Sprites about 1 s"),
        Figure(
            name="undo of packages in a writable root file system", value=packages["undone"], unit="ms", wanted=1500,
        ),
        Figure(name="undo of 100 changed files", value=undone, unit="ms", wanted=100),
        Figure(name="the same, once, 268 MB still to be written", value=number("small back"), unit="ms", wanted=1000),
        Figure(
            name="fork of a box with 300 MB written, each", value=float(forks["each"]), unit="ms", wanted=600,
            others="E2B: source paused",
        ),
        Figure(
            name="what the forks took on the disk", value=float(forks["MB more"]), unit="MB", floor=300,
            floor_name="what was written", wanted=0.1,
        ),
        Figure(
            name="the same, until its own box answers", value=float(forks["answers"]), unit="ms", wanted=600,
        ),
        Figure(
            name="checkpoint in turns 451-500", value=last, unit="ms", floor=first, floor_name="turns 1-50", wanted=1.2
        ),
    ]  # fmt: skip


def main(arguments: Sequence[str]) -> None:
    """Print all of it."""
    home = Path(arguments[0]) if arguments else Path.home() / ".cache/fumehood-bench"
    Store(home).prepare()
    with tempfile.TemporaryDirectory(prefix="fumehood-bench-") as work:
        places = []
        for count in (100, 100_000):
            places.append(Path(work) / f"r{count}")
            files(places[-1], count, 100)
        show(measure(Path(work), home, *places))


if __name__ == "__main__":
    main(sys.argv[1:])
