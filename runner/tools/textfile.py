"""A text file in the box, opened for change: read before edit, staleness, what may not be written, writing back."""

from __future__ import annotations

import asyncio
from pathlib import PurePosixPath
from typing import Annotated

from pydantic import AfterValidator

from runner.dataclass import dataclass
from runner.tools.base import ToolContext, ToolState
from runner.tools.paths import RefusedError, refuse_path
from runner.tools.text import TextForm, detect
from sandbox.errors import PathError
from sandbox.spec import Stat
from sandbox.wire import PathCode

EDITABLE = 32 << 20
ECHOED = 1 << 20
OFF_LOOP = 1 << 20


def _path_text(text: str) -> str:
    if not text or "\0" in text:
        msg = "a path is not empty and holds no NUL"
        raise ValueError(msg)
    return text


BoxPathText = Annotated[str, AfterValidator(_path_text)]


@dataclass(frozen=True, slots=True, kw_only=True)
class TextFile:
    """A file as it is now, decoded. `encode` makes the bytes of a new text in the same form."""

    path: PurePosixPath
    target: PurePosixPath
    stat: Stat
    form: TextForm
    text: str

    def encode(self, text: str) -> bytes:
        """Raises RefusedError for what the file's encoding cannot hold."""
        try:
            return self.form.encode(text)
        except UnicodeEncodeError as error:
            letter = text[error.start : error.start + 1]
            msg = f"{self.path} is encoded as {self.form.encoding}, which has no {letter!r}. The file was not changed."
            raise RefusedError(msg) from error


async def read_bytes(path: PurePosixPath, target: PurePosixPath, ctx: ToolContext) -> tuple[bytes, Stat] | None:
    """The whole of a regular file that may be changed; None when there is none. One request to the box."""
    try:
        content = await ctx.box.read(target, limit=EDITABLE)
    except PathError as error:
        if error.code == PathCode.NOT_FOUND:
            return None
        refuse_path(error, path)
    if content.stat.size > len(content.data):
        msg = f"{path} is larger than {EDITABLE >> 20} MiB; change it with a command in Bash."
        raise RefusedError(msg)
    mode = content.stat.mode
    if mode & 0o4000 or (mode & 0o2010) == 0o2010:
        msg = f"{path} has its setuid or setgid bit set (mode {mode & 0o7777:04o}), which writing would clear."
        raise RefusedError(msg)
    if not mode & 0o222:
        msg = f"{path} is read-only (mode {mode & 0o7777:04o}). If it is to be changed, chmod it first."
        raise RefusedError(msg)
    return content.data, content.stat


async def open_text(path: PurePosixPath, target: PurePosixPath, ctx: ToolContext) -> TextFile | None:
    """The file, decoded; None when there is none. Raises RefusedError for what is no text or may not be written."""
    found = await read_bytes(path, target, ctx)
    if found is None:
        return None
    data, stat = found
    form = await asyncio.to_thread(detect, data) if len(data) > OFF_LOOP else detect(data)
    if form is None:
        msg = f"{path} is a binary file; it cannot be edited as text."
        raise RefusedError(msg)
    return TextFile(path=path, target=target, stat=stat, form=form, text=form.decode(data))


def changed_since_seen(state: ToolState, target: PurePosixPath, now: Stat) -> bool:
    """Whether the file differs from when it was last read or written here."""
    seen = state.seen[target]
    return (seen.size, seen.mtime_ns) != (now.size, now.mtime_ns)


async def store(
    path: PurePosixPath, target: PurePosixPath, data: bytes, ctx: ToolContext, *, expect: Stat | None
) -> None:
    """Write and remember. Raises RefusedError when the box refuses, or the file changed under us."""
    try:
        stat = await ctx.box.write(target, data, expect=expect)
    except PathError as error:
        refuse_path(error, path)
    ctx.state.seen[target] = stat


def echoed(text: str) -> str | None:
    """The text for the structured result, unless it is too much to keep twice."""
    return text if len(text) <= ECHOED else None
