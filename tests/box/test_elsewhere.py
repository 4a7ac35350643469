"""Going back and forking where the layers are volumes of an engine on another machine, which sees no file of this one:
all that comes back on this machine comes back there, and what is cut off leaves nothing that nobody names.
"""

from __future__ import annotations

import asyncio
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest

from runner.sessions.cleaning import evict, remove_dead
from runner.sessions.store import Store
from sandbox.engine import Engine, ImageInfo, connect
from sandbox.errors import SandboxError, WorkspaceError
from sandbox.masks import Masks
from sandbox.remote import volumes_named
from sandbox.selection import Selection
from sandbox.toolbox import Toolbox
from tests.support.layers_by_hand import read
from tests.support.masking import masks
from tests.support.relay import TcpRelay
from tests.support.sessions import Bench, Inside
from tests.support.whole_box import back_to, different, keep, look, round_trip, start

pytestmark = [pytest.mark.box, pytest.mark.timeout(300)]
SECRET = "hunter2-of-the-test"
URL = f"https://user:{SECRET}@example.org/x.git"
GIT = "git init -q . 2>/dev/null; git add -A .; git commit -qm 'all of it'; git gc -q; git status --short"
ODD = r"""
echo more >> file; rm gone; rm -r tree; mkdir tree; ln file twin; ln -s ../nowhere ~/dangling; mkfifo /tmp/pipe
truncate -s 300M /var/tmp/sparse; printf middle | dd of=/var/tmp/sparse bs=1M seek=200 conv=notrunc status=none
python3 - <<'END'
import os, socket
os.setxattr("file", "user.mark", b"\0\xff=")
os.setxattr("tree", "user.dir", b"1")
socket.socket(socket.AF_UNIX).bind("/tmp/sock")
acl = "02000000 01000600ffffffff 020004000a000000 04000400ffffffff 10000600ffffffff 20000000ffffffff"
os.setxattr("dir/a", "system.posix_acl_access", bytes.fromhex(acl))
END
printf x > "$(printf 'odd \377 name\n')"; touch -d 2001-02-03T04:05:06.789 file; touch -d 1969-12-31T23:59:58.5Z old
chmod 1777 /tmp; chmod 4750 twin; echo note > ~/note; mkdir closed; echo c > closed/in; chmod 000 closed
"""
BACK = """
chmod 700 closed; rm -rf closed twin old .git ~/note /tmp/sock /var/tmp/sparse; echo other > file; mkdir -p tree/new
"""


@pytest.mark.parametrize("system", [False, True])
async def test_every_place_of_the_box_comes_back(far: Bench, repo: Path, tmp_path: Path, *, system: bool) -> None:
    name, before = str(uuid.uuid4()), read(repo)
    async with far.session(repo, tmp_path / "state", name=name, system=system) as inside:
        try:
            steps = (
                [GIT, ODD, BACK] if not system else [f"{GIT}; echo one > /etc/one", f"rm /etc/one /bin/rgrep; {ODD}"]
            )
            await round_trip(inside, steps, works="ls -A; git status -s 2>&1 || cat /etc/one || true")
            assert named(far, inside) == held(far, name)
        finally:
            await inside.discard()
    assert held(far, name) == set()
    assert read(repo) == before


def held(bench: Bench, session: str) -> set[str]:
    """The volumes that the engine has of a session."""
    return {volume.name for volume in bench.engine.volumes.list(f"fumehood.session={session}")}


def named(bench: Bench, inside: Inside) -> set[str]:
    return set(volumes_named(inside.state / "layers", inside.name))


async def test_what_is_told_and_applied_afterwards_is_what_there_is(far: Bench, repo: Path, tmp_path: Path) -> None:
    async with far.session(repo, tmp_path / "state") as inside:
        try:
            await start(inside)
            await inside.run("echo two > file; echo n > new")
            first, _ = await keep(inside)
            await inside.run("printf one > file; touch -r gone file; rm new gone; echo x > dir/a")
            await keep(inside)
            await back_to(inside, first)
            assert await told(inside) == ["file", "new"]
            await inside.run("printf 'two\\n' > file; echo y > dir/a")
            await inside.end()
            await inside.workspace.release()
            async with far.session(repo, tmp_path / "state", name=inside.name) as later:
                assert await told(later) == ["dir/a", "file", "new"]
                await later.workspace.apply(Selection())
            assert ((repo / "file").read_text(), (repo / "dir/a").read_text()) == ("two\n", "y\n")
            assert ((repo / "new").read_text(), (repo / "gone").exists()) == ("n\n", True)
        finally:
            await inside.discard()


async def told(inside: Inside) -> list[str]:
    return [change.path for change in await inside.workspace.changes()]


async def test_forks_begin_with_what_it_was_and_leave_the_origin_alone(far: Bench, repo: Path, tmp_path: Path) -> None:
    names = [str(uuid.uuid4()) for _ in range(2)]
    async with far.session(repo, tmp_path / "state") as inside:
        try:
            await start(inside)
            await inside.run(ODD)
            at, then = await keep(inside)
            await inside.run("echo later > file; echo l > ~/note; (sleep 100 &)")
            _, now = await keep(inside)
            for name in names:
                (tmp_path / name).mkdir()
            before = held(far, inside.name)
            await inside.workspace.fork(at, [(name, tmp_path / name) for name in names])
            assert not different(now, await look(inside))
            assert await inside.workspace.checkpoint("nothing changed") is None
            assert held(far, inside.name) == before == named(far, inside)
            for name in names:
                async with far.session(repo, tmp_path / name, name=name) as forked:
                    await start(forked)
                    assert not different(then, await look(forked))
                    assert await forked.workspace.checkpoint("nothing changed") is None
                    assert {"file", "twin", "gone"} <= set(await told(forked))
                    await forked.run("echo own > file")
                    await keep(forked)
                    await back_to(forked, at)
                    assert not different(then, await look(forked))
                    assert len(held(far, name)) == 4
                    await forked.discard()
                assert held(far, name) == set()
            assert not different(now, await look(inside))
        finally:
            await inside.discard()


def git(where: Path, *words: str) -> None:
    subprocess.run(["git", "-C", where, *words], check=True)


def secrets() -> Masks:
    return masks(PurePosixPath("/workspace/repo"), ".env*", "keys/", logins=True)


async def test_what_is_hidden_stays_so_and_never_gets_there(far: Bench, repo: Path, tmp_path: Path) -> None:
    for words in (["init", "-q"], ["remote", "add", "origin", URL]):
        await asyncio.to_thread(git, repo, *words)
    (repo / "keys").mkdir()
    for path in (".env", "keys/id", ".env.more"):
        (repo / path).write_text(SECRET)
    fork = str(uuid.uuid4())
    async with far.session(repo, tmp_path / "state", masks=secrets()) as inside:
        try:
            await start(inside)
            await inside.run(
                "echo a > a; rm .env .env.more; echo mine > .env.more; rmdir keys; mkdir keys; echo k > keys/k"
            )
            first, _ = await keep(inside)
            await inside.run("rm a; rm -rf keys .git/config")
            await keep(inside)
            await back_to(inside, first)
            (tmp_path / "fork").mkdir()
            await inside.workspace.fork(first, [(fork, tmp_path / "fork")])
            await sees_nothing(inside)
        finally:
            await inside.discard()
    async with far.session(repo, tmp_path / "fork", name=fork, masks=secrets()) as forked:
        try:
            await sees_nothing(forked)
        finally:
            await forked.discard()


async def sees_nothing(inside: Inside) -> None:
    seek = f"grep -r {SECRET} . 2>/dev/null || true"
    denied = "(cat .env .env.more 2>&1 || true) | grep -c denied"
    out = await inside.run(f"cat a; git remote get-url origin; ls -A keys; {denied}; {seek}")
    assert out == "a\nhttps://example.org/x.git\n2\n"
    assert await told(inside) == ["a"]


async def test_an_engine_that_has_lost_a_layer_gets_no_empty_one_in_its_place(
    far: Bench, repo: Path, tmp_path: Path
) -> None:
    fork = str(uuid.uuid4())
    async with far.session(repo, tmp_path / "state") as inside:
        try:
            await start(inside)
            await inside.run("echo two > file; echo note > ~/note")
            at, then = await keep(inside)
            await inside.end()
            await inside.workspace.release()
            await asyncio.to_thread(far.engine.volumes.remove, f"fumehood-{inside.name.replace('-', '')[:12]}-home")
            lost = far.session(repo, tmp_path / "state", name=inside.name)
            with pytest.raises(WorkspaceError, match="does not have what the session wrote in /home/box"):
                await lost.workspace.checkpoint("all is gone")
            with pytest.raises(WorkspaceError, match="does not have what"):
                await lost.workspace.prepare()
            (tmp_path / "fork").mkdir()
            await lost.workspace.fork(at, [(fork, tmp_path / "fork")])
            await lost.workspace.release()
            async with far.session(repo, tmp_path / "fork", name=fork) as forked:
                await start(forked)
                assert not different(then, await look(forked))
                await forked.discard()
        finally:
            await inside.discard()
    assert held(far, inside.name) == set()


async def test_a_clean_up_takes_volumes_that_nobody_names_and_no_other(far: Bench, repo: Path, tmp_path: Path) -> None:
    store, name = Store(tmp_path / "home"), str(uuid.uuid4())
    state = store.directory(name)
    async with far.session(repo, state, name=name) as inside:
        try:
            await start(inside)
            await keep(inside)
            await inside.end()
            await inside.workspace.release()
            own, labels = held(far, name), {**inside.workspace._places.labels, "fumehood.layer": "1"}
            far.engine.volumes.create(f"fumehood-test-{name}", options={}, labels=labels)
            with store.lock(name):
                await asyncio.to_thread(remove_dead, far.engine, store)
            assert len(held(far, name)) == len(own) + 1
            await asyncio.to_thread(remove_dead, far.engine, Store(tmp_path / "another"))
            assert len(held(far, name)) == len(own) + 1
            await asyncio.to_thread(remove_dead, far.engine, store)
            assert held(far, name) == own
            assert len(own) == 4
        finally:
            await inside.discard()


@pytest.fixture
def dying(engine: Engine, base_image: ImageInfo, toolbox: Toolbox) -> Iterator[Bench]:
    """An engine that goes away when something is to be unpacked there."""
    with TcpRelay(engine.endpoint, dies_at=b"/archive?") as relay:
        connected = connect({"DOCKER_HOST": relay.host})
        yield Bench(connected, base_image, toolbox)
        connected.close()


async def test_what_was_cut_off_is_not_done_and_is_found(far: Bench, dying: Bench, repo: Path, tmp_path: Path) -> None:
    async with far.session(repo, tmp_path / "state") as inside:
        try:
            await start(inside)
            first, then = await keep(inside)
            await inside.run("echo two > file")
            _, now = await keep(inside)
            await inside.end()
            await inside.workspace.release()
            cut = dying.session(repo, tmp_path / "state", name=inside.name)
            with pytest.raises(SandboxError):
                await cut.workspace.restore(first)
            cut.workspace.checkpoints.close()
            await asyncio.to_thread(evict, far.engine, inside.name, inside.state)  # as every command begins
            async with far.session(repo, tmp_path / "state", name=inside.name) as later:
                assert held(far, inside.name) == named(far, later)
                assert len(held(far, inside.name)) == 5
                await start(later)
                assert not different(now, await look(later))
                await asyncio.to_thread(later.workspace.checkpoints.empty_trash)
                assert held(far, inside.name) == named(far, later)
                assert len(held(far, inside.name)) == 4
                await back_to(later, first)
                assert not different(then, await look(later))
                await later.end()
        finally:
            await inside.discard()
    assert held(far, inside.name) == set()
