"""NotebookEdit: replace, insert or delete one cell of a notebook."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import PurePosixPath
from typing import Literal

from pydantic import Field

from runner.dataclass import dataclass
from runner.effects import Effect, Place, ReadPath, WritePath
from runner.tools import notebook
from runner.tools.arguments import Arguments
from runner.tools.base import Tool, ToolContext, ToolResult, described, tool_error
from runner.tools.notebook import NotebookError
from runner.tools.paths import RefusedError, judged, located
from runner.tools.textfile import BoxPathText, TextFile, changed_since_seen, echoed, open_text, store

DESCRIPTION = described(__file__)


class NotebookEditArguments(Arguments):
    """What a NotebookEdit call may say."""

    notebook_path: BoxPathText = Field(description="Absolute path of the .ipynb file")
    new_source: str = Field(description="The cell's new text (empty with delete)")
    cell_id: str | None = Field(
        None, description="ID of the cell as Read shows it; with insert, the new cell goes after it, else to the start"
    )
    cell_type: Literal["code", "markdown"] | None = Field(None, description="Needed for insert; else it stays")
    edit_mode: Literal["replace", "insert", "delete"] = Field("replace", description="What to do with the cell")


class NotebookEdit(Tool[NotebookEditArguments]):
    """Changes the bytes of one cell only; layout, key order and everything else stay."""

    name = "NotebookEdit"
    args = NotebookEditArguments

    @property
    def description(self) -> str:
        """The text for the model."""
        return DESCRIPTION

    def effects(self, args: NotebookEditArguments, place: Place) -> tuple[Effect, ...]:
        """It reads and writes one file."""
        path = located(args.notebook_path, place)
        return (ReadPath(path=path), WritePath(path=path))

    async def run(self, args: NotebookEditArguments, ctx: ToolContext) -> ToolResult:
        """One read and one write."""
        path = located(args.notebook_path, ctx.place)
        try:
            return await _edit(path, judged(path, ctx), args, ctx)
        except (RefusedError, NotebookError) as error:
            return tool_error(str(error))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Done:
    text: str
    cell_id: str
    cell_type: str
    language: str
    old_source: str | None = None


async def _edit(
    path: PurePosixPath, target: PurePosixPath, args: NotebookEditArguments, ctx: ToolContext
) -> ToolResult:
    if path.suffix != ".ipynb":
        raise RefusedError(f"{path} is not a notebook (.ipynb). Use Edit for other files.")
    file = await open_text(path, target, ctx)
    if file is None:
        raise RefusedError(f"{path} does not exist.")
    _require_read(file, ctx)
    done = await asyncio.to_thread(_changed, file.text, args, ctx.call)
    await store(path, target, file.encode(done.text), ctx, expect=file.stat)
    user = {
        "new_source": args.new_source,
        "old_source": done.old_source,
        "cell_id": done.cell_id,
        "cell_type": done.cell_type,
        "language": done.language,
        "edit_mode": args.edit_mode,
        "error": "",
        "notebook_path": str(path),
        "original_file": echoed(file.text),
        "updated_file": echoed(done.text),
    }
    verb = {"replace": "Updated", "insert": "Inserted", "delete": "Deleted"}[args.edit_mode]
    return ToolResult(for_model=f"{verb} cell {done.cell_id} of {path}.", for_user=user)


def _require_read(file: TextFile, ctx: ToolContext) -> None:
    if file.target not in ctx.state.seen:
        raise RefusedError(f"{file.path} has not been read yet. Read it first before editing it.")
    if file.target in ctx.state.partial:
        raise RefusedError(f"Only a part of {file.path} was shown. Edit it with a command in Bash.")
    if changed_since_seen(ctx.state, file.target, file.stat):
        raise RefusedError(f"{file.path} was changed since it was read. Read it again first.")


def _changed(text: str, args: NotebookEditArguments, call: str) -> _Done:
    """The notebook's new text. Raises NotebookError."""
    book = notebook.parse(text)
    if args.edit_mode == "insert":
        if args.cell_type is None:
            raise NotebookError("To insert a cell, say its cell_type: code or markdown.")
        number = notebook.find(book, args.cell_id) + 1 if args.cell_id is not None else 0
        new_id = hashlib.sha256(f"{call}\0{text}".encode()).hexdigest()[:8]
        return _Done(
            text=notebook.inserted(book, number, args.new_source, args.cell_type, new_id),
            cell_id=new_id if book.has_ids else f"cell-{number}",
            cell_type=args.cell_type,
            language=book.language,
        )
    if args.cell_id is None:
        raise NotebookError(f"To {args.edit_mode} a cell, name it with cell_id.")
    number = notebook.find(book, args.cell_id)
    cell = book.cells[number]
    cell_type = args.cell_type or str(cell.value.get("cell_type", "code"))
    if args.edit_mode == "delete":
        changed = notebook.deleted(book, number)
    else:
        changed = notebook.replaced(book, number, args.new_source, cell_type)
    return _Done(
        text=changed,
        cell_id=args.cell_id,
        cell_type=cell_type,
        language=book.language,
        old_source=notebook.source_of(cell),
    )
