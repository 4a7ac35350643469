"""Whole copies, where the overlay cannot be had: what the engine refuses, closed places, another machine."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.engine import Engine, ImageInfo, connect
from sandbox.spec import Rung
from sandbox.toolbox import Toolbox
from tests.support.layers_by_hand import read
from tests.support.sessions import Bench
from tests.support.worked import EDITS, committed, seen, told, without_git

pytestmark = [pytest.mark.box, pytest.mark.timeout(180)]


@pytest.fixture
def repo(repo: Path) -> Path:
    return committed(repo)


async def test_closed_places_of_a_whole_copy_are_seen_too(bench: Bench, repo: Path, place: Path) -> None:
    async with bench.session(repo, place / "state", rung=Rung.COPY) as inside:
        await inside.run("mkdir closed; echo s > closed/secret; chmod 0 closed; echo x > dir/new; chmod 0 dir")
        assert sorted(told(await inside.workspace.changes())) == [
            ("added", "closed"),
            ("added", "closed/secret"),
            ("added", "dir/new"),
            ("mode", "dir"),
        ]
        await inside.discard()
    assert os.listdir(place / "state") == []  # noqa: PTH208 - names only


async def test_engine_that_refuses_the_overlay_gets_a_copy(bench: Bench, repo: Path, place: Path) -> None:
    inside = bench.session(repo, place / "state")

    async def spoil() -> None:
        for layer in inside.workspace.layers:
            (place / "state/layers" / layer.name / "work").rmdir()

    inside.before_start = spoil
    async with inside:
        assert list(inside.workspace.rungs.values()) == ["copy"]
        assert "refused to mount" in inside.workspace.notes[0]
        await inside.run("echo x > new; rm gone; echo h > ~/h; cat ~/.gitconfig")
        assert told(await inside.workspace.changes()) == [("deleted", "gone"), ("added", "new")]
        await inside.workspace.apply()
        assert read(repo)["new"] == (0o644, b"x\n")
        await inside.discard()


async def test_repository_on_an_overlay_file_system_is_copied(bench: Bench, place: Path) -> None:
    """Mounted in a namespace of its own where this user may not mount."""
    script = """
import pathlib, subprocess, sys
from sandbox.layers import choose_rung
top = pathlib.Path(sys.argv[1])
for name in ("lower", "upper", "work", "merged", "layers"): (top / name).mkdir()
subprocess.run(["mount", "-t", "overlay", "overlay", "-o",
    f"lowerdir={top}/lower,upperdir={top}/upper,workdir={top}/work,userxattr", f"{top}/merged"], check=True)
print(*choose_rung(top / "merged", top / "layers", local=True, forced=None))
"""
    command = [
        "unshare",
        "--mount",
        *(["--user", "--map-root-user"] if os.geteuid() else []),
        sys.executable,
        "-c",
        script,
    ]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])}
    process = await asyncio.create_subprocess_exec(
        *command, str(place), env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, problem = await process.communicate()
    assert out.decode() == "copy the directory lies on an overlay file system itself\n", problem.decode()


# Carries connections on a loopback port to a unix socket, in a process of its own.
FORWARD = """
import socket, sys, threading
def carry(source, target):
    try:
        while data := source.recv(1 << 16): target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError: pass
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
while True:
    near, _ = listener.accept()
    far = socket.socket(socket.AF_UNIX)
    far.connect(sys.argv[1])
    for ends in ((near, far), (far, near)): threading.Thread(target=carry, args=ends, daemon=True).start()
"""


@pytest.fixture
def far_engine(engine: Engine) -> Iterator[Engine]:
    """The same engine, reached over TCP: as far as we can tell it is on another machine."""
    path = engine.endpoint.removeprefix("unix://")
    with subprocess.Popen([sys.executable, "-c", FORWARD, path], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        connected = connect({"DOCKER_HOST": f"tcp://127.0.0.1:{process.stdout.readline().strip()}"})
        yield connected
        connected.close()
        process.kill()


async def test_engine_on_another_machine_gets_a_copy_over_its_api(
    far_engine: Engine, base_image: ImageInfo, toolbox: Toolbox, repo: Path, place: Path
) -> None:
    bench = Bench(far_engine, base_image, toolbox)
    (repo / "dangling").symlink_to("/nowhere")
    before = read(repo)
    async with bench.session(repo, place / "state") as inside:
        assert list(inside.workspace.rungs.values()) == ["copy"]
        assert "does not see this machine's files" in inside.workspace.notes[0]
        assert await seen(inside) == without_git(before)
        await inside.run('test -z "$(git status --porcelain | grep -v dangling)"; stat -c %a ~ /tmp; cat ~/.gitconfig')
        await inside.run(EDITS + "mkdir closed; echo s > closed/secret; chmod 0 closed")
        await inside.run("chmod 700 closed")
        box = await seen(inside)
        assert read(repo) == before
        await inside.workspace.apply()
        assert without_git(read(repo)) == box
        assert told(await inside.workspace.changes()) == []
    async with bench.session(repo, place / "state", name=inside.name) as again:
        await again.run("echo again > again; test -e moved/b")
        assert told(await again.workspace.changes()) == [("added", "again")]
        await again.discard()
    for things in (far_engine.volumes.list, far_engine.containers.list):
        assert things(f"fumehood.session={inside.name}") == []
