"""Undo, redo and rewind from the command line: asking for it, and saying what came of it."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any, TypeAlias

from typer import Option

from runner import app as runner_app
from runner.ui.safe import one_line

InSession: TypeAlias = Annotated[str | None, Option("--session", "-s", help="Default: this directory's latest.")]
DryRun: TypeAlias = Annotated[bool, Option("--dry-run", "-n", help="Only say what would be done.")]
AsJson: TypeAlias = Annotated[bool, Option("--json", help="The report as one JSON object.")]
_DONE = {"undo": "taken back", "redo": "done again", "rewind": "taken back"}


def travel(session: str | None, journey: dict[str, Any], *, as_json: bool) -> None:
    """Ask the session for a journey and print the report."""
    report = asyncio.run(_travel(session, journey))
    if as_json:
        sys.stdout.write(json.dumps(report, indent=1) + "\n")
        return
    out, would = sys.stdout.write, "would be " if report["dry"] else ""
    for turn in report["turns"]:
        out(f"turn {turn['number']}: {one_line(turn['text'], 70)}\n")
    parts = {"both": "files and conversation", "files": "files", "conversation": "conversation"}[report["what"]]
    if report["what"] == "both" and not report["checkpoint"]:
        parts = "conversation (no file was changed)"
    out(f"{parts} {would}{_DONE[report['kind']]}\n")
    if report["box"] == "restarted":
        out("the box was ended, with all that ran in it; it starts again when it is needed\n")
    for task in report["ended"]:
        out(f"ended: {one_line(task['task'], 20)}  {one_line(task['command'], 90)}\n")
    for task in report["started"]:
        out(f"started again: {one_line(task['name'], 40)}  {one_line(task['command'], 90)}\n")
    for line in report["not_undone"]:
        out(f"not taken back: {one_line(line)}\n")


async def _travel(session: str | None, journey: dict[str, Any]) -> dict[str, Any]:
    async with runner_app.reach(session, cwd=Path.cwd(), environ=os.environ, writes=True) as access:
        return await access.travel(journey)
