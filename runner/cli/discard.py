"""`fumehood discard`: a session goes, with everything it changed."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from runner import app as runner_app
from runner.cli.selecting import confirm, open_store
from runner.sessions.glance import beginning
from runner.ui.safe import one_line

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
def discard(
    session: Annotated[str | None, Argument(help="Session; default: this directory's latest.")] = None,
    yes: Annotated[bool, Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Drop a session: its changes, its conversation, its box. This cannot be undone."""
    stored = open_store().choose(session, Path.cwd())
    name = f"{stored.session[:8]} ({one_line(beginning(stored.journal).title, 60)})"
    if not confirm(f"Discard session {name} and all that it changed?", yes=yes):
        raise typer.Exit(1)
    asyncio.run(runner_app.discard(stored, environ=os.environ))
    sys.stdout.write(f"discarded {name}\n")
