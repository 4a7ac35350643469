"""Checkpoints of real boxes: whatever commands do to any writable place comes back, as the box sees it."""

from __future__ import annotations

import asyncio
import os
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.engine import Engine, ImageInfo
from sandbox.freezer import Freezer
from sandbox.spec import Rung
from sandbox.toolbox import Toolbox
from tests.support.layers_by_hand import build
from tests.support.sessions import Bench, Inside

pytestmark = [pytest.mark.box, pytest.mark.timeout(180)]
# All that a tree means, of the three places; a file's names are told by the first of them.
LOOK = """
import hashlib, os, stat
for top in (os.getcwd(), os.path.expanduser("~"), "/tmp", "/var/tmp"):
    first = {}
    for directory, names, files in sorted(os.walk(os.fsencode(top))):
        names[:] = sorted(names)
        links = [name for name in names if os.path.islink(directory + b"/" + name)]
        for path in [directory] + sorted(directory + b"/" + name for name in files + links):
            seen = os.lstat(path)
            own = b""
            if stat.S_ISLNK(seen.st_mode):
                own = os.readlink(path)
            elif stat.S_ISREG(seen.st_mode):
                try:
                    own = hashlib.sha256(open(path, "rb").read()).hexdigest(), first.setdefault(seen.st_ino, path)
                except PermissionError:
                    own = "closed", seen.st_size
            try:
                attributes = [(n, os.getxattr(path, n)) for n in sorted(os.listxattr(path, follow_symlinks=False))]
            except OSError:
                attributes = []
            print(ascii((path, oct(seen.st_mode), seen.st_uid, seen.st_gid, seen.st_mtime_ns, own, attributes)))
"""
# The fifteen kinds of change that the prototype was measured with, and some more.
CHANGES = r"""
echo changed >> file
rm gone
rm -r tree && mkdir tree && echo new > tree/other
rm -r dir/sub && echo now a file > dir/sub
rm script && mkdir script && touch script/in
rm link && ln -s elsewhere link
rm dir/a && ln -s ../file dir/a
chmod 4751 dir/b
python3 -c 'import os; os.setxattr("file", "user.mark", b"1")' || true
touch -d '2001-02-03 04:05:06.789' dir
mkfifo pipe
mv dir/b dir/moved
cp -r tree copied
echo x > "$(printf 'not \377utf8\n')"
echo one > first && ln first second
truncate -s 9000000000 sparse
mkdir closed && echo secret > closed/in && chmod 000 closed
echo none > nobody && chmod 000 nobody
git add -A . 2>/dev/null || true
git -c user.name=a -c user.email=a@b commit -qm two || true
echo note > ~/note; echo '[x]' >> ~/.gitconfig; mkdir -p ~/.cache/deep/er
echo t > /tmp/t; echo v > /var/tmp/v
"""
MORE = r"""
chmod 700 closed; rm -rf closed nobody pipe sparse second copied
python3 -c 'import os; os.removexattr("file", "user.mark")' || true
echo more >> first; rm -rf tree dir .git; mkdir dir; rm -f ~/note ~/.gitconfig /tmp/t
echo back > gone
"""


@pytest.fixture(scope="session")
def bench(engine: Engine, base_image: ImageInfo, toolbox: Toolbox) -> Bench:
    return Bench(engine, base_image, toolbox)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    for top, _, _ in os.walk(tmp_path):
        if Path(top).stat().st_uid == os.getuid():
            Path(top).chmod(0o700)


@pytest.fixture
def repo(place: Path) -> Path:
    top = place / "repo"
    top.mkdir()
    build(
        top,
        {
            "file": (0o644, b"one\n"),
            "script": (0o755, b"#!/bin/sh\n"),
            "gone": (0o644, b"x\n"),
            "link": "file",
            "dir": {"a": (0o644, b"a\n"), "b": (0o600, b"b\n"), "sub": {"c": (0o644, b"c\n")}},
            "tree": {"x": {"y": (0o644, b"y\n")}},
        },
    )
    return top


async def again(inside: Inside) -> None:
    """A new box over the same layers."""
    await inside._start(await inside.workspace.prepare())


async def back_to(inside: Inside, checkpoint: str) -> None:
    await inside.end()
    await inside.workspace.restore(checkpoint)
    inside.workspace.checkpoints.settle()
    await again(inside)


async def take(inside: Inside) -> str:
    made = await inside.workspace.checkpoint("x")
    assert made is not None
    return made.id


@pytest.mark.parametrize("rung", [Rung.OVERLAY, Rung.COPY])
async def test_every_kind_of_change_is_undone_and_redone(bench: Bench, repo: Path, place: Path, rung: Rung) -> None:
    async with bench.session(repo, place / "state", rung=rung) as inside:
        try:
            await inside.run("git init -q . && git add -A && git -c user.name=a -c user.email=a@b commit -qm one")
            states = [(await take(inside), await inside.python(LOOK))]
            for script in (CHANGES, MORE, CHANGES.replace("mkdir closed", "mkdir -p closed")):
                await inside.run_any("set +e\n" + script)
                states.append((await take(inside), await inside.python(LOOK)))
            assert await inside.workspace.checkpoint("nothing changed") is None
            for number in (0, 2, 1, 3, 0):
                checkpoint, seen = states[number]
                await back_to(inside, checkpoint)
                assert (await inside.python(LOOK)).splitlines() == seen.splitlines()
                assert await inside.workspace.checkpoint("nothing changed") is None
        finally:
            await inside.discard()


async def test_a_box_that_works_in_the_background_is_held_still(bench: Bench, repo: Path, place: Path) -> None:
    async with bench.session(repo, place / "state") as inside:
        try:
            assert inside.box is not None
            freezer = inside.workspace.freezer = await asyncio.to_thread(Freezer, bench.engine, inside.box.container)
            await inside.run("true")
            await asyncio.sleep(0.2)
            assert not freezer.busy()
            turning = (
                "import itertools\nfor n in itertools.count():\n"
                "    for name in 'ab':\n        open(name, 'w').write(f'{n:09}')"
            )
            await inside.run(f"nohup python3 -c {shlex.quote(turning)} > /dev/null 2>&1 & sleep 0.3")
            assert freezer.busy()
            taken = 0
            while taken < 5:
                made = await inside.workspace.checkpoint("x")
                await asyncio.sleep(0.01)
                if made is None:  # it has not come to move since
                    continue
                taken += 1
                a, b = (b"".join(inside.workspace.content_at(made.id, f"{inside.cwd}/{name}")) for name in "ab")
                assert a in {b, b""} or b == b"" or int(a) == int(b) + 1
        finally:
            await inside.discard()


async def test_what_the_session_had_not_touched_is_not_stored(bench: Bench, repo: Path, place: Path) -> None:
    (repo / "large").write_bytes(os.urandom(4 << 20))
    async with bench.session(repo, place / "state") as inside:
        try:
            await inside.run("echo 1 > small")
            await take(inside)
            assert (place / "state" / "store" / "checkpoints").stat().st_size < 100_000
        finally:
            await inside.discard()


async def test_a_box_that_has_ended_needs_no_holding(bench: Bench, repo: Path, place: Path) -> None:
    async with bench.session(repo, place / "state") as inside:
        try:
            assert inside.box is not None
            freezer = inside.workspace.freezer = await asyncio.to_thread(Freezer, bench.engine, inside.box.container)
            await inside.run("echo kept > kept")
            await asyncio.to_thread(bench.engine.containers.remove, inside.box.container)
            assert freezer.busy()
            assert await inside.workspace.checkpoint("after its end") is not None
        finally:
            await inside.discard()
