"""A box without a box: real files below a temporary directory, real processes, until LocalBox is there."""

from __future__ import annotations

# ruff: noqa: ASYNC230, ASYNC240 - a test may wait for a file
import asyncio
import contextlib
import os
import signal
import stat as modes
from collections.abc import AsyncIterator
from pathlib import Path, PurePosixPath

from sandbox.errors import PathError
from sandbox.spec import Command, Content, Exited, Output, Pty, Resolution, Stat, Stderr, Stdout
from sandbox.wire import PathCode

KINDS = {modes.S_IFREG: "file", modes.S_IFDIR: "directory", modes.S_IFLNK: "link", modes.S_IFIFO: "fifo"}


def told(status: os.stat_result) -> Stat:
    return Stat(
        kind=KINDS.get(modes.S_IFMT(status.st_mode), "device"),
        mode=status.st_mode & 0o7777,
        size=status.st_size,
        mtime_ns=status.st_mtime_ns,
        uid=status.st_uid,
        gid=status.st_gid,
    )


async def drain(stream: asyncio.StreamReader | None) -> bytes:
    return b"" if stream is None else await stream.read()


class FakeProcess:
    def __init__(self, process: asyncio.subprocess.Process, command: Command, cwd_file: Path) -> None:
        self.process, self.command, self.cwd_file = process, command, cwd_file
        self.pid = process.pid

    async def __aiter__(self) -> AsyncIterator[Output]:
        killed, streams = "", (self.process.stdout, self.process.stderr)
        reading = [asyncio.create_task(drain(stream)) for stream in streams]
        try:
            async with asyncio.timeout(self.command.timeout):
                await self.process.wait()
        except TimeoutError:
            killed = "timeout"
            await self.kill()
        out, err = await asyncio.gather(*reading)
        await self.process.wait()
        capture, path, tail, size = self.command.capture, None, b"", len(out)
        if capture is not None and len(out) > capture.inline:
            if capture.path is not None:
                Path(capture.path).write_bytes(out)
                path, tail = capture.path, out[-capture.tail :]
            out = out[: capture.inline]
        if out:
            yield Stdout(data=out)
        if err:
            yield Stderr(data=err)
        cwd = PurePosixPath(self.cwd_file.read_text()) if self.cwd_file.exists() else None
        code = self.process.returncode
        yield Exited(code=-1 if code is None else code, killed=killed, size=size, tail=tail, path=path, cwd=cwd)

    async def write_stdin(self, data: bytes | None) -> None: ...

    async def resize(self, pty: Pty) -> None: ...

    async def kill(self, signal: int = signal.SIGKILL) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal)


class FakeBox:
    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        self.requests: list[str] = []
        self.count = 0

    async def exec(self, command: Command) -> FakeProcess:
        self.requests.append("exec")
        if not Path(command.cwd).is_dir():
            raise PathError(PathCode.NOT_FOUND, str(command.cwd))
        self.count += 1
        cwd_file = self.scratch / f"cwd-{self.count}"
        argv = command.argv
        if command.shell:
            argv = ("bash", "-c", f"trap 'pwd -P | tr -d \"\\n\" > {cwd_file}' EXIT\n{command.argv[0]}")
        process = await asyncio.create_subprocess_exec(
            *argv,
            cwd=command.cwd,
            env={**os.environ, **command.environment},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT if command.merge else asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        return FakeProcess(process, command, cwd_file)

    async def read(self, path: PurePosixPath, *, offset: int = 0, limit: int = 16 << 20) -> Content:
        self.requests.append("read")
        host = Path(path)
        try:
            status = os.lstat(host)
        except FileNotFoundError:
            raise PathError(PathCode.NOT_FOUND, str(path)) from None
        if not modes.S_ISREG(status.st_mode):
            raise PathError(PathCode.NOT_FILE, str(path))
        with host.open("rb") as stream:
            stream.seek(offset)
            return Content(data=stream.read(limit), stat=told(status), offset=offset)

    async def write(
        self, path: PurePosixPath, data: bytes, *, mode: int | None = None, expect: Stat | None = None
    ) -> Stat:
        self.requests.append("write")
        host = Path(path)
        if expect is not None:
            now = os.lstat(host)
            if (now.st_size, now.st_mtime_ns) != (expect.size, expect.mtime_ns):
                raise PathError(PathCode.CHANGED, str(path))
        host.parent.mkdir(parents=True, exist_ok=True)
        host.write_bytes(data)
        return told(os.lstat(host))

    async def stat(self, path: PurePosixPath) -> Stat:
        self.requests.append("stat")
        try:
            return told(os.lstat(path))
        except FileNotFoundError:
            raise PathError(PathCode.NOT_FOUND, str(path)) from None

    async def resolve(self, paths: tuple[PurePosixPath, ...]) -> tuple[Resolution, ...]:
        return tuple(
            Resolution(
                path=path,
                link=PurePosixPath(os.path.realpath(path.parent)) / path.name,
                target=PurePosixPath(os.path.realpath(path)),
                kind="file",
            )
            for path in paths
        )
