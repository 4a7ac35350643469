"""A writable root file system over the life of a session: checkpointed where it changed, gone back to, kept when the
box ends in whichever way, and gone with the session.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from runner.sessions.cleaning import evict, remove_dead
from runner.sessions.store import Store
from sandbox.engine import ContainerSpec, Engine
from sandbox.errors import ImageMissingError, WorkspaceError
from sandbox.freezer import Freezer
from sandbox.points import images_named
from sandbox.system import System, left_box, session_images, sweep
from tests.support.apt import INSTALL, REPOSITORY
from tests.support.sessions import Bench, Inside

pytestmark = [pytest.mark.box, pytest.mark.timeout(300)]
# Each is one way in which something outside of all layers changes.
CHANGES = {
    "make": "mkdir /srv/new",
    "write in place": "printf x | dd of=/etc/issue conv=notrunc status=none",
    "append": "echo more >> /etc/issue",
    "truncate": "truncate -s 0 /etc/issue",
    "rename": "mv /etc/issue /etc/issue.old",
    "replace": "cp /etc/issue /etc/i.new && mv /etc/i.new /etc/issue",
    "link": "ln /etc/issue /srv/name",
    "symlink": "ln -sfn /nowhere /usr/local/link",
    "unlink": "rm /etc/issue",
    "mode": "chmod 600 /etc/issue",
    "owner": "chown 1234 /etc/issue",
    "times": "touch -d 2001-02-03 /etc/issue",
    "attribute": 'setcap cap_net_raw+ep /usr/bin/less || python3 -c \'import os; os.setxattr("/etc", "user.a", b"1")\'',
    "directory's mode": "chmod 700 /usr/share/git-core",
    "deep": "echo x > /usr/lib/python3/dist-packages/new",
    "removed tree": "rm -r /usr/share/git-core",
    "mapping": 'python3 -c \'import mmap; f = open("/etc/issue", "r+b"); mmap.mmap(f.fileno(), 0)[0:1] = b"M"\'',
    "in a new directory": "mkdir -p /srv/a/b/c && echo x > /srv/a/b/c/d",
}
LOOKS = (
    "cat /etc/issue /usr/bin/git | md5sum; ls -lR /etc /usr/share | md5sum; find / -xdev -type d > /dev/null",
    "echo t > /tmp/t; echo v > /var/tmp/v; echo h > ~/h; echo r > /run/r; echo s > /dev/shm/s; echo w > w",
    "sleep 0.2 & true",
)


@pytest.fixture
def name(engine: Engine) -> Iterator[str]:
    made = str(uuid.uuid4())
    yield made
    for container in engine.containers.list(f"fumehood.session={made}", all=True):
        engine.containers.remove(container.id)
    sweep(engine, made, ())
    assert session_images(engine, made) == []


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    top = tmp_path / "repo"
    top.mkdir()
    (top / "file").write_text("one\n")
    return top


async def take(inside: Inside) -> str:
    made = await inside.workspace.checkpoint("x")
    assert made is not None
    return made.id


async def back_to(inside: Inside, checkpoint: str) -> tuple[str, ...]:
    await inside.end()
    changed = await restored(inside, checkpoint)
    await inside.again()
    return changed


async def restored(inside: Inside, checkpoint: str) -> tuple[str, ...]:
    """Go back without a box; the names of what changed."""
    done = await inside.workspace.restore(checkpoint)
    inside.workspace.checkpoints.settle()
    assert done is not None
    assert not done.alive
    return done.layers


async def die(inside: Inside) -> None:
    """As after kill -9 of the controller: the box ends by itself, and nobody tidies up."""
    assert inside.box is not None
    inside.box.pipe.close()
    inside.box.keep_container = True
    await asyncio.to_thread(inside.bench.engine.containers.wait, inside.box.container, 20)
    inside.box = None


async def test_packages_go_and_come_with_undo_and_redo(bench: Bench, repo: Path, tmp_path: Path, name: str) -> None:
    async with bench.session(repo, tmp_path / "state", system=True, name=name) as inside:
        await inside.run(REPOSITORY)
        before = await take(inside)
        await inside.run(f"{INSTALL} one-box")
        after = await take(inside)
        look = "one-box; two-box; id -un u-one-box; stat -c '%U %a' /var/lib/one-box /usr/bin/one-box; dpkg -s one-box"
        seen = await inside.run(look)
        assert await back_to(inside, before) == ("system",)
        assert "not found" in (await inside.run_any("one-box; dpkg -s one-box; id u-one-box"))[1]
        assert (await inside.run_any("ls /var/lib/one-box"))[0] != 0
        await inside.run("apt-get -q update")
        await take(inside)
        assert "system" in await back_to(inside, after)
        assert await inside.run(look) == seen
        await inside.discard()


async def test_whatever_changes_the_root_file_system_is_seen_and_nothing_else(
    bench: Bench, repo: Path, tmp_path: Path, name: str
) -> None:
    async with bench.session(repo, tmp_path / "state", system=True, name=name) as inside:
        system = inside.workspace.system
        for look in LOOKS:
            await inside.run(look)
            assert not await asyncio.to_thread(system.look), look
        for what, change in CHANGES.items():
            await inside.run(change)
            assert await asyncio.to_thread(system.look), what
            await inside.run("test -f /etc/issue || echo again > /etc/issue")
            await asyncio.to_thread(system.watch)
            system._unkept = False
            assert not await asyncio.to_thread(system.look), what
        await inside.discard()


async def test_an_unchanged_root_file_system_stores_nothing(
    bench: Bench, repo: Path, tmp_path: Path, name: str
) -> None:
    async with bench.session(repo, tmp_path / "state", system=True, name=name) as inside:
        for look in LOOKS:
            await inside.run(look)
            await inside.workspace.checkpoint("x")
        assert session_images(bench.engine, name) == []
        await inside.run("echo 1 > /srv/one")
        await take(inside)
        (image,) = session_images(bench.engine, name)
        await inside.run("echo 2 > /tmp/two")
        await take(inside)
        await inside.end()
        assert session_images(bench.engine, name) == [image]
        await inside.discard()


async def test_an_image_holds_nothing_of_ours(bench: Bench, repo: Path, tmp_path: Path, name: str) -> None:
    async with bench.session(repo, tmp_path / "state", system=True, name=name) as inside:
        inside.environment = {"A_SECRET": "hunter2"}
        await inside.end()
        await inside.again()
        assert await inside.run("echo $A_SECRET; echo 1 > /srv/one; echo 2 > ~/two; echo 3 > /tmp/three") == "hunter2\n"
        await take(inside)
        (image,) = session_images(bench.engine, name)
        told = bench.engine.get(f"/images/{image.id}/json")
        assert "hunter2" not in str(told)
        config = told["Config"]
        assert (config["User"], config["Entrypoint"], config["Cmd"] or [], config["WorkingDir"]) == (
            "0:0", ["/bin/sh"], [], "/",
        )  # fmt: skip
        variables = dict(entry.partition("=")[::2] for entry in config["Env"])
        base = dict(entry.partition("=")[::2] for entry in bench.image.environment)
        assert {name: value for name, value in variables.items() if value} == base
        labels = {name: value for name, value in config["Labels"].items() if value}
        assert set(labels) == {
            "fumehood", "fumehood.session", "fumehood.owner", "fumehood.base", "fumehood.state", "fumehood.system",
        }  # fmt: skip
        assert (labels["fumehood.session"], labels["fumehood.base"]) == (name, bench.image.id)
        assert not config.get("Volumes")
        await inside.end()
        script = "cat /srv/one; find /opt/fumehood /home /tmp /var/tmp /workspace /run -type f"
        look = ContainerSpec(
            image=image.id,
            command=("/bin/sh", "-c", f'test "$({script})" = 1'),
            labels={"fumehood.session": name, "fumehood": "1"},
        )
        container = bench.engine.containers.create(look)
        bench.engine.containers.start(container)
        assert await asyncio.to_thread(bench.engine.containers.wait, container, 20) == 0
        await inside.discard()


@pytest.mark.parametrize("end", ["orderly", "killed"])
async def test_what_was_installed_outlives_the_box(
    bench: Bench, repo: Path, tmp_path: Path, name: str, end: str
) -> None:
    state = tmp_path / "state"
    async with bench.session(repo, state, system=True, name=name) as inside:
        await inside.run("echo 1 > /srv/one; echo a > a")
        first = await take(inside)
        await inside.run("echo 2 > /srv/two; echo b > b")
        await (inside.end() if end == "orderly" else die(inside))
    left = left_box(state)
    assert bool(left) == (end == "killed")
    await asyncio.to_thread(remove_dead, bench.engine, Store(tmp_path / "elsewhere"))
    await asyncio.to_thread(evict, bench.engine, name, state)
    async with bench.session(repo, state, system=True, name=name) as inside:
        assert await inside.run("cat /srv/one /srv/two a b") == "1\n2\na\nb\n"
        assert [box.id for box in bench.engine.containers.list(f"fumehood.session={name}")] == [inside.box_id]
        second = await take(inside)
        await back_to(inside, first)
        assert await inside.run("ls /srv; ls") == "one\na\nfile\n"
        await back_to(inside, second)
        assert await inside.run("cat /srv/one /srv/two a b") == "1\n2\na\nb\n"
        await inside.discard()


async def test_a_session_at_rest_takes_in_what_a_killed_owner_left(
    bench: Bench, repo: Path, tmp_path: Path, name: str
) -> None:
    """Undo begins with a checkpoint of the present, without a box."""
    state = tmp_path / "state"
    async with bench.session(repo, state, system=True, name=name) as inside:
        first = await take(inside)
        await inside.run("echo 2 > /srv/two")
        await die(inside)
    await asyncio.to_thread(evict, bench.engine, name, state)
    resting = bench.session(repo, state, system=True, name=name)
    second = await take(resting)
    assert bench.engine.containers.list(f"fumehood.session={name}") == []
    resting.workspace.footing.stands = False
    assert await restored(resting, first) == ("system",)
    await resting.workspace.release()
    async with bench.session(repo, state, system=True, name=name) as inside:
        assert (await inside.run_any("cat /srv/two"))[0] != 0
        await back_to(inside, second)
        await inside.run("cat /srv/two")
        await inside.discard()


async def test_images_stay_while_they_are_named_and_go_when_they_are_not(
    bench: Bench, repo: Path, tmp_path: Path, name: str
) -> None:
    store = Store(tmp_path / "home")
    store.prepare()
    state = store.directory(name)
    async with bench.session(repo, state, system=True, name=name) as inside:
        await inside.run("echo 1 > /srv/one")
        await take(inside)
        await inside.run("echo 2 > /srv/two")
        await inside.end()
        await inside.again()
        await inside.run("echo 3 > /srv/three")
        await take(inside)
        stray = await asyncio.to_thread(inside.workspace.system.commit)
        await inside.end()
    kept = images_named(state)
    assert stray not in kept
    await asyncio.to_thread(remove_dead, bench.engine, Store(tmp_path / "another"))
    assert {image.id for image in session_images(bench.engine, name)} >= kept - {""} | {stray}
    with store.lock(name):
        await asyncio.to_thread(remove_dead, bench.engine, store)
        assert stray in {image.id for image in session_images(bench.engine, name)}, "its owner lives"
    await asyncio.to_thread(remove_dead, bench.engine, store)
    assert stray not in {image.id for image in session_images(bench.engine, name)}
    assert {image.id for image in session_images(bench.engine, name)} >= kept - {""}
    async with bench.session(repo, state, system=True, name=name) as inside:
        assert await inside.run("cat /srv/one /srv/two /srv/three") == "1\n2\n3\n"
        await inside.discard()
    assert session_images(bench.engine, name) == []


async def test_the_number_of_layers_stays_bounded(bench: Bench, repo: Path, tmp_path: Path, name: str) -> None:
    state, seen = tmp_path / "state", []
    async with bench.session(repo, state, system=True, name=name) as inside:
        inside.workspace.system = inside.workspace.checkpoints.system = System(
            bench.engine, session=name, state=state, deepest=2
        )
        for number in range(5):
            await inside.end()
            await inside.again()
            await inside.run(f"echo {number} > /srv/{number}; rm -f /srv/{number - 2}; chmod 2755 /usr/bin/less")
            await take(inside)
            seen.append(len((await inside.workspace.image(bench.image)).layers))
        assert max(seen) <= 1 + len(bench.image.layers) + 2
        assert await inside.run("ls /srv; stat -c %a /usr/bin/less") == "3\n4\n2755\n"
        await inside.discard()


async def test_a_lost_image_is_named_and_leaves_what_is_there(
    bench: Bench, repo: Path, tmp_path: Path, name: str
) -> None:
    async with bench.session(repo, tmp_path / "state", system=True, name=name) as inside:
        await inside.run("echo a > a")
        first = await take(inside)
        await inside.run("echo 1 > /srv/one; echo b > b")
        second = await take(inside)
        await back_to(inside, first)
        sweep(bench.engine, name, ())
        await inside.end()
        with pytest.raises(WorkspaceError, match="lost the image"):
            await inside.workspace.restore(second)
        await inside.again()
        assert await inside.run("ls") == "a\nfile\n"
        await inside.run("echo 2 > /srv/two")
        await inside.end()
        sweep(bench.engine, name, ())
        with pytest.raises(ImageMissingError, match="lost the image"):
            await inside.again()
        await inside.workspace.ended()
        assert await restored(inside, first) == ("system",)
        await inside.again()
        await inside.discard()


async def test_a_checkpoint_of_a_busy_box_is_of_one_moment(bench: Bench, repo: Path, tmp_path: Path, name: str) -> None:
    """Two counters, one in the root file system and one in a layer, are never further apart than one step."""
    loop = "n=0; while :; do n=$((n+1)); echo $n > /srv/n.new; mv /srv/n.new /srv/n; echo $n > n.new; mv n.new n; done"
    async with bench.session(repo, tmp_path / "state", system=True, name=name) as inside:
        assert inside.box is not None
        inside.workspace.freezer = await asyncio.to_thread(Freezer, bench.engine, inside.box.container)
        await inside.run(f"nohup sh -c '{loop}' > /dev/null 2>&1 & sleep 0.3")
        taken = [await take(inside) for _ in range(3)]
        for checkpoint in taken:
            await back_to(inside, checkpoint)
            ours, theirs = (int(word) for word in (await inside.run("cat n /srv/n")).split())
            assert ours in {theirs, theirs - 1}
        await inside.discard()
