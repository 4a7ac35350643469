"""Background commands that settings declare (`background:`): they start with each box, and again after what ran in it
was ended. Each passes the gate and gets a Judged; the model is told what runs and where its output is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from runner.dataclass import dataclass
from runner.effects import Decision, RuleSource, RunCommand, Source, Verdict
from runner.loop.calls import Call, with_arguments
from runner.loop.history import reminder
from runner.tools.bash import Bash
from sandbox.errors import SandboxError
from sandbox.spec import Box

if TYPE_CHECKING:
    from runner.loop.gate import Gate

TOOL = "Background"
OWN = frozenset({Source.MANAGED, Source.COMMAND_LINE, Source.USER})
ENDING_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """One background command. `source`: the settings that declare it."""

    name: str
    command: str
    source: RuleSource


class Background:
    """A session's declared background commands. What is told of them to the model waits in `news`."""

    def __init__(self, gate: Gate, declared: Sequence[Declared]) -> None:
        self._gate = gate
        self._declared = tuple(declared)
        self._box: Box | None = None
        self._started: asyncio.Task[None] | None = None
        self._tasks: dict[str, str] = {}
        self._notes: list[str] = []

    def tasks(self) -> dict[str, str]:
        """The name of each that was started, by the id of its latest task."""
        return {task: name for name, task in self._tasks.items()}

    def news(self) -> list[dict[str, Any]]:
        """What the model was not told yet."""
        notes, self._notes = self._notes, []
        if not notes:
            return []
        head = "Background commands that the settings declare were started in the box; do not start them yourself:"
        return [reminder("\n".join([head, *notes]))]

    async def begin(self) -> None:
        """Start them as soon as there is a box. One that cannot be had, the first call tells of."""
        with suppress(SandboxError):
            await self._gate.need_box()

    async def ready(self, box: Box) -> None:
        """Started in this box, once in each. An interrupted call does not cut it short."""
        if box is not self._box:
            self._box = box
            self._started = self._gate.spawn(self._start(box, self._declared))
        if self._started is not None:
            await asyncio.shield(self._started)

    async def again(self) -> list[dict[str, str]]:
        """After what ran in the box was ended: start each once more, with a box where there is none. Those that run
        by now: name, task, command. One that does not end or cannot be started is not among them.
        """
        before, was = dict(self._tasks), self._box
        with suppress(SandboxError):
            box = await self._gate.need_box()
            if box is was:
                ended = [one for one in self._declared if await self._ended(one)]
                self._started = self._gate.spawn(self._start(box, ended))
                await asyncio.shield(self._started)
        return [
            {"name": one.name, "task": task, "command": one.command}
            for one in self._declared
            if (task := self._tasks.get(one.name, "")) != before.get(one.name, "")
        ]

    async def _ended(self, declared: Declared) -> bool:
        """Whether its end is in the journal, after some waiting."""
        task = self._gate.state.tasks.get(self._tasks.get(declared.name, ""))
        if task is None:
            return True
        with suppress(TimeoutError):
            async with asyncio.timeout(ENDING_SECONDS):
                await task.ended.wait()
        return task.ended.is_set()

    async def _start(self, box: Box, declared: Sequence[Declared]) -> None:
        for one in declared:
            await self._start_one(one, box)

    async def _start_one(self, declared: Declared, box: Box) -> None:
        gate = self._gate
        sent = {"command": declared.command, "description": declared.name, "run_in_background": True}
        call = with_arguments(Call(id=f"fumehood-{gate.new_id()}", name=TOOL, input=sent), Bash())
        place = replace(gate.place, cwd=gate.state.start)
        effects = (RunCommand(command=declared.command, cwd=place.cwd, background=True),)
        found = gate.policy().judge(effects, tool=TOOL, place=place, sent=sent)
        try:
            result = await gate.for_declared(call, box, _verdict(declared, found), effects)
        except SandboxError as error:
            self._notes.append(f"- {declared.name} (`{declared.command}`) could not be started: {error}")
            return
        task = result.for_user.get("backgroundTaskId")
        if task is None:
            self._notes.append(f"- {declared.name} (`{declared.command}`) was not started: {result.for_model}")
            return
        self._tasks[declared.name] = task
        output = result.for_user["outputPath"]
        self._notes.append(f"- {declared.name} (`{declared.command}`): task {task}, output in {output}")


def _verdict(declared: Declared, found: Verdict) -> Verdict:
    """Whoever declares a command allows it: no mode speaks of it, nor do rules on tools. A deny rule on commands or
    paths always counts; an ask rule where a repository declares it, since nobody is asked.
    """
    ruled = {match.decision for match in found.matches}
    if Decision.DENY in ruled:
        return found
    if Decision.ASK in ruled and declared.source.layer not in OWN:
        return replace(found, decision=Decision.DENY, reason=f"{found.reason}; nobody is asked for a declared command")
    source = declared.source
    return Verdict(
        decision=Decision.ALLOW,
        source=source.layer,
        rule=f"background {declared.name}",
        reason="declared in settings",
        file=source.file,
        line=source.line,
    )
