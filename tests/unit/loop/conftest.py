"""A stage for the loop: a scripted model, tools that do what a test tells them, a box that only resolves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from runner.approval import Approver, DenyApprover
from runner.effects import Effect, Mode, Place, ReadPath, WritePath
from runner.events import Event
from runner.journal import Journal, MemoryJournal
from runner.loop.context import Context
from runner.loop.session import Session
from runner.models.base import BlockDone, Delta, Finished, Request, Started
from runner.models.script import Script
from runner.models.scripted import ScriptedModel
from runner.policy.policy import Policy, build_policy
from runner.spec import TurnLimits
from runner.tools.arguments import Arguments
from runner.tools.base import Tool, ToolContext, ToolResult
from runner.tools.todowrite import TodoWrite
from sandbox.spec import Command, Exited, Output, Resolution, Stdout

REPO = PurePosixPath("/repo")


def call(tool: str, number: int = 1, /, **sent: Any) -> dict[str, Any]:
    return {"name": tool, "id": f"toolu_{number}", "input": sent}


def tool_use(tool: str, number: int = 1, /, **sent: Any) -> BlockDone:
    return BlockDone(index=number, block={"type": "tool_use", **call(tool, number, **sent)})


BEGUN = Started(message="msg_1", model="parts", usage={"input_tokens": 5})
DONE = Finished(stop_reason="end_turn", usage={"output_tokens": 2})
CALLS = Finished(stop_reason="tool_use", usage={"output_tokens": 2})


class StubProcess:
    pid = 7

    def __init__(self, items: list[Output]) -> None:
        self.items = items

    async def __aiter__(self) -> AsyncIterator[Output]:
        for item in self.items:
            yield item

    async def write_stdin(self, data: bytes | None) -> None:
        await asyncio.sleep(0)


@dataclass
class StubBox:
    """Resolves every path to itself, or as `links` says; runs nothing."""

    links: dict[str, str] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    commands: list[Command] = field(default_factory=list)
    output: bytes = b""
    lost: Exception | None = None

    async def resolve(self, paths: tuple[PurePosixPath, ...]) -> tuple[Resolution, ...]:
        await asyncio.sleep(0)
        if self.lost is not None:
            raise self.lost
        return tuple(
            Resolution(
                path=path,
                link=path,
                target=PurePosixPath(self.links.get(str(path), str(path))),
                kind="file",
                error=self.errors.get(str(path), ""),
            )
            for path in paths
        )

    async def exec(self, command: Command) -> StubProcess:
        self.commands.append(command)
        if self.lost is not None:
            raise self.lost
        return StubProcess([Stdout(data=self.output), Exited(code=0)])


class ProbeArguments(Arguments):
    name: str = "x"
    path: str = "/repo/a"
    wait: bool = False
    say: str = ""
    fail: str = ""


class Probe(Tool[ProbeArguments]):
    """Keeps a diary: `+name` when it starts, `-name` when it ends, `!name` when it is cancelled."""

    args = ProbeArguments

    def __init__(self) -> None:
        self.diary: list[str] = []
        self.go = asyncio.Event()
        self.targets: list[dict[str, str]] = []

    @property
    def description(self) -> str:
        return f"{self.name} for tests"

    async def run(self, args: ProbeArguments, ctx: ToolContext) -> ToolResult:
        self.diary.append(f"+{args.name}")
        self.targets.append({str(k): str(v) for k, v in ctx.targets.items()})
        if args.say:
            for part in args.say.split("|"):
                ctx.show(part)
        try:
            if args.wait:
                await self.go.wait()
            else:
                await asyncio.sleep(0)
        except asyncio.CancelledError:
            self.diary.append(f"!{args.name}")
            raise
        if args.fail:
            raise KeyError(args.fail)
        self.diary.append(f"-{args.name}")
        return ToolResult(for_model=f"did {args.name}", for_user={"name": args.name})


class Look(Probe):
    name = "Look"

    def effects(self, args: ProbeArguments, place: Place) -> tuple[Effect, ...]:
        return (ReadPath(path=place.cwd / args.path),)


class Change(Probe):
    name = "Change"

    def effects(self, args: ProbeArguments, place: Place) -> tuple[Effect, ...]:
        return (WritePath(path=place.cwd / args.path),)


class Listening(ScriptedModel):
    """Keeps the requests that it was sent."""

    def __init__(self, script: Script) -> None:
        super().__init__(script)
        self.requests: list[Request] = []

    def stream(self, request: Request) -> Any:
        self.requests.append(request)
        return super().stream(request)


class Parts:
    """A model whose stream is a list of deltas and of things to await or raise."""

    name = "parts"

    def __init__(self, *streams: list[Any]) -> None:
        self.streams = list(streams)
        self.requests: list[Request] = []

    async def stream(self, request: Request) -> AsyncIterator[Delta]:
        self.requests.append(request)
        for item in self.streams.pop(0):
            if isinstance(item, Exception):
                raise item
            if isinstance(item, asyncio.Event):
                await item.wait()
            else:
                yield item


@dataclass
class Stage:
    """Builds sessions; everything that a test looks at is an attribute."""

    home: Path
    root: Path
    journal: Journal = field(default_factory=lambda: told_journal())  # noqa: PLW0108 (defined below)
    box: StubBox = field(default_factory=StubBox)
    look: Look = field(default_factory=Look)
    change: Change = field(default_factory=Change)
    model: Any = None
    more: tuple[Tool[Any], ...] = ()
    boxes: int = 0

    def script(self, *replies: dict[str, Any]) -> None:
        self.model = Listening(Script.model_validate({"replies": list(replies)}))

    async def give_box(self) -> Any:
        self.boxes += 1
        return self.box

    @asynccontextmanager
    async def open(
        self,
        *,
        mode: Mode = Mode.BYPASS,
        allow: tuple[str, ...] = (),
        ask: tuple[str, ...] = (),
        deny: tuple[str, ...] = (),
        policy: Policy | None = None,
        approver: Approver | None = None,
        limits: TurnLimits | None = None,
        box: Callable[[], Awaitable[Any]] | None = None,
        restart_box: Callable[[], Awaitable[Any]] | None = None,
        price: float | None = 0.5,
        git: bool = True,
        **more: Any,
    ) -> AsyncIterator[Session]:
        place = Place(cwd=REPO, home=PurePosixPath("/home/box"), roots=(REPO,))
        session = Session(
            journal=self.journal,
            model=self.model,
            tools=(self.look, self.change, TodoWrite(), *self.more),
            policy=policy or build_policy(mode=mode, allow=allow, ask=ask, deny=deny, place=place),
            approver=approver or DenyApprover(),
            box=box or self.give_box,
            restart_box=restart_box,
            context=Context(
                home=self.home,
                root=self.root,
                at=REPO,
                cwd=REPO,
                roots=(REPO,),
                box_home=PurePosixPath("/home/box"),
                now=lambda: datetime(2026, 11, 20, 12, tzinfo=UTC),
                git=git,
            ),
            cost_of=lambda model, usage: price,
            limits=limits,
            **more,
        )
        async with session:
            yield session

    async def play(self, session: Session, text: str = "go") -> list[Event]:
        return [event async for event in session.turn(text)]

    def events(self) -> list[Event]:
        """The records, without those of our own helpers, which come when they come."""
        helpers = ("fumehood-", "user-")
        return [e for e in self.journal.read() if not getattr(e.body, "call", "").startswith(helpers)]

    def bodies(self, *kinds: type[Any]) -> list[Any]:
        return [event.body for event in self.events() if isinstance(event.body, kinds)]

    def kinds(self) -> list[str]:
        return [event.type for event in self.events()]


def told_journal() -> MemoryJournal:
    numbers, times = count(1), count(1_700_000_000)
    return MemoryJournal("s1", clock=lambda: float(next(times)), ids=lambda: f"id{next(numbers)}")


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    home, root = tmp_path / "home", tmp_path / "root"
    home.mkdir()
    root.mkdir()
    return Stage(home=home, root=root)


async def until(session: Session, kind: type[Any]) -> Event:
    """The next event of a kind, live ones too."""
    async for event in session.events():
        if isinstance(event.body, kind):
            return event
    raise AssertionError(f"no {kind.__name__} came")


async def settle(holds: Callable[[], bool]) -> None:
    """Let tasks run until something holds."""
    while not holds():  # noqa: ASYNC110 (what is waited for knows nothing of tests)
        await asyncio.sleep(0)
