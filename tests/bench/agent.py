"""The agent from outside: the real command line against a model server on this machine.

The agent's own time per turn is the gap between a reply's leaving the server and the whole next request's arrival:
all that lies between (parsing the reply, the gate, the tool in the box, the journal, sending) is ours. What the server
itself does between a request and its reply (half a millisecond of parsing and framing) is not.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from runner.models.script import ScriptedReply, ToolCall
from tests.bench import least as least_agent
from tests.bench.figures import median, sample
from tests.support.model_server import ModelServer, Received, WireReply, wire_reply

FUMEHOOD = Path(sys.executable).with_name("fumehood")


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """`first`: ms from the process's start to the first request; `gaps`: ms from each reply to the next request;
    `peak`: bytes of the controller at its largest.
    """

    first: float
    gaps: tuple[float, ...]
    peak: int


class _Clocked(ModelServer):
    """A model server that notes when each request has arrived and each reply left, and how large the agent was."""

    def __init__(self, replies: Iterable[WireReply]) -> None:
        super().__init__(list(replies))
        self.arrivals: list[float] = []
        self.answers: list[float] = []
        self.agent = 0
        self.peak = 0

    def receive(self, request: Received) -> None:
        self.arrivals.append(time.perf_counter())
        super().receive(request)

    def answering(self) -> None:
        self.answers.append(time.perf_counter())  # before the write: the agent may run before that returns

    def next_reply(self) -> WireReply:
        if self.agent and len(self.arrivals) % 10 == 1:
            self.peak = max(self.peak, peak_of(self.agent))
        return super().next_reply()


def peak_of(pid: int) -> int:
    """Bytes of a process's largest resident set so far (VmHWM: unlike ru_maxrss, without its parent's)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def _replies(calls: Sequence[ToolCall]) -> Iterator[WireReply]:
    for number, call in enumerate(calls, 1):
        yield wire_reply(ScriptedReply(expect=[], text="Next.", tools=[call]), number)
    yield wire_reply(ScriptedReply(expect=[], text="Done."), len(calls) + 1)


def run_agent(calls: Sequence[ToolCall], repository: Path, home: Path) -> Run:
    """One run of the command line in `repository`, its state under `home`."""
    return asyncio.run(_run_agent(calls, repository, home))


async def _run_agent(
    calls: Sequence[ToolCall], repository: Path, home: Path, command: Sequence[str | Path] = (FUMEHOOD, "-p", "go")
) -> Run:
    async with _Clocked(_replies(calls)) as server:
        environ = dict(os.environ) | {
            "ANTHROPIC_BASE_URL": server.url,
            "ANTHROPIC_API_KEY": "bench",
            "FUMEHOOD_HOME": str(home),
        }
        began = time.perf_counter()
        process = await asyncio.create_subprocess_exec(
            *command, cwd=repository, env=environ,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        server.agent = process.pid
        out, err = await process.communicate()
        if process.returncode or out.strip() != b"Done.":
            raise RuntimeError(f"the agent failed ({process.returncode}): {out!r} {err!r}")
        gaps = tuple((b - a) * 1000 for a, b in zip(server.answers, server.arrivals[1:], strict=False))
        return Run(first=(server.arrivals[0] - began) * 1000, gaps=gaps, peak=server.peak)


def per_turn(tool: str, repository: Path, home: Path, turns: int = 30) -> Run:
    """A script of `turns` calls of one tool; the gaps without the first (the box starts in it)."""
    return _without_first(run_agent(_calls(tool, turns), repository, home))


def least(tool: str, repository: Path, turns: int = 30) -> Run:
    """The floor of `per_turn`: the same turns by the least agent that could play them (`tests.bench.least`), which has
    neither box nor policy nor journal.
    """
    command = (sys.executable, least_agent.__file__)
    return _without_first(asyncio.run(_run_agent(_calls(tool, turns), repository, repository, command)))


def _calls(tool: str, turns: int) -> list[ToolCall]:
    given = {"Bash": {"command": "true"}, "Read": {"file_path": "small.txt"}}[tool]
    return [ToolCall(name=tool, input=given) for _ in range(turns)]


def _without_first(run: Run) -> Run:
    return Run(first=run.first, gaps=run.gaps[1:], peak=run.peak)


def unchanged(work: Path, home: Path) -> float:
    """The share of a small repair's calls (look, try, mend, try again, look) after which no checkpoint was needed."""
    place = work / "repair"
    place.mkdir()
    (place / "calc.py").write_text("def add(a, b):\n    return a - b\n")
    mend = {"file_path": "calc.py", "old_string": "a - b", "new_string": "a + b"}
    look, attempt = {"file_path": "calc.py"}, {"command": "python3 -B -c 'import calc; print(calc.add(1, 2))'"}
    calls = [
        ToolCall(name="Grep", input={"pattern": "def"}),
        ToolCall(name="Read", input=look),
        ToolCall(name="Bash", input=attempt),
        ToolCall(name="Edit", input=mend),
        ToolCall(name="Bash", input=attempt),
        ToolCall(name="Read", input=look),
    ]
    before = set(home.glob("sessions/*"))
    run_agent(calls, place, home)
    (session,) = set(home.glob("sessions/*")) - before
    rows = [json.loads(line) for line in (session / "journal.jsonl").read_text().splitlines()]
    kinds = [row["type"] for row in rows]
    first = kinds.index("ToolFinished")
    return 1 - kinds[first:].count("CheckpointTaken") / len(calls)


def cli_start(*arguments: str, times: int = 9) -> float:
    """p50 in ms of a short command, process start to end."""
    return median(
        sample(lambda: subprocess.run([FUMEHOOD, *arguments], check=True, capture_output=True), times, warm=2)
    )
