"""A session at rest: its workspace and journal for a command that needs no box, in a process that holds its lock."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial

from runner.journal import Journal
from runner.sessions.cleaning import evict
from runner.sessions.housing import Ground, owner_of, roots_of
from runner.sessions.specs import silent
from runner.sessions.store import Store, Stored, state_home
from sandbox.engine import Engine, connect
from sandbox.errors import SandboxError
from sandbox.images import ensure_image
from sandbox.keeper import KeeperImage
from sandbox.toolbox import ensure_toolbox
from sandbox.workspace import Workspace


@asynccontextmanager
async def at_rest(stored: Stored, environ: Mapping[str, str]) -> AsyncIterator[tuple[Workspace, Journal]]:
    """What a dead owner left running is ended first. Layers can mostly be read without an engine, so none
    is needed before something asks for it.
    """
    engine = await asyncio.to_thread(_connect_if_there, environ)
    try:
        if engine is not None:
            await asyncio.to_thread(evict, engine, stored.session)
        workspace = Workspace(
            engine,
            session=stored.session,
            state=stored.directory,
            roots=roots_of(stored.spec),
            owner=owner_of(stored.spec),
            keeper=None if engine is None else partial(_keeper, engine, environ),
        )
        journal = Journal.open(stored.directory)
        try:
            yield workspace, journal
        finally:
            await workspace.release()
            journal.close()
    finally:
        if engine is not None:
            engine.close()


def _connect_if_there(environ: Mapping[str, str]) -> Engine | None:
    try:
        return connect(environ)
    except SandboxError:
        return None


def _keeper(engine: Engine, environ: Mapping[str, str]) -> KeeperImage:
    """What a keeper is made of where no box is: any image will do. Runs in a thread."""
    cache = Store(state_home(environ)).cache
    image = ensure_image(engine, "base", cache=cache, progress=silent)
    return Ground(
        engine=engine, image=image, toolbox=ensure_toolbox(engine, base=image, cache=cache, progress=silent)
    ).keeper()
