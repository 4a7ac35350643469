"""A session over a local box whose hooks come from settings files, as a test writes them."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from runner.approval import Approver, DenyApprover
from runner.effects import Mode, Place, Source
from runner.events import Event, HookRan
from runner.hooks.config import Configured, read_hooks
from runner.hooks.host import WARDEN
from runner.hooks.kinds import Handler
from runner.hooks.run import Hooks
from runner.journal import Journal
from runner.loop.context import Context
from runner.loop.session import Session
from runner.models.script import Script
from runner.models.scripted import ScriptedModel
from runner.policy.policy import build_policy
from runner.spec import TurnLimits
from runner.tools.registry import default_tools
from sandbox.local import LocalBox
from tests.support.policies import joined, loaded


@dataclass
class Stage:
    """`root`: the directory that the box sees; `events`: what the last session recorded."""

    root: Path
    events: list[Event] = field(default_factory=list)
    model: Any = None
    saved: list[str] = field(default_factory=list)

    @property
    def repo(self) -> Path:
        return self.root / "repo"

    def script(self, name: str, body: str) -> str:
        """A hook's program, and how it is called."""
        path = self.root / name
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)
        return str(path)

    def says(
        self, name: str, answer: dict[str, Any] | None = None, *, code: int = 0, stderr: str = "", **more: Any
    ) -> str:
        """A hook that gives one answer."""
        said = (answer or {}) | more
        text = json.dumps(said).replace("'", "'\\''") if said else ""
        return self.script(name, f"cat >/dev/null; printf '%s' '{text}'; printf '%s' '{stderr}' >&2; exit {code}")

    @asynccontextmanager
    async def open(
        self,
        *replies: dict[str, Any],
        configured: Configured,
        mode: Mode = Mode.BYPASS,
        approver: Approver | None = None,
        limits: TurnLimits | None = None,
        allow: tuple[str, ...] = (),
        ask: tuple[str, ...] = (),
        deny: tuple[str, ...] = (),
        environment: dict[str, str] | None = None,
    ) -> AsyncIterator[Session]:
        at, home = PurePosixPath(self.repo), PurePosixPath(self.root)
        place = Place(cwd=at, home=home, roots=(at,))
        policy = build_policy(mode=mode, place=place, allow=allow, ask=ask, deny=deny)
        journal = Journal.create(self.root / "session", "s1")
        self.model = ScriptedModel(Script.model_validate({"replies": list(replies)}))
        async with LocalBox(self.root) as box:

            async def given() -> LocalBox:
                return box

            async def save(call: str) -> None:
                self.saved.append(call)

            session = Session(
                journal=journal,
                model=self.model,
                tools=default_tools(),
                policy=policy,
                approver=approver or DenyApprover(),
                box=given,
                context=Context(
                    home=self.root,
                    root=self.repo,
                    at=at,
                    cwd=at,
                    roots=(at,),
                    box_home=home,
                    now=lambda: datetime(2026, 11, 20, tzinfo=UTC),
                ),
                cost_of=lambda model, usage: 0.0,
                limits=limits,
                environment=environment,
                before_write=save,
                hooks=Hooks(
                    configured=lambda: configured,
                    session="s1",
                    root=at,
                    transcript=str(self.root / "session" / "journal.jsonl"),
                    environ=os.environ,
                    warden=WARDEN,
                ),
            )
            try:
                async with session:
                    yield session
            finally:
                self.events = list(journal.read())
        assert journal.verify().ok
        journal.close()

    async def play(self, *replies: dict[str, Any], configured: Configured, **more: Any) -> list[Event]:
        """One turn of a session."""
        async with self.open(*replies, configured=configured, **more) as session:
            async for _ in session.turn("go"):
                pass
        return self.events

    def bodies(self, kind: type[Any]) -> list[Any]:
        return [event.body for event in self.events if isinstance(event.body, kind)]

    def ran(self) -> list[tuple[str, str, str, str]]:
        """What HookRan says: event, where, outcome, verdict."""
        return [(b.event, b.where, b.outcome, b.verdict) for b in self.bodies(HookRan)]


def hook(command: str, **more: Any) -> dict[str, Any]:
    return {"type": "command", "command": command, **more}


def hooks(
    event: str,
    *handlers: dict[str, Any],
    matcher: str = "",
    layer: Source = Source.USER,
    functions: tuple[Handler, ...] = (),
    settings: dict[str, Any] | None = None,
    trusted: bool = False,
) -> Configured:
    """What one settings file gives."""
    value = {"hooks": {event: [{"matcher": matcher, "hooks": list(handlers)}]}} | (settings or {})
    return read_hooks(joined(loaded(layer, value), trusted=trusted), functions)


def use(tool: str, number: int = 1, /, **sent: Any) -> dict[str, Any]:
    return {"tools": [{"name": tool, "id": f"toolu_{number}", "input": sent}]}


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    made = Stage(tmp_path)
    made.repo.mkdir()
    (made.repo / "a.txt").write_text("one\n")
    return made
