"""Going back and forth in a session: files and conversation together, in one step that a crash leaves done
or not done. The files' own step is `sandbox.checkpoints`'; its intent carries what the journal must tell.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from runner.dataclass import dataclass
from runner.errors import UsageError
from runner.events import CheckpointTaken, Event, HeadMoved
from runner.journal import Journal
from runner.sessions.timeline import Goal, Timeline
from sandbox.intents import finish_restore
from sandbox.workspace import Workspace

if TYPE_CHECKING:
    from runner.loop.background import Background

KINDS = ("undo", "redo", "rewind")
WHATS = ("both", "files", "conversation")
NAMED = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Journey:
    """What is asked for. `steps`: of an undo; `to`: of a rewind; `dry`: only say what would be done."""

    kind: str
    steps: int = 1
    to: str = ""
    what: str = "both"
    dry: bool = False

    def to_json(self) -> dict[str, Any]:
        """A JSON object that `from_json` turns back."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Journey:
        """Raises UsageError, TypeError."""
        made = cls(**data)
        if made.kind not in KINDS or made.what not in WHATS or type(made.steps) is not int:
            raise UsageError("no such way to go back")
        return made


class Recorder(Protocol):
    """Journals a body, under an id of its own where one is given."""

    def __call__(self, body: CheckpointTaken | HeadMoved, *, cause: str = "", id: str = "") -> Event:  # noqa: A002
        """The event as written."""
        ...


@asynccontextmanager
async def at_once() -> AsyncIterator[None]:
    """Nobody else works in a session at rest."""
    yield


class Travel:
    """One session's. `quiet`: no turn runs within; `stop`: ends the box, whose layers are replaced; `running`: the
    background commands in it, (id, command); `declared`: those that settings declare.
    """

    def __init__(
        self,
        *,
        workspace: Callable[[], Awaitable[Workspace]],
        journal: Journal,
        record: Recorder,
        quiet: Callable[[], AbstractAsyncContextManager[None]] = at_once,
        stop: Callable[[], Awaitable[None]] | None = None,
        running: Callable[[], list[tuple[str, str]]] = list,
        declared: Background | None = None,
    ) -> None:
        self._workspace = workspace
        self.journal = journal
        self._record = record
        self._quiet = quiet
        self._stop = stop
        self._running = running
        self._declared = declared

    async def take(self, label: str, *, before: str = "") -> None:
        """A checkpoint, told in the journal where there was something to keep. `before`: the call it is for."""
        began = time.monotonic()
        made = await (await self._workspace()).checkpoint(label)
        if made is not None:
            body = CheckpointTaken(
                checkpoint=made.id,
                label=label,
                files=made.files,
                size=made.size,
                seconds=round(time.monotonic() - began, 6),
                before=before,
                changed=made.changed,
                way=made.way,
            )
            self._record(body, cause=before)

    async def timeline(self) -> Timeline:
        """As the journal tells it now."""

        def read() -> Timeline:
            path = {event.id for event in self.journal.path()}
            return Timeline.read(self.journal.read(), path=path, head=self.journal.head())

        return await asyncio.to_thread(read)

    async def kept(self) -> set[str]:
        """The checkpoints whose files are there; others were collected."""
        points = (await self._workspace()).checkpoints
        return {each.id for each in await asyncio.to_thread(points.list)}

    async def go(self, journey: Journey) -> dict[str, Any]:
        """Do it, or say what it would do. Raises UsageError, SandboxError; nothing happened then."""
        async with self._quiet():
            timeline = await self.timeline()
            goal, what = _goal(timeline, journey)
            report = {
                "kind": journey.kind,
                "what": what,
                "dry": journey.dry,
                "turns": [{"number": turn.number, "text": turn.text} for turn in goal.turns],
                "checkpoint": goal.checkpoint if what != "conversation" else "",
                "not_undone": list(goal.not_undone),
                "layers": [],
                "ended": [],
                "started": [],
                "box": "kept",
            }
            if report["checkpoint"] and goal.checkpoint not in await self.kept():
                raise UsageError("the files of that point were collected (see: fumehood gc --help)")
            if not journey.dry:
                await self._move(goal, what, journey.kind, report)
            return report

    async def _move(self, goal: Goal, what: str, kind: str, report: dict[str, Any]) -> None:
        workspace = await self._workspace()
        files = bool(goal.checkpoint) and what != "conversation"
        if files:
            await self.take(f"before {kind}")
        present = await asyncio.to_thread(lambda: workspace.checkpoints.present)
        system = files and await asyncio.to_thread(workspace.checkpoints.image_differs, goal.checkpoint)
        head = self.journal.head()
        declared = self._declared.tasks() if self._declared is not None else {}
        ended = self._running() if files and goal.checkpoint != present else []
        report["ended"] = [{"task": task, "command": command} for task, command in ended]
        body = HeadMoved(
            to=head if what == "files" else goal.to,
            reason=_reason(kind, what, goal, system=system, ended=ended, declared=declared),
            kind=kind,
            what=what,
            left=head,
            before=present if files else "",
            checkpoint=goal.checkpoint if files else "",
        )
        mark = self.journal.ids()
        note = {"id": mark, "move": asdict(body)}
        if files and goal.checkpoint != present:
            restored = await workspace.restore(goal.checkpoint, note)
            if restored is None and self._stop is not None:
                await self._stop()
                report["box"] = "restarted"
                restored = await workspace.restore(goal.checkpoint, note)
            report["layers"] = list(restored.layers if restored is not None else ())
        self._record(body, id=mark)
        await asyncio.to_thread(workspace.checkpoints.settle)
        if files and goal.checkpoint != present and self._declared is not None:
            report["started"] = await self._declared.again()


def settle(directory: Path, journal: Journal | None) -> None:
    """After a crash in the middle of a journey that was decided: finish it, files first. Without a journal to
    write the conversation's part is left to the next who has one. The caller holds the session's lock.
    """
    intent = directory / "store" / "restore.json"
    found = finish_restore(directory / "layers", intent)
    if found is None or journal is None:
        return
    note = found.note
    if "move" in note and all(event.id != note["id"] for event in journal.read()):
        journal.append(HeadMoved(**note["move"]), id=note["id"])
    intent.unlink(missing_ok=True)


def _goal(timeline: Timeline, journey: Journey) -> tuple[Goal, str]:
    match journey.kind:
        case "undo":
            return timeline.undo(journey.steps), journey.what
        case "redo":
            return timeline.redo()
        case _:
            return timeline.rewind(journey.to), journey.what


def _reason(
    kind: str, what: str, goal: Goal, *, system: bool, ended: list[tuple[str, str]], declared: dict[str, str]
) -> str:
    """What the model is told with its next request."""
    if kind == "redo":
        text = "The user took back the last undo: conversation and files are again as they were before it."
    elif what == "conversation":
        text = "The user took back the last part of this conversation, which you do not see any more. Files stayed."
    elif what == "files":
        text = "The user put the files back to an earlier state; what you did to them since is gone."
    else:
        text = (
            f"The user took back the last {len(goal.turns)} turns, which you do not see any more. Files in the "
            "workspace, the home directory and /tmp are as they were before."
        )
    if system:
        text += " So is the rest of the system, with the packages that were installed then and no others."
    if what != "conversation":
        text += " Processes that ran in the background were ended"
        others = [(task, command) for task, command in ended if task not in declared]
        named = "; ".join(f"{task} ({' '.join(command.split())[:NAMED]})" for task, command in others)
        text += f", among them {named}: start again what is still needed." if named else "."
        if names := ", ".join(declared.values()):
            text += f" Those that the settings declare ({names}) are started again for you."
        text += " Read files again before you edit them."
    if goal.not_undone:
        text += " Not taken back, since it left the box: " + "; ".join(goal.not_undone[:20]) + "."
    return text
