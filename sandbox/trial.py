"""A throw-away box over a throw-away directory: what this machine can do is not described but tried."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
import time
import uuid
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Self

from sandbox.box import ContainerBox
from sandbox.engine import Engine, ImageInfo
from sandbox.errors import EngineRefusedError, SandboxError
from sandbox.keeper import KeeperImage
from sandbox.roots import Root
from sandbox.spec import BoxSpec, Limits, Mount, Owner
from sandbox.toolbox import SERVER, TOOLBOX_PYTHON, Toolbox
from sandbox.workspace import Workspace

ROOT = PurePosixPath("/workspace/doctor")
AS_IT_WAS = "as it was\n"


class Trial:
    """An async context manager: the box is open in it, over a directory with one file, and nothing is left of either.
    Raises SandboxError. `seconds`: what the start took. `refused`: why the engine would have no overlay, "" where it
    had.
    """

    def __init__(
        self, engine: Engine, image: ImageInfo, toolbox: Toolbox, *, state: Path, runtime: str = "", limits: Limits
    ) -> None:
        self._engine, self._image, self._toolbox = engine, image, toolbox
        self._state, self._runtime, self._limits = state, runtime, limits
        self._session = str(uuid.uuid4())
        self._owner = Owner(uid=os.geteuid(), gid=os.getegid())
        self.box: ContainerBox
        self.workspace: Workspace
        self.place = Path()
        self.refused, self.seconds = "", 0.0

    async def __aenter__(self) -> Self:
        self.place = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="doctor-", dir=self._state))
        (self.place / "root").mkdir()
        (self.place / "session").mkdir()
        self.file.write_text(AS_IT_WAS)
        self.workspace = Workspace(
            self._engine,
            session=self._session,
            state=self.place / "session",
            roots=(Root(host=self.place / "root", at=ROOT, name="doctor"),),
            owner=self._owner,
            keeper=self._keeper,
        )
        began = time.monotonic()
        try:
            await self._start()
        except BaseException:
            await self._remove()
            raise
        self.seconds = time.monotonic() - began
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            await self.end()
        finally:
            await self._remove()

    @property
    def file(self) -> Path:
        """On the host, below the box's root."""
        return self.place / "root" / "file"

    async def end(self) -> None:
        """End the box; its layers stay to be looked at."""
        await self.box.__aexit__(None, None, None)

    async def _start(self) -> None:
        self.box = self._box(await self.workspace.prepare())
        try:
            await self.box.__aenter__()
        except EngineRefusedError as error:
            self.refused = str(error)
            self.box = self._box(await self.workspace.fall())
            await self.box.__aenter__()

    async def _remove(self) -> None:
        with suppress(SandboxError, OSError):
            await self.workspace.discard()
        await asyncio.to_thread(shutil.rmtree, self.place, ignore_errors=True)

    def _box(self, mounts: tuple[Mount, ...]) -> ContainerBox:
        spec = BoxSpec(
            session=self._session,
            image=self._image.id,
            owner=self._owner,
            cwd=ROOT,
            mounts=(*mounts, self._toolbox.mount),
            limits=self._limits,
            runtime=self._runtime,
        )
        return ContainerBox(spec, self._engine)

    def _keeper(self) -> KeeperImage:
        script = f"{SERVER}/sandbox/server/keeper.py"
        return KeeperImage(image=self._image.id, command=(*TOOLBOX_PYTHON, script), mounts=(self._toolbox.mount,))
