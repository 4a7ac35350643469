"""Tool calls of the model: what was sent, and whether it makes sense before anything else is asked."""

from __future__ import annotations

import asyncio
from dataclasses import field, replace
from typing import TYPE_CHECKING, Any, cast

from runner.dataclass import dataclass
from runner.tools.base import Tool

if TYPE_CHECKING:
    from pydantic import ValidationError

    from runner.tools.arguments import Arguments


@dataclass(slots=True, kw_only=True)
class Call:
    """A tool call of the model. `error`: why it cannot run; then `tool` and `args` may be missing. `task`:
    the run of a call that began while its reply still streamed; it ends once `replied` is set.
    """

    id: str
    name: str
    input: dict[str, Any]
    tool: Tool[Any] | None = None
    args: Arguments | None = None
    error: str = ""
    done: bool = False
    task: asyncio.Task[None] | None = None
    replied: asyncio.Event = field(default_factory=asyncio.Event)


def with_arguments(call: Call, tool: Tool[Any] | None) -> Call:
    """The call with its arguments parsed, or with the reason why it cannot run."""
    if tool is None:
        return replace(call, tool=None, error=f"No such tool available: {call.name}")
    try:
        args = tool.args.model_validate(call.input)
    except ValueError as error:  # pydantic's ValidationError, which comes with the tool
        return replace(call, tool=tool, args=None, error=_explain(call.name, cast("ValidationError", error)))
    return replace(call, tool=tool, args=args, error="")


def _explain(name: str, error: ValidationError) -> str:
    """What is wrong with the arguments, in words a model can act on."""
    lines = []
    for problem in error.errors(include_url=False, include_input=False)[:10]:
        where = ".".join(str(part) for part in problem["loc"]) or "input"
        lines.append(f"{where}: {problem['msg']}")
    return f"InputValidationError: {name}: " + "; ".join(lines)
