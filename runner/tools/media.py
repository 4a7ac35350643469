"""Images, PDF pages and notebooks for the model. Their bytes are verified and taken apart in the box only."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from runner.tools.base import ToolContext, ToolResult
from runner.tools.helpers import Helpers, ask
from runner.tools.paths import RefusedError
from sandbox.spec import Stat

MediaType = Literal["image/png", "image/jpeg", "image/gif", "image/webp"]
Base64 = Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]+={0,2}$")]
PAGES_WHOLE = 10
PAGES_PER_CALL = 20
_RANGE = re.compile(r"(\d{1,6})(?:-(\d{1,6}))?")


class StatReply(BaseModel):
    """The file's stat as the helper saw it on its descriptor."""

    mode: int
    size: int
    mtime_ns: int
    uid: int
    gid: int

    def stat(self) -> Stat:
        """As the box's own file requests tell it."""
        return Stat(kind="file", mode=self.mode, size=self.size, mtime_ns=self.mtime_ns, uid=self.uid, gid=self.gid)


class ImageReply(BaseModel):
    """An image as it can be sent: verified, small enough. Sizes in pixels."""

    data: Base64
    media_type: MediaType
    width: int
    height: int
    original_width: int
    original_height: int
    stat: StatReply


class PdfReply(BaseModel):
    """A PDF, or some of its pages as a PDF of their own."""

    data: Base64
    pages: int
    first: int
    last: int
    stat: StatReply


class ImageOutput(BaseModel):
    """An image that a cell gave out."""

    data: Base64
    media_type: MediaType


class CellOutput(BaseModel):
    """One output of a code cell."""

    kind: str
    text: str = ""
    image: ImageOutput | None = None


class Cell(BaseModel):
    """A cell as the model sees it."""

    id: str
    cell_type: str
    source: str
    execution_count: int | None = None
    outputs: list[CellOutput] = []


class NotebookReply(BaseModel):
    """A notebook. `cut`: something was shortened; `left_out`: cells at the end that are not here."""

    language: str
    cells: list[Cell]
    cut: bool
    left_out: int
    stat: StatReply


async def read_image(path: PurePosixPath, target: PurePosixPath, ctx: ToolContext, helpers: Helpers) -> ToolResult:
    """One image block."""
    reply = await ask(ImageReply, (*helpers.helper, "image", str(target)), ctx, path=path)
    ctx.state.seen[target] = reply.stat.stat()
    file = {
        "base64": reply.data,
        "type": reply.media_type,
        "originalSize": reply.stat.size,
        "dimensions": {
            "originalWidth": reply.original_width,
            "originalHeight": reply.original_height,
            "displayWidth": reply.width,
            "displayHeight": reply.height,
        },
    }
    blocks: list[dict[str, Any]] = [_image_block(reply.data, reply.media_type)]
    if (reply.width, reply.height) != (reply.original_width, reply.original_height):
        text = f"[{reply.original_width}x{reply.original_height} pixels, shown as {reply.width}x{reply.height}]"
        blocks.append({"type": "text", "text": text})
    return ToolResult(for_model=blocks, for_user={"type": "image", "file": file})


async def read_pdf(
    path: PurePosixPath, target: PurePosixPath, ctx: ToolContext, helpers: Helpers, *, pages: str | None
) -> ToolResult:
    """One document block."""
    first, last = _page_range(pages)
    argv = (*helpers.helper, "pdf", str(target), str(first), str(last), str(PAGES_WHOLE), *helpers.qpdf)
    reply = await ask(PdfReply, argv, ctx, path=path)
    ctx.state.seen[target] = reply.stat.stat()
    file = {"filePath": str(path), "base64": reply.data, "originalSize": reply.stat.size}
    text = f"PDF file read: {path}, pages {reply.first}-{reply.last} of {reply.pages}."
    document = {
        "type": "document",
        "source": {"type": "base64", "media_type": "application/pdf", "data": reply.data},
    }
    return ToolResult(
        for_model=[{"type": "text", "text": text}, document],
        for_user={"type": "pdf", "file": file},
        truncated=reply.last - reply.first + 1 < reply.pages,
    )


def _page_range(pages: str | None) -> tuple[int, int]:
    """First and last page; (0, 0) for the whole. Raises RefusedError."""
    if pages is None:
        return 0, 0
    found = _RANGE.fullmatch(pages.strip())
    if found is None:
        msg = f'pages must be a page or a range, such as "3" or "1-5", not {pages!r}.'
        raise RefusedError(msg)
    first = int(found[1])
    last = int(found[2] or first)
    if not 1 <= first <= last:
        msg = f"pages {pages!r} is not a range of pages counted from 1."
        raise RefusedError(msg)
    if last - first >= PAGES_PER_CALL:
        msg = f"pages {pages!r} are {last - first + 1} pages; at most {PAGES_PER_CALL} can be read in one call."
        raise RefusedError(msg)
    return first, last


async def read_notebook(path: PurePosixPath, target: PurePosixPath, ctx: ToolContext, helpers: Helpers) -> ToolResult:
    """All cells with their outputs, as text blocks and image blocks."""
    reply = await ask(NotebookReply, (*helpers.helper, "notebook", str(target)), ctx, path=path)
    ctx.state.seen[target] = reply.stat.stat()
    if reply.left_out:
        ctx.state.partial.add(target)
    else:
        ctx.state.partial.discard(target)
    blocks: list[dict[str, Any]] = []
    for cell in reply.cells:
        _add_text(blocks, _cell_text(cell, reply.language))
        for output in cell.outputs:
            if output.text:
                _add_text(blocks, f"<output>\n{output.text}\n</output>")
            if output.image is not None:
                blocks.append(_image_block(output.image.data, output.image.media_type))
    if not reply.cells:
        _add_text(blocks, "<system-reminder>The notebook has no cells.</system-reminder>")
    if reply.cut:
        note = f" and the last {reply.left_out} cells are left out" if reply.left_out else ""
        _add_text(blocks, f"<system-reminder>PARTIAL view: long parts are shortened{note}.</system-reminder>")
    cells = [_cell_for_user(cell, reply.language) for cell in reply.cells]
    user = {"type": "notebook", "file": {"filePath": str(path), "cells": cells}}
    return ToolResult(for_model=blocks, for_user=user, truncated=reply.cut)


def _cell_text(cell: Cell, language: str) -> str:
    kind = "" if cell.cell_type == "code" else f"<cell_type>{cell.cell_type}</cell_type>"
    spoken = f"<language>{language}</language>" if cell.cell_type == "code" and language != "python" else ""
    return f'<cell id="{cell.id}">{kind}{spoken}{cell.source}</cell id="{cell.id}">'


def _cell_for_user(cell: Cell, language: str) -> dict[str, Any]:
    outputs = [
        {"output_type": output.kind, "text": output.text}
        | ({"image": {"image_data": output.image.data, "media_type": output.image.media_type}} if output.image else {})
        for output in cell.outputs
    ]
    shown: dict[str, Any] = {"cellType": cell.cell_type, "source": cell.source, "cell_id": cell.id}
    if cell.cell_type == "code":
        shown |= {"language": language, "execution_count": cell.execution_count, "outputs": outputs}
    return shown


def _add_text(blocks: list[dict[str, Any]], text: str) -> None:
    """Neighbouring texts become one block."""
    if blocks and blocks[-1]["type"] == "text":
        blocks[-1] = {"type": "text", "text": f"{blocks[-1]['text']}\n{text}"}
    else:
        blocks.append({"type": "text", "text": text})


def _image_block(data: str, media_type: str) -> dict[str, Any]:
    return {"type": "image", "source": {"type": "base64", "media_type": media_type, "data": data}}
