"""A box without a container, for unit tests: the same protocol and the server's own file code, real
processes of this user, and no isolation whatever. Paths are the host's own.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal as signals
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, Self, TypeVar

from sandbox.box import stat_of
from sandbox.errors import BoxLostError, DiskFullError, PathError, SandboxError
from sandbox.local_process import LocalProcess
from sandbox.server import job
from sandbox.server.files import Files, RefusedError, code_of
from sandbox.spec import Command, Content, Resolution, Stat
from sandbox.wire import PathCode

T = TypeVar("T")


class LocalBox:
    """An OwnedBox over a directory of the host, which serves as HOME. Made for tests: no uid, no
    namespace and no limit is changed.
    """

    def __init__(self, root: Path, *, environment: Mapping[str, str] | None = None) -> None:
        self.root = root
        self.features = frozenset({"local"})
        self.container = "local"
        self.used_fallbacks: tuple[str, ...] = ("no isolation",)
        self.lost = asyncio.Event()
        self._files = Files()
        self._running: set[LocalProcess] = set()
        self._started: list[LocalProcess] = []
        self._reports = root / ".reports"
        self._count = 0
        self._environment = {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(root), "LANG": "C.UTF-8"}
        self._environment |= dict(environment or {})

    async def __aenter__(self) -> Self:
        """Nothing to start."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Kill what still runs; what was kept of outputs outside the root goes too."""
        self.lost.set()
        for process in self._started:
            await process.close()
            if process.kept is not None and not process.kept.is_relative_to(self.root):
                process.kept.unlink(missing_ok=True)
        shutil.rmtree(self._reports, ignore_errors=True)

    async def kill_all(self) -> None:
        """End every command."""
        for process in list(self._running):
            process.end("cancelled", signals.SIGKILL)

    async def ping(self) -> None:
        """Always there, until closed."""
        self._open()

    async def exec(self, command: Command) -> LocalProcess:
        """See Box."""
        self._open()
        if not await asyncio.to_thread(os.path.isdir, command.cwd):
            raise PathError(PathCode.NOT_FOUND, str(command.cwd))
        argv, report = [os.fsencode(text) for text in command.argv], None
        environment = {os.fsencode(k): os.fsencode(v) for k, v in {**self._environment, **command.environment}.items()}
        if command.shell:
            self._count += 1
            self._reports.mkdir(exist_ok=True)
            report = self._reports / str(self._count)
            shell = os.fsencode(shutil.which("bash") or "/bin/sh")
            argv, added = job.reporting(shell, argv[0], os.fsencode(report), environment.get(b"BASH_ENV", b""))
            environment |= added
        program = shutil.which(os.fsdecode(argv[0]), path=os.fsdecode(environment[b"PATH"])) or ""
        if not program and b"/" not in argv[0]:
            raise PathError(PathCode.NOT_FOUND, command.argv[0][:200])
        process = LocalProcess(command, report, self._running.discard)
        try:
            process.start(argv, environment, program or command.argv[0])
        except OSError as error:
            code = PathCode.NOT_EXECUTABLE if isinstance(error, PermissionError) else code_of(error)
            raise PathError(code, command.argv[0][:200], detail=error.strerror or "") from error
        self._running.add(process)
        self._started.append(process)
        return process

    async def read(self, path: PurePosixPath, *, offset: int = 0, limit: int = 16 << 20) -> Content:
        """See Box."""
        request = {"path": str(path), "offset": offset, "limit": limit}

        def work() -> tuple[dict[str, Any], bytes]:
            fd, found = self._files.open_for_reading(request)
            return self._files.read(fd, found, request)

        result, data = await self._do(path, work)
        return Content(data=data, stat=stat_of(result), offset=offset)

    async def write(
        self, path: PurePosixPath, data: bytes, *, mode: int | None = None, expect: Stat | None = None
    ) -> Stat:
        """See Box."""
        expected = None if expect is None else [expect.size, expect.mtime_ns]
        request = {"path": str(path), "mode": mode, "expect": expected}
        result, _ = await self._do(path, lambda: self._files.write(request, data))
        return stat_of(result)

    async def stat(self, path: PurePosixPath) -> Stat:
        """See Box."""
        result, _ = await self._do(path, lambda: self._files.look({"path": str(path)}))
        return stat_of(result)

    async def resolve(self, paths: tuple[PurePosixPath, ...]) -> tuple[Resolution, ...]:
        """See Box."""
        self._open()
        _, rows = self._files.resolve({"paths": [str(path) for path in paths]})
        return tuple(
            Resolution(path=path, link=PurePosixPath(row[0]), target=PurePosixPath(row[1]), kind=row[2], error=row[3])
            for path, row in zip(paths, rows, strict=True)
        )

    def _open(self) -> None:
        if self.lost.is_set():
            raise BoxLostError("the box was closed")

    async def _do(self, path: PurePosixPath, work: Callable[[], T]) -> T:
        """File work in a thread, its refusals translated as the pipe does."""
        self._open()
        try:
            return await asyncio.to_thread(work)
        except RefusedError as error:
            raise _refusal(error.code, path, error.detail) from error
        except OSError as error:
            raise _refusal(code_of(error), path, error.strerror or "") from error


def _refusal(code: str, path: PurePosixPath, detail: str) -> SandboxError:
    if code == PathCode.NO_SPACE:
        return DiskFullError(f"{path}: no space left")
    return PathError(code, str(path), detail=detail)
