"""`fumehood compare`: what several sessions came to, side by side."""

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
from runner.cli.selecting import open_store
from runner.errors import UsageError
from runner.ui.safe import one_line

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
_ID, _NAME = 8, 44


@app.command()
def compare(
    sessions: Annotated[list[str], Argument(help="Two or more.")],
    as_json: Annotated[bool, Option("--json", help="One JSON object.")] = False,
) -> None:
    """Show what each session changed, which of it is the same, what each said and cost."""
    store = open_store()
    names = list(dict.fromkeys(store.find(each).session for each in sessions))
    if len(names) < 2:
        raise UsageError("two sessions at least are compared")
    found = asyncio.run(runner_app.compare(names, cwd=Path.cwd(), environ=os.environ))
    if as_json:
        sys.stdout.write(json.dumps(found, indent=1) + "\n")
        return
    for row in found["sessions"]:
        turns = f"{row['turns']} turn{'' if row['turns'] == 1 else 's'}"
        cost = "" if row["cost"] is None else f", ${row['cost']:.4f}"
        sys.stdout.write(f"{row['session'][:_ID]}  {turns}{cost}: {one_line(row['reply'], 80)}\n")
    if found["files"]:
        heads = "".join(f"{name[:_ID]:>{_ID + 6}}" for name in names)
        sys.stdout.write(f"\n  {'':<{_NAME}}{heads}\n")
    for row in found["files"]:
        cells = "".join(f"{_cell(row['sessions'][name]):>{_ID + 6}}" for name in names)
        sys.stdout.write(f"{'=' if row['same'] else '!'} {one_line(row['path'], _NAME - 2):<{_NAME}}{cells}\n")
    same = sum(row["same"] for row in found["files"])
    sys.stdout.write(f"\n{same} changed paths are the same in all, {len(found['files']) - same} are not\n")


def _cell(side: dict[str, Any]) -> str:
    """`+3 -1 a`: lines, and a letter that is the same where the files are."""
    if not side["kind"]:
        return "as it was"
    version = "?" if side["version"] is None else chr(ord("a") + (side["version"] - 1) % 26)
    if side["kind"] == "deleted":
        return f"deleted {version}"
    return f"+{side['added']} -{side['removed']} {version}"
