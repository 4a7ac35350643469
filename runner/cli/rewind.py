"""`fumehood rewind`: back to a message or a checkpoint."""

from __future__ import annotations

from typing import Annotated

import typer
from typer import Argument, Option

from runner.cli.travelling import AsJson, DryRun, InSession, travel
from runner.errors import UsageError

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
def rewind(  # noqa: PLR0917  # the command line is this long
    target: Annotated[str, Argument(metavar="MESSAGE|CHECKPOINT", help="A turn's number, or a checkpoint's id.")],
    files: Annotated[bool, Option("--files", help="Only the files.")] = False,
    conversation: Annotated[bool, Option("--conversation", help="Only the conversation.")] = False,
    both: Annotated[bool, Option("--both", help="Files and conversation (default).")] = False,
    session: InSession = None,
    dry: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Go back to before a message, or to a checkpoint."""
    if files + conversation + both > 1:
        raise UsageError("--files, --conversation and --both exclude each other")
    what = "files" if files else "conversation" if conversation else "both"
    travel(session, {"kind": "rewind", "to": target, "what": what, "dry": dry}, as_json=as_json)
