"""Edit: replace one piece of a file by another, or all of its occurrences."""

from __future__ import annotations

from pathlib import PurePosixPath

from pydantic import Field

from runner.effects import Effect, Place, ReadPath, WritePath
from runner.tools.arguments import Arguments
from runner.tools.base import Tool, ToolContext, ToolResult, described, tool_error
from runner.tools.change import Change, edited
from runner.tools.paths import RefusedError, judged, located
from runner.tools.text import showable
from runner.tools.textfile import BoxPathText, echoed

DESCRIPTION = described(__file__)


class EditArguments(Arguments):
    """What an Edit call may say."""

    file_path: BoxPathText = Field(description="Absolute path of the file")
    old_string: str = Field(description="The text to replace, exactly as the file has it; empty to create a file")
    new_string: str = Field(description="The text to put in its place; it must differ")
    replace_all: bool = Field(default=False, description="Replace every occurrence (default: exactly one must match)")


class Edit(Tool[EditArguments]):
    """Changes only the bytes that match."""

    name = "Edit"
    args = EditArguments

    @property
    def description(self) -> str:
        """The text for the model."""
        return DESCRIPTION

    def effects(self, args: EditArguments, place: Place) -> tuple[Effect, ...]:
        """It reads and writes one file."""
        path = located(args.file_path, place)
        return (ReadPath(path=path), WritePath(path=path))

    async def run(self, args: EditArguments, ctx: ToolContext) -> ToolResult:
        """One read and one write."""
        path = located(args.file_path, ctx.place)
        change = Change(old=args.old_string, new=args.new_string, everywhere=args.replace_all)
        try:
            done = await edited(path, judged(path, ctx), (change,), ctx)
        except RefusedError as error:
            return tool_error(str(error))
        user = {
            "filePath": str(path),
            "oldString": args.old_string,
            "newString": args.new_string,
            "originalFile": echoed(showable(done.before)),
            "structuredPatch": done.patch,
            "userModified": False,
            "replaceAll": args.replace_all,
        }
        return ToolResult(for_model=_sentence(path, args, done.count, created=done.created), for_user=user)


def _sentence(path: PurePosixPath, args: EditArguments, count: int, *, created: bool) -> str:
    if created:
        return f"File created successfully at: {path}"
    if args.replace_all:
        return f"The file {path} has been updated: {count} occurrence{'s' * (count != 1)} replaced."
    return f"The file {path} has been updated."
