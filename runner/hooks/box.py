"""Commands of hooks in the box, where the files are: through the gate, bounded in time and output, their whole
family killed at the end.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from pathlib import PurePosixPath

from runner.hooks.host import KEPT, LIMIT, PROCESSES, Output
from runner.hooks.kinds import Door, Ran, Wanted
from sandbox.errors import SandboxError
from sandbox.spec import Capture, Command, Exited, Process, Stderr, Stdout
from sandbox.toolbox import SERVER, TOOLBOX_PYTHON

IN_BOX = (*TOOLBOX_PYTHON, f"{SERVER}/sandbox/server/warden.py")
GRACE = 10.0
_KILLED = {
    "timeout": "took longer than {seconds:g} seconds",
    "output": f"printed more than {LIMIT >> 20} MiB",
    "memory": "was killed for want of memory",
    "cancelled": "was stopped",
    "lost": "was lost with its box",
}


async def run(
    door: Door,
    wanted: Wanted,
    argv: tuple[str, ...],
    *,
    cwd: PurePosixPath,
    stdin: bytes,
    environment: Mapping[str, str],
    seconds: float,
    warden: tuple[str, ...] = IN_BOX,
) -> Ran:
    """Run it; never raises but for cancellation. The box's own word on how it ended is all there is: a hook in the
    box can only tighten.
    """
    began = time.monotonic()
    command = Command(
        argv=(*warden, str(seconds + GRACE), str(PROCESSES), "-", *argv),
        cwd=cwd,
        environment=environment,
        stdin=True,
        timeout=seconds,
        capture=Capture(inline=2 * KEPT, tail=0, limit=LIMIT),
    )
    try:
        async with asyncio.timeout(seconds + GRACE):
            process = await door.start(wanted, command)
            return await _talk(process, stdin, seconds)
    except TimeoutError:
        failure = _KILLED["timeout"].format(seconds=seconds)
    except SandboxError as error:
        failure = f"could not be run: {error}"
    return Ran(failure=failure, seconds=round(time.monotonic() - began, 6))


async def _talk(process: Process, stdin: bytes, seconds: float) -> Ran:
    out, err = Output(), Output()

    async def feed() -> None:
        await process.write_stdin(stdin)
        await process.write_stdin(None)

    feeding = asyncio.create_task(feed())
    end: Exited | None = None
    try:
        async for item in process:
            match item:
                case Stdout(data=data):
                    out.add(data)
                case Stderr(data=data):
                    err.add(data)
                case Exited():
                    end = item
    finally:
        feeding.cancel()
        await asyncio.gather(feeding, return_exceptions=True)
    assert end is not None
    return Ran(
        code=end.code,
        stdout=out.text,
        stderr=err.text,
        failure=_KILLED.get(end.killed, end.killed).format(seconds=seconds),
        seconds=round(end.seconds, 6),
    )
