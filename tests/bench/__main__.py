"""`make bench`: every figure beside its floor, measured in one run. Needs an engine and the base image."""

from __future__ import annotations

import argparse
import compileall
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from tests.bench import agent, apply, boxes, floors, network, policy, store, travel
from tests.bench.figures import Figure, median, show

FILES = 100_000
HIDDEN = (".env*", "*.pem", ".npmrc")


def repository(at: Path, files: int) -> Path:
    """A git repository of `files` small files, hundred to a directory."""
    at.mkdir()
    (at / "small.txt").write_text("a small file\n" * 20)
    for number in range(files - 1):
        directory = at / f"d{number // 100}"
        if number % 100 == 0:
            directory.mkdir()
        (directory / f"f{number}.txt").write_text(f"{number}\n")
    subprocess.run(["git", "init", "-q", at], check=True)
    return at


def network_figures(out: network.Network) -> list[Figure]:
    """The way out, beside the raw pipe of the same run."""
    return [
        Figure(
            name="raw pipe, into a command",
            value=out.raw,
            unit="MB/s",
            floor=out.bare,
            floor_name="bare attach socket",
            wanted=0.8,
            at_least=True,
        ),
        Figure(
            name="download by TLS, passed through",
            value=out.passed,
            unit="MB/s",
            floor=out.raw,
            floor_name="raw pipe",
            wanted=0.7,
            at_least=True,
        ),
        Figure(
            name="the same, beside raw pipe and TLS, which need the same processors",
            value=out.passed,
            unit="MB/s",
            floor=1 / (1 / out.raw + 1 / out.unboxed),
            floor_name=f"one after the other; TLS without a box {out.unboxed:.0f}",
            wanted=0.9,
            at_least=True,
        ),
        Figure(
            name="the same, looked into",
            value=out.inspected,
            unit="MB/s",
            floor=out.raw,
            floor_name="raw pipe",
            wanted=0.35,
            at_least=True,
        ),
        Figure(name="added to a small request", value=out.small_passed - out.direct, unit="ms", wanted=2),
        Figure(name="the same, looked into", value=out.small_inspected - out.direct, unit="ms", wanted=4),
        Figure(name="tool call during a download, p95", value=out.call_p95, unit="ms", wanted=10),
        Figure(name="memory that a download of 1 GB takes", value=out.memory, unit="MB", wanted=20),
        Figure(name=f"of {network.MANY} connections at once, failed", value=out.failed, unit="", wanted=0),
    ]


def measure(work: Path, home: Path, console: Console) -> list[Figure]:
    """All of it, the start and its floors turn by turn so that noise falls on both."""
    small, large = repository(work / "small", 100), repository(work / "large", FILES)
    ground = boxes.lay(home)
    image = ground.image.id
    console.print("start …")
    boxes.start(small, home)
    starts = [
        (
            floors.docker_run_and_exec(image, 1),
            boxes.start(small, home),
            boxes.start(large, home),
            boxes.start(large, home, hidden=HIDDEN),
        )
        for _ in range(7)
    ]
    plain, ours, hundred_thousand, masked = (median(column) for column in zip(*starts, strict=True))
    console.print("calls …")
    exec_true = floors.docker_exec_true(image)
    read, bash = boxes.latency(small, home)
    console.print("turns …")
    runs: dict[str, list[agent.Run]] = {"Bash": [], "Read": [], "least Bash": [], "least Read": []}
    for _ in range(3):
        for tool in ("Bash", "Read"):
            runs[f"least {tool}"].append(agent.least(tool, small))
            runs[tool].append(agent.per_turn(tool, small, home))
    every = runs["Bash"] + runs["Read"]
    turn = {name: median([gap for run in several for gap in run.gaps]) for name, several in runs.items()}
    console.print("sessions side by side …")
    many = boxes.side_by_side(small, home)
    console.print("going back and forth …")
    travels = travel.measure(work, home, small, large)
    console.print("the way out …")
    out = network.measure(ground.engine, image, ground.toolbox, home / "boxes")
    return [
        *network_figures(out),
        Figure(
            name="start to first tool answer", value=ours, unit="ms", floor=plain, floor_name="run -d + exec",
            wanted=1.25, others="plain Docker 471 ms, SWE-ReX 1,994, inspect 1,756",
        ),
        Figure(
            name="the same, 100,000 files", value=hundred_thousand, unit="ms", floor=ours, floor_name="100 files",
            wanted=1.1,
        ),
        Figure(
            name="the same, looked through for what policy hides", value=(masked - hundred_thousand) * 1000 / FILES,
            unit="us more per entry", wanted=10,
        ),
        Figure(
            name="Read of a small file", value=read, unit="ms", floor=exec_true, floor_name="exec true",
            wanted=1 / 100, others="docker exec 64-97 ms",
        ),
        Figure(
            name="Bash true", value=bash, unit="ms", floor=exec_true, floor_name="exec true", wanted=1 / 20,
            others="SWE-ReX 6.8 or 114 ms, inspect 161",
        ),
        Figure(
            name="the same, beside a shell on the host", value=bash, unit="ms", floor=floors.host_bash(),
            floor_name="subprocess", wanted=2,
        ),
        Figure(
            name="own time per turn, Bash", value=turn["Bash"], unit="ms", wanted=10, absolute=True,
            floor=turn["least Bash"], floor_name="least agent, no box",
            others="mini 30, claude 58/54, codex 73, mini in Docker 124",
        ),
        Figure(
            name="own time per turn, Read", value=turn["Read"], unit="ms", wanted=6, absolute=True,
            floor=turn["least Read"], floor_name="least agent, no box",
        ),
        Figure(
            name="process start to first request", value=median([run.first for run in every]), unit="ms", wanted=700,
            others="codex 317, claude 1,193, gemini 3,539, mini 7,456",
        ),
        Figure(name="fumehood --version", value=agent.cli_start("--version"), unit="ms", wanted=80),
        Figure(name="fumehood --help", value=agent.cli_start("--help"), unit="ms", wanted=250),
        Figure(
            name="8 sessions, Bash calls per second", value=many, unit="/s", wanted=400, at_least=True,
            others="SWE-ReX 226, docker exec 19",
        ),
        Figure(
            name="controller's peak memory, 30 turns", value=max(run.peak for run in every) / 1e6, unit="MB",
            wanted=120, others="codex 154, mini 228, claude 310",
        ),
        Figure(
            name="calls of a small repair that changed nothing", value=100 * agent.unchanged(work, home), unit="%",
            wanted=50, at_least=True,
        ),
        *travels,
        *store.measure(work),
        *apply.measure(),
        *policy.measure(),
    ]  # fmt: skip


def main() -> int:
    """Exit code 1 where a figure is not met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, default=Path("bench-figures.json"))
    parser.add_argument("--home", type=Path, help="FUMEHOOD_HOME with the image's cache")
    asked = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 120)
    for package in ("runner", "sandbox"):  # where Python writes no bytecode, each start would make it
        compileall.compile_dir(Path(__file__).parents[2] / package, quiet=2)
    with tempfile.TemporaryDirectory(prefix="fumehood-bench-") as work:
        figures = measure(Path(work), asked.home or Path(work) / "home", console)
    show(figures, to=asked.json, console=console)
    return 0 if all(figure.met for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
