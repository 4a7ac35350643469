"""`fumehood fork`: several ways on from one point."""

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
from runner.cli.selecting import split_session
from runner.errors import UsageError

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
def fork(
    words: Annotated[
        list[str] | None,
        Argument(metavar="[SESSION] [CHECKPOINT]", help="Default: this directory's latest session, as it is now."),
    ] = None,
    count: Annotated[int, Option("-n", "--count", min=1, max=64, help="How many.")] = 1,
    as_json: Annotated[bool, Option("--json", help="The report as one JSON object.")] = False,
) -> None:
    """Make new sessions that begin where this one is (or was): same files, same conversation, boxes of their own."""
    session, points = _split(words or [])
    report = asyncio.run(_fork(session, {"at": points[0] if points else "", "count": count}))
    if as_json:
        sys.stdout.write(json.dumps(report, indent=1) + "\n")
        return
    for made in report["forks"]:
        sys.stdout.write(f"{made}\n")
    sys.stderr.write(f"from {report['session'][:8]} at {report['checkpoint']}; go on with: fumehood --resume ID\n")


def _split(words: list[str]) -> tuple[str | None, tuple[str, ...]]:
    session, points = (words[0], tuple(words[1:])) if len(words) == 2 else split_session(words, points=True)
    if len(points) > 1:
        raise UsageError("one session and one checkpoint at most")
    return session, points


async def _fork(session: str | None, request: dict[str, Any]) -> dict[str, Any]:
    async with runner_app.reach(session, cwd=Path.cwd(), environ=os.environ, writes=True) as access:
        return await access.fork(request)
