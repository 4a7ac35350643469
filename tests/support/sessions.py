"""A workspace and its box together, as a session has them: for tests against a real engine."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Self

from sandbox.box import ContainerBox, asking
from sandbox.conformance import collect
from sandbox.engine import Engine, ImageInfo
from sandbox.errors import EngineRefusedError
from sandbox.keeper import KeeperImage
from sandbox.masks import Masks
from sandbox.pool import Pool
from sandbox.roots import find_roots
from sandbox.spec import BoxSpec, Command, Exited, Limits, Mount, Rung
from sandbox.system import STATE_LABEL, state_mark
from sandbox.toolbox import SERVER, TOOLBOX_PYTHON, Toolbox
from sandbox.workspace import Workspace

SECONDS = 240


class Bench:
    """An engine with an image and a toolbox in it."""

    def __init__(self, engine: Engine, image: ImageInfo, toolbox: Toolbox) -> None:
        self.engine = engine
        self.image = image
        self.toolbox = toolbox

    def keeper(self) -> KeeperImage:
        """As a session makes it."""
        return KeeperImage(
            image=self.image.id,
            command=(*TOOLBOX_PYTHON, f"{SERVER}/sandbox/server/keeper.py"),
            mounts=(self.toolbox.mount,),
        )

    def session(
        self,
        cwd: Path,
        state: Path,
        *add: Path,
        rung: Rung | None = None,
        name: str = "",
        pool: Pool | None = None,
        system: bool = False,
        masks: Masks | None = None,
    ) -> Inside:
        """A session over `cwd`; `name` takes up an earlier one. `pool`: shared with others. `system`: its root file
        system is writable. `masks`: what its box does not see, or may not change.
        """
        name = name or str(uuid.uuid4())
        return Inside(self, cwd, state, add, rung=rung, name=name, pool=pool, system=system, masks=masks)


class Inside:
    """Entering prepares the workspace and starts the box; leaving ends both, the layers stay."""

    def __init__(
        self,
        bench: Bench,
        cwd: Path,
        state: Path,
        add: tuple[Path, ...],
        *,
        rung: Rung | None,
        name: str,
        pool: Pool | None = None,
        system: bool = False,
        masks: Masks | None = None,
    ) -> None:
        found = find_roots(cwd, add, home=Path("/nowhere"), state=state)
        state.mkdir(parents=True, exist_ok=True)
        self.bench = bench
        self.cwd = found.cwd
        self.root = found.roots[0]
        self.name = name
        self.system = system
        self.state = state
        self.workspace = Workspace(
            bench.engine,
            session=name,
            state=state,
            roots=found.roots,
            owner=found.roots[0].owner,
            rung=rung,
            identity=("Ada", "ada@example.org"),
            keeper=bench.keeper,
            pool=pool,
            masks=masks,
        )
        self.box: ContainerBox | None = None
        self.environment: dict[str, str] = {}
        self.limits = Limits()
        self.before_start: Callable[[], Awaitable[None]] | None = None

    async def __aenter__(self) -> Self:
        mounts = await self.workspace.prepare()
        if self.before_start:
            await self.before_start()
        try:
            await self._start(mounts)
        except EngineRefusedError:
            await self._start(await self.workspace.fall())
        await self.workspace.start_manifest()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.end()
        await self.workspace.release()

    @property
    def box_id(self) -> str:
        """Its container."""
        assert self.box is not None
        return self.box.container

    async def end(self) -> None:
        """The box goes, the layers stay."""
        box, self.box = self.box, None
        if box is not None:
            await self.workspace.ending()
            await box.__aexit__(None, None, None)
            await self.workspace.ended()

    async def discard(self) -> None:
        """All of it goes."""
        await self.end()
        await self.workspace.discard()

    async def again(self) -> None:
        """A new box over the same layers."""
        await self._start(await self.workspace.prepare())

    async def _start(self, mounts: tuple[Mount, ...]) -> None:
        spec = BoxSpec(
            session=self.name,
            image=(await self.workspace.image(self.bench.image)).id,
            system_writable=self.system,
            labels={STATE_LABEL: state_mark(self.state)} if self.system else {},
            environment=self.environment,
            owner=self.root.owner,
            cwd=self.cwd,
            mounts=(*mounts, self.bench.toolbox.mount),
            limits=self.limits,
        )
        self.box = await ContainerBox(spec, self.bench.engine).__aenter__()
        if self.system:
            await asyncio.to_thread(self.workspace.system.begin, self.box.container, asking(self.box))

    async def run(self, script: str, *, cwd: PurePosixPath | None = None) -> str:
        """A shell command's output; it must succeed."""
        code, out = await self.run_any(script, cwd=cwd)
        assert code == 0, out
        return out

    async def run_any(self, script: str, *, cwd: PurePosixPath | None = None) -> tuple[int, str]:
        """A shell command's exit code and output."""
        assert self.box is not None
        command = Command(argv=("set -e\n" + script,), cwd=cwd or self.cwd, shell=True, merge=True, timeout=SECONDS)
        out, _, end = await collect(await self.box.exec(command))
        assert isinstance(end, Exited)
        return end.code, out.decode("utf-8", "surrogateescape")

    async def python(self, script: str) -> str:
        """A Python script in the image; it must succeed."""
        return await self.run(f"python3 - <<'END_OF_SCRIPT'\n{script}\nEND_OF_SCRIPT\n")
