"""The box from inside the controller: its start, the latency of one call, and eight controllers at once."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path, PurePosixPath

from runner.sessions.housing import Ground, Housing
from runner.sessions.specs import box_cwd, new_spec
from runner.sessions.store import Store, state_home
from sandbox.copies import remove_tree
from sandbox.engine import connect
from sandbox.images import ensure_image
from sandbox.pool import Pool
from sandbox.spec import Box, Command, Exited
from sandbox.toolbox import ensure_toolbox
from tests.bench.figures import median
from tests.support.masking import masks

TRUE = "true"


def lay(home: Path) -> Ground:
    """Engine, image and toolbox, made ready once."""
    engine = connect(os.environ)
    cache = Store(home).cache
    image = ensure_image(engine, "base", cache=cache, progress=print)
    return Ground(engine=engine, image=image, toolbox=ensure_toolbox(engine, base=image, cache=cache, progress=print))


@asynccontextmanager
async def housed(
    repository: Path,
    home: Path,
    *,
    system: bool = False,
    hidden: tuple[str, ...] = (),
    fill: Callable[[str, Path], Awaitable[object]] | None = None,
) -> AsyncIterator[tuple[Housing, PurePosixPath]]:
    """A session's housing over `repository`, not begun, and its place in the box; gone afterwards with its layers.
    `system`: its root file system is writable. `hidden`: patterns of what the box does not see. `fill` makes its
    directory a fork.
    """
    environ = dict(os.environ) | {"FUMEHOOD_HOME": str(home)}
    spec = new_spec(repository, environ=environ, model="scripted:none", system_writable=system)
    store = Store(state_home(environ))
    store.prepare()
    ground = await asyncio.to_thread(lay, store.home)
    directory = store.directory(spec.session)
    directory.mkdir(mode=0o700)
    if fill is not None:
        await fill(spec.session, directory)
    housing = Housing(
        spec,
        directory=directory,
        scratch=store.cache,
        cwd=box_cwd(spec),
        lay=lambda: ground,
        record=lambda _: None,
        identity=("", ""),
        environment={},
        pool=Pool(store.layers, sessions=store.sessions),
        masks=lambda: masks(PurePosixPath(spec.roots[0].at), *hidden),
    )
    try:
        yield housing, box_cwd(spec)
    finally:
        workspace = housing.workspace
        await housing.end("bench")
        if workspace is not None:
            workspace.system.discard(frozenset)
        await housing.close()
        if workspace is not None:
            remove_tree(directory)
            workspace.pool.sweep()


async def bash(box: Box, cwd: PurePosixPath, script: str = TRUE) -> int:
    """One Bash call as the tool makes it: a shell, its output to the end."""
    code = None
    async for item in await box.exec(Command(argv=(script,), shell=True, merge=True, cwd=cwd, timeout=60)):
        if isinstance(item, Exited):
            code = item.code  # and on to the end: an iteration that is left is ended by a task of the event loop
    assert code is not None
    return code


def start(repository: Path, home: Path, *, hidden: tuple[str, ...] = ()) -> float:
    """ms from asking for a box to the end of its first command; engine and image known, as in the floor."""
    return asyncio.run(_start(repository, home, hidden))


async def _start(repository: Path, home: Path, hidden: tuple[str, ...]) -> float:
    async with housed(repository, home, hidden=hidden) as (housing, cwd):
        await housing.ready()
        began = time.perf_counter()
        box = await housing.box()
        if await bash(box, cwd):
            raise RuntimeError("the first command failed")
        return (time.perf_counter() - began) * 1000


def latency(repository: Path, home: Path, times: int = 300) -> tuple[float, float]:
    """p50 in ms of a Read of a small file and of Bash `true`, through the pipe."""
    return asyncio.run(_latency(repository, home, times))


async def _latency(repository: Path, home: Path, times: int) -> tuple[float, float]:
    async with housed(repository, home) as (housing, cwd):
        box = await housing.box()
        reads, runs = [], []
        for _ in range(times):
            began = time.perf_counter()
            await box.read(cwd / "small.txt")
            reads.append((time.perf_counter() - began) * 1000)
        for _ in range(times):
            began = time.perf_counter()
            await bash(box, cwd)
            runs.append((time.perf_counter() - began) * 1000)
        return median(reads), median(runs)


def side_by_side(repository: Path, home: Path, *, sessions: int = 8, seconds: float = 5.0) -> float:
    """Bash calls per second of all of `sessions` controllers, each a process with a box of its own."""
    command = [sys.executable, "-m", "tests.bench.boxes", str(repository), str(home), str(seconds)]
    workers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(sessions)
    ]
    for worker in workers:
        assert worker.stdout is not None
        if worker.stdout.readline() != "ready\n":
            raise RuntimeError("a worker did not start")
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
    return sum(float(worker.communicate()[0]) for worker in workers)


async def _work(repository: Path, home: Path, seconds: float) -> None:
    async with housed(repository, home) as (housing, cwd):
        box = await housing.box()
        await bash(box, cwd)
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        began, calls = time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            await bash(box, cwd)
            calls += 1
        print(calls / (time.perf_counter() - began), flush=True)


if __name__ == "__main__":
    asyncio.run(_work(Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])))
