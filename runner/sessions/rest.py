"""A session at rest: its workspace and journal for a command that needs no box, in a process that holds its lock."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial

from runner.errors import ModelError, UsageError
from runner.events import Event, Recorded
from runner.journal import Journal
from runner.models.base import Delta, Request
from runner.sessions.cleaning import evict
from runner.sessions.housing import Ground, owner_of, roots_of
from runner.sessions.specs import silent
from runner.sessions.store import Store, Stored, state_home
from runner.sessions.travel import settle
from sandbox.engine import Engine, connect
from sandbox.errors import SandboxError
from sandbox.images import ensure_image
from sandbox.keeper import KeeperImage
from sandbox.pool import Pool
from sandbox.toolbox import ensure_toolbox
from sandbox.workspace import Workspace


@asynccontextmanager
async def at_rest(
    stored: Stored, environ: Mapping[str, str], *, writes: bool = False
) -> AsyncIterator[tuple[Workspace, Journal | None]]:
    """The workspace, and the journal (only with `writes`: reading works beside a damaged journal). What a
    dead owner left running is ended first. Layers can mostly be read without an engine.
    """
    store = Store(state_home(environ))
    journal = Journal.open(stored.directory) if writes else None
    engine = await asyncio.to_thread(_connect_if_there, environ)
    try:
        if engine is not None:
            await asyncio.to_thread(evict, engine, stored.session, stored.directory)
        await asyncio.to_thread(settle, stored.directory, journal)
        workspace = Workspace(
            engine,
            session=stored.session,
            state=stored.directory,
            roots=roots_of(stored.spec),
            owner=owner_of(stored.spec),
            keeper=None if engine is None else partial(_keeper, engine, environ),
            pool=Pool(store.layers, sessions=store.sessions),
        )
        workspace.footing.stands = False if engine is not None else None
        try:
            await workspace.recover()
            yield workspace, journal
        finally:
            await workspace.release()
    finally:
        if journal is not None:
            journal.close()
        if engine is not None:
            engine.close()


def refuse(body: Recorded, *, cause: str = "", id: str = "") -> Event:  # noqa: A002, ARG001 (as a journal's append)
    """Stands where a command that only reads would journal. Raises UsageError."""
    raise UsageError(f"{type(body).__name__} cannot be noted by a command that only reads")


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


class NoModel:
    """For commands that need the box and no model."""

    name = "none"

    async def stream(self, request: Request) -> AsyncIterator[Delta]:
        """Nothing asks here."""
        raise ModelError(f"this command asks no model ({request.model})")
        yield

    async def warm(self) -> None:
        """Nothing to warm."""

    async def close(self) -> None:
        """Nothing to close."""
