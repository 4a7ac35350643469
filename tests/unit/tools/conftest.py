"""A bench over a local box, and where a test may put files."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path, PurePosixPath

import pytest

from sandbox.local import LocalBox
from sandbox.local_process import LocalProcess
from sandbox.spec import Command, Content, Stat
from tests.support.toolbench import ToolBench


class WatchedBox(LocalBox):
    """A local box that counts what it is asked for, and forgets what was kept of long outputs."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.requests: list[str] = []
        self.kept: set[Path] = set()

    async def exec(self, command: Command) -> LocalProcess:
        self.requests.append("exec")
        if command.capture is not None and command.capture.path is not None:
            self.kept.add(Path(command.capture.path))
        return await super().exec(command)

    async def read(self, path: PurePosixPath, *, offset: int = 0, limit: int = 16 << 20) -> Content:
        self.requests.append("read")
        return await super().read(path, offset=offset, limit=limit)

    async def write(
        self, path: PurePosixPath, data: bytes, *, mode: int | None = None, expect: Stat | None = None
    ) -> Stat:
        self.requests.append("write")
        return await super().write(path, data, mode=mode, expect=expect)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    place = tmp_path / "root"
    place.mkdir()
    return place


@pytest.fixture
async def bench(tmp_path: Path, root: Path) -> AsyncIterator[ToolBench]:
    home = tmp_path / "home"
    home.mkdir()
    async with WatchedBox(home) as box:
        yield ToolBench(box=box, root=PurePosixPath(root))
    for path in box.kept:
        path.unlink(missing_ok=True)
