"""MultiEdit: several replacements in one file, in order, all of them or none."""

from __future__ import annotations

from pydantic import Field

from runner.effects import Effect, Place, ReadPath, WritePath
from runner.tools.arguments import Arguments
from runner.tools.base import Tool, ToolContext, ToolResult, described, tool_error
from runner.tools.change import Change, edited
from runner.tools.paths import RefusedError, judged, located
from runner.tools.text import showable
from runner.tools.textfile import BoxPathText, echoed

DESCRIPTION = described(__file__)


class OneEdit(Arguments):
    """One of the replacements."""

    old_string: str = Field(description="The text to replace, exactly as it is after the edits before this one")
    new_string: str = Field(description="The text to put in its place; it must differ")
    replace_all: bool = Field(default=False, description="Replace every occurrence (default: exactly one must match)")


class MultiEditArguments(Arguments):
    """What a MultiEdit call may say."""

    file_path: BoxPathText = Field(description="Absolute path of the file")
    edits: tuple[OneEdit, ...] = Field(min_length=1, description="The replacements, made one after the other")


class MultiEdit(Tool[MultiEditArguments]):
    """Each edit sees the result of the one before; nothing is written unless all of them fit."""

    name = "MultiEdit"
    args = MultiEditArguments
    optional = True

    @property
    def description(self) -> str:
        """The text for the model."""
        return DESCRIPTION

    def effects(self, args: MultiEditArguments, place: Place) -> tuple[Effect, ...]:
        """It reads and writes one file."""
        path = located(args.file_path, place)
        return (ReadPath(path=path), WritePath(path=path))

    async def run(self, args: MultiEditArguments, ctx: ToolContext) -> ToolResult:
        """One read and one write."""
        path = located(args.file_path, ctx.place)
        changes = tuple(
            Change(old=edit.old_string, new=edit.new_string, everywhere=edit.replace_all) for edit in args.edits
        )
        try:
            done = await edited(path, judged(path, ctx), changes, ctx)
        except RefusedError as error:
            return tool_error(str(error))
        user = {
            "filePath": str(path),
            "edits": [edit.model_dump() for edit in args.edits],
            "originalFile": echoed(showable(done.before)),
            "structuredPatch": done.patch,
            "userModified": False,
        }
        what = "created" if done.created else "updated"
        return ToolResult(
            for_model=f"The file {path} has been {what}: {len(changes)} edit{'s' * (len(changes) != 1)} applied.",
            for_user=user,
        )
