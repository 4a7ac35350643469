"""Background commands: from their start to the record of their end, and how one is stopped."""

from __future__ import annotations

import asyncio
import contextlib
import signal

from runner.events import TaskUpdated
from runner.tools.base import Task, ToolContext
from sandbox.errors import PathError, SandboxError
from sandbox.spec import Exited, Process

GRACE_SECONDS = 2.0


def started(task: Task, process: Process, ctx: ToolContext, *, description: str) -> None:
    """Enter the task into the session's state and journal its start."""

    async def stop() -> None:
        task.state = "killed"
        await process.kill(signal.SIGTERM)
        try:
            async with asyncio.timeout(GRACE_SECONDS):
                await task.ended.wait()
        except TimeoutError:
            pass
        await process.kill(signal.SIGKILL)

    task.stop = stop
    ctx.state.tasks[task.id] = task
    ctx.record(_update(task, {"command": task.command, "output": str(task.output), "description": description}))


async def follow(task: Task, process: Process, ctx: ToolContext) -> None:
    """Wait for the command's end and journal it: completed, failed or killed. Runs beside the session."""
    try:
        async for item in process:
            if isinstance(item, Exited):
                task.code = item.code
                if task.state == "running":
                    task.state = "killed" if item.killed else "completed" if item.code == 0 else "failed"
                if not item.size:  # the file comes with the first output, and is promised to be there
                    with contextlib.suppress(PathError):
                        await ctx.box.write(task.output, b"", mode=0o600)
    except SandboxError:
        task.state = "killed"
    task.ended.set()
    ctx.record(_update(task, {"command": task.command, "output": str(task.output), "code": task.code}))


def _update(task: Task, detail: dict[str, object]) -> TaskUpdated:
    return TaskUpdated(kind="command", task=task.id, state=task.state, detail=detail)
