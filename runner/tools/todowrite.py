"""TodoWrite: the model's own list of what is to be done."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from runner.effects import Effect, Place
from runner.events import TaskUpdated
from runner.tools.arguments import Arguments
from runner.tools.base import Tool, ToolContext, ToolResult, described

DESCRIPTION = described(__file__)


class Todo(Arguments):
    """One thing to do."""

    content: str = Field(min_length=1, description="What is to be done, as an order: Run the tests")
    status: Literal["pending", "in_progress", "completed"]
    active_form: str = Field(
        min_length=1, alias="activeForm", description="The same while it is done: Running the tests"
    )


class TodoWriteArguments(Arguments):
    """What a TodoWrite call may say."""

    todos: tuple[Todo, ...] = Field(description="The whole list, which replaces the one before")


class TodoWrite(Tool[TodoWriteArguments]):
    """Touches nothing but the session's own list."""

    name = "TodoWrite"
    args = TodoWriteArguments

    @property
    def description(self) -> str:
        """The text for the model."""
        return DESCRIPTION

    def effects(self, args: TodoWriteArguments, place: Place) -> tuple[Effect, ...]:
        """None."""
        del args, place
        return ()

    async def run(self, args: TodoWriteArguments, ctx: ToolContext) -> ToolResult:
        """Replace the list and journal it."""
        old, new = ctx.state.todos, [todo.model_dump(by_alias=True) for todo in args.todos]
        ctx.state.todos = [] if all(todo["status"] == "completed" for todo in new) else new
        state = "updated" if ctx.state.todos else "cleared"
        ctx.record(TaskUpdated(kind="todos", task="todos", state=state, items=new))
        done = sum(todo["status"] == "completed" for todo in new)
        more = " Go on with what is in progress." if done < len(new) else ""
        text = f"The list was updated: {done} of {len(new)} done.{more}"
        return ToolResult(for_model=text, for_user={"oldTodos": old, "newTodos": new})
