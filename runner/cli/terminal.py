"""This process's terminal, joined to a command in the box: raw keys in, bytes out, size changes told."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager

from sandbox.spec import Exited, Process, Pty, Stderr, Stdout

_READ = 64 << 10


def terminal_size() -> Pty | None:
    """The terminal's size, None where standard input or output is no terminal."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return None
    size = shutil.get_terminal_size()
    return Pty(rows=size.lines, columns=size.columns)


@contextmanager
def raw_terminal() -> Iterator[None]:
    """Keys go through unread by the terminal driver; given back as it was."""
    before = termios.tcgetattr(sys.stdin)
    try:
        tty.setraw(sys.stdin, termios.TCSADRAIN)  # what was typed ahead stays
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


async def join(process: Process, *, interactive: bool) -> int:
    """Feed the process from standard input and show what it writes, until it ends; its exit code."""
    async with asyncio.TaskGroup() as group:
        feeder = group.create_task(_feed(process))
        sizes = group.create_task(_follow_size(process)) if interactive else None
        code = await _show(process)
        feeder.cancel()
        if sizes is not None:
            sizes.cancel()
    return code


async def _show(process: Process) -> int:
    async for item in process:
        match item:
            case Stdout(data=data):
                await _write(1, data)
            case Stderr(data=data):
                await _write(2, data)
            case Exited(code=code):
                return code if code >= 0 else 128 - code
    return 1


async def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        written = await asyncio.to_thread(os.write, fd, view)
        view = view[written:]


async def _feed(process: Process) -> None:
    loop = asyncio.get_running_loop()
    fd = sys.stdin.fileno()
    try:
        while True:
            data = await _read(loop, fd)
            await process.write_stdin(data or None)
            if not data:
                return
    except (ConnectionError, OSError):
        return


async def _read(loop: asyncio.AbstractEventLoop, fd: int) -> bytes:
    ready: asyncio.Future[None] = loop.create_future()
    try:
        loop.add_reader(fd, _settle, ready)
    except OSError:
        return await asyncio.to_thread(os.read, fd, _READ)  # a regular file cannot be polled
    try:
        await ready
    finally:
        loop.remove_reader(fd)
    return os.read(fd, _READ)


def _settle(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


async def _follow_size(process: Process) -> None:
    loop = asyncio.get_running_loop()
    changed = asyncio.Event()
    loop.add_signal_handler(signal.SIGWINCH, changed.set)
    try:
        while True:
            await changed.wait()
            changed.clear()
            if (size := terminal_size()) is not None:
                await process.resize(size)
    finally:
        loop.remove_signal_handler(signal.SIGWINCH)
