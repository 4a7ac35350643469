"""`fumehood diff`: what a session changed, as a patch, a summary, or data."""

from __future__ import annotations

import asyncio
import codecs
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from runner import app as runner_app
from runner.cli.selecting import absolute, in_box, split_points
from runner.cli.travelling import InSession
from runner.errors import UsageError
from runner.ui.diff import DiffPainter, wants_colour

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
def diff(
    arguments: Annotated[
        list[str] | None,
        Argument(
            metavar="[SESSION] [CHECKPOINT [CHECKPOINT]] [PATH]...", help="Default: all of this directory's latest."
        ),
    ] = None,
    session: InSession = None,
    stat: Annotated[bool, Option("--stat", help="Only how much changed in which file.")] = False,
    as_json: Annotated[bool, Option("--json", help="One JSON array of changes.")] = False,
) -> None:
    """Show what the session changed; with one checkpoint, what changed since; with two, between them.

    Checkpoints are named by the beginning of their id, four digits or more (see: fumehood checkpoints). A first
    word that begins a session's id is the session; a short one that names a file here is a path, and ./WORD
    always is. Between checkpoints the home directory and /tmp are shown too: home/box/..., tmp/... ~ is the
    box's home directory.
    """
    named, points, paths = split_points(arguments or [], session)
    wanted = in_box(paths) if points else absolute(paths)
    shown = asyncio.run(_diff(named, wanted, points, stat=stat, as_json=as_json))
    unknown = [path for path in wanted if not os.path.lexists(path)]
    if unknown and not shown and not points:
        raise UsageError(f"{unknown[0]}: there is no such path here and nothing changed there, nor such a session")


async def _diff(
    session: str | None, paths: tuple[str, ...], points: tuple[str, ...], *, stat: bool, as_json: bool
) -> bool:
    """Whether there was anything to show."""
    async with runner_app.reach(session, cwd=Path.cwd(), environ=os.environ) as access:
        if as_json:
            sys.stdout.write(json.dumps(rows := await access.changes(paths, points), indent=1) + "\n")
            return bool(rows)
        return await _show(access.stat(paths, points) if stat else access.diff(paths, points), stat=stat)


async def _show(pieces: AsyncIterator[bytes], *, stat: bool) -> bool:
    """Whether there was anything."""
    shown = False
    if not sys.stdout.isatty():
        async for piece in pieces:
            shown = bool(sys.stdout.buffer.write(piece)) or shown
        sys.stdout.flush()
        return shown
    painter = DiffPainter(colour=not stat and wants_colour(os.environ, terminal=True))
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    async for piece in pieces:
        shown = bool(sys.stdout.write(painter.feed(decoder.decode(piece)))) or shown
    sys.stdout.write(painter.close())
    sys.stdout.flush()
    return shown
