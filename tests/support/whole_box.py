"""A look at every place of a box, and going back and forth between what it was at different moments."""

from __future__ import annotations

import asyncio
import json

from sandbox.freezer import Freezer
from tests.support.sessions import Inside

# Every path of the box that can be kept (the root file system, where it is writable), with what it is: one JSON line
# each. Outside of the layers the engine keeps times to the second, and no attribute but file capabilities; all else is
# compared to the last bit.
LOOK = r"""
import hashlib, json, os, stat
LAYERS = [os.fsencode(p) for p in (os.getcwd(), os.path.expanduser("~"), "/tmp", "/var/tmp")]
ENGINES = (b"/.dockerenv", b"/etc/hosts", b"/etc/hostname", b"/etc/mtab", b"/etc/resolv.conf")
SKIPPED = {b"/proc", b"/sys", b"/dev", b"/run", b"/opt/fumehood", *ENGINES}
# What each new container gets: mount points in these directories, and our shim for sudo.
HOLDERS = {b"/", b"/dev", b"/etc", b"/home", b"/opt", b"/workspace", b"/usr/local/bin", b"/usr/local/bin/sudo"}
first = {}
def tell(path):
    seen, own = os.lstat(path), ""
    ours = any(path == top or path.startswith(top + b"/") for top in LAYERS)
    if stat.S_ISLNK(seen.st_mode):
        own = repr(os.readlink(path))
    elif stat.S_ISREG(seen.st_mode):
        try:
            with open(path, "rb") as file:
                own = hashlib.sha256(file.read()).hexdigest()
        except PermissionError:
            own = "closed"
        own = [own, seen.st_size, repr(first.setdefault((seen.st_dev, seen.st_ino), path))]
    try:
        names = os.listxattr(path, follow_symlinks=False)
        found = {name: os.getxattr(path, name, follow_symlinks=False).hex() for name in names}
    except OSError:
        found = {}
    if not ours:
        found = {name: value for name, value in found.items() if name == "security.capability"}
    time = seen.st_mtime_ns if ours else seen.st_mtime_ns // 10**9
    if path in HOLDERS:
        time = 0
    print(json.dumps([repr(path), seen.st_mode, seen.st_uid, seen.st_gid, time, own, sorted(found.items())]))
todo = [b"/"] if os.access("/usr", os.W_OK) else list(LAYERS)
while todo:
    directory = todo.pop()
    tell(directory)
    for name in sorted(os.listdir(directory)) if os.access(directory, os.R_OK | os.X_OK) else ():
        path = os.path.join(directory, name)
        if path in SKIPPED:
            continue
        if os.path.isdir(path) and not os.path.islink(path):
            todo.append(path)
        else:
            tell(path)
"""


async def look(inside: Inside) -> dict[str, str]:
    """Path → all that it is."""
    text = await inside.python(LOOK)
    return {json.loads(line)[0]: line for line in text.splitlines()}


async def keep(inside: Inside) -> tuple[str, dict[str, str]]:
    made = await inside.workspace.checkpoint("x")
    assert made is not None
    return made.id, await look(inside)


async def back_to(inside: Inside, checkpoint: str) -> None:
    """In the running box where that can be, else in a new one."""
    done = await inside.workspace.restore(checkpoint)
    if done is None:
        await inside.end()
        done = await inside.workspace.restore(checkpoint)
    assert done is not None
    inside.workspace.checkpoints.settle()
    if not done.alive:
        await inside.end()
        await start(inside)


async def start(inside: Inside) -> None:
    if inside.box is None:
        await inside._start(await inside.workspace.prepare())
    assert inside.box is not None
    inside.workspace.freezer = await asyncio.to_thread(Freezer, inside.bench.engine, inside.box_id)


def different(one: dict[str, str], other: dict[str, str]) -> str:
    """A line for each path that is not the same; so many as can be read."""
    found = [path for path in sorted({*one, *other}) if one.get(path) != other.get(path)]
    return "".join(f"{one.get(path)} is now {other.get(path)}\n" for path in found[:12])


async def round_trip(inside: Inside, steps: list[str], *, works: str) -> None:
    """A checkpoint after each step; then to all of them, back and forth, and the whole box is as it was then."""
    await start(inside)
    states = [await keep(inside)]
    for step in steps:
        await inside.run(step)
        states.append(await keep(inside))
    said = await inside.run(works)
    for number in (0, len(steps), 1, len(steps) - 1, len(steps)):
        checkpoint, then = states[number]
        await back_to(inside, checkpoint)
        assert not (found := different(then, await look(inside))), f"{number}:\n{found}"
        assert await inside.workspace.checkpoint("nothing changed") is None
    assert await inside.run(works) == said
    last = await look(inside)
    await inside.end()
    await start(inside)
    assert not (found := different(last, await look(inside))), f"after the end of the box:\n{found}"
