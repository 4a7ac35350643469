"""`fumehood fsck`: whether all that is kept of sessions can still be read."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, TypeAlias

import typer
from typer import Argument, Option

from runner import app as runner_app
from runner.errors import UsageError
from runner.ui.safe import one_line
from sandbox.errors import StoreError

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
AsJson: TypeAlias = Annotated[bool, Option("--json", help="One JSON array, a session each.")]
SHOWN = 10


@app.command()
def fsck(
    session: Annotated[str | None, Argument(help="Default: this directory's latest.")] = None,
    all_: Annotated[bool, Option("--all", help="Every session.")] = False,
    repair: Annotated[
        bool, Option("--repair", help="Cut off torn ends, as the next command would; nothing else.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Verify every record, index, content, blob and the journal's chain; name what a damaged one takes with it.

    Exit code 51 where something is damaged. An end that a crash tore is no damage: what it was part of never
    counted.
    """
    if session and all_:
        raise UsageError("a session and --all exclude each other")
    reports = runner_app.check(session, cwd=Path.cwd(), environ=os.environ, everything=all_, repair=repair)
    damaged = any(report.findings for report in reports)
    if as_json:
        sys.stdout.write(json.dumps([asdict(report) for report in reports], indent=1) + "\n")
        raise typer.Exit(StoreError.exit_code if damaged else 0)
    for report in reports:
        name = report.session[:8] + (" (live)" if report.live else "")
        for finding in report.findings:
            sys.stdout.write(f"{name}  {finding.object}: {one_line(finding.what, 200)}\n")
            _list("turns", [str(turn) for turn in finding.turns])
            _list("checkpoints", list(finding.checkpoints))
            _list("paths", list(finding.paths))
        for file, size in report.torn.items():
            done = "cut off" if report.cut else "goes when the session is used next"
            sys.stdout.write(f"{name}  {file}: {size} bytes of a torn end, {done}\n")
        if not report.findings:
            sys.stdout.write(f"{name}  {report.records} records, all is well\n")
    if not reports:
        sys.stdout.write("no sessions\n")
    raise typer.Exit(StoreError.exit_code if damaged else 0)


def _list(word: str, names: list[str]) -> None:
    if names:
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        sys.stdout.write(f"    {word}: {', '.join(one_line(name, 80) for name in names[:SHOWN])}{more}\n")
