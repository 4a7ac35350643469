"""`fumehood clean`: what dead sessions left running; with --all, every session at rest."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Annotated

import typer
from typer import Option

from runner import app as runner_app
from runner.cli.entry import report
from runner.cli.selecting import confirm, open_store
from runner.cli.sessions import show_size
from runner.errors import FumehoodError
from runner.sessions.glance import beginning
from runner.sessions.store import State
from runner.sessions.usage import size_of
from runner.ui.safe import one_line
from sandbox.errors import SandboxError

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
def clean(
    all_: Annotated[
        bool, Option("--all", help="Drop sessions at rest too, with their changes; lists and asks.")
    ] = False,
    yes: Annotated[bool, Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove containers and volumes whose owner is dead. Changes and conversations stay without --all."""
    asyncio.run(_clean(everything=all_, yes=yes))


async def _clean(*, everything: bool, yes: bool) -> None:
    removed = await asyncio.to_thread(runner_app.clean_dead, os.environ)
    images = f", and {removed.images} images that nobody names" if removed.images else ""
    sys.stdout.write(f"removed {removed.containers} containers and {removed.volumes} volumes of dead owners{images}\n")
    if not everything:
        return
    store = open_store()
    resting = [stored for stored in store if store.state(stored) is not State.RUNNING]
    if not resting:
        sys.stdout.write("no sessions at rest\n")
        return
    for stored in resting:
        sys.stdout.write(
            f"{stored.session[:8]}{show_size(size_of(stored.directory, set()).disk):>10}  "
            f"{one_line(stored.spec.cwd, 40)}  {one_line(beginning(stored.journal).title, 60)}\n"
        )
    sys.stdout.flush()
    if not confirm(f"Discard these {len(resting)} sessions with all that they changed?", yes=yes):
        raise typer.Exit(1)
    failed = 0
    for stored in resting:
        try:
            await runner_app.discard(stored, environ=os.environ)
        except (FumehoodError, SandboxError) as error:
            failed = report(error)
    sys.stdout.write(f"discarded {sum(not stored.directory.exists() for stored in resting)} sessions\n")
    if failed:
        raise typer.Exit(failed)
