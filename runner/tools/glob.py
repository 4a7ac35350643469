"""Glob: find files by name pattern, newest first."""

from __future__ import annotations

import re
import time
from pathlib import PurePosixPath
from typing import Any

from pydantic import BaseModel, Field

from runner.effects import Effect, Place, ReadPath
from runner.tools.arguments import Arguments
from runner.tools.base import Tool, ToolContext, ToolResult, described, tool_error
from runner.tools.helpers import TOOLBOX, Helpers, ask
from runner.tools.paths import RefusedError, beside, judged, located
from runner.tools.text import show_path
from runner.tools.textfile import BoxPathText
from runner.variables import count, says

DESCRIPTION = described(__file__)
MOST = 100
SECONDS = 20
_MAGIC = re.compile(r"[*?\[{\\]")


class GlobArguments(Arguments):
    """What a Glob call may say."""

    pattern: BoxPathText = Field(description='Such as "**/*.py" or "src/**/*.{ts,tsx}"')
    path: BoxPathText | None = Field(None, description="Directory to search; leave out for the working directory")


class GlobReply(BaseModel):
    """`files`: the newest matches, as hex of the bytes of their names; `total`: how many match."""

    files: list[str]
    total: int
    timed_out: bool


class Glob(Tool[GlobArguments]):
    """Walks in the box; follows no link, lists links themselves."""

    name = "Glob"
    args = GlobArguments

    def __init__(self, helpers: Helpers = TOOLBOX) -> None:
        self.helpers = helpers

    @property
    def description(self) -> str:
        """The text for the model."""
        return DESCRIPTION

    def effects(self, args: GlobArguments, place: Place) -> tuple[Effect, ...]:
        """It reads names below one directory."""
        return (ReadPath(path=_split(args, place)[0]),)

    async def run(self, args: GlobArguments, ctx: ToolContext) -> ToolResult:
        """One command in the box."""
        began = time.monotonic()
        base, pattern = _split(args, ctx.place)
        target = judged(base, ctx)
        seconds = count(ctx.environment, "CLAUDE_CODE_GLOB_TIMEOUT_SECONDS", SECONDS)
        hidden = says(ctx.environment, "CLAUDE_CODE_GLOB_HIDDEN", default=True)
        minds_ignore = not says(ctx.environment, "CLAUDE_CODE_GLOB_NO_IGNORE", default=True)
        argv = (
            *(*self.helpers.helper, "glob", str(target), pattern, str(MOST), str(seconds), "1" if hidden else "0"),
            *(self.helpers.rg if minds_ignore else ()),
        )
        try:
            reply = await ask(GlobReply, argv, ctx, path=base, seconds=seconds + 5)
            files = [_file_name(name, target, ctx) for name in reply.files]
        except RefusedError as error:
            return tool_error(str(error))
        return _result(reply, files, milliseconds=int((time.monotonic() - began) * 1000))


def _split(args: GlobArguments, place: Place) -> tuple[PurePosixPath, str]:
    """Where to search, and the pattern below it: the fixed beginning of an absolute or `..` pattern is a path."""
    base = located(args.path or ".", place)
    pattern = args.pattern.removeprefix("./")
    if not pattern.startswith(("/", "~/", "../")):
        return base, pattern
    parts = pattern.split("/")
    first = next((at for at, part in enumerate(parts) if _MAGIC.search(part)), len(parts) - 1)
    fixed = "/".join(parts[:first]) or "/"
    there = located(fixed, place) if fixed.startswith(("/", "~")) else base / fixed
    rest = "/".join(parts[first:])
    return there, rest if "/" in rest else f"/{rest}"


def _file_name(encoded: str, target: PurePosixPath, ctx: ToolContext) -> str:
    try:
        name = bytes.fromhex(encoded).decode("utf-8", "surrogateescape")
    except ValueError as error:
        raise RefusedError("our helper in the box gave no usable answer.") from error
    return show_path(beside(target / name, ctx.state.cwd))


def _result(reply: GlobReply, files: list[str], *, milliseconds: int) -> ToolResult:
    truncated = reply.total > len(files) or reply.timed_out
    user: dict[str, Any] = {
        "durationMs": milliseconds,
        "numFiles": len(files),
        "filenames": files,
        "truncated": truncated,
        "totalMatches": reply.total,
        "countIsComplete": not reply.timed_out,
    }
    notes = []
    if reply.total > len(files):
        notes.append(
            f"(Results are truncated: the {len(files)} newest of {reply.total}. Use a narrower pattern or path.)"
        )
    if reply.timed_out:
        user["timedOut"] = True
        notes.append("(The search took too long and was ended; there may be more files. Use a narrower path.)")
    text = "\n".join([*(files or ["No files found"]), *notes])
    return ToolResult(for_model=text, for_user=user, truncated=truncated)
