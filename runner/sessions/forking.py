"""Forking a session: new ones that begin with its files and its conversation as they were at one point, each with a
journal, layers and a box of its own. The origin goes on undisturbed; each learns of the other.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from runner.dataclass import dataclass
from runner.errors import UsageError
from runner.events import Event, Forked, SessionStarted
from runner.journal import Journal
from runner.sessions.store import Origin, Store, write_json
from runner.sessions.travel import Travel
from runner.spec import SessionSpec
from sandbox.pool import HALF
from sandbox.workspace import Workspace

MOST = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is asked for. `at`: a checkpoint or message as `rewind` takes them; "": the present. `count`: how many."""

    at: str = ""
    count: int = 1

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Request:
        """Raises UsageError, TypeError."""
        made = cls(**data)
        if type(made.count) is not int or not 1 <= made.count <= MOST:
            raise UsageError(f"between 1 and {MOST} forks can be made at once")
        return made


class Forker:
    """Of one session that this process owns. `record` journals in it."""

    def __init__(self, spec: SessionSpec, store: Store, *, travel: Travel, record: Callable[[Forked], object]) -> None:
        self._spec = spec
        self._store = store
        self._travel = travel
        self._record = record

    async def fork(self, workspace: Workspace, request: Request) -> dict[str, Any]:
        """The report: origin, checkpoint, the new sessions, what had to be copied. Raises UsageError, SandboxError; no
        session was made then.
        """
        began = time.monotonic()
        journal = self._travel.journal
        goal = (await self._travel.timeline()).rewind(request.at) if request.at else None
        checkpoint = goal.checkpoint if goal is not None else ""
        if not checkpoint:
            await self._travel.take("fork")
            checkpoint = await asyncio.to_thread(lambda: workspace.checkpoints.present)
        head = goal.to if goal is not None else journal.head()
        if not checkpoint:
            raise UsageError("there is nothing to fork yet: no prompt was given in this session")
        await asyncio.to_thread(self._store.prepare)
        sessions = [str(uuid.uuid4()) for _ in range(request.count)]
        places = [(session, self._store.sessions / f"{HALF}{session}") for session in sessions]
        with workspace.pool.shared():  # nobody takes it for what a crash left
            for _, place in places:
                place.mkdir(mode=0o700)
            copied = await workspace.fork(checkpoint, places)
            for session, place in places:
                spec = replace(self._spec, session=session)
                await asyncio.to_thread(self._begin, spec, place, journal, head, checkpoint)
                place.rename(self._store.directory(session))
                self._record(Forked(session=session, at=checkpoint, direction="to"))
        return {
            "session": self._spec.session,
            "checkpoint": checkpoint,
            "forks": sessions,
            "copied": list(copied),
            "seconds": round(time.monotonic() - began, 3),
        }

    def _begin(self, spec: SessionSpec, place: Path, journal: Journal, head: str, checkpoint: str) -> None:
        """The conversation up to `head`, and the spec, which makes it a session."""
        new = Journal.create(place, spec.session, secrets=journal.secrets)
        try:
            clock = new.clock
            for event in journal.path(to=head):
                new.clock = lambda at=event.at: at  # type: ignore[misc]
                new.append(_own(event, spec), turn=event.turn, cause=event.cause, id=event.id)
            new.clock = clock
            new.append(Forked(session=self._spec.session, at=checkpoint, direction="from"))
            new.sync()
        finally:
            new.close()
        Origin(session=self._spec.session, checkpoint=checkpoint, at=time.time()).write(place)
        write_json(place / "spec.json", spec.to_json())


def _own(event: Event, spec: SessionSpec) -> Any:
    """A record's body as it stands in the fork."""
    if isinstance(event.body, SessionStarted):
        return replace(event.body, spec=spec.to_json())
    return event.body
