"""Drives one tool call as the gate does: validate, effects, resolve, run with the resolved targets."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from runner.effects import Effect, Place, ReadPath, WritePath
from runner.events import TaskUpdated
from runner.tools.base import Tool, ToolContext, ToolResult, ToolState
from sandbox.spec import Box


@dataclass(slots=True, kw_only=True)
class ToolBench:
    """A session's tools without the session. `shown`: live output; `records`: what was journalled."""

    box: Box
    root: PurePosixPath
    environment: dict[str, str] = field(default_factory=dict)
    shown: list[str] = field(default_factory=list)
    records: list[TaskUpdated] = field(default_factory=list)
    effects: tuple[Effect, ...] = ()
    calls: int = 0
    name: str = field(default_factory=lambda: uuid.uuid4().hex)
    consult: Callable[[str], Awaitable[str]] | None = None
    heard: list[bytes] = field(default_factory=list)
    background: list[asyncio.Task[None]] = field(default_factory=list)
    state: ToolState = field(init=False)

    def __post_init__(self) -> None:
        self.state = ToolState(cwd=self.root)

    @property
    def place(self) -> Place:
        return Place(cwd=self.state.cwd, home=PurePosixPath("/home/box"), roots=(self.root,))

    async def use(self, tool: Tool[Any], **arguments: Any) -> ToolResult:
        args = tool.args.model_validate(arguments)
        place = self.place
        self.effects = tool.effects(args, place)
        paths = tuple(effect.path for effect in self.effects if isinstance(effect, ReadPath | WritePath))
        resolved = await self.box.resolve(paths) if paths else ()
        self.calls += 1
        ctx = ToolContext(
            call=f"{self.name}-{self.calls}",
            box=self.box,
            place=place,
            state=self.state,
            targets={resolution.path: resolution.target for resolution in resolved},
            show=self.shown.append,
            record=self.records.append,
            spawn_task=self._spawn,
            environment=self.environment,
            consult=self.consult,
        )
        return await tool.run(args, ctx)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self.background.append(asyncio.create_task(work))


def text_of(result: ToolResult) -> str:
    """What the model reads, blocks joined."""
    if isinstance(result.for_model, str):
        return result.for_model
    return "\n".join(block.get("text", f"<{block['type']}>") for block in result.for_model)
