"""A command of a box without a container (`sandbox.local`): a child of this process, in a session of its own, whose
output is read and captured by the server's own code.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal as signals
import subprocess
import termios
import time
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path, PurePosixPath

from sandbox.server import job, processes
from sandbox.server.output import BLOCK, Capture, read_some
from sandbox.spec import Command, Exited, Output, Pty, Stderr, Stdout

LINGER = 0.1
QUEUE = 16
RECHECK = 0.02
KILLS = 100


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
