"""The work of a turn does not grow with the turns before it: counted (calls of our own functions, what is read and
written, what is journalled), in a session over a real box. Nothing is timed.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import Counter
from pathlib import Path
from statistics import median
from types import FrameType
from typing import Any

import pytest
import yaml

from runner import new_spec, run
from tests.e2e.conftest import PROJECT

pytestmark = [pytest.mark.box, pytest.mark.usefixtures("base_image", "toolbox")]
WORK = "for n in 0 1 2 3 4 5 6 7 8 9; do date +%N > f$n; done; cat f0 > /dev/null"
OURS = (f"{PROJECT}/runner/", f"{PROJECT}/sandbox/")
# A request holds the whole conversation, as the API wants it; the disk is looked at by the clock, turn or none.
APART = (f"{PROJECT}/runner/models/", f"{PROJECT}/sandbox/disk.py")


class Counted:
    """What this process does, from one look to the next."""

    def __init__(self) -> None:
        self._calls = 0
        self._before = Counter[str]()

    def profile(self, frame: FrameType, event: str, _: Any) -> None:
        name = frame.f_code.co_filename
        if event in ("call", "c_call") and name.startswith(OURS) and not name.startswith(APART):
            self._calls += 1

    def since(self, directory: Path) -> Counter[str]:
        """Calls, bytes read and written, and by how much the session's files grew."""
        rows = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
        now = Counter({"calls": self._calls, "read": int(rows["rchar"]), "written": int(rows["wchar"])})
        for name in ("journal.jsonl", "store/checkpoints"):
            now[name] = (directory / name).stat().st_size if (directory / name).exists() else 0
        found = Counter({name: now[name] - self._before[name] for name in now})
        self._before = now
        return found


@pytest.mark.parametrize(
    "turns",
    [
        pytest.param(24, marks=pytest.mark.timeout(300)),
        pytest.param(500, marks=[pytest.mark.slow, pytest.mark.torture, pytest.mark.timeout(3000)]),
    ],
)
async def test_the_last_turn_does_no_more_work_than_the_first(tmp_path: Path, turns: int) -> None:
    repo, script, window = tmp_path / "repo", tmp_path / "script.yaml", turns // 3
    (repo / "d").mkdir(parents=True)
    replies = [{"tools": [{"name": "Bash", "input": {"command": WORK}}]}, {"text": "done"}]
    script.write_text(yaml.safe_dump(replies * turns))
    environ = {**os.environ, "FUMEHOOD_HOME": str(tmp_path / "state"), "HOME": str(tmp_path)}
    spec = new_spec(repo, environ=environ, model=f"scripted:{script}")
    directory = tmp_path / "state/sessions" / spec.session
    counted, rows = Counted(), []
    threading.setprofile(counted.profile)
    sys.setprofile(counted.profile)
    try:
        async with run(spec, environ=environ) as session:
            for number in range(turns):
                async with session.quiet():
                    rows.append(counted.since(directory))
                _ = [event async for event in session.turn(f"turn {number:03}")]
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    rows = rows[2:]  # what is made once
    first, last = rows[:window], rows[-window:]
    for what in rows[0]:
        early, late = (median(row[what] for row in part) for part in (first, last))
        assert early > 0, what
        assert late <= early * 1.1 + 64, f"{what}: {early} at first, {late} at last"
