"""A box without a container, for unit tests: the same protocol and the server's own file code, real
processes of this user, and no isolation whatever. Paths are the host's own.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import signal as signals
import subprocess
import termios
import time
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, Self, TypeVar

from sandbox.box import stat_of
from sandbox.errors import BoxLostError, DiskFullError, PathError, SandboxError
from sandbox.server import job, processes
from sandbox.server.files import Files, RefusedError, code_of
from sandbox.server.output import BLOCK, Capture, read_some
from sandbox.spec import Command, Content, Exited, Output, Pty, Resolution, Stat, Stderr, Stdout
from sandbox.wire import PathCode

T = TypeVar("T")
LINGER = 0.1
QUEUE = 16
RECHECK = 0.02
KILLS = 100


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


class LocalProcess:
    """A Process that is a child of this one."""

    def __init__(self, command: Command, report: Path | None, forget: Callable[[LocalProcess], None]) -> None:
        self.pid = 0
        self._command = command
        self._report = report
        self._forget = forget
        self._process: subprocess.Popen[bytes]
        self._input = -1
        self._terminal = -1
        self._queue: asyncio.Queue[Output] = asyncio.Queue(QUEUE)
        self._tasks: list[asyncio.Task[None]] = []
        self._killed = ""
        self._over = False
        self._sessions: set[int] = set()
        self._began = time.monotonic()
        self._size = 0
        self._capture = _capture(command)

    @property
    def kept(self) -> Path | None:
        """The file that holds the whole output, where there is one."""
        capture = self._capture
        return Path(os.fsdecode(capture.path)) if capture is not None and capture.over and capture.path else None

    def start(self, argv: list[bytes], environment: Mapping[bytes, bytes], program: str) -> None:
        """Start the child and the reading of its output. Raises OSError."""
        command = self._command
        outputs: list[tuple[int, type[Stdout | Stderr]]] = []
        theirs: list[int] = []
        if command.pty is not None:
            self._terminal, slave = job.open_terminal(command.pty.rows, command.pty.columns)
            self._input = self._terminal
            outputs, theirs = [(self._terminal, Stdout)], [slave]
            given = [slave, slave, slave]
        else:
            given = [subprocess.DEVNULL]
            if command.stdin:
                given[0], self._input = os.pipe()
                theirs.append(given[0])
            for kind in (Stdout,) if command.merge else (Stdout, Stderr):
                reading, writing = os.pipe()
                outputs.append((reading, kind))
                theirs.append(writing)
                given.append(writing)
            given = given if len(given) == 3 else [*given, given[1]]
        try:
            self._process = subprocess.Popen(
                argv,
                executable=program,
                cwd=command.cwd,
                env=environment,
                stdin=given[0],
                stdout=given[1],
                stderr=given[2],
                start_new_session=True,
                preexec_fn=_take_terminal if command.pty is not None else None,  # noqa: PLW1509  tests only
            )
        except BaseException:
            for fd in {self._input, *(fd for fd, _ in outputs)} - {-1}:
                os.close(fd)
            raise
        finally:
            for fd in theirs:
                os.close(fd)
        self.pid = self._process.pid
        if self._input >= 0:
            os.set_blocking(self._input, False)
        reading_all = [asyncio.create_task(self._read(fd, kind)) for fd, kind in outputs]
        self._tasks = [*reading_all, asyncio.create_task(self._live(reading_all))]

    async def _read(self, fd: int, kind: type[Stdout | Stderr]) -> None:
        os.set_blocking(fd, False)
        try:
            while True:
                data = read_some(fd, BLOCK)
                if data is None:
                    await _ready(fd)
                elif data:
                    await self._take(kind, data)
                else:
                    return
        finally:
            if fd != self._terminal:
                os.close(fd)

    async def _take(self, kind: type[Stdout | Stderr], data: bytes) -> None:
        if self._over:  # what background processes write later is read by nobody
            return
        self._size += len(data)
        if self._capture is not None:
            data = self._capture.take(data)
            if self._capture.exceeded:
                self.end("output", signals.SIGKILL)
        if data:
            await self._queue.put(kind(data=data))

    async def _live(self, reading: list[asyncio.Task[None]]) -> None:
        """Wait for the end, and say it last."""
        ended = asyncio.create_task(self._wait())
        await asyncio.wait([ended], timeout=self._command.timeout)
        if not ended.done():
            self.end("timeout", signals.SIGTERM)
            await asyncio.wait([ended], timeout=self._command.grace)
        if self._killed:
            await self._kill_family()
        await ended
        waiting = {task for task in reading if not task.done()}
        while waiting:
            _, left = await asyncio.wait(waiting, timeout=LINGER)
            if left == waiting and self._queue.empty():
                break
            waiting = left
        self._over = True
        await self._queue.put(self._exited(self._process.returncode))
        self._forget(self)

    async def _wait(self) -> None:
        pidfd = os.pidfd_open(self.pid)
        try:
            await _ready(pidfd)
        finally:
            os.close(pidfd)
        self._process.wait()

    async def _kill_family(self) -> None:
        for _ in range(KILLS):
            if not processes.signal_family(self.pid, self._sessions, signals.SIGKILL):
                return
            await asyncio.sleep(RECHECK)

    def _exited(self, code: int) -> Exited:
        capture, path, tail = self._capture, None, b""
        if capture is not None:
            capture.close()
            if capture.over:
                path, tail = capture.path, capture.tail()
        return Exited(
            code=code,
            killed=self._killed,
            size=self._size,
            tail=tail,
            path=PurePosixPath(os.fsdecode(path)) if path else None,
            cwd=self._reported(),
            seconds=time.monotonic() - self._began,
        )

    def _reported(self) -> PurePosixPath | None:
        if self._report is None or not self._report.exists():
            return None
        text = self._report.read_text("utf-8", "surrogateescape").removesuffix("\n")
        self._report.unlink()
        return PurePosixPath(text) if text.startswith("/") else None

    def end(self, reason: str, number: int) -> None:
        """Kill it, for a reason."""
        self._killed = self._killed or reason
        processes.signal_family(self.pid, self._sessions, number)

    async def close(self) -> None:
        """Kill it if need be, and leave no task or descriptor."""
        if self._process.returncode is None:
            self.end("cancelled", signals.SIGKILL)
            await asyncio.wait([self._tasks[-1]], timeout=LINGER)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._process.returncode is None:
            self._process.kill()
            self._process.wait()
        for fd in {self._input, self._terminal} - {-1}:
            os.close(fd)
        self._input = self._terminal = -1

    async def __aiter__(self) -> AsyncIterator[Output]:
        """See Process."""
        finished = False
        try:
            while not finished:
                item = await self._queue.get()
                finished = isinstance(item, Exited)
                yield item
        finally:
            if not finished:
                self._over = True
                if not self._command.detach:
                    self.end("cancelled", signals.SIGKILL)
                self._tasks.insert(0, asyncio.create_task(self._drop()))

    async def _drop(self) -> None:
        while not isinstance(await self._queue.get(), Exited):
            continue

    async def write_stdin(self, data: bytes | None) -> None:
        """See Process."""
        fd = self._input
        if fd < 0:
            return
        if data is None and fd != self._terminal:
            os.close(fd)
            self._input = -1
            return
        view = memoryview(b"\x04" if data is None else data)
        while view:
            try:
                view = view[os.write(fd, view) :]
            except BlockingIOError:
                await _ready(fd, writing=True)
            except OSError:  # nobody reads it
                return

    async def resize(self, pty: Pty) -> None:
        """See Process."""
        if self._terminal >= 0:
            job.set_size(self._terminal, pty.rows, pty.columns)

    async def kill(self, signal: int = 9) -> None:
        """See Process."""
        if self._process.returncode is None:
            processes.signal_family(self.pid, self._sessions, signal)


def _capture(command: Command) -> Capture | None:
    given = command.capture
    if given is None:
        return None
    path = None if given.path is None else str(given.path)
    return Capture({"inline": given.inline, "tail": given.tail, "limit": given.limit, "path": path})


def _take_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


async def _ready(fd: int, *, writing: bool = False) -> None:
    """Wait until a descriptor can be read, or written."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    add, remove = (loop.add_writer, loop.remove_writer) if writing else (loop.add_reader, loop.remove_reader)
    add(fd, lambda: None if ready.done() else ready.set_result(None))
    try:
        await ready
    finally:
        remove(fd)
