"""`fumehood gc`: what nothing needs any more goes."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from typing import Annotated

import typer
from typer import Option

from runner import app as runner_app
from runner.cli.sessions import show_size
from runner.cli.values import parse_size
from runner.errors import UsageError
from runner.sessions.collecting import MAX_AGE, MAX_SIZE, TURNS, Collected, Rules
from runner.ui.safe import one_line

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
def gc(
    dry: Annotated[bool, Option("--dry-run", "-n", help="Only say what would go.")] = False,
    max_age: Annotated[
        str, Option(metavar="DAYS", envvar="FUMEHOOD_MAX_AGE", help="Older checkpoints and caches go.")
    ] = f"{MAX_AGE:g}",
    max_size: Annotated[
        str,
        Option(
            metavar="BYTES",
            envvar="FUMEHOOD_MAX_SIZE",
            help="What all checkpoints may take; the oldest go first.",
        ),
    ] = f"{MAX_SIZE >> 30}g",
    turns: Annotated[
        int, Option(min=0, envvar="FUMEHOOD_KEEP_TURNS", help="So many last turns of each session stay undoable.")
    ] = TURNS,
    as_json: Annotated[bool, Option("--json", help="The report as one JSON object.")] = False,
) -> None:
    """Collect old checkpoints and what only they held, leftovers of crashes, and caches that nothing used for long.

    Sessions stay, with their changes, their latest state and the bases of what they changed; so do the checkpoints
    of the last turns, what redo would go to, and all of a session that broke off in mid-turn. Sessions that are
    at work are left alone. What stays is compressed.
    """
    rules = Rules(max_age=_days(max_age), max_size=parse_size(max_size), turns=turns, dry=dry)
    done = runner_app.collect(rules, os.environ)
    if as_json:
        sys.stdout.write(json.dumps(asdict(done) | {"freed": done.freed}, indent=1) + "\n")
        return
    for row in done.rows:
        name = row.name[:8] if "/" not in row.name else row.name
        sys.stdout.write(f"{name:<16}  {one_line(_said(row), 120)}\n")
    would = "would be " if dry else ""
    sys.stdout.write(f"{show_size(done.freed)} {would}freed; stores of checkpoints take {show_size(done.stores)}\n")


def _said(row: Collected) -> str:
    if row.skipped:
        return f"left alone: {row.skipped}"
    counts = {
        "checkpoints": row.checkpoints,
        "replaced directories": row.trash,
        "payloads": row.blobs,
        "files": row.files,
    }
    parts = [f"{count} {name}" for name, count in counts.items() if count]
    return f"{', '.join(parts) or 'compressed'}: {show_size(row.freed)}"


def _days(text: str) -> float:
    try:
        days = float(text)
    except ValueError:
        days = -1.0
    if not 0 <= days < 1e6:
        raise UsageError(f"{text!r} is no number of days")
    return days
