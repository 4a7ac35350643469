"""`fumehood checkpoints`: the timeline of a session."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Argument, Option

from runner import app as runner_app
from runner.cli.selecting import with_home
from runner.ui.safe import one_line

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
def checkpoints(
    session: Annotated[str | None, Argument(help="Default: this directory's latest.")] = None,
    as_json: Annotated[bool, Option("--json", help="One JSON object.")] = False,
) -> None:
    """List the states that can be gone back to: turn, tool, what changed, size."""
    found = asyncio.run(_read(session))
    if as_json:
        sys.stdout.write(json.dumps(found, indent=1) + "\n")
        return
    texts = {turn["number"]: turn["text"] for turn in found["turns"]}
    said = 0
    for row in found["checkpoints"]:
        if row["turn"] != said and row["turn"] in texts:
            sys.stdout.write(f"turn {row['turn']}: {one_line(texts[row['turn']], 70)}\n")
        said = row["turn"]
        mark = "*" if row["checkpoint"] == found["present"] else " "
        at = time.strftime("%H:%M:%S", time.localtime(row["at"]))
        when = f"before {row['tool']}" if row["tool"] else row["label"]
        size = f"{row['size'] / 1024:.1f} KiB" if row["way"] == "log" else "frozen"  # it holds what it held, uncopied
        gone = "" if row["kept"] else " (collected)"
        changed = _changed(row, found["places"])
        sys.stdout.write(f"{mark} {row['checkpoint']}  {at}  {when:<16} {size:>10}  {changed}{gone}\n")
    if not found["checkpoints"]:
        sys.stdout.write("no checkpoints yet: nothing was written in this session\n")


def _changed(row: dict[str, Any], places: dict[str, str]) -> str:
    names = ", ".join(one_line(_named(name, places), 60) for name in row["changed"][:3])
    more = row["files"] - min(len(row["changed"]), 3)
    return f"{names} and {more} more" if more > 0 else names


def _named(name: str, places: dict[str, str]) -> str:
    """PLACE/PATH as `show` and `diff` take it here."""
    place, _, rest = name.partition("/")
    if place not in places:
        return name
    path = Path(places[place], rest)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else with_home(str(path))


async def _read(session: str | None) -> dict[str, Any]:
    async with runner_app.reach(session, cwd=Path.cwd(), environ=os.environ) as access:
        return await access.checkpoints()
