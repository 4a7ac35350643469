"""The tools there are, and which of them a session gets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from runner.errors import UsageError
from runner.models.base import ToolSpec
from runner.tools.askuserquestion import AskUserQuestion
from runner.tools.base import Tool
from runner.tools.bash import Bash
from runner.tools.edit import Edit
from runner.tools.enterplanmode import EnterPlanMode
from runner.tools.exitplanmode import ExitPlanMode
from runner.tools.glob import Glob
from runner.tools.grep import Grep
from runner.tools.helpers import TOOLBOX, Helpers
from runner.tools.multiedit import MultiEdit
from runner.tools.notebookedit import NotebookEdit
from runner.tools.read import Read
from runner.tools.taskstop import TaskStop
from runner.tools.todowrite import TodoWrite
from runner.tools.webfetch import WebFetch
from runner.tools.websearch import Endpoint, WebSearch
from runner.tools.write import Write

DEFAULT = "default"
_NOISE = ("title", "default")


def default_tools(helpers: Helpers = TOOLBOX, search: Mapping[str, Any] | None = None) -> tuple[Tool[Any], ...]:
    """Every tool, the optional ones too, in the order in which the model sees them. `search`: the setting of that
    name; without one there is no WebSearch.
    """
    return (
        AskUserQuestion(),
        Bash(),
        Edit(),
        EnterPlanMode(),
        ExitPlanMode(),
        Glob(helpers),
        Grep(helpers),
        MultiEdit(),
        NotebookEdit(),
        Read(helpers),
        TaskStop(),
        TodoWrite(),
        WebFetch(helpers),
        *((WebSearch(Endpoint.of(search), helpers),) if search else ()),
        Write(),
    )


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
    return ToolSpec(name=tool.name, description=tool.description, schema=schema_of(tool))


def schema_of(tool: Tool[Any]) -> dict[str, Any]:
    """A plain JSON Schema of the arguments: no titles, no references, optional fields without null."""
    schema = tool.args.model_json_schema(by_alias=True)
    definitions = schema.pop("$defs", {})
    schema.pop("description", None)
    cleaned = _cleaned(schema, definitions)
    return {"type": "object", "properties": {}, **cleaned, "additionalProperties": False}


def _cleaned(schema: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    if "$ref" in schema:
        target = dict(definitions[schema["$ref"].rsplit("/", 1)[-1]])
        target.pop("description", None)
        return _cleaned(target, definitions)
    if "anyOf" in schema:
        (only,) = [option for option in schema["anyOf"] if option.get("type") != "null"]
        schema = {**only, **{key: value for key, value in schema.items() if key != "anyOf"}}
    clean: dict[str, Any] = {}
    for key, value in schema.items():
        if key == "properties":
            clean[key] = {name: _cleaned(field, definitions) for name, field in value.items()}
        elif key == "items":
            clean[key] = _cleaned(value, definitions)
        elif key not in _NOISE:
            clean[key] = value
    return clean
