"""The tools there are, and which of them a session gets."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import cache, cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.errors import UsageError
from runner.models.base import ToolSpec
from runner.tools.base import Tool, ToolContext, ToolResult, described

if TYPE_CHECKING:
    from runner.effects import Effect, Place
    from runner.tools.helpers import Helpers

DEFAULT = "default"
SCHEMAS = Path(__file__).with_name("schemas.json")


class Deferred(Tool[Any]):
    """The tool of that name, imported when it is first called, or by `load`: the first request to the model needs its
    description and schema, which are data. `given`: for its constructor.
    """

    def __init__(self, name: str, *given: object, asks: bool = False, optional: bool = False) -> None:
        self.name, self.asks, self.optional = name, asks, optional
        self._given = given
        self._module = name.lower()

    @cached_property
    def tool(self) -> Tool[Any]:
        """The tool itself."""
        made: Tool[Any] = getattr(import_module(f"runner.tools.{self._module}"), self.name)(*self._given)
        return made

    @property
    def args(self) -> type[Any]:
        """What a call's input is parsed into."""
        return self.tool.args

    @property
    def description(self) -> str:
        """The text for the model."""
        return described(str(SCHEMAS.with_name(self._module)))

    def schema(self) -> dict[str, Any]:
        """As `runner.tools.schema` wrote it."""
        return _schemas()[self.name]

    def effects(self, args: Any, place: Place) -> tuple[Effect, ...]:
        """The tool's."""
        return self.tool.effects(args, place)

    async def run(self, args: Any, ctx: ToolContext) -> ToolResult:
        """The tool's."""
        return await self.tool.run(args, ctx)


def default_tools(helpers: Helpers | None = None, search: Mapping[str, Any] | None = None) -> tuple[Tool[Any], ...]:
    """Every tool, the optional ones too, in the order in which the model sees them. `helpers`: others than the
    toolbox's. `search`: the setting of that name; without one there is no WebSearch.
    """
    given = () if helpers is None else (helpers,)
    return (
        Deferred("AskUserQuestion", asks=True),
        Deferred("Bash"),
        Deferred("Edit"),
        Deferred("EnterPlanMode", asks=True),
        Deferred("ExitPlanMode", asks=True),
        Deferred("Glob", *given),
        Deferred("Grep", *given),
        Deferred("MultiEdit", optional=True),
        Deferred("NotebookEdit"),
        Deferred("Read", *given),
        Deferred("TaskStop"),
        Deferred("TodoWrite"),
        Deferred("WebFetch", *given),
        *(
            (Deferred("WebSearch", import_module("runner.tools.websearch").Endpoint.of(search), *given),)
            if search
            else ()
        ),
        Deferred("Write"),
    )


def load(tool: Tool[Any]) -> None:
    """Import a tool that was not called yet. Blocks."""
    if isinstance(tool, Deferred):
        tool.tool  # noqa: B018  # to have it


@cache
def _schemas() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = json.loads(SCHEMAS.read_text(encoding="utf-8"))
    return found


def select_tools(
    tools: str | Iterable[str] = DEFAULT,
    *,
    allowed: Iterable[str] = (),
    disallowed: Iterable[str] = (),
    search: Mapping[str, Any] | None = None,
    known: tuple[Tool[Any], ...] | None = None,
) -> tuple[Tool[Any], ...]:
    """The tools that are offered. `tools`: "default" or names; `allowed`: rules, whose tool names offer optional
    tools too; `disallowed`: rules, of which bare names remove a tool. Raises UsageError for an unknown name in `tools`.
    """
    known = default_tools(search=search) if known is None else known
    wanted = [tools] if isinstance(tools, str) else list(tools)
    unknown = sorted(set(wanted) - {tool.name for tool in known} - {DEFAULT, ""})
    if unknown:
        msg = f"no such tool: {', '.join(unknown)} (there are {', '.join(tool.name for tool in known)})"
        raise UsageError(msg)
    named = {rule.partition("(")[0].strip() for rule in allowed} | set(wanted)
    removed = {rule.strip().removesuffix("(*)") for rule in disallowed}
    everything = DEFAULT in wanted
    return tuple(
        tool
        for tool in known
        if tool.name not in removed
        and (tool.name in (named if everything else wanted) or (everything and not tool.optional))
    )


def tool_spec(tool: Tool[Any]) -> ToolSpec:
    """The tool as the model sees it."""
    return ToolSpec(name=tool.name, description=tool.description, schema=tool.schema())
