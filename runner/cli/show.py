"""`fumehood show CK:PATH`: a file as it was."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument

from runner import app as runner_app
from runner.cli.selecting import in_box
from runner.cli.travelling import InSession
from runner.errors import UsageError
from runner.ui.safe import visible

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
def show(
    what: Annotated[str, Argument(metavar="CHECKPOINT:PATH", help="~ is the box's home directory.")],
    session: InSession = None,
) -> None:
    """Print a file as it was at a checkpoint."""
    checkpoint, colon, path = what.partition(":")
    if not (colon and checkpoint and path):
        raise UsageError(f"{what!r} is not CHECKPOINT:PATH")
    asyncio.run(_show(session, checkpoint, in_box((path,))[0]))


async def _show(session: str | None, checkpoint: str, path: str) -> None:
    terminal = sys.stdout.isatty()
    async with runner_app.reach(session, cwd=Path.cwd(), environ=os.environ, writes=True) as access:
        async for piece in access.show(checkpoint, path):
            if terminal:
                sys.stdout.write(visible(piece.decode("utf-8", "replace")))
            else:
                sys.stdout.buffer.write(piece)
    sys.stdout.flush()
