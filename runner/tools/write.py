"""Write: create a file, or replace the whole content of one that was read."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

from pydantic import Field

from runner.effects import Effect, Place, ReadPath, WritePath
from runner.tools.arguments import Arguments
from runner.tools.base import Tool, ToolContext, ToolResult, described, tool_error
from runner.tools.patch import patched
from runner.tools.paths import RefusedError, judged, located
from runner.tools.text import detect, line_end_of, showable
from runner.tools.textfile import BoxPathText, TextFile, changed_since_seen, echoed, read_bytes, store
from sandbox.spec import Stat

DESCRIPTION = described(__file__)


class WriteArguments(Arguments):
    """What a Write call may say."""

    file_path: BoxPathText = Field(description="Absolute path of the file")
    content: str = Field(description="The whole new content")


class Write(Tool[WriteArguments]):
    """Whole files only; keeps encoding, byte order mark, line ends and mode of what was there."""

    name = "Write"
    args = WriteArguments

    @property
    def description(self) -> str:
        """The text for the model."""
        return DESCRIPTION

    def effects(self, args: WriteArguments, place: Place) -> tuple[Effect, ...]:
        """It writes, and shows what was there before."""
        path = located(args.file_path, place)
        return (ReadPath(path=path), WritePath(path=path))

    async def run(self, args: WriteArguments, ctx: ToolContext) -> ToolResult:
        """One read and one write."""
        path = located(args.file_path, ctx.place)
        try:
            return await _write(path, judged(path, ctx), args.content, ctx)
        except RefusedError as error:
            return tool_error(str(error))


async def _write(path: PurePosixPath, target: PurePosixPath, content: str, ctx: ToolContext) -> ToolResult:
    found = await read_bytes(path, target, ctx)
    if found is None:
        await store(path, target, content.encode(), ctx, expect=None)
        return _told("create", path, content, patch=[], original=None, sentence=f"File created successfully at: {path}")
    data, stat = found
    _require_read(path, target, stat, ctx)
    form = detect(data)
    if form is None:
        await store(path, target, content.encode(), ctx, expect=stat)
        return _told("update", path, content, patch=[], original=None, sentence=f"The file {path} has been replaced.")
    file = TextFile(path=path, target=target, stat=stat, form=form, text=form.decode(data))
    encoded, kept = _in_form(file, content)
    await store(path, target, encoded, ctx, expect=stat)
    ctx.state.partial.discard(target)
    patch = await patched(file.text.replace("\r\n", "\n"), content.replace("\r\n", "\n"))
    sentence = f"The file {path} has been updated.{kept}"
    return _told("update", path, content, patch=patch, original=echoed(showable(file.text)), sentence=sentence)


def _told(
    kind: str, path: PurePosixPath, content: str, *, patch: list[dict[str, Any]], original: str | None, sentence: str
) -> ToolResult:
    user = {"type": kind, "filePath": str(path), "content": content, "structuredPatch": patch, "originalFile": original}
    return ToolResult(for_model=sentence, for_user=user)


def _require_read(path: PurePosixPath, target: PurePosixPath, stat: Stat, ctx: ToolContext) -> None:
    state = ctx.state
    if not stat.size:
        return
    if target not in state.seen:
        msg = f"{path} exists and has not been read yet. Read it first before writing to it."
        raise RefusedError(msg)
    if target in state.partial:
        msg = f"Only a part of {path} was read. Read the rest before replacing it, or use Edit."
        raise RefusedError(msg)
    if changed_since_seen(state, target, stat):
        msg = f"{path} was changed since it was read, by the user, a formatter or a command. Read it again first."
        raise RefusedError(msg)


def _in_form(file: TextFile, content: str) -> tuple[bytes, str]:
    """The bytes in the file's own form, and the sentence that says what was kept."""
    kept = []
    if "\r\n" not in content and line_end_of(file.text) == "\r\n" and file.text.count("\r\n") == file.text.count("\n"):
        content = content.replace("\n", "\r\n")
        kept.append("CRLF line ends")
    mark = file.form.mark.decode(file.form.encoding) if file.form.mark else ""
    if mark:
        content = content.removeprefix(mark)
        kept.append("byte order mark")
    if file.form.encoding == "latin-1" and file.form.errors == "strict":
        try:
            encoded = content.encode("latin-1")
        except UnicodeEncodeError:
            return content.encode(), " It was latin-1, which cannot hold the new content: it is UTF-8 now."
        return encoded, " (kept: latin-1)" if encoded != content.encode() else ""
    if file.form.encoding != "utf-8":
        kept.append(file.form.encoding)
    return file.encode(content), f" (kept: {', '.join(kept)})" if kept else ""
