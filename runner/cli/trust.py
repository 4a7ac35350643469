"""`fumehood trust`: let a repository's own settings count, as they are now; and the question before a run."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, TextIO

import typer
from typer import Argument, Option

from runner.policy.trust import Grants, content_digest
from runner.sessions.chain import Chain, read_chain
from runner.sessions.specs import home_of
from runner.sessions.store import state_home
from runner.ui.safe import one_line, visible

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
def trust(
    directory: Annotated[Path, Argument(metavar="DIRECTORY", help="Default: here.")] = Path(),
    listed: Annotated[bool, Option("--list", help="What is trusted.")] = False,
    revoke: Annotated[bool, Option("--revoke", help="Trust it no more.")] = False,
    yes: Annotated[bool, Option("--yes", "-y", help="Without asking.")] = False,
    as_json: Annotated[bool, Option("--json", help="With --list: one JSON array.")] = False,
) -> None:
    """Let the settings of a repository count, as they are now. Once they change they are not trusted any more.

    Endpoints, keys, variables, and anything that would run on this machine never count from a repository.
    """
    grants = Grants(state_home(os.environ))
    if listed:
        _list(grants, as_json=as_json)
        return
    chain = _chain(directory)
    if revoke:
        gone = grants.revoke(chain.workspace)
        sys.stdout.write(f"{chain.workspace} {'is not trusted any more' if gone else 'was not trusted'}\n")
        return
    if not chain.content:
        sys.stdout.write(f"{chain.workspace} has no settings to trust\n")
        return
    if chain.trusted:
        sys.stdout.write(f"{chain.workspace} is trusted as it is\n")
        return
    if not yes and not ask(chain, sys.stdin, sys.stdout):
        sys.stdout.write("not trusted\n")
        raise typer.Exit(1)
    grants.trust(chain.workspace, content_digest(chain.content), datetime.now(UTC))
    sys.stdout.write(f"{chain.workspace} is trusted as it is now\n")


def _list(grants: Grants, *, as_json: bool) -> None:
    found = grants.trusted()
    if as_json:
        rows = [{"workspace": one.workspace, "digest": one.digest, "at": one.at} for one in found]
        sys.stdout.write(json.dumps(rows, indent=1) + "\n")
        return
    for one in found:
        sys.stdout.write(f"{visible(one.workspace)}  {one.digest[:12]}  {one.at}\n")
    if not found:
        sys.stdout.write("nothing is trusted\n")


def _chain(directory: Path) -> Chain:
    return read_chain(directory.resolve(), environ=os.environ, home=home_of(os.environ), state=state_home(os.environ))


def ask(chain: Chain, keys: TextIO, out: TextIO) -> bool:
    """Show what would count, and ask. Anything but y is a no."""
    out.write(f"{visible(str(chain.workspace))} brings settings that count only once you trust them:\n")
    out.writelines(
        f"  {one_line(left.entry.key, 60)}: {one_line(left.entry.text, 200)}  ({one_line(left.entry.where, 200)})\n"
        for left in chain.wants_trust
    )
    out.write("Let them count, as they are now? [y/N] ")
    out.flush()
    return keys.readline().strip().lower() in ("y", "yes")


def ask_before_run(cwd: Path, environ: Mapping[str, str], sources: tuple[str, ...]) -> None:
    """In a terminal, before a new session starts: ask once about what this repository would have counted."""
    chain = read_chain(
        cwd.resolve(), environ=environ, home=home_of(environ), state=state_home(environ), sources=sources
    )
    if chain.wants_trust and ask(chain, sys.stdin, sys.stderr):
        grants = Grants(state_home(environ))
        grants.trust(chain.workspace, content_digest(chain.content), datetime.now(UTC))
