"""`fumehood keep`: of several forks one stays, the others go."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Annotated

import typer
from typer import Argument, Option

from runner import app as runner_app
from runner.cli.selecting import confirm, open_store
from runner.errors import UsageError
from runner.sessions.glance import beginning
from runner.sessions.store import State, Store, Stored
from runner.ui.safe import one_line

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
def keep(
    session: Annotated[str, Argument(help="The fork that stays.")],
    yes: Annotated[bool, Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Keep one fork and discard the others of the same session. Their origin stays too."""
    store = open_store()
    kept = store.find(session)
    origin = store.origin(kept)
    if origin is None:
        raise UsageError(f"{kept.session[:8]} is no fork: there are no others that could go")
    others = [each for each in store if each.session != kept.session and _origin(store, each) == origin.session]
    if not others:
        sys.stdout.write("there are no other forks\n")
        return
    for each in others:
        state = store.state(each)
        if state is State.RUNNING:
            raise UsageError(f"{each.session[:8]} is at work: stop it first")
        sys.stderr.write(f"{each.session[:8]}  {state.value:<8}{one_line(beginning(each.journal).title, 60)}\n")
    if not confirm(f"Discard these {len(others)} sessions and all that they changed?", yes=yes):
        raise typer.Exit(1)
    for each in others:
        asyncio.run(runner_app.discard(each, environ=os.environ))
        sys.stdout.write(f"discarded {each.session[:8]}\n")


def _origin(store: Store, stored: Stored) -> str:
    found = store.origin(stored)
    return found.session if found is not None else ""
