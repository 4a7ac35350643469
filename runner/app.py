"""The composition root: the one place that chooses implementations. `run(spec)` is the only way to
start a session; `reach` gives the commands about one, live or at rest.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.dataclass import dataclass
from runner.policy.managed import PLACES, Places
from runner.rig import Rig, forker, remove_dead
from runner.sessions.specs import Notify, box_cwd, new_spec, resume_spec, silent
from runner.sessions.store import Store, Stored, state_home
from runner.spec import SessionSpec
from sandbox.errors import StoreError

if TYPE_CHECKING:
    from runner.approval import Approver
    from runner.hooks.kinds import Handler
    from runner.loop.session import Session
    from runner.mcp.prompt_tool import PromptTool
    from runner.models.base import ModelClient
    from runner.sessions.access import Access
    from runner.sessions.checking import Report
    from runner.sessions.cleaning import Removed
    from runner.sessions.collecting import Collection, Rules
    from runner.sessions.enforced import Enforced
    from runner.sessions.usage import Usage
    from sandbox.engine import Engine, ImageInfo
    from sandbox.workspace import Workspace

__all__ = ["build_image", "clean_dead", "discard", "images", "new_spec", "own", "reach", "resume_spec", "run"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A session that this process owns. `access`: what commands may ask of it. `before`: the last record's
    seq when this run began, -1 for a new session.
    """

    session: Session
    access: Access
    before: int


@asynccontextmanager
async def run(
    spec: SessionSpec,
    *,
    environ: Mapping[str, str] | None = None,
    approver: Approver | None = None,
    model: ModelClient | None = None,
    progress: Notify = silent,
    places: Places = PLACES,
    hooks: tuple[Handler, ...] = (),
) -> AsyncIterator[Session]:
    """Start or go on with the spec's session, and own it until the context ends: then the box goes, its
    layers stay. `approver` None: what would have to be asked is denied. `model` None: the spec's.
    `progress` hears of slow first-time work. `hooks`: functions of the caller's (`runner.hooks.config.function`).
    Raises SessionBusyError, SandboxError (no engine, no
    image), ModelError, UsageError, and what settings and their locks refuse: SettingsError, LockedError,
    PolicyChangedError.
    """
    async with own(
        spec, environ=environ, approver=approver, model=model, progress=progress, places=places, hooks=hooks
    ) as running:
        yield running.session


@asynccontextmanager
async def own(
    spec: SessionSpec,
    *,
    environ: Mapping[str, str] | None = None,
    approver: Approver | None = None,
    model: ModelClient | None = None,
    progress: Notify = silent,
    places: Places = PLACES,
    stored: bool = False,
    hooks: tuple[Handler, ...] = (),
    prompt_tool: PromptTool | None = None,
) -> AsyncIterator[Running]:
    """As `run`, with all that a command line needs of it. `stored`: a session at rest is reached for a command, no
    model is asked; it is brought under the locks of today instead of refused. `prompt_tool` answers where there is
    no `approver`.
    """
    environ = dict(os.environ if environ is None else environ)
    store = Store(state_home(environ))
    store.prepare()
    enforced: Enforced = import_module("runner.sessions.enforced").Enforced.of(
        spec, environ, places=places, stored=stored, functions=hooks
    )
    if prompt_tool is not None:
        enforced.place(prompt_tool.server)
        prompt_tool.expose(enforced.exposing.to_server(prompt_tool.server.name))
    credentials = enforced.credentials()  # before anything is made: they may not be there
    store.directory(spec.session).mkdir(mode=0o700, exist_ok=True)
    with store.lock(spec.session) as lock:
        enforced.begin()
        asks = approver is not None or prompt_tool is not None
        rig = Rig(enforced, store, lock, progress, credentials=credentials, asks=asks)
        try:
            session = await rig.open(model, approver, prompt_tool)
        except BaseException:
            await rig.close()
            await rig.forget()
            raise
        try:
            yield Running(session=session, access=rig.desk(session), before=rig.before)
        finally:
            await rig.close()


@asynccontextmanager
async def reach(
    session: str | None,
    *,
    cwd: Path,
    environ: Mapping[str, str],
    box: bool = False,
    writes: bool = False,
    progress: Notify = silent,
) -> AsyncIterator[Access]:
    """A session's work for a command: by way of its owner where one lives, else as the owner for so long.
    `box`: the command needs the box; `writes`: it changes something that the journal must tell. Raises
    SessionNotFoundError, SessionBusyError, SandboxError.
    """
    store = Store(state_home(environ))
    stored = store.choose(session, cwd)
    lock = store.lock(stored.session)
    if lock.held():
        async with import_module("runner.sessions.client").Client(lock) as client:
            yield client
    elif box:
        async with own(
            stored.spec,
            environ=environ,
            stored=True,
            model=import_module("runner.sessions.rest").NoModel(),
            progress=progress,
        ) as running:
            yield running.access
    else:
        with lock:
            rests = import_module("runner.sessions.rest")
            async with rests.at_rest(stored, environ, writes=writes) as (workspace, journal):

                async def given(workspace: Workspace = workspace) -> Workspace:
                    return workspace

                record = rests.refuse if journal is None else journal.append
                told = journal or import_module("runner.journal").Journal.view(stored.directory)
                travel = import_module("runner.sessions.travel").Travel(workspace=given, journal=told, record=record)
                yield import_module("runner.sessions.desk").Desk(
                    workspace=given,
                    record=record,
                    run=None,
                    cwd=box_cwd(stored.spec),
                    travel=travel,
                    forker=forker(stored.spec, store, travel, record),
                )


def check(
    session: str | None, *, cwd: Path, environ: Mapping[str, str], everything: bool = False, repair: bool = False
) -> list[Report]:
    """Verify what is kept of a session (`everything`: of all). Blocks. Raises SessionNotFoundError,
    SessionBusyError.
    """
    store = Store(state_home(environ))
    names = store.names() if everything else [store.chosen(session, cwd)]
    checking = import_module("runner.sessions.checking")
    return [checking.check(store, name, repair=repair) for name in names]


def usage(session: str | None, *, cwd: Path, environ: Mapping[str, str]) -> Usage:
    """What a session takes on the disk; None: all of them, and what they share. Blocks. Raises SessionNotFoundError."""
    store = Store(state_home(environ))
    made: Usage = import_module("runner.sessions.usage").measure(store, store.chosen(session, cwd) if session else "")
    return made


def collect(rules: Rules, environ: Mapping[str, str]) -> Collection:
    """Collect what nothing needs, in all sessions at rest and the caches. Blocks."""
    store = Store(state_home(environ))

    async def empty(session: str) -> None:
        stored = store.load(session)
        async with import_module("runner.sessions.rest").at_rest(stored, environ) as (workspace, _):
            await asyncio.to_thread(workspace.checkpoints.empty_trash)

    collector = import_module("runner.sessions.collecting").Collector(
        store, rules, empty=lambda session: asyncio.run(empty(session))
    )
    made: Collection = collector.run()
    return made


async def compare(sessions: Sequence[str], *, cwd: Path, environ: Mapping[str, str]) -> dict[str, Any]:
    """What sessions came to, side by side: see `runner.sessions.comparing`. Raises as `reach`."""
    store, comparing = Store(state_home(environ)), import_module("runner.sessions.comparing")
    journals = import_module("runner.journal")
    outcomes, changes = [], {}
    for session in sessions:
        async with reach(session, cwd=cwd, environ=environ) as access:
            changes[session] = await access.changes()
        journal = journals.Journal.view(store.directory(session))
        outcomes.append(comparing.Outcome.read(session, journal.path()))
        journal.close()
    found: dict[str, Any] = comparing.compare(outcomes, changes)
    return found


async def discard(stored: Stored, *, environ: Mapping[str, str]) -> None:
    """Remove a session with all that it changed; one whose own records are damaged too. Raises
    SessionBusyError, WorkspaceError, JournalError where something stays.
    """
    store = Store(state_home(environ))
    with store.lock(stored.session):
        try:
            await _discard_layers(stored, environ)
        except StoreError:  # what it noted of its layers is damaged: all that lies there goes unread
            (stored.directory / "layers" / "layers.json").unlink(missing_ok=True)
            with suppress(StoreError):
                await _discard_layers(stored, environ)
        store.forget(stored)


async def _discard_layers(stored: Stored, environ: Mapping[str, str]) -> None:
    async with import_module("runner.sessions.rest").at_rest(stored, environ) as (workspace, _):
        await workspace.discard()


def _connect(environ: Mapping[str, str]) -> Engine:
    engine: Engine = import_module("sandbox.engine").connect(environ)
    return engine


def clean_dead(environ: Mapping[str, str]) -> Removed:
    """Remove containers and volumes whose owner is dead, and images that nobody names; layers and toolboxes stay.
    Blocks.
    """
    engine = _connect(environ)
    try:
        return remove_dead(engine, Store(state_home(environ)))
    finally:
        engine.close()


def images(environ: Mapping[str, str]) -> list[ImageInfo]:
    """Our images in the engine. Blocks."""
    engine = _connect(environ)
    try:
        return list(import_module("sandbox.images").list_images(engine))
    finally:
        engine.close()


def build_image(
    name: str, *, packages: tuple[str, ...] = (), environ: Mapping[str, str], progress: Notify = silent
) -> ImageInfo:
    """Make an image and the toolbox ready. Blocks, for minutes where they are not there. Raises LockedError for an
    image that managed settings do not allow, SettingsError.
    """
    import_module("runner.sessions.specs").check_image_here(Path.cwd(), name, environ)
    engine = _connect(environ)
    store = Store(state_home(environ))
    store.prepare()
    try:
        image: ImageInfo = import_module("sandbox.images").ensure_image(
            engine, name, packages=packages, cache=store.cache, progress=progress
        )
        import_module("sandbox.toolbox").ensure_toolbox(engine, base=image, cache=store.cache, progress=progress)
    finally:
        engine.close()
    return image
