"""`fumehood port`: a server in the box, in the user's browser."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from runner import app as runner_app
from runner.cli.entry import EXIT_INTERRUPTED, say
from runner.serve.port import PortServer
from sandbox.spec import Process
from sandbox.toolbox import SERVER, TOOLBOX_PYTHON

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
RELAY = (*TOOLBOX_PYTHON, f"{SERVER}/sandbox/server/relay.py")


@app.command()
def port(
    number: Annotated[int, Argument(min=1, max=65535, metavar="PORT", help="Where the server in the box listens.")],
    session: Annotated[str | None, Argument(help="Session; default: this directory's latest.")] = None,
    at: Annotated[int, Option("--at", min=0, max=65535, metavar="PORT", help="On this machine; default: any.")] = 0,
) -> None:
    """Make a server in the box reachable from this machine's browser, until Ctrl-C."""
    try:
        asyncio.run(_port(number, session, at))
    except KeyboardInterrupt:
        raise typer.Exit(EXIT_INTERRUPTED) from None


async def _port(number: int, session: str | None, at: int) -> None:
    async with runner_app.reach(session, cwd=Path.cwd(), environ=os.environ, box=True, progress=say) as access:

        async def dial() -> Process:
            return await access.shell((*RELAY, str(number)), None)

        async with PortServer(dial, inner=number, at=at) as server:
            typer.echo(server.address)
            say(f"port {number} of the box is there until Ctrl-C; the address is for you alone")
            await asyncio.Event().wait()
