"""What a session lives in: engine, image, workspace and box, made beside the first model request and
taken down at its end. Layers stay; containers and volumes go.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path, PurePosixPath

from runner.dataclass import dataclass
from runner.events import BoxEnded, BoxStarted, Recorded
from runner.spec import SessionSpec
from sandbox.box import ContainerBox, asking
from sandbox.disk import DiskWatch, free_space
from sandbox.engine import Engine, ImageInfo
from sandbox.errors import DiskFullError, EngineRefusedError, SandboxError, WorkspaceError
from sandbox.freezer import Freezer
from sandbox.keeper import KeeperImage
from sandbox.masks import NO_MASKS, Masks
from sandbox.pool import Pool
from sandbox.roots import Root
from sandbox.spec import Box, BoxSpec, Limits, Mount, Owner, Rung
from sandbox.streams import Grant
from sandbox.system import STATE_LABEL, state_mark
from sandbox.toolbox import SERVER, TOOLBOX_PYTHON, Toolbox
from sandbox.workspace import Workspace

CLOSE_TIMEOUT = 20.0
COMMIT_TIMEOUT = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """What every box of the session stands on."""

    engine: Engine
    image: ImageInfo
    toolbox: Toolbox

    def keeper(self) -> KeeperImage:
        """What a keeper is made of here."""
        script = f"{SERVER}/sandbox/server/keeper.py"
        return KeeperImage(image=self.image.id, command=(*TOOLBOX_PYTHON, script), mounts=(self.toolbox.mount,))


def roots_of(spec: SessionSpec) -> tuple[Root, ...]:
    """The spec's roots as the workspace takes them."""
    return tuple(
        Root(host=Path(root.host), at=PurePosixPath(root.at), name=root.name, head=root.head) for root in spec.roots
    )


def owner_of(spec: SessionSpec) -> Owner:
    """Whom commands run as: the owner of the first root. Raises WorkspaceError when it is gone."""
    try:
        return roots_of(spec)[0].owner
    except OSError as error:
        raise WorkspaceError(
            f"{spec.roots[0].host} cannot be used: {error.strerror}",
            hint="put it back; the session's own changes are kept",
        ) from error


class Housing:
    """One session's box and what it needs. `lay` connects the engine and makes image and toolbox ready
    where they are not; it runs in a thread. `scratch`: a cache for boxes' small files. `record` journals.
    `home_files`: for the box's HOME, by relative name. `masks`: what policy keeps from the box by now. `grants`: what
    each box may open by itself; `welcome` is awaited with each box before anybody gets it. Nothing starts before
    `begin`.
    """

    def __init__(
        self,
        spec: SessionSpec,
        *,
        directory: Path,
        scratch: Path,
        cwd: PurePosixPath,
        lay: Callable[[], Ground],
        record: Callable[[Recorded], object],
        identity: tuple[str, str],
        environment: Mapping[str, str],
        home_files: Mapping[str, bytes] | None = None,
        pool: Pool | None = None,
        masks: Callable[[], Masks] = lambda: NO_MASKS,
        grants: Mapping[str, Grant] | None = None,
        welcome: Callable[[Box], Awaitable[None]] | None = None,
    ) -> None:
        self._grants = grants
        self._welcome = welcome
        self._pool = pool
        self._masks = masks
        self._home_files = home_files
        self._spec = spec
        self._directory = directory
        self._scratch = scratch
        self._cwd = cwd
        self._lay = lay
        self._record = record
        self._identity = identity
        self._environment = environment
        self._ground: asyncio.Task[Ground] | None = None
        self._box: asyncio.Task[Box] | None = None
        self._open: ContainerBox | None = None
        self._watch: asyncio.Task[None] | None = None
        self._ended = False
        self._laid = False
        self.workspace: Workspace | None = None

    @property
    def laid(self) -> bool:
        """Whether a box has been started over the layers."""
        return self._laid

    @property
    def masked(self) -> Masks:
        """What the box that was last started does not see, or may not change."""
        masks = self.workspace.masks if self.workspace is not None else None
        return NO_MASKS if masks is None else masks

    def begin(self) -> None:
        """Start on all of it now, beside whatever else happens."""
        if self._box is None:
            self._box = asyncio.create_task(self._start(), name="box")

    async def ready(self) -> Ground:
        """Engine, image and toolbox, once they are there. Raises SandboxError."""
        if self._ground is None:
            self._ground = asyncio.create_task(asyncio.to_thread(self._lay_with_room), name="engine and image")
        return await asyncio.shield(self._ground)

    async def box(self) -> Box:
        """The box, the same for every caller. Raises SandboxError."""
        self.begin()
        assert self._box is not None
        return await asyncio.shield(self._box)

    async def restart(self) -> Box:
        """A new box over the same layers, after the old one was lost."""
        await self._leave("lost")
        self._box = asyncio.create_task(self._start(), name="box")
        return await asyncio.shield(self._box)

    async def end(self, reason: str) -> None:
        """End the box, if one runs; what needs it next takes `restart`."""
        if self._box is not None:
            await asyncio.gather(asyncio.shield(self._box), return_exceptions=True)
        await self._leave(reason)

    async def layers(self) -> Workspace:
        """The workspace, whether its layers are made yet or not. Raises SandboxError."""
        ground = await self.ready()
        if self.workspace is None:
            self.workspace = Workspace(
                ground.engine,
                session=self._spec.session,
                state=self._directory,
                roots=roots_of(self._spec),
                owner=owner_of(self._spec),
                rung=Rung(self._spec.cow) if self._spec.cow else None,
                identity=self._identity,
                home_files=self._home_files,
                keeper=ground.keeper,
                pool=self._pool,
                masks=self._masks(),
            )
            await self.workspace.recover()
        return self.workspace

    async def started(self) -> Workspace:
        """The workspace, once its layers are made: they can be read where the box is gone for good, too.
        Raises SandboxError.
        """
        if not self._laid:
            await self.box()
        assert self.workspace is not None
        return self.workspace

    async def close(self, reason: str = "closed") -> None:
        """End the box and let the engine's volumes go. Never raises; bounded in time."""
        for task in (self._box, self._ground):
            if task is not None and not task.done():
                task.cancel()
            if task is not None:
                await asyncio.gather(task, return_exceptions=True)
        with suppress(SandboxError, TimeoutError):
            async with asyncio.timeout(COMMIT_TIMEOUT if self._spec.system_writable else CLOSE_TIMEOUT):
                await self._leave(reason)
                if self.workspace is not None:
                    await self.workspace.release()
        if self._ground is not None and not self._ground.cancelled() and self._ground.exception() is None:
            self._ground.result().engine.close()

    def _lay_with_room(self) -> Ground:
        """In a thread. On a disk that is full already nothing is begun."""
        free, floor = free_space(self._directory), self._spec.box.disk_floor
        if free < floor:
            raise DiskFullError(
                f"{self._directory.parent} has only {free >> 20} MiB of free space left",
                hint=f"a session leaves {floor >> 20} MiB: make room there, or name another place in FUMEHOOD_HOME",
            )
        return self._lay()

    async def _start(self) -> Box:
        began = time.monotonic()
        ground = await self.ready()
        workspace = await self.layers()
        workspace.masks = self._masks()
        mounts = await workspace.prepare()
        try:
            box = await self._enter(ground, mounts)
        except EngineRefusedError:
            box = await self._enter(ground, await workspace.fall())
        self._open, self._laid = box, True
        if self._welcome is not None:
            await self._welcome(box)
        if self._spec.system_writable:
            await asyncio.to_thread(workspace.system.begin, box.container, asking(box))
        workspace.freezer = await asyncio.to_thread(Freezer, ground.engine, box.container)
        self._record(
            BoxStarted(
                container=box.container,
                image=box.spec.image,
                engine=f"{ground.engine.kind} (API {ground.engine.api})",
                runtime=self._spec.runtime,
                rungs=workspace.rungs,
                toolbox=ground.toolbox.digest,
                seconds=round(time.monotonic() - began, 6),
                limits_missing=tuple(box.used_fallbacks),
            )
        )
        self._watch = asyncio.create_task(
            DiskWatch(
                self._directory, Limits(**asdict(self._spec.box)), self._full, beside=workspace.frozen_size
            ).run(),
            name="disk",
        )
        await workspace.start_manifest()
        return box

    async def _full(self, sentence: str) -> None:
        """The disk budget or the host's floor is reached: the running calls end with this, and later ones."""
        box = self._open
        if box is not None:
            hint = "take over what is done (`fumehood apply`), then `fumehood discard`; or raise the budget"
            self._ended = True
            self._record(BoxEnded(reason="disk", detail=sentence))
            await box.stop(DiskFullError(sentence, hint=hint))

    async def _enter(self, ground: Ground, mounts: tuple[Mount, ...]) -> ContainerBox:
        assert self.workspace is not None
        spec = BoxSpec(
            session=self._spec.session,
            image=(await self.workspace.image(ground.image)).id,
            owner=owner_of(self._spec),
            cwd=self._cwd,
            mounts=(*mounts, ground.toolbox.mount),
            environment=self._environment,
            limits=Limits(**asdict(self._spec.box)),
            system_writable=self._spec.system_writable,
            labels={STATE_LABEL: state_mark(self._directory)} if self._spec.system_writable else {},
            runtime=self._spec.runtime,
            locale=self._spec.locale,
            timezone=self._spec.timezone,
        )
        return await ContainerBox(spec, ground.engine, scratch=self._scratch, grants=self._grants).__aenter__()

    async def _leave(self, reason: str) -> None:
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
            self._watch = None
        box, self._open = self._open, None
        if box is None:
            if self.workspace is not None:
                with suppress(SandboxError):  # what did not come to run stands on nothing
                    await self.workspace.ended()
            return
        if self.workspace is not None:
            try:
                await self.workspace.ending()
            except SandboxError:  # what cannot be kept now can be by the next owner: the container stays
                box.keep_container = True
        await box.__aexit__(None, None, None)
        if self.workspace is not None:
            with suppress(SandboxError):  # what could not be frozen stays as it is
                await self.workspace.ended()
        if reason != "lost" and not self._ended:
            self._record(BoxEnded(reason=reason))
        self._ended = False
