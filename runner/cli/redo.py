"""`fumehood redo`: the last undo or rewind is taken back itself."""

from __future__ import annotations

import typer

from runner.cli.travelling import AsJson, DryRun, InSession, travel

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
def redo(session: InSession = None, dry: DryRun = False, as_json: AsJson = False) -> None:
    """Take back the last undo or rewind; possible until the next prompt."""
    travel(session, {"kind": "redo", "dry": dry}, as_json=as_json)
