"""Read: show a file of the box to the model, as numbered text, image, document or notebook."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from pydantic import Field

from runner.effects import Effect, Place, ReadPath
from runner.tools.arguments import Arguments
from runner.tools.base import Tool, ToolContext, ToolResult, described, tool_error
from runner.tools.helpers import TOOLBOX, Helpers
from runner.tools.media import read_image, read_notebook, read_pdf
from runner.tools.page import Page, cut_page, page_in_box
from runner.tools.paths import RefusedError, judged, located, refuse_path
from runner.tools.text import SAMPLE, TextForm, detect
from runner.tools.textfile import BoxPathText
from runner.variables import count
from sandbox.errors import PathError
from sandbox.spec import Stat
from sandbox.wire import PathCode

DESCRIPTION = described(__file__)
FIRST = 1 << 20
DEFAULT_LINES = 2000
DEFAULT_TOKENS = 25_000
LARGE = 4
CHARACTERS_PER_TOKEN = 4
IMAGES = {".png", ".jpg", ".jpeg", ".gif", ".webp"}
_IMAGE_STARTS = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a")


class ReadArguments(Arguments):
    """What a Read call may say."""

    file_path: BoxPathText = Field(description="Absolute path of the file")
    offset: int | None = Field(None, ge=0, description="Line to start from, counted from 1")
    limit: int | None = Field(None, ge=1, description="How many lines to show")
    allow_large: bool = Field(False, description="Show up to four times as much text in one call")
    pages: str | None = Field(None, description='Pages of a PDF, "3" or "1-5"; at most 20 in one call')


class Read(Tool[ReadArguments]):
    """Text by one request to the box; everything else is taken apart in the box by our decoder."""

    name = "Read"
    args = ReadArguments

    def __init__(self, helpers: Helpers = TOOLBOX) -> None:
        self.helpers = helpers

    @property
    def description(self) -> str:
        """The text for the model."""
        return DESCRIPTION

    def effects(self, args: ReadArguments, place: Place) -> tuple[Effect, ...]:
        """It reads one file."""
        return (ReadPath(path=located(args.file_path, place)),)

    async def run(self, args: ReadArguments, ctx: ToolContext) -> ToolResult:
        """By the file's name first, by its first bytes then."""
        path = located(args.file_path, ctx.place)
        target = judged(path, ctx)
        try:
            match _kind(path.suffix.lower()):
                case "image":
                    return await read_image(path, target, ctx, self.helpers)
                case "pdf":
                    return await read_pdf(path, target, ctx, self.helpers, pages=args.pages)
                case "notebook":
                    return await read_notebook(path, target, ctx, self.helpers)
                case _:
                    return await _text(path, target, args, ctx, self.helpers)
        except RefusedError as error:
            return tool_error(str(error))


def _kind(suffix: str) -> str:
    return "image" if suffix in IMAGES else {".pdf": "pdf", ".ipynb": "notebook"}.get(suffix, "text")


async def _text(
    path: PurePosixPath, target: PurePosixPath, args: ReadArguments, ctx: ToolContext, helpers: Helpers
) -> ToolResult:
    try:
        content = await ctx.box.read(target, limit=FIRST)
    except PathError as error:
        if error.code == PathCode.NOT_FILE:
            await _refuse_kind(path, target, ctx)
        refuse_path(error, path)
    data, stat = content.data, content.stat
    if data.startswith(_IMAGE_STARTS):
        return await read_image(path, target, ctx, helpers)
    if data.startswith(b"%PDF-"):
        return await read_pdf(path, target, ctx, helpers, pages=args.pages)
    if args.pages is not None:
        msg = f"{path} is not a PDF; pages is for PDF files only."
        raise RefusedError(msg)
    start, lines = max(args.offset or 1, 1), args.limit or DEFAULT_LINES * _times(args)
    characters = token_limit(ctx.environment) * CHARACTERS_PER_TOKEN * _times(args)
    whole = stat.size <= len(data)
    form = detect(data) if whole else _form_of_start(data)
    if form is None:
        msg = f"{path} is a binary file ({stat.size} bytes). Look at it with a command in Bash: file, xxd, strings."
        raise RefusedError(msg)
    if whole:
        page = cut_page(form.decode(data), start=start, lines=lines, characters=characters)
    else:
        page = await page_in_box(path, target, form, ctx, helpers, start=start, lines=lines, characters=characters)
    return _shown(path, target, args, page, stat=stat, form=form, ctx=ctx)


def _form_of_start(data: bytes) -> TextForm | None:
    """The form of a file of which only the beginning is known: a character cut at its end does no harm."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return detect(data[: len(data) & ~3])
    form = detect(data.rstrip(bytes(range(0x80, 0x100))))
    if form is None and b"\0" not in data[:SAMPLE]:
        return TextForm()
    return form


async def _refuse_kind(path: PurePosixPath, target: PurePosixPath, ctx: ToolContext) -> None:
    try:
        kind = (await ctx.box.stat(target)).kind
    except PathError as error:
        refuse_path(error, path)
    if kind == "directory":
        msg = f"{path} is a directory. List it with Glob, or with ls in Bash."
    else:
        msg = f"{path} is a {kind}, not a regular file; it cannot be read."
    raise RefusedError(msg)


def token_limit(environment: Mapping[str, str]) -> int:
    """Tokens of text that one Read may show; a token is taken for four characters."""
    return count(environment, "CLAUDE_CODE_FILE_READ_MAX_OUTPUT_TOKENS", DEFAULT_TOKENS)


def _times(args: ReadArguments) -> int:
    return LARGE if args.allow_large else 1


def _shown(
    path: PurePosixPath,
    target: PurePosixPath,
    args: ReadArguments,
    page: Page,
    *,
    stat: Stat,
    form: TextForm,
    ctx: ToolContext,
) -> ToolResult:
    asked = args.offset is not None or args.limit is not None
    if page.capped and asked and args.limit is not None:
        msg = (
            f"Lines {page.start}-{page.start + args.limit - 1} of {path} are more than "
            f"{token_limit(ctx.environment) * _times(args)} tokens. Ask for fewer lines, or search with Grep."
        )
        raise RefusedError(msg)
    state = ctx.state
    state.seen[target] = stat
    complete = page.start == 1 and page.count == page.total and not page.shortened
    if complete:
        state.partial.discard(target)
    else:
        state.partial.add(target)
    notes = _notes(page, stat, asked=asked, form=form)
    file: dict[str, Any] = {
        "filePath": str(path),
        "content": page.raw,
        "numLines": page.count,
        "startLine": page.start,
        "totalLines": page.total,
    }
    if page.capped:
        file["truncatedByTokenCap"] = True
    text = "\n".join(
        [*([page.numbered] if page.count else []), *(f"<system-reminder>{n}</system-reminder>" for n in notes)]
    )
    return ToolResult(for_model=text, for_user={"type": "text", "file": file}, truncated=not complete)


def _notes(page: Page, stat: Stat, *, asked: bool, form: TextForm) -> list[str]:
    if not stat.size or not page.total:
        return ["The file exists but is empty."]
    if page.start > page.total:
        return [f"The file has {page.total} lines only: there is nothing at line {page.start}."]
    notes = [form.note] if form.note else []
    last = page.start + page.count - 1
    if last < page.total and (page.capped or not asked):
        notes.append(
            f"PARTIAL view: lines {page.start}-{last} of {page.total}. "
            f"Read on with offset {last + 1}, or find the place with Grep."
        )
    if page.shortened:
        notes.append(f"{page.shortened} of these lines are longer than shown; each says how much was left out.")
    return notes
