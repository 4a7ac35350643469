"""Figures of the store: what 200 turns of edits to the same ten files take, beside their contents compressed one by
one; and 30,000 new files taken into the log, beside tar. Needs no engine: `python -m tests.bench.store`.
"""

from __future__ import annotations

import subprocess
import tempfile
import time
import zlib
from pathlib import Path

from sandbox.compaction import never
from tests.bench.checkpoints import NEW, files
from tests.bench.figures import Figure, median, show
from tests.support.layers_by_hand import Shape
from tests.support.past import PastStage

TURNS, FILES, LINES = 200, 10, 150


def edits(base: Path) -> tuple[int, int]:
    """Bytes of the distinct contents, each compressed, and of the store."""
    stage, contents = PastStage(base, {}), set[bytes]()
    texts = [[f"def f{n}_{line}(x): return x + {line}\n" for line in range(LINES)] for n in range(FILES)]
    for turn in range(TURNS):
        for number, lines in enumerate(texts):
            lines[(turn * 7 + number) % LINES] = f"def f{number}_{turn}(y): return {turn} * y\n"
        shape: Shape = {f"f{n}.py": (0o644, "".join(lines).encode()) for n, lines in enumerate(texts)}
        contents |= {"".join(lines).encode() for lines in texts}
        stage.turn(shape)
        stage.take()
    stage.workspace.checkpoints.pack(never)
    stage.workspace.checkpoints.close()
    return sum(len(zlib.compress(each)) for each in contents), (stage.state / "store/checkpoints").stat().st_size


def taken(base: Path, rounds: int) -> tuple[float, float]:
    """ms of tar and of a checkpoint of 30,000 new files into the log."""
    times = []
    base.mkdir()
    for number in range(rounds + 1):
        stage = PastStage(base / str(number), {})
        stage.take()
        upper = stage.layers / "root" / "upper"
        files(upper, NEW, 9000)
        began = time.perf_counter()
        subprocess.run(["tar", "-cf", base / "x.tar", "-C", upper, "."], check=True)
        between = time.perf_counter()
        stage.take()
        times.append(((between - began) * 1000, (time.perf_counter() - between) * 1000))
        stage.workspace.checkpoints.close()
        (base / "x.tar").unlink()
        subprocess.run(["rm", "-rf", base / str(number)], check=True)
    tar, ours = zip(*times[1:], strict=True)
    return median(tar), median(ours)


def measure(work: Path) -> list[Figure]:
    """Both."""
    distinct, size = edits(work / "edits")
    tar, ours = taken(work / "taken", 3)
    return [
        Figure(
            name=f"store after {TURNS} turns of edits to {FILES} files", value=size / 1024, unit="KiB", wanted=2.0,
            floor=distinct / 1024, floor_name="the contents compressed", others="codex 102 GB on a 5.7 GB project",
        ),
        Figure(
            name="30,000 new files taken into the log", value=ours, unit="ms", wanted=1.5, floor=tar, floor_name="tar",
        ),
    ]  # fmt: skip


def main() -> None:
    """Print them."""
    with tempfile.TemporaryDirectory(prefix="fumehood-bench-") as base:
        show(measure(Path(base)))


if __name__ == "__main__":
    main()
