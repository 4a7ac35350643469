"""Edits of one file, carried out: what Edit and MultiEdit share."""

from __future__ import annotations

import asyncio
from pathlib import PurePosixPath
from typing import Any

from runner.dataclass import dataclass
from runner.tools.base import ToolContext
from runner.tools.edits import EditError, replace
from runner.tools.patch import patched
from runner.tools.paths import RefusedError
from runner.tools.textfile import TextFile, changed_since_seen, open_text, store

OFF_LOOP = 1 << 18


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One replacement; an empty `old` stands for the whole of a file that is empty or not there."""

    old: str
    new: str
    everywhere: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Edited:
    """What was done. `count`: matches replaced in all."""

    before: str
    patch: list[dict[str, Any]]
    count: int
    created: bool = False


async def edited(path: PurePosixPath, target: PurePosixPath, changes: tuple[Change, ...], ctx: ToolContext) -> Edited:
    """Make all changes, in order, or none. Raises RefusedError with the reason for the model."""
    if path.suffix == ".ipynb":
        msg = f"{path} is a notebook: use NotebookEdit."
        raise RefusedError(msg)
    file = await open_text(path, target, ctx)
    before = file.text if file is not None else ""
    if file is None and changes[0].old:
        msg = f"{path} does not exist. To create it, use Write, or Edit with an empty old_string."
        raise RefusedError(msg)
    if file is not None:
        _require_read(file, changes, ctx)
    work = asyncio.to_thread(_applied, before, changes) if len(before) > OFF_LOOP else None
    after, count = await work if work is not None else _applied(before, changes)
    data = file.encode(after) if file is not None else after.encode()
    await store(path, target, data, ctx, expect=file.stat if file is not None else None)
    return Edited(before=before, patch=await patched(before, after), count=count, created=file is None)


def _require_read(file: TextFile, changes: tuple[Change, ...], ctx: ToolContext) -> None:
    """A file that was changed since may still be edited where each old text is there exactly once."""
    if not file.text:
        return
    if file.target not in ctx.state.seen:
        msg = f"{file.path} has not been read yet. Read it first before editing it."
        raise RefusedError(msg)
    if not changed_since_seen(ctx.state, file.target, file.stat):
        return
    ctx.state.partial.add(file.target)  # what somebody else changed there was never shown
    if any(change.everywhere for change in changes):
        msg = f"{file.path} was changed since it was read. Read it again before replacing all occurrences."
        raise RefusedError(msg)


def _applied(text: str, changes: tuple[Change, ...]) -> tuple[str, int]:
    count = 0
    for number, change in enumerate(changes, start=1):
        if not change.old:
            if text:
                msg = "old_string is empty, which only fits a file that is new or empty; this one has content."
                raise RefusedError(_numbered(number, changes, msg))
            text, count = change.new, count + 1
            continue
        try:
            done = replace(text, change.old, change.new, everywhere=change.everywhere)
        except EditError as error:
            raise RefusedError(_numbered(number, changes, str(error))) from error
        text, count = done.text, count + done.count
    return text, count


def _numbered(number: int, changes: tuple[Change, ...], reason: str) -> str:
    if len(changes) == 1:
        return reason
    return f"Edit {number} of {len(changes)}: {reason} None of the edits was made."
