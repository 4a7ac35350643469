"""All that development leaves in a box, over every place of it, comes back as it was: `checkpoint → restore` is
identity for a session that installs with pip, npm and apt, commits with git and compiles.
"""

from __future__ import annotations

import asyncio
import json
import shlex
import uuid
from pathlib import Path

import pytest

from sandbox.engine import Engine, ImageInfo
from sandbox.freezer import Freezer
from sandbox.images import ensure_image
from sandbox.system import session_images
from sandbox.toolbox import Toolbox
from tests.support.apt import INSTALL, REPOSITORY
from tests.support.sessions import Bench, Inside

pytestmark = [pytest.mark.box, pytest.mark.timeout(600)]

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
WHEEL = r"""
import base64, hashlib, zipfile
files = {
    "demo_box/__init__.py": "def answer():\n    return 42\n",
    "demo_box-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: demo-box\nVersion: 1.0\n",
    "demo_box-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    "demo_box-1.0.dist-info/entry_points.txt": "[console_scripts]\ndemo-box = demo_box:answer\n",
}
record = "".join(
    f"{n},sha256={base64.urlsafe_b64encode(hashlib.sha256(t.encode()).digest()).decode().rstrip('=')},{len(t)}\n"
    for n, t in files.items()
)
files["demo_box-1.0.dist-info/RECORD"] = record + "demo_box-1.0.dist-info/RECORD,,\n"
with zipfile.ZipFile("demo_box-1.0-py3-none-any.whl", "w") as archive:
    for name, text in files.items():
        archive.writestr(name, text)
"""
GIT = r"""
git init -q . 2>/dev/null; git add -A . ':!.venv' ':!node_modules'; git commit -qm 'all of it'
git checkout -q -b other; echo more > more; git add more; git commit -qm more; git gc -q
"""
PIP = r"""
python3 -m venv .venv
.venv/bin/pip -q install --no-index ./demo_box-1.0-py3-none-any.whl
.venv/bin/pip -q install --no-index --target ~/.local/lib/tools ./demo_box-1.0-py3-none-any.whl
"""
ANSWER = "-c 'import demo_box; print(demo_box.answer())'"
PIP_WORKS = f".venv/bin/python {ANSWER}; PYTHONPATH=~/.local/lib/tools python3 -B {ANSWER}"
NPM = r"""
mkdir -p lib app
printf '{"name": "lib-box", "version": "1.0.0", "bin": {"lib-box": "cli.js"}}' > lib/package.json
printf '#!/usr/bin/env node\nconsole.log("lib answers")\n' > lib/cli.js; chmod 755 lib/cli.js
printf '{"name": "app-box", "version": "1.0.0"}' > app/package.json
cd app && npm install --offline --no-audit --no-fund ../lib && npx --offline lib-box
"""
COMPILE = r"""
printf '#include <stdio.h>\nint main(void) { puts("compiled"); return 0; }\n' > hello.c
gcc -g -O2 -o hello hello.c && ./hello && mkdir -p ~/.cache/objects && gcc -c -o ~/.cache/objects/hello.o hello.c
"""
# What else tools leave: links, modes, holes, attributes, names, times.
ODD = r"""
ln hello.txt twin; ln -s ../nowhere ~/dangling; mkfifo /tmp/pipe; truncate -s 300M /var/tmp/sparse
python3 -c 'import os; os.setxattr("hello.txt", "user.mark", b"1")'
printf x > "$(printf 'odd \377 name\n')"; touch -d 2001-02-03T04:05:06.789 hello.txt; chmod 1777 /tmp; chmod 4750 twin
"""


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    top = tmp_path / "repo"
    top.mkdir()
    (top / "hello.txt").write_text("hello\n")
    return top


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


async def test_what_pip_and_git_leave_comes_back(
    engine: Engine, base_image: ImageInfo, toolbox: Toolbox, repo: Path, tmp_path: Path
) -> None:
    bench = Bench(engine, base_image, toolbox)
    async with bench.session(repo, tmp_path / "state") as inside:
        try:
            await inside.python(WHEEL)
            await round_trip(
                inside, [PIP, GIT, ODD], works=f"{PIP_WORKS}; git log --oneline | wc -l; git fsck --strict"
            )
        finally:
            await inside.discard()


async def test_what_apt_leaves_comes_back_with_all_else(
    engine: Engine, base_image: ImageInfo, toolbox: Toolbox, repo: Path, tmp_path: Path
) -> None:
    bench, name = Bench(engine, base_image, toolbox), str(uuid.uuid4())
    async with bench.session(repo, tmp_path / "state", system=True, name=name) as inside:
        try:
            await inside.python(WHEEL)
            steps = [REPOSITORY, f"{INSTALL} one-box; {PIP}", f"{INSTALL} three-box; apt-get purge -y one-box; {GIT}"]
            await round_trip(inside, steps, works=f"{PIP_WORKS}; three-box; two-box; dpkg --verify; git status --short")
        finally:
            await inside.discard()
    assert session_images(engine, name) == []


@pytest.mark.slow
@pytest.mark.timeout(1800)
async def test_what_npm_and_a_compiler_leave_comes_back(
    engine: Engine, toolbox: Toolbox, image_cache: Path, repo: Path, tmp_path: Path
) -> None:
    """In an image with both of them, which takes minutes to make the first time."""
    packages = ("gcc", "libc6-dev", "nodejs", "npm")
    image = ensure_image(engine, "base", packages=packages, cache=image_cache, progress=print)
    async with Bench(engine, image, toolbox).session(repo, tmp_path / "state") as inside:
        try:
            works = f"cd {shlex.quote(str(inside.cwd))}; ./hello; cd app && npx --offline lib-box && npm ls --offline"
            await round_trip(inside, [COMPILE, NPM, "rm -r app/node_modules", NPM], works=works)
        finally:
            await inside.discard()
