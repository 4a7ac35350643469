"""EnterPlanMode: from here on nothing is changed until the user approved a plan."""

from __future__ import annotations

from runner.effects import Effect, Place
from runner.tools.arguments import Arguments
from runner.tools.base import Tool, ToolContext, ToolResult, described, tool_error

DESCRIPTION = described(__file__)


class EnterPlanModeArguments(Arguments):
    """Nothing is said."""


class EnterPlanMode(Tool[EnterPlanModeArguments]):
    """It can only tighten, so nobody is asked."""

    name = "EnterPlanMode"
    args = EnterPlanModeArguments
    asks = True

    @property
    def description(self) -> str:
        """The text for the model."""
        return DESCRIPTION

    def effects(self, args: EnterPlanModeArguments, place: Place) -> tuple[Effect, ...]:
        """None."""
        del args, place
        return ()

    async def run(self, args: EnterPlanModeArguments, ctx: ToolContext) -> ToolResult:
        """Change the mode."""
        del args
        if ctx.planning is None or not ctx.planning.enter():
            return tool_error("Plan mode is in force already.")
        text = (
            "Plan mode is in force: read and search, change nothing. Call ExitPlanMode with the whole plan when it is "
            "complete."
        )
        return ToolResult(for_model=text, for_user={"message": text})
