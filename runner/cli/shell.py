"""`fumehood shell`: a terminal in the session's box, live or started again from its layers."""

from __future__ import annotations

import asyncio
import os
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from runner import app as runner_app
from runner.cli.entry import say
from runner.cli.terminal import join, raw_terminal, terminal_size

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
def shell(
    session: Annotated[str | None, Argument(help="Session; default: this directory's latest.")] = None,
    command: Annotated[str | None, Option("--command", "-c", metavar="TEXT", help="Run this and end.")] = None,
) -> None:
    """Open a terminal in the box."""
    raise typer.Exit(asyncio.run(_shell(session, command)))


async def _shell(session: str | None, command: str | None) -> int:
    pty = terminal_size()
    argv = ("/bin/sh", "-c", command) if command else ()
    async with runner_app.reach(session, cwd=Path.cwd(), environ=os.environ, box=True, progress=say) as access:
        process = await access.shell(argv, pty)
        with raw_terminal() if pty else nullcontext():
            return await join(process, interactive=pty is not None)
