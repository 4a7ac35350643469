"""TaskStop: end a background command and everything that it started."""

from __future__ import annotations

from pydantic import Field

from runner.effects import Effect, Place, StopTask
from runner.tools.arguments import Arguments
from runner.tools.base import Tool, ToolContext, ToolResult, described, tool_error

DESCRIPTION = described(__file__)


class TaskStopArguments(Arguments):
    """What a TaskStop call may say; `shell_id` is the older name."""

    task_id: str | None = Field(None, description="The ID that Bash gave when it started the command")
    shell_id: str | None = Field(None, description="Older name of task_id")

    @property
    def task(self) -> str:
        """The task that is meant, "" for none."""
        return self.task_id or self.shell_id or ""


class TaskStop(Tool[TaskStopArguments]):
    """Knows the tasks of this session only."""

    name = "TaskStop"
    args = TaskStopArguments

    @property
    def description(self) -> str:
        """The text for the model."""
        return DESCRIPTION

    def effects(self, args: TaskStopArguments, place: Place) -> tuple[Effect, ...]:
        """It stops one task."""
        del place
        return (StopTask(task=args.task),)

    async def run(self, args: TaskStopArguments, ctx: ToolContext) -> ToolResult:
        """TERM, two seconds, KILL."""
        if not args.task:
            return tool_error("TaskStop needs task_id.")
        task = ctx.state.tasks.get(args.task)
        if task is None:
            known = ", ".join(ctx.state.tasks) or "none"
            return tool_error(f"No task found with ID {args.task}. Tasks of this session: {known}.")
        if task.state != "running" or task.stop is None:
            return tool_error(f"Task {task.id} is not running: it is {task.state}.")
        await task.stop()
        message = f"Successfully stopped task: {task.id} ({task.command})"
        user = {"message": message, "task_id": task.id, "task_type": "local_bash", "command": task.command}
        return ToolResult(for_model=message, for_user=user)
