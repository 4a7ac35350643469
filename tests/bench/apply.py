"""Figure of apply: 1,000 changed files brought onto the host, beside `rsync -a` of the same files in the same run.
Needs no engine, but rsync: without it there is no figure. Run by itself: `python -m tests.bench.apply [ROUNDS]`.
"""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.bench.figures import Figure, median, show
from tests.support.layers_by_hand import Shape
from tests.support.past import PastStage

CHANGED = 1000
SIZE = 4000


def tree(text: str) -> Shape:
    """The files, twenty to a directory, each other than the next."""
    shape: dict[str, Shape] = {}
    for number in range(CHANGED):
        line = f"{text} {number}\n".encode()
        shape.setdefault(f"d{number // 20}", {})[f"f{number}"] = (0o644, line * (SIZE // len(line)))
    return dict(shape)


def once(base: Path) -> tuple[float, float]:
    """ms of rsync and of an apply of the same."""
    stage = PastStage(base, tree("before"))
    stage.turn(tree("after"))
    upper, copy = stage.layers / "root" / "upper", base / "copy"
    shutil.copytree(stage.host, copy, symlinks=True)
    subprocess.run(["sync", "-f", base], check=True)
    began = time.perf_counter()
    subprocess.run(["rsync", "-a", f"{upper}/", f"{copy}/"], check=True)
    between = time.perf_counter()
    report = asyncio.run(stage.workspace.apply())
    ended = time.perf_counter()
    assert len(report.applied) == CHANGED
    assert (stage.host / "d0/f0").read_bytes() == (copy / "d0/f0").read_bytes()
    return (between - began) * 1000, (ended - between) * 1000


def measure(rounds: int = 5) -> list[Figure]:
    """The figure; none where there is no rsync."""
    if shutil.which("rsync") is None:
        return []
    taken = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory(prefix="fumehood-bench-") as base:
            taken.append(once(Path(base) / "s"))
    rsync, ours = (median(column) for column in zip(*taken, strict=True))
    name = f"apply of {CHANGED:,} changed files"
    return [Figure(name=name, value=ours, unit="ms", floor=rsync, floor_name="rsync -a", wanted=2.0)]


def main() -> None:
    """Print it."""
    show(measure(int(sys.argv[1]) if len(sys.argv) > 1 else 5))


if __name__ == "__main__":
    main()
