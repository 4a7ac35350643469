"""`fumehood` stopped at one of its system calls, and the state of a session as files tell it."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.e2e.conftest import Bench
from tests.support import tracer
from tests.support.whole_tree import tree

TRACER = Path(tracer.__file__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopped:
    """How a command ended. `count`: its calls that change something; `hit`: the one that was stopped, "" for none."""

    code: int
    count: int
    hit: str
    out: str
    err: str


def stopped(bench: Bench, *arguments: str, at: int, act: str = "kill", only: str = "") -> Stopped:
    """`fumehood ARGUMENTS`, stopped at its call number `at` (0: not at all)."""
    report = bench.scratch / "tracer.json"
    report.unlink(missing_ok=True)
    done = subprocess.run(
        [sys.executable, TRACER, report, str(at), act, "--", *bench.command(*arguments)],
        cwd=bench.place,
        env=bench.environ | {"PYTHONDONTWRITEBYTECODE": "1", "TRACE_ONLY": only},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    assert at or done.returncode == 0, f"{arguments}: exit {done.returncode}: {done.stdout} {done.stderr}"
    found = json.loads(report.read_text())
    return Stopped(code=done.returncode, count=found["count"], hit=found["hit"], out=done.stdout, err=done.stderr)


def layers(bench: Bench, session: str) -> dict[str, Any]:
    """All that the session's layers hold."""
    place = Path(bench.environ["FUMEHOOD_HOME"]) / "sessions" / session / "layers"
    tops = [top for pattern in ("*/upper", "*/copy") for top in place.glob(pattern)]
    return {str(top.relative_to(place)): _without_notes(tree(top)) for top in sorted(tops)}


def _without_notes(found: dict[bytes, tuple[Any, ...]]) -> dict[bytes, tuple[Any, ...]]:
    """Without what the kernel writes for itself."""
    notes = {f"user.overlay.{name}" for name in ("origin", "impure", "nlink", "uuid")}
    return {
        path: (*row[:-1], {name: value for name, value in row[-1].items() if name not in notes})
        if isinstance(row[-1], dict)
        else row
        for path, row in found.items()
    }


def points(seed: object, count: int, most: int) -> Iterator[int]:
    """Numbers from 1 to `most`, the same for a seed."""
    chosen = random.Random(str(seed))
    return iter([chosen.randint(1, most) for _ in range(count)])


def bodies(bench: Bench, session: str, kind: str) -> list[dict[str, Any]]:
    """The session's records of a type."""
    return [row["body"] for row in bench.records(session) if row["type"] == kind]


def left_over(bench: Bench, session: str) -> list[str]:
    """What an interrupted journey or apply leaves, anywhere."""
    state = Path(bench.environ["FUMEHOOD_HOME"]) / "sessions" / session
    found = [*state.glob("layers/*/new"), *state.glob("store/*.new"), *state.glob("store/*.json")]
    found += state.glob("store/applies/*.open")
    for directory, _, files in os.walk(bench.place):
        found += [Path(directory) / name for name in files if name.startswith(".fumehood-")]
    return [str(path) for path in found]
