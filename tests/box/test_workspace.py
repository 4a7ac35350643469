"""The workspace in real boxes: copy-on-write, what git and the shell do to it, and taking it over."""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from sandbox.changes import Base, Kind
from sandbox.disk import DiskWatch
from sandbox.errors import DiskFullError, WorkspaceError
from sandbox.selection import ApplyConflictError, Selection
from sandbox.spec import Limits, Rung
from tests.support.layers_by_hand import read
from tests.support.sessions import Bench
from tests.support.worked import EDITS, committed, git, seen, told, without_git

pytestmark = [pytest.mark.box, pytest.mark.timeout(180)]
RUNGS = pytest.mark.parametrize("rung", [Rung.OVERLAY, Rung.COPY])


@pytest.fixture
def repo(repo: Path) -> Path:
    return committed(repo)


def git_apply(where: Path, patch: bytes) -> None:
    done = subprocess.run(["git", "apply", "-"], cwd=where, input=patch, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


def set_root(top: Path, mode: int, seconds: int) -> os.stat_result:
    top.chmod(mode)
    os.utime(top, (seconds, seconds))
    return top.stat()


@RUNGS
async def test_all_that_a_shell_does_is_seen_diffed_and_applied(
    bench: Bench, repo: Path, place: Path, rung: Rung
) -> None:
    before = read(repo)
    async with bench.session(repo, place / "state", rung=rung) as inside:
        workspace = inside.workspace
        assert list(workspace.rungs.values()) == [rung.value]
        await inside.run(EDITS)
        box = await seen(inside)
        assert read(repo) == before
        patch = b"".join([text async for text in workspace.diff()])
        target = place / "target"
        shutil.copytree(repo, target, symlinks=True)
        textual = b"".join(
            part for part in (b"diff --git" + p for p in patch.split(b"diff --git")[1:]) if b"Binary files" not in part
        )
        git_apply(target, textual)
        expected = {name: node for name, node in box.items() if name not in ("binary", "empty")}
        assert without_git(read(target)) == expected
        report = await workspace.apply()
        assert without_git(read(repo)) == box
        assert read(repo)[".git"] == before[".git"]
        assert report.conflicts == report.dropped == ()
        assert told(await workspace.changes()) == []
        assert not await workspace.drift()
        await inside.discard()
    assert bench.engine.volumes.list(f"fumehood.session={inside.name}") == []
    assert bench.engine.containers.list(f"fumehood.session={inside.name}") == []
    assert os.listdir(place / "state") == []  # noqa: PTH208 - names only


@RUNGS
async def test_file_system_cases_survive_or_are_named(bench: Bench, repo: Path, place: Path, rung: Rung) -> None:
    async with bench.session(repo, place / "state", rung=rung) as inside:
        await inside.python(
            """
import os, socket
os.link("file", "hard"); open("hard", "a").write("by link\\n")
open("attr", "w").close(); os.setxattr("attr", "user.note", b"kept")
os.mkfifo("fifo"); s = socket.socket(socket.AF_UNIX); s.bind("sock"); s.close()
open("n" * 255, "w").close(); open(b"by\\xffte", "w").close(); open("cafe\\u0301", "w").close()
os.rename("file", "tmp"); os.rename("tmp", "FILE")
deep = "/".join("d%d" % i for i in range(40)); os.makedirs(deep); open(deep + "/leaf", "w").write("deep")
os.symlink("loop2", "loop1"); os.symlink("loop1", "loop2")
os.remove("gone"); os.mkdir("gone"); open("gone/in", "w").close()
import shutil; shutil.rmtree("dir"); open("dir", "w").write("now a file")
shutil.rmtree("tree"); os.symlink("dir", "tree")
f = open("unlinked", "w"); f.write("x"); os.remove("unlinked"); f.write("y"); f.flush()
os.makedirs("full/inside"); open("full/inside/f", "w").close()
os.chmod("script", 0o4755)
os.makedirs("nested"); os.system("cd nested && git init -q && echo x > x && git add x && git commit -qm x")
"""
        )
        await inside.run("mkdir target; mkdir source; echo s > source/s; mv -T source target; mv target full/")
        box = await seen(inside)
        await inside.run("truncate -s 4G sparse; printf middle | dd of=sparse bs=1M seek=2048 conv=notrunc")
        report = await inside.workspace.apply()
        sparse = (repo / "sparse").stat()
        assert (sparse.st_size, sparse.st_blocks * 512 < 1 << 20) == (4 << 30, True)
        (repo / "sparse").unlink()
        after = without_git(read(repo))
        nested = box["nested"]
        assert isinstance(nested, dict)
        nested.pop(".git")
        box["script"] = (0o755, b"#!/bin/sh\n")
        assert after == box
        assert [(remark.path, remark.why) for remark in report.dropped] == [
            ("fifo", "a fifo is never applied"),
            ("script", "setuid, setgid and sticky bits are never applied"),
            ("sock", "a socket is never applied"),
        ]
        assert [remark.path for remark in report.held_back] == ["nested/.git"]
        assert {remark.path for remark in report.pointed_out} == {"FILE", "hard"}
        assert os.getxattr(repo / "attr", "user.note") == b"kept"
        await inside.discard()


@RUNGS
async def test_git_works_in_the_box_and_its_commits_are_named_not_applied(
    bench: Bench, repo: Path, place: Path, rung: Rung
) -> None:
    head = git(repo, "rev-parse", "HEAD").strip()
    async with bench.session(repo, place / "state", rung=rung) as inside:
        out = await inside.run(
            """
            test "$(git log -1 --format=%H)" = "$(git rev-parse HEAD)"; git status --porcelain
            echo more >> file; git mv dir/a dir/renamed; git commit -qam two; git branch other; git tag t
            git checkout -q -b third; git rebase -q master || git rebase -q main || true; git stash list; git gc -q
            rm -rf dir; git checkout -q -- dir; git log -1 --format=%an:%ae; git rev-parse HEAD
            """
        )
        author, new = out.splitlines()[-2:]
        assert author == "Ada:ada@example.org"
        moves = {move.ref: (move.old, move.new) for move in await inside.workspace.commits()}
        branch = next(ref for ref in moves if ref.startswith("refs/heads/ma"))
        assert moves == {
            "HEAD": (branch, "refs/heads/third"),
            branch: (head, new),
            "refs/heads/other": ("", new),
            "refs/heads/third": ("", new),
            "refs/tags/t": ("", new),
        }
        report = await inside.workspace.apply()
        assert [remark.path for remark in report.held_back] == [".git"]
        assert git(repo, "rev-parse", "HEAD").strip() == head
        assert git(repo, "fsck", "--strict") == ""
        assert (repo / "dir" / "renamed").read_text() == "a\n"
        await inside.discard()


async def test_worktree_and_submodule_commit_in_the_box(bench: Bench, repo: Path, place: Path) -> None:
    git(repo, "worktree", "add", "-q", str(place / "wt"), "-b", "side")
    git(place, "init", "-q", "super")
    git(place / "super", "submodule", "--quiet", "add", str(repo), "inner")
    before = read(repo)
    async with bench.session(place / "wt", place / "state") as inside:
        assert [root.host for root in inside.workspace.roots] == [place / "wt", repo / ".git"]
        await inside.run("echo w >> file; git commit -qam in-worktree; git log --oneline")
        assert [move.ref for move in await inside.workspace.commits()] == ["refs/heads/side"]
        assert told(await inside.workspace.changes()) == [("modified", "file")]
        await inside.workspace.apply()
        await inside.discard()
    async with bench.session(place / "super" / "inner", place / "state2") as inside:
        await inside.run("echo s >> file; git commit -qam in-submodule")
        assert [move.ref for move in await inside.workspace.commits()]
        await inside.discard()
    assert read(repo) == before


@pytest.mark.parametrize(
    "name",
    [
        "sp ace",
        "com,ma",
        "co:lon",
        "back\\slash",
        "new\nline",
        "caf\u00e9",
        "by\udcffte",
        "ro,nosuid",
        '"quoted"',
        "%s",
        "$(x)",
    ],
)
async def test_odd_names_of_the_root_still_get_an_overlay(bench: Bench, place: Path, name: str) -> None:
    top = place / name
    top.mkdir()
    (top / "f").write_text("1")
    async with bench.session(top, place / "state") as inside:
        assert list(inside.workspace.rungs.values()) == ["overlay"]
        assert (await inside.run("cat f; echo 2 > f; pwd")).startswith("1")
        assert told(await inside.workspace.changes()) == [("modified", "f")]
        assert (top / "f").read_text() == "1"
        await inside.workspace.apply()
        assert (top / "f").read_text() == "2\n"
        await inside.discard()


async def test_empty_directory_and_several_roots(bench: Bench, place: Path) -> None:
    for name in ("one", "two"):
        (place / name).mkdir()
    async with bench.session(place / "one", place / "state", place / "two") as inside:
        other = inside.workspace.roots[1]
        await inside.run(f"echo 1 > a; echo 2 > {other.at}/b; ls -A | wc -l")
        assert [(c.root, c.path) for c in await inside.workspace.changes()] == [("one", "a"), ("two", "b")]
        located = inside.workspace.locate([str(other.at / "b")], cwd=Path("/"))
        assert located == inside.workspace.locate(["../two/b"], cwd=place / "one") == (("two", "b"),)
        await inside.workspace.apply(Selection(paths=located))
        assert (read(place / "one"), read(place / "two")) == ({}, {"b": (0o644, b"2\n")})
        with pytest.raises(WorkspaceError, match="lies in no root"):
            inside.workspace.locate(["/etc/passwd"], cwd=Path("/"))
        await inside.discard()


async def test_places_of_the_box_have_their_modes_and_owner(bench: Bench, repo: Path, place: Path) -> None:
    mine = set_root(repo, 0o2750, 1_600_000_000)
    async with bench.session(repo, place / "state") as inside:
        out = await inside.run(
            "stat -c '%n %a %u %g %Y' . /tmp /var/tmp ~; cat ~/.gitconfig; touch /tmp/x /var/tmp/x ~/x x"
        )
        lines = [line.split() for line in out.splitlines()]
        assert lines[0][1:] == ["2750", str(mine.st_uid), str(mine.st_gid), "1600000000"]
        assert [line[1] for line in lines[1:4]] == ["1777", "1777", "755"]
        assert lines[3][2:4] == [str(mine.st_uid), str(mine.st_gid)]
        assert "ada@example.org" in out
        await inside.discard()


async def test_session_taken_up_again_has_what_was_done(bench: Bench, repo: Path, place: Path) -> None:
    async with bench.session(repo, place / "state") as inside:
        await inside.run("echo 1 > new; echo h > ~/h; echo t > /tmp/t")
        await inside.workspace.capture()
    async with bench.session(repo, place / "state", name=inside.name) as again:
        assert await again.run("cat new ~/h /tmp/t") == "1\nh\nt\n"
        await again.run("rm new; rm file")
        assert told(await again.workspace.changes()) == [("deleted", "file")]
        await again.discard()


async def test_killed_controller_leaves_layers_that_the_next_one_reads(bench: Bench, repo: Path, place: Path) -> None:
    inside = await bench.session(repo, place / "state").__aenter__()
    await inside.run("echo 1 > new; rm gone")
    await inside.end()
    again = bench.session(repo, place / "state", name=inside.name)
    assert told(await again.workspace.changes()) == [("deleted", "gone"), ("added", "new")]
    await again.workspace.apply()
    assert "gone" not in read(repo)
    assert read(repo)["new"] == (0o644, b"1\n")
    await again.discard()
    await inside.workspace.release()


async def test_what_the_user_may_not_read_goes_through_the_keeper(bench: Bench, repo: Path, place: Path) -> None:
    async with bench.session(repo, place / "state") as inside:
        await inside.run("mkdir closed; echo s > closed/secret; chmod 0 closed/secret closed; rm gone; rm -r tree")
        texts = {item.change.path: item.patch.added async for item in inside.workspace.diffs()}
        assert texts["closed/secret"] == 1
        await inside.workspace.apply()
        assert stat.S_IMODE((repo / "closed").stat().st_mode) == 0
        await inside.discard()
    assert os.listdir(place / "state") == []  # noqa: PTH208 - names only
    assert bench.engine.containers.list(f"fumehood.session={inside.name}") == []
    (repo / "closed").chmod(0o700)


async def test_repository_of_another_user(bench: Bench, repo: Path, place: Path) -> None:
    """As root: a user's repository. As a user: root's."""
    other = 0 if os.geteuid() else 65_432
    helper = bench.session(repo, place / "helper")
    keeper = helper.workspace._keeper
    keeper._layers = place
    for top, directories, files in os.walk(repo):
        for name in (*directories, *files):
            os.chown(Path(top) / name, other, other, follow_symlinks=False) if os.geteuid() == 0 else keeper.request(
                "chown", path=keeper.place(Path(top) / name), uid=other, gid=other
            )
    os.chown(repo, other, other) if os.geteuid() == 0 else keeper.request(
        "chown", path=keeper.place(repo), uid=other, gid=other
    )
    try:
        async with bench.session(repo, place / "state") as inside:
            out = await inside.run(
                "id -u; echo more >> file; umask 077; echo p > private; rm gone; stat -c %u . private ~/.gitconfig"
            )
            assert out.split() == [str(other)] * 4
            found = {item.change.path: item async for item in inside.workspace.diffs()}
            assert found["private"].patch.added == 1
            if os.geteuid() == 0:
                await inside.workspace.apply()
                assert {path.stat().st_uid for path in (repo / "file", repo / "private")} == {other}
            else:
                with pytest.raises(WorkspaceError, match="cannot be written on the host"):
                    await inside.workspace.apply()
            await inside.discard()
        assert os.listdir(place / "state") == []  # noqa: PTH208 - names only
    finally:
        if os.geteuid():
            for path in (repo,):
                keeper.request("remove", path=keeper.place(path))
        keeper.close()


@RUNGS
async def test_host_edits_are_found_as_drift_and_never_overwritten(
    bench: Bench, repo: Path, place: Path, rung: Rung
) -> None:
    async with bench.session(repo, place / "state", rung=rung) as inside:
        workspace = inside.workspace
        await inside.run("echo box >> file; echo box >> dir/a; rm dir/b; echo box > new")
        assert await workspace.capture() == 3
        for name in ("file", "dir/b", "untouched", "new"):
            (repo / name).write_text("host\n")
        (repo / "gone").unlink()
        git(repo, "commit", "-q", "--allow-empty", "-m", "two")
        drift = await workspace.drift()
        assert [(d.path, d.kind) for d in drift.paths] == [
            ("dir/b", "changed"),
            ("file", "changed"),
            ("gone", "deleted"),
            ("new", "added"),
            ("untouched", "added"),
        ]
        assert drift.heads == {inside.root.name: (inside.root.head, git(repo, "rev-parse", "HEAD").strip())}
        found = {change.path: change for change in await workspace.changes()}
        assert {path: (c.kind, c.base) for path, c in found.items() if not c.in_git} == {
            "dir/a": (Kind.MODIFIED, Base.HOST),
            "dir/b": (Kind.DELETED, Base.STORED),
            "file": (Kind.MODIFIED, Base.STORED),
            "new": (Kind.MODIFIED, Base.ABSENT),
        }
        shown = {item.change.path: item.patch.text async for item in workspace.diffs()}
        assert b" three\n+box\n" in shown["file"]
        assert b"new file mode" in shown["new"]
        with pytest.raises(ApplyConflictError) as raised:
            await workspace.apply()
        assert [remark.path for remark in raised.value.conflicts] == ["dir/b", "file", "new"]
        assert (await workspace.apply(dry=True)).conflicts == raised.value.conflicts
        await workspace.apply(Selection(paths=((inside.root.name, "dir/a"),)))
        assert (repo / "dir/a").read_text() == "a\nbox\n"
        assert (repo / "file").read_text() == (repo / "new").read_text() == "host\n"
        await inside.discard()


async def test_two_sessions_on_one_repository_are_both_applied(bench: Bench, repo: Path, place: Path) -> None:
    async with bench.session(repo, place / "one") as one, bench.session(repo, place / "two") as two:
        await one.run("echo 1 > one; echo 1 >> file")
        await two.run("echo 2 > two; echo 2 >> file")
        await one.workspace.capture()
        await two.workspace.capture()
        await one.workspace.apply()
        with pytest.raises(ApplyConflictError):
            await two.workspace.apply()
        await two.workspace.apply(Selection(paths=((two.root.name, "two"),)))
        assert read(repo)["file"] == (0o644, b"one\ntwo\nthree\n1\n")
        assert {"one", "two"} <= set(read(repo))
        await one.discard()
        await two.discard()


async def test_disk_budget_is_noticed_while_a_command_writes(bench: Bench, repo: Path, place: Path) -> None:
    full: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def on_full(sentence: str) -> None:
        full.set_result(sentence)

    async with bench.session(repo, place / "state") as inside:
        watch = asyncio.create_task(DiskWatch(place / "state", Limits(disk=200 << 20, disk_floor=0), on_full).run())
        writer = asyncio.create_task(inside.run_any("dd if=/dev/zero of=/tmp/fill bs=1M count=600 2>&1; sleep 30"))
        async with asyncio.timeout(30):
            assert "disk budget of 200 MiB" in await full
        await watch
        assert await inside.workspace.usage() > 200 << 20
        writer.cancel()
        await asyncio.gather(writer, return_exceptions=True)
        await inside.discard()


async def test_box_that_was_stopped_says_why_to_every_call(bench: Bench, repo: Path, place: Path) -> None:
    async with bench.session(repo, place / "state") as inside:
        box = inside.box
        assert box is not None
        running = asyncio.create_task(inside.run_any("sleep 60"))
        await asyncio.sleep(0.5)
        await box.stop(DiskFullError("the session's disk budget is used up"))
        for call in (running, asyncio.create_task(inside.run_any("true"))):
            with pytest.raises(DiskFullError, match="used up"):
                await call
        await inside.discard()
