"""`fumehood du`: what sessions and caches take on the disk."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from runner import app as runner_app
from runner.cli.sessions import show_size
from runner.sessions.usage import Size
from runner.ui.safe import one_line

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
def du(
    session: Annotated[str | None, Argument(help="Only this one. Default: all, and what they share.")] = None,
    as_json: Annotated[bool, Option("--json", help="One JSON object, sizes in bytes.")] = False,
) -> None:
    """Show what each session takes: layers, stores, journal, payloads; and the caches.

    Sizes are of blocks on the disk; what several share is counted once. Frozen layers that one session alone stands
    on are its own; those that several do (forks) are the row `layers`. `apparent` is what the files say they hold,
    holes included.
    """
    usage = runner_app.usage(session, cwd=Path.cwd(), environ=os.environ)
    if as_json:
        sys.stdout.write(json.dumps(asdict(usage), indent=1) + "\n")
        return
    out = sys.stdout.write
    if usage.sessions:
        names = ("layers", "store", "journal", "blobs", "other")
        out(f"{'session':<10}{'state':<9}" + "".join(f"{name:>10}" for name in names))
        out(f"{'on disk':>10}{'apparent':>10}  directory\n")
        for row in usage.sessions:
            out(f"{row.session[:8]:<10}{row.state:<9}" + "".join(f"{show_size(row.parts[n].disk):>10}" for n in names))
            out(f"{show_size(row.total.disk):>10}{show_size(row.total.apparent):>10}")
            out(f"  {one_line(row.directory, 40)}{_closed(row.total)}\n")
            if row.with_others.disk:
                out(f"{'':<10}stands on {show_size(row.with_others.disk)} of layers that other sessions do, too\n")
    for name, size in usage.common.items():
        out(f"{one_line(name, 68):<69}{show_size(size.disk):>10}{show_size(size.apparent):>10}{_closed(size)}\n")
    out(f"{'in all':<69}{show_size(usage.total.disk):>10}{show_size(usage.total.apparent):>10}")
    shared = show_size(usage.total.shared)
    out(f"  ({shared} more under second names, counted once)\n" if usage.total.shared else "\n")


def _closed(size: Size) -> str:
    return f"  ({size.closed} directories could not be entered)" if size.closed else ""
