"""ExitPlanMode: put the plan to the user; approved, the mode before plan mode is in force again."""

from __future__ import annotations

from typing import Any

from pydantic import Field
from pydantic.json_schema import SkipJsonSchema

from runner.effects import AskUser, Effect, Place
from runner.tools.arguments import Arguments
from runner.tools.base import Tool, ToolContext, ToolResult, described, tool_error

DESCRIPTION = described(__file__)


class ExitPlanModeArguments(Arguments):
    """What an ExitPlanMode call may say. `allowedPrompts` is accepted and without effect."""

    plan: str = Field(min_length=1, description="The whole plan, as Markdown")
    allowed_prompts: SkipJsonSchema[list[dict[str, Any]] | None] = Field(None, alias="allowedPrompts")


class ExitPlanMode(Tool[ExitPlanModeArguments]):
    """The user's approval is what leaves plan mode."""

    name = "ExitPlanMode"
    args = ExitPlanModeArguments
    asks = True

    @property
    def description(self) -> str:
        """The text for the model."""
        return DESCRIPTION

    def effects(self, args: ExitPlanModeArguments, place: Place) -> tuple[Effect, ...]:
        """The user is asked, in every mode."""
        del args, place
        return (AskUser(about="plan"),)

    async def run(self, args: ExitPlanModeArguments, ctx: ToolContext) -> ToolResult:
        """The plan was approved."""
        mode = ctx.planning.leave() if ctx.planning is not None else ""
        if not mode:
            return tool_error("Plan mode is not in force, so there is nothing to leave.")
        text = f"The user approved the plan. Plan mode is over (mode {mode} now): go on with the work.\n\n{args.plan}"
        return ToolResult(for_model=text, for_user={"plan": args.plan, "isAgent": False})
