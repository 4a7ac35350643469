"""Commands of hooks on the host: in an empty directory, with a clean environment, bounded in time, output and
processes. Nothing of them is left when `run` returns.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from runner.hooks.kinds import Ran
from sandbox.server import warden

KEPT = 256 << 10
LIMIT = 8 << 20
PROCESSES = 256
GRACE = 8.0
PASSED = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "LC_CTYPE", "TZ")
WARDEN = (sys.executable, "-I", "-S", str(Path(warden.__file__)))
_WORDS = {
    "timeout": "took longer than {seconds:g} seconds",
    "processes": "had too many processes",
    "cancelled": "was stopped",
}


def clean(environ: Mapping[str, str], more: Mapping[str, str]) -> dict[str, str]:
    """What a hook on the host has of the environment: no key, no setting of ours, no relative search path."""
    kept = {name: environ[name] for name in PASSED if name in environ}
    if "PATH" in kept:
        kept["PATH"] = ":".join(part for part in kept["PATH"].split(":") if part.startswith("/"))
    return kept | dict(more)


class Output:
    """The first bytes of a stream, and how many there were."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.size = 0

    def add(self, data: bytes) -> None:
        """Take more of it."""
        self.size += len(data)
        self.data += data[: max(0, KEPT - len(self.data))]

    @property
    def text(self) -> str:
        """As text, whatever it is."""
        return self.data.decode("utf-8", "replace")


async def run(
    argv: tuple[str, ...], *, stdin: bytes, environment: Mapping[str, str], seconds: float, most: int = PROCESSES
) -> Ran:
    """Run it; never raises but for cancellation. `most`: processes at a time."""
    began = time.monotonic()
    directory = await asyncio.to_thread(tempfile.mkdtemp, prefix="fumehood-hook-")
    reading, writing = os.pipe()
    try:
        process = await _start((*WARDEN, str(seconds), str(most), str(writing), *argv), writing, environment, directory)
        if isinstance(process, str):
            return Ran(failure=process)
        ran = await _hear(process, reading, stdin, seconds)
        return replace(ran, seconds=round(time.monotonic() - began, 6))
    finally:
        os.close(reading)
        await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)


async def _start(
    argv: tuple[str, ...], report: int, environment: Mapping[str, str], directory: str
) -> asyncio.subprocess.Process | str:
    """The warden, or why there is none. `report` is closed here."""
    pipe = asyncio.subprocess.PIPE
    try:
        return await asyncio.create_subprocess_exec(
            *argv,
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            cwd=directory,
            env=dict(environment),
            pass_fds=(report,),
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        return f"could not be started: {error}"
    finally:
        os.close(report)


async def _hear(process: asyncio.subprocess.Process, reading: int, stdin: bytes, seconds: float) -> Ran:
    out, err = Output(), Output()
    try:
        over = await _talk(process, stdin, out, err, seconds)
    finally:
        await _end(process)
    code, _, why = os.read(reading, 100).decode("ascii", "replace").partition(" ")
    failure = f"printed more than {LIMIT >> 20} MiB" if over else _WORDS.get(why, "").format(seconds=seconds)
    if not code and not failure:
        failure = "ended, nobody knows how"
    return Ran(code=int(code) if code else None, stdout=out.text, stderr=err.text, failure=failure)


async def _talk(process: asyncio.subprocess.Process, stdin: bytes, out: Output, err: Output, seconds: float) -> bool:
    """Feed it and hear it to its end; whether it said too much."""
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    over = asyncio.Event()

    async def hear(stream: asyncio.StreamReader, into: Output) -> None:
        while data := await stream.read(1 << 16):
            into.add(data)
            if out.size + err.size > LIMIT and not over.is_set():
                over.set()
                with suppress(ProcessLookupError):
                    process.terminate()

    async def feed(stream: asyncio.StreamWriter) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):
            stream.write(stdin)
            await stream.drain()
        stream.close()
        with suppress(BrokenPipeError, ConnectionResetError):
            await stream.wait_closed()

    tasks = [
        asyncio.create_task(work)
        for work in (hear(process.stdout, out), hear(process.stderr, err), feed(process.stdin), process.wait())
    ]
    try:
        await asyncio.wait(tasks, timeout=seconds + GRACE)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return over.is_set()


async def _end(process: asyncio.subprocess.Process) -> None:
    """Have the warden end it all; the warden itself only goes by force where it hangs."""
    if process.returncode is not None:
        return
    with suppress(ProcessLookupError):
        process.terminate()
    waiting = asyncio.ensure_future(process.wait())
    done, _ = await asyncio.wait({waiting}, timeout=GRACE)
    if not done:
        with suppress(ProcessLookupError):
            process.kill()
        await waiting
