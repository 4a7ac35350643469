"""`fumehood diff`: what a session changed, as a patch, a summary, or data."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from runner import app as runner_app
from runner.cli.selecting import split_session
from runner.ui.safe import visible

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
_COLOURS = (("+++", "1"), ("---", "1"), ("diff ", "1"), ("@@", "36"), ("+", "32"), ("-", "31"))


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
    asyncio.run(_diff(session, paths, stat=stat, as_json=as_json))


async def _diff(session: str | None, paths: tuple[str, ...], *, stat: bool, as_json: bool) -> None:
    async with runner_app.reach(session, cwd=Path.cwd(), environ=os.environ) as access:
        if as_json:
            sys.stdout.write(json.dumps(await access.changes(paths), indent=1) + "\n")
            return
        pieces = access.stat(paths) if stat else access.diff(paths)
        plain = not sys.stdout.isatty()
        async for piece in pieces:
            if plain:
                sys.stdout.buffer.write(piece.encode("utf-8", "surrogateescape"))
            else:
                sys.stdout.write("".join(_paint(line) for line in piece.splitlines(keepends=True)))
        sys.stdout.flush()


def _paint(line: str) -> str:
    """A line for a terminal: control characters visible, additions and removals coloured."""
    shown = visible(line.rstrip("\n"))
    end = "\n" if line.endswith("\n") else ""
    if os.environ.get("NO_COLOR"):
        return shown + end
    for start, colour in _COLOURS:
        if shown.startswith(start):
            return f"\x1b[{colour}m{shown}\x1b[0m{end}"
    return shown + end
