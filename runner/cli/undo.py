"""`fumehood undo`: the last turns are taken back, files and conversation together."""

from __future__ import annotations

from typing import Annotated

import typer
from typer import Argument

from runner.cli.travelling import AsJson, DryRun, InSession, travel

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
def undo(
    turns: Annotated[int, Argument(metavar="[N]", min=1, help="How many turns.")] = 1,
    session: InSession = None,
    dry: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Take back the last turn, or the last N: files and conversation."""
    travel(session, {"kind": "undo", "steps": turns, "dry": dry}, as_json=as_json)
