"""`fumehood apply`: bring what a session changed over to the host."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Argument, Option

from runner import app as runner_app
from runner.cli.selecting import absolute, split_session
from runner.sessions.access import Selection
from runner.ui.safe import one_line

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
_SIGNS = {"write": "M", "delete": "D", "rmdir": "D", "mkdir": "A", "link": "L", "chmod": "m"}


@app.command()
def apply(  # noqa: PLR0917  # the command line is this long
    arguments: Annotated[
        list[str] | None, Argument(metavar="[SESSION] [PATH]...", help="Default: all of this directory's latest.")
    ] = None,
    include: Annotated[
        list[str] | None, Option("--include", metavar="PATH", help="Take this held-back path too.")
    ] = None,
    held: Annotated[bool, Option("--held", help="Take everything that is held back too.")] = False,
    force: Annotated[
        bool, Option("--force", help="Overwrite what changed on the host meanwhile (it is kept).")
    ] = False,
    dry: Annotated[bool, Option("--dry-run", "-n", help="Only say what would be done.")] = False,
    as_json: Annotated[bool, Option("--json", help="The report as one JSON object.")] = False,
) -> None:
    """Bring the session's changes over to your directory."""
    session, paths = split_session(arguments or [])
    selection = Selection(
        paths=absolute(paths), include=absolute(tuple(include or ())), held=held, force=force, dry=dry
    )
    report = asyncio.run(_apply(session, selection))
    if as_json:
        sys.stdout.write(json.dumps(report, indent=1) + "\n")
        return
    _print(report)


async def _apply(session: str | None, selection: Selection) -> dict[str, Any]:
    async with runner_app.reach(session, cwd=Path.cwd(), environ=os.environ, writes=True) as access:
        return await access.apply(selection)


def _print(report: dict[str, Any]) -> None:
    out = sys.stdout.write
    would = "would be " if report["dry"] else ""
    for row in report["applied"]:
        out(f"{_SIGNS.get(row['action'], '?')} {one_line(row['path'])}\n")
    for row in report["refs"]:
        moved = f"{row['old'][:12] or 'nothing'} to {row['new'][:12] or 'nothing'}"
        out(f"git: {one_line(row['ref'])} went from {moved} in the box; commits stay there\n")
    for title, key in (("held back", "held_back"), ("left out", "dropped"), ("look at", "pointed_out")):
        for row in report[key]:
            out(f"{title}: {one_line(row['path'])} ({one_line(row['why'])})\n")
    for row in report["conflicts"]:
        out(f"conflict: {one_line(row['path'])} ({one_line(row['why'])})\n")
    count = len(report["applied"])
    out(f"{count} {'path' if count == 1 else 'paths'} {would}applied\n" if count else f"nothing {would}applied\n")
    if report["held_back"]:
        out("take what is held back with --include PATH or --held\n")
