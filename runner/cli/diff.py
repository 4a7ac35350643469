"""`fumehood diff`: what a session changed, as a patch, a summary, or data."""

from __future__ import annotations

import asyncio
import codecs
import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from runner import app as runner_app
from runner.cli.selecting import absolute, split_session
from runner.ui.diff import DiffPainter, wants_colour

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
def diff(
    arguments: Annotated[
        list[str] | None, Argument(metavar="[SESSION] [PATH]...", help="Default: all of this directory's latest.")
    ] = None,
    stat: Annotated[bool, Option("--stat", help="Only how much changed in which file.")] = False,
    as_json: Annotated[bool, Option("--json", help="One JSON array of changes.")] = False,
) -> None:
    """Show what the session changed."""
    session, paths = split_session(arguments or [])
    asyncio.run(_diff(session, absolute(paths), stat=stat, as_json=as_json))


async def _diff(session: str | None, paths: tuple[str, ...], *, stat: bool, as_json: bool) -> None:
    async with runner_app.reach(session, cwd=Path.cwd(), environ=os.environ) as access:
        if as_json:
            sys.stdout.write(json.dumps(await access.changes(paths), indent=1) + "\n")
            return
        pieces = access.stat(paths) if stat else access.diff(paths)
        if not sys.stdout.isatty():
            async for piece in pieces:
                sys.stdout.buffer.write(piece)
            sys.stdout.flush()
            return
        painter = DiffPainter(colour=not stat and wants_colour(os.environ, terminal=True))
        decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        async for piece in pieces:
            sys.stdout.write(painter.feed(decoder.decode(piece)))
        sys.stdout.write(painter.close())
        sys.stdout.flush()
