"""What the host changes beside a session: looked for before each turn and told once, and the base contents kept turn by
turn, so that a later edit on the host can be told from the session's own changes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING

from runner.events import Drifted
from runner.sessions.specs import Notify
from sandbox.errors import SandboxError

if TYPE_CHECKING:
    from runner.journal import Journal
    from runner.loop.session import Session
    from runner.sessions.housing import Housing
    from sandbox.masks import Masks

SHOWN = 100


class Drifting:
    """For one session. `masks`: what is to be masked by now."""

    def __init__(self, housing: Housing, journal: Journal, *, masks: Callable[[], Masks], progress: Notify) -> None:
        self._housing = housing
        self._journal = journal
        self._masks = masks
        self._progress = progress
        self._told: list[dict[str, str]] = []

    async def look(self, session: Session, *, first: bool) -> None:
        """Before each turn. Before the first only where a box waits that is to be masked. What is to be masked and is
        not ends the box: the next one is started over it. Raises WorkspaceError.
        """
        if first and not (self._masks() and self._housing.laid):
            return
        workspace = await self._housing.layers()
        drift = await workspace.drift()
        if drift.unmasked or self._masks() != self._housing.masked:
            await self._housing.end("masked")
            session.gate.box.ended()
        paths = [asdict(path) for path in drift.paths]
        paths += [{"root": root, "path": "HEAD", "kind": "changed"} for root in drift.heads]
        if paths and paths != self._told:
            self._journal.append(Drifted(paths=paths[:SHOWN], count=len(paths)))
        self._told = paths

    async def keep(self, session: Session) -> None:
        """Turn by turn, the base contents of what changed, until the session is closed."""
        async for event in session.events(after=self._journal.last_seq):
            workspace = self._housing.workspace
            if event.type == "TurnEnded" and workspace is not None and workspace.layers:
                try:
                    await workspace.capture()
                except SandboxError as error:
                    self._progress(f"the base of what changed could not be kept: {error}")
