"""One session's parts, chosen here and joined to each other: the composition root's larger half (`runner.app`)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from runner.sessions.lock import Lock
from runner.sessions.specs import BOX_HOME, Notify, box_cwd, home_of
from runner.sessions.store import Store
from runner.sessions.timeline import END
from runner.spec import SessionSpec
from runner.variables import says
from runner.version import VERSION
from sandbox.errors import SandboxError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from runner.approval import Approver
    from runner.hooks.run import Hooks
    from runner.journal import Journal
    from runner.loop.context import Context
    from runner.loop.session import Session
    from runner.mcp.prompt_tool import PromptTool
    from runner.models.base import ModelClient
    from runner.sessions.ahead import Ahead
    from runner.sessions.cleaning import Removed
    from runner.sessions.clients import Clients
    from runner.sessions.credentials import Credential
    from runner.sessions.desk import Desk
    from runner.sessions.drifting import Drifting
    from runner.sessions.enforced import Enforced
    from runner.sessions.forking import Forker
    from runner.sessions.housing import Ground, Housing
    from runner.sessions.owner import Owner
    from runner.sessions.sink import Auditing
    from runner.sessions.travel import Travel
    from runner.sessions.wayout import WayOut
    from sandbox.engine import Engine

ASKED = 0.1  # seconds: by then the request is sent, and a model on this machine has answered


class Rig:
    """One session's parts, chosen here and joined to each other."""

    def __init__(
        self,
        enforced: Enforced,
        store: Store,
        lock: Lock,
        progress: Notify,
        *,
        credentials: tuple[Credential, ...] = (),
        asks: bool = False,
    ) -> None:
        self.enforced, spec, environ = enforced, enforced.spec, enforced.environ
        self.spec, self.environ, self.store, self.lock = spec, environ, store, lock
        self.directory = store.directory(spec.session)
        self.cwd = box_cwd(spec)
        self._credentials = credentials
        self.journal = self._open_journal()
        self.before = self.journal.last_seq
        self._note_start()
        store.save(spec)
        wayout = import_module("runner.sessions.wayout")
        self._way_out: WayOut = wayout.WayOut(
            inspects=asks or enforced.policy.inspects,
            credentials=self._credentials,
            limits=lambda: enforced.network_limits,
            lasting=enforced.lasting,
            environ=environ,
            taping=wayout.taping_of(spec, self.directory, self.journal.secrets),
            registries=lambda: enforced.registries,
        )
        self.housing: Housing = import_module("runner.sessions.housing").Housing(
            spec,
            directory=self.directory,
            scratch=store.cache / "boxes",
            cwd=self.cwd,
            lay=lambda: _lay_ground(spec, environ, self.directory, store.cache, progress),
            record=self.journal.append,
            identity=import_module("runner.sessions.identity").read_identity(environ, home_of(environ)),
            environment=self._environment(),
            home_files=self._home_files(),
            pool=import_module("sandbox.pool").Pool(store.layers, sessions=store.sessions),
            masks=lambda: enforced.masks,
            grants=self._way_out.grants,
            welcome=self._way_out.welcome,
        )
        self._drifting: Drifting = import_module("runner.sessions.drifting").Drifting(
            self.housing, self.journal, masks=lambda: enforced.masks, progress=progress
        )
        self._clients: Clients = import_module("runner.sessions.clients").Clients(enforced)
        self._tasks: list[asyncio.Task[Any]] = []
        self._keeping: asyncio.Task[None] | None = None
        self._stack = AsyncExitStack()
        self._progress = progress
        self._going: Travel | None = None
        self._ahead: Ahead | None = None
        self._auditing: Auditing | None = None

    async def open(
        self, model: ModelClient | None, approver: Approver | None, prompt_tool: PromptTool | None = None
    ) -> Session:
        """The session, taking operations; its box on the way, engine and image known to be there."""
        if model is None:
            import_module("runner.models.registry").require_key(self.spec.model, self.environ)
        self.housing.begin()
        await asyncio.to_thread(_import_loop)  # in which the engine answers
        if self.enforced.sink is not None:
            self._auditing = import_module("runner.sessions.sink").Auditing.of(
                self.enforced, directory=self.directory, journal=self.journal, environ=self.environ
            )
            await self._auditing.begin()
        session = await self._stack.enter_async_context(self._session(model, approver or prompt_tool))
        if prompt_tool is not None:
            prompt_tool.ground = session.gate
            self._stack.push_async_callback(prompt_tool.close)
        if self._auditing is not None:
            self._tasks.append(asyncio.create_task(self._auditing.go_on(session), name="audit sink"))
        await self._stack.enter_async_context(self._owner(session))
        ground = await self.housing.ready()
        pinned = replace(self.spec, image_digest=ground.image.id, toolbox_digest=ground.toolbox.digest)
        self.store.save(pinned)  # a session goes on in the image that it began in
        self._keeping = asyncio.create_task(self._drifting.keep(session))
        self._tasks.append(asyncio.create_task(self._remove_dead()))
        return session

    async def close(self) -> None:
        """Everything down, in order; the layers stay."""
        await self._stack.aclose()
        if told := await self._way_out.close():
            self._progress(told)
        if self._ahead is not None:
            await asyncio.gather(self._ahead.settle(), return_exceptions=True)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._keeping is not None:
            await asyncio.gather(self._keeping, return_exceptions=True)
        await self.housing.close()
        await self._clients.close()
        if self._auditing is not None and (problem := await self._auditing.end()):
            self._progress(problem)
        self.journal.close()

    async def forget(self) -> None:
        """Leave nothing of a new session that never came to take a prompt."""
        if self.before < 0:
            if self.housing.workspace is not None:
                with suppress(SandboxError):
                    await self.housing.workspace.discard()
            self.store.forget(self.store.load(self.spec.session))

    def desk(self, session: Session) -> Desk:
        """What commands may do here."""
        travel = self._travel(session)
        made: Desk = import_module("runner.sessions.desk").Desk(
            workspace=self.housing.started,
            record=session.record,
            run=session.gate.user_command,
            cwd=self.cwd,
            carry=session.gate.carry,
            session=self.spec.session,
            travel=travel,
            forker=forker(self.spec, self.store, travel, session.record),
        )
        return made

    def _owner(self, session: Session) -> Owner:
        made: Owner = import_module("runner.sessions.owner").Owner(
            session=self.spec.session,
            lock=self.lock,
            home=self.store.home,
            environ=self.environ,
            access=self.desk(session),
            talk=session,
        )
        return made

    def _session(self, model: ModelClient | None, approver: Approver | None) -> Session:
        spec, client = self.spec, model or self._clients.resolve(self.spec.model, *self.spec.fallback_models)
        self._tasks.append(asyncio.create_task(client.warm()))
        approver = self.enforced.approver(approver)
        ahead = self._ahead = import_module("runner.sessions.ahead").Ahead(self._take)
        made: Session = import_module("runner.loop.session").Session(
            journal=self.journal,
            model=client,
            tools=import_module("runner.tools.registry").select_tools(
                spec.tools or "default", allowed=spec.allow, disallowed=spec.deny, search=self.enforced.search
            ),
            policy=self.enforced.policy,
            look=self.enforced.look,
            hooks=self._hooks(),
            background=self.enforced.background(),
            remember=import_module("runner.loop.modes").Remember(
                keep=self.enforced.remember, file=self.enforced.approvals_file
            ),
            approver=approver,
            box=self.housing.box,
            restart_box=self.housing.restart,
            context=self._context(),
            cost_of=import_module("runner.models.prices").cost_of,
            limits=spec.limits,
            before_turn=lambda first: self._before_turn(made, first=first),
            before_write=ahead.before_write,
            between=ahead.between,
            after_turn=ahead.after_turn,
            undo=self._undo,
            resolve_model=self._clients.resolve,
            small_model=self._clients.small,
            environment=spec.variables,
            exposed=self.enforced.exposing.to_command,
            max_output_tokens=spec.max_output_tokens,
            thinking_tokens=spec.thinking_tokens,
        )
        self._going = self._travel(made)
        self._tasks.append(asyncio.create_task(self._load_tools(made, client), name="tools"))
        self._way_out.begin(made.gate, lambda: self.journal.last_turn, self.journal.read)
        return made

    def _environment(self) -> dict[str, str]:
        """What commands find in theirs: where they are, what is passed by name, what points to registries, whom to
        trust.
        """
        made = {"CLAUDE_CODE_SESSION_ID": self.spec.session, "CLAUDE_PROJECT_DIR": self.spec.roots[0].at}
        made |= {name: value for each in self.enforced.registries for name, value in each.environment.items()}
        made |= {name: self.environ[name] for name in self.spec.environment if name in self.environ}
        return made | dict(self._way_out.environment)

    def _home_files(self) -> Mapping[str, bytes]:
        """What the user's own hooks in the box consist of, and what points tools to registries."""
        found = dict(self._way_out.files)
        found |= {name: data for each in self.enforced.registries for name, data in each.files.items()}
        if self.enforced.hooks is None:
            return found
        files: Mapping[str, bytes] = import_module("runner.hooks.files").hook_files(
            self.enforced.hooks, home_of(self.environ), self.environ
        )
        return found | dict(files)

    def _hooks(self) -> Hooks | None:
        """None where there are none."""
        if self.enforced.hooks is None:
            return None
        none = import_module("runner.hooks.config").Configured()
        made: Hooks = import_module("runner.hooks.run").Hooks(
            configured=lambda: self.enforced.hooks or none,
            session=self.spec.session,
            root=PurePosixPath(self.spec.roots[0].at),
            transcript=str(self.directory / "journal.jsonl"),
            homes=(str(home_of(self.environ)), str(BOX_HOME)),
            environ=self.environ,
        )
        return made

    def _travel(self, session: Session) -> Travel:
        async def stop() -> None:
            await self.housing.end("restored")
            session.gate.box.ended()

        made: Travel = import_module("runner.sessions.travel").Travel(
            workspace=self.housing.started,
            journal=self.journal,
            record=session.record,
            quiet=session.quiet,
            stop=stop,
            running=lambda: [
                (task.id, task.command) for task in session.gate.state.tasks.values() if task.state == "running"
            ],
            declared=session.gate.background,
        )
        return made

    async def _take(self, label: str, *, before: str = "") -> None:
        """See `runner.sessions.ahead`."""
        assert self._going is not None
        await self._going.take(label, before=before)
        if label == END:
            (await self.housing.started()).tidy()

    async def _undo(self, steps: int) -> object:
        assert self._going is not None
        journey = import_module("runner.sessions.travel").Journey(kind="undo", steps=steps)
        return await self._going.go(journey)

    async def _before_turn(self, session: Session, *, first: bool) -> None:
        if self._auditing is not None and (not first or self._auditing.unheard):
            await self._auditing.acknowledge(session)
        await self._drifting.look(session, first=first)

    async def _load_tools(self, session: Session, client: ModelClient) -> None:
        """The tools, and what judges their calls, are imported while the model thinks about its first reply."""
        async for event in session.events(after=self.journal.last_seq):
            if event.type == "ModelAsked":
                await client.warm()
                await asyncio.sleep(ASKED)
                await asyncio.to_thread(import_module, "runner.policy.judging")
                for tool in session.gate.tools.values():
                    await asyncio.to_thread(import_module("runner.tools.registry").load, tool)
                return

    async def _remove_dead(self) -> None:
        ground = await self.housing.ready()
        await self.housing.box()
        await asyncio.to_thread(remove_dead, ground.engine, self.store)

    def _open_journal(self) -> Journal:
        journals = import_module("runner.journal")
        known_secrets = import_module("runner.sessions.secrecy").known_secrets
        secrets = known_secrets(self.environ, self._credentials, self.enforced.exposing)
        fresh = not (self.directory / "journal.jsonl").exists()
        opened = journals.Journal.create if fresh else journals.Journal.open
        journal: Journal = opened(self.directory, **({"session": self.spec.session} if fresh else {}), secrets=secrets)
        import_module("runner.sessions.travel").settle(self.directory, journal)
        return journal

    def _note_start(self) -> None:
        events = import_module("runner.events")
        if self.before < 0:
            self.journal.append(events.SessionStarted(spec=self.spec.to_json(), version=VERSION))
        self.journal.append(self.enforced.loaded())

    def _context(self) -> Context:
        spec, root = self.spec, self.spec.roots[0]
        made: Context = import_module("runner.loop.context").Context(
            home=home_of(self.environ),
            root=Path(root.host),
            at=PurePosixPath(root.at),
            cwd=self.cwd,
            roots=tuple(PurePosixPath(each.at) for each in spec.roots),
            box_home=BOX_HOME,
            now=_clock(spec),
            system_prompt=spec.system_prompt,
            append=spec.append_system_prompt,
            instructions=not says(spec.variables, "CLAUDE_CODE_DISABLE_CLAUDE_MDS"),
            git=not says(spec.variables, "CLAUDE_CODE_DISABLE_GIT_INSTRUCTIONS"),
            hides=self.enforced.hides,
        )
        return made


def _lay_ground(
    spec: SessionSpec, environ: Mapping[str, str], directory: Path, cache: Path, progress: Notify
) -> Ground:
    """Engine, image and toolbox; some milliseconds when all are there. Runs in a thread."""
    engine = import_module("sandbox.engine").connect(environ)
    try:
        if spec.runtime:
            engine.require_runtime(spec.runtime)
        kept = engine.images.find(spec.image_digest) if spec.image_digest else None
        image = kept or import_module("sandbox.images").ensure_image(
            engine, spec.image, packages=spec.packages, cache=cache, progress=progress
        )
        toolbox = import_module("sandbox.toolbox").ensure_toolbox(engine, base=image, cache=cache, progress=progress)
        import_module("runner.sessions.cleaning").evict(engine, spec.session, directory)
    except BaseException:
        engine.close()
        raise
    made: Ground = import_module("runner.sessions.housing").Ground(engine=engine, image=image, toolbox=toolbox)
    return made


def _clock(spec: SessionSpec) -> Callable[[], datetime]:
    if spec.clock:
        fixed = datetime.fromisoformat(spec.clock)
        return lambda: fixed
    return lambda: datetime.now(UTC).astimezone()


def _import_loop() -> None:
    for name in ("runner.loop.session", "runner.tools.registry", "runner.models.registry", "runner.sessions.owner"):
        import_module(name)


def remove_dead(engine: Engine, store: Store) -> Removed:
    """Containers and volumes whose owner is dead, and images that nobody names. Blocks."""
    removed: Removed = import_module("runner.sessions.cleaning").remove_dead(engine, store)
    return removed


def forker(spec: SessionSpec, store: Store, travel: Travel, record: Callable[..., object]) -> Forker:
    """What makes forks of a session that this process owns."""
    made: Forker = import_module("runner.sessions.forking").Forker(spec, store, travel=travel, record=record)
    return made
