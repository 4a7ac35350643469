"""`fumehood sessions`: what lies in the store."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from typer import Option

from runner.sessions.glance import beginning
from runner.sessions.store import Store, state_home
from runner.sessions.usage import frozen_layers, size_of
from runner.ui.safe import one_line

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
def sessions(
    as_json: Annotated[bool, Option("--json", help="One JSON array.")] = False,
    here: Annotated[bool, Option("--here", help="Only sessions of this directory.")] = False,
    limit: Annotated[int, Option("--limit", "-n", min=1, help="How many at most, newest first.")] = 50,
) -> None:
    """List sessions, newest first, with what each takes that no other session shares."""
    store = Store(state_home(os.environ))
    cwd = str(Path.cwd())
    rows, frozen = [], frozen_layers(store)
    for stored in store:
        if here and stored.spec.cwd != cwd:
            continue
        began, seen = beginning(stored.journal), set[tuple[int, int]]()
        rows.append(
            {
                "session": stored.session,
                "state": store.state(stored).value,
                "directory": stored.spec.cwd,
                "title": began.title,
                "model": stored.spec.model,
                "started": began.at,
                "updated": stored.updated,
                "size": sum(
                    size_of(place, seen).disk for place in (stored.directory, *frozen.own.get(stored.session, ()))
                ),
            }
        )
        if len(rows) == limit:
            break
    if as_json:
        sys.stdout.write(json.dumps(rows, indent=1) + "\n")
        return
    if not rows:
        sys.stdout.write("no sessions yet\n")
    for row in rows:
        sys.stdout.write(
            f"{str(row['session'])[:8]}  {row['state']:<8}{_age(float(str(row['updated']))):>8}"
            f"{show_size(int(str(row['size']))):>9}  {one_line(str(row['directory']), 40)}  "
            f"{one_line(str(row['title']), 60)}\n"
        )


def _age(at: float) -> str:
    seconds = max(0, int(time.time() - at))
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def show_size(size: int) -> str:
    """Bytes for people."""
    amount = float(size)
    for unit in ("B", "KiB", "MiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}"
        amount /= 1024
    return f"{amount:.1f} GiB"
