"""What policy hides is not in a real box, whichever way a program looks for it; what it keeps cannot be changed."""

from __future__ import annotations

import asyncio
import os
import subprocess
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import yaml

from runner import new_spec, run
from runner.events import BoxEnded, BoxStarted, ToolFinished
from runner.loop.session import Session
from sandbox.masks import Masks
from sandbox.pool import Pool
from sandbox.selection import Selection
from sandbox.spec import Rung
from tests.support.masking import masks
from tests.support.sessions import Bench, Inside

pytestmark = [pytest.mark.box, pytest.mark.timeout(180)]
RUNGS = pytest.mark.parametrize("rung", [Rung.OVERLAY, Rung.COPY])
SEEN = PurePosixPath("/workspace/repo")
SECRET = "hunter2-of-the-test"
URL = f"https://user:{SECRET}@example.org/x.git"
# Everything that a program of the box's could read the secret in, beneath the root and in /proc.
SEEK = f"""
set +e
grep -rIl {SECRET} . 2>/dev/null
find . -type f -exec cat {{}} + 2>/dev/null | grep -c {SECRET}
cat /proc/self/mountinfo /proc/1/environ 2>/dev/null | grep -c {SECRET}
true
"""


@pytest.fixture
def repo(place: Path) -> Path:
    top = place / "repo"
    (top / "deep" / "down").mkdir(parents=True)
    (top / "keys").mkdir()
    (top / "src").mkdir()
    for name in (".env", "deep/down/.env.local", "keys/a.pem", "keys/b.pem"):
        (top / name).write_text(f"TOKEN={SECRET}\n")
    (top / "deep" / "down" / "seen").write_text("seen\n")
    (top / "src" / "main").write_text("main\n")
    (top / "LICENSE").write_text("as it is\n")
    (top / "to-env").symlink_to(".env")
    git(top, "init", "-q")
    git(top, "remote", "add", "origin", URL)
    return top


def git(where: Path, *words: str) -> None:
    subprocess.run(["git", "-C", str(where), *words], check=True, env={**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null"})


def secrets() -> Masks:
    return masks(SEEN, ".env*", "keys/**", keep=("src/**", "LICENSE"), logins=True)


async def restart(inside: Inside) -> None:
    await inside._start(await inside.workspace.prepare())


async def sought(inside: Inside) -> list[str]:
    return (await inside.run(SEEK)).split()


@RUNGS
async def test_what_is_hidden_is_nowhere_in_the_box(bench: Bench, repo: Path, place: Path, rung: Rung) -> None:
    async with bench.session(repo, place / "state", rung=rung, masks=secrets()) as inside:
        assert inside.workspace.rungs == {str(SEEN): rung.value}
        assert await sought(inside) == ["0", "0"]
        assert await inside.run("set +e; cat deep/down/seen; ls -A keys; cat to-env .env 2>&1; true") == (
            "seen\ncat: to-env: Permission denied\ncat: .env: Permission denied\n"
        )
        assert await inside.run("git remote get-url origin") == "https://example.org/x.git\n"
        assert await inside.workspace.changes() == ()
        await inside.discard()


@RUNGS
async def test_nothing_that_a_command_does_brings_it_back(bench: Bench, repo: Path, place: Path, rung: Rung) -> None:
    attempts = """
    set +e
    chmod 644 .env keys; mv deep moved; ln .env hard; ln -s .env soft; cp -a . /tmp/copy
    rm -rf .env keys; mkdir -p keys; git stash; git checkout -- . ; cat hard soft moved/down/.env.local
    unshare -rm sh -c 'umount -a; cat .env'; cat /proc/1/root/$PWD/.env; cat /proc/*/cwd/.env
    python3 -c 'import os; print(open(".env").read())'
    """
    async with bench.session(repo, place / "state", rung=rung, masks=secrets()) as inside:
        out = await inside.run(f"({attempts}) 2>&1 || true")
        assert SECRET not in out
        assert await sought(inside) == ["0", "0"]
        assert (await inside.run(f"grep -rl {SECRET} /tmp /home 2>/dev/null || true")) == ""
        await inside.discard()
    assert (repo / ".env").read_text() == f"TOKEN={SECRET}\n"


@RUNGS
async def test_what_must_not_change_is_read_only(bench: Bench, repo: Path, place: Path, rung: Rung) -> None:
    attempts = """
    set +e
    echo x >> src/main; echo x > src/new; rm -f src/main LICENSE; mv src elsewhere; chmod 777 LICENSE
    python3 -c 'open("LICENSE", "w")'; cp -f .gitignore LICENSE; sed -i s/as/AS/ LICENSE
    """
    async with bench.session(repo, place / "state", rung=rung, masks=secrets()) as inside:
        await inside.run(f"({attempts}) 2>&1 || true")
        assert await inside.run("cat src/main LICENSE; ls src") == "main\nas it is\nmain\n"
        assert [change.path for change in await inside.workspace.changes()] == []
        await inside.discard()


@RUNGS
async def test_what_a_box_writes_there_is_in_no_diff_no_apply_and_no_checkpoint(
    bench: Bench, repo: Path, place: Path, rung: Rung
) -> None:
    async with bench.session(repo, place / "state", rung=rung, masks=secrets()) as inside:
        await inside.run(
            "rm -f .env; echo made-in-the-box > .env; echo made-in-the-box > sub.env; mkdir k; echo new > k/n"
        )
        await inside.run("rm -rf deep; echo made-in-the-box > .env.new")
        point = await inside.workspace.checkpoint("one")
        assert point is not None
        kept = inside.workspace.checkpoints.state(point.id)["repo"]
        assert {path for path in kept if ".env" in path} <= {"sub.env"}
        text = b"".join([piece async for piece in inside.workspace.diff()]).decode()
        assert "k/n" in text
        assert "+++ b/.env" not in text
        assert [c.path for c in await inside.workspace.changes()] == ["deep/down/seen", "k", "k/n", "sub.env"]
        await inside.workspace.capture()
        await inside.workspace.apply(Selection())
        await inside.discard()
    assert (repo / ".env").read_text() == f"TOKEN={SECRET}\n"
    assert not (repo / ".env.new").exists()
    assert (repo / "deep" / "down" / ".env.local").read_text() == f"TOKEN={SECRET}\n"
    assert not (repo / "deep" / "down" / "seen").exists()
    assert (repo / "k" / "n").read_text() == "new\n"


async def test_no_file_of_the_store_holds_what_is_hidden(bench: Bench, repo: Path, place: Path) -> None:
    async with bench.session(repo, place / "state", masks=secrets()) as inside:
        await inside.run(
            "rm -rf deep keys .env; echo x > .env; git config a.b c; seq 1000 | while read n; do : > f$n; done"
        )
        assert await inside.workspace.checkpoint("one") is not None
        await inside.workspace.capture()
        await inside.end()
        assert [str(path) for path in files(place / "state") if SECRET.encode() in path.read_bytes()] == []
        await inside.discard()


@RUNGS
async def test_going_back_starting_again_and_forks_keep_the_mask(
    bench: Bench, repo: Path, place: Path, rung: Rung
) -> None:
    pool, name = Pool(place / "pool"), "0b5e55ed-0000-4000-8000-000000000001"
    async with bench.session(repo, place / "state", rung=rung, masks=secrets(), name=name, pool=pool) as inside:
        first = await inside.workspace.checkpoint("first")
        await inside.run("echo a > a; seq 700 | while read n; do : > f$n; done")
        second = await inside.workspace.checkpoint("second")
        assert second is not None
        if first is not None and await inside.workspace.restore(first.id) is None:
            await inside.end()
            await inside.workspace.restore(first.id)
            await restart(inside)
        assert await sought(inside) == ["0", "0"]
        (place / "fork").mkdir()
        await inside.workspace.fork(second.id, [("0b5e55ed-0000-4000-8000-000000000002", place / "fork")])
    async with bench.session(repo, place / "state", rung=rung, name=name, pool=pool) as resumed:
        assert await sought(resumed) == ["0", "0"]
    fork = "0b5e55ed-0000-4000-8000-000000000002"
    async with bench.session(repo, place / "fork", rung=rung, name=fork, masks=secrets(), pool=pool) as forked:
        assert await sought(forked) == ["0", "0"]
        assert await forked.run("ls f700") == "f700\n"
        await forked.discard()
    await resumed.discard()


@RUNGS
async def test_a_rule_that_is_new_hides_what_the_session_had_copied_before(
    bench: Bench, repo: Path, place: Path, rung: Rung
) -> None:
    pool, name = Pool(place / "pool"), "0b5e55ed-0000-4000-8000-000000000003"
    async with bench.session(repo, place / "state", rung=rung, name=name, pool=pool) as inside:
        await inside.run("echo >> .env; echo >> keys/a.pem; git config a.b c; seq 700 | while read n; do : > f$n; done")
        before = await inside.workspace.checkpoint("before")
        await inside.run("echo >> deep/down/.env.local")
        assert before is not None
    async with bench.session(repo, place / "state", rung=rung, name=name, masks=secrets(), pool=pool) as again:
        assert await sought(again) == ["0", "0"]
        assert await again.run("git config a.b") == "c\n"
        assert not [c.path for c in await again.workspace.changes() if ".env" in c.path or "keys" in c.path]
        await again.workspace.checkpoint("after")
        if await again.workspace.restore(before.id) is None:
            await again.end()
            await again.workspace.restore(before.id)
            await restart(again)
        assert await sought(again) == ["0", "0"]
        await again.discard()


async def test_what_appears_on_the_host_is_told_and_hidden_from_the_next_box_on(
    bench: Bench, repo: Path, place: Path
) -> None:
    async with bench.session(repo, place / "state", masks=secrets()) as inside:
        assert (await inside.workspace.drift()).unmasked == ()
        (repo / "later").mkdir()
        (repo / "later" / ".env").write_text(SECRET)
        (repo / "src" / "other").write_text("below what is kept already\n")
        await asyncio.to_thread(git, repo, "remote", "add", "second", URL)
        drift = await inside.workspace.drift()
        assert sorted(drift.unmasked) == [f"{repo}/.git/config", f"{repo}/later/.env"]
        assert ".env" not in str(drift.paths)
        await inside.end()
        await restart(inside)
        assert await sought(inside) == ["0", "0"]
        assert (await inside.workspace.drift()).unmasked == ()
        await inside.discard()


async def test_what_the_session_changed_before_a_rule_came_keeps_its_change_and_the_rest_is_read_only(
    bench: Bench, repo: Path, place: Path
) -> None:
    name = "0b5e55ed-0000-4000-8000-000000000004"
    (repo / "src" / "other").write_text("other\n")
    (repo / "src" / "link").symlink_to("main")
    async with bench.session(repo, place / "state", name=name) as inside:
        await inside.run("echo mine > src/main")
    async with bench.session(repo, place / "state", name=name, masks=secrets()) as inside:
        await inside.run("(set +e; echo x > src/other; rm src/other; echo x > LICENSE) 2>&1 || true")
        assert await inside.run("cat src/main src/other LICENSE") == "mine\nother\nas it is\n"
        assert (await inside.workspace.drift()).unmasked == ()
        await inside.discard()


async def test_every_name_of_a_hidden_file_is_hidden(bench: Bench, repo: Path, place: Path) -> None:
    (repo / "plain-name").hardlink_to(repo / ".env")
    (repo / "real").write_text(SECRET)
    (repo / ".env.linked").symlink_to("real")
    async with bench.session(repo, place / "state", masks=secrets()) as inside:
        assert await sought(inside) == ["0", "0"]
        assert await inside.run("set +e; cat plain-name real 2>&1; true") == (
            "cat: plain-name: Permission denied\ncat: real: Permission denied\n"
        )
        await inside.discard()


async def test_a_kept_directory_shows_nothing_that_is_hidden_in_it(bench: Bench, repo: Path, place: Path) -> None:
    (repo / "src" / "sub").mkdir()
    (repo / "src" / "sub" / ".env").write_text(SECRET)
    (repo / "src" / "sub" / "fine").write_text("fine\n")
    async with bench.session(repo, place / "state", masks=secrets()) as inside:
        assert await sought(inside) == ["0", "0"]
        await inside.run("set +e; (echo x > src/sub/fine) 2>&1 || true")
        assert await inside.run("cat src/main src/sub/fine") == "main\nfine\n"
        await inside.discard()


def files(top: Path) -> list[Path]:
    """All that lies beneath and can be read: placeholders cannot."""
    return [path for path in top.rglob("*") if path.is_file() and not path.is_symlink() and os.access(path, os.R_OK)]


def bash(command: str) -> dict[str, Any]:
    return {"tools": [{"name": "Bash", "input": {"command": command}}]}


def tool(name: str, **sent: str) -> dict[str, Any]:
    return {"tools": [{"name": name, "input": sent}]}


def bodies(session: Session, kind: type[Any]) -> list[Any]:
    return [event.body for event in session.journal.read() if isinstance(event.body, kind)]


def environment(place: Path, settings: str) -> dict[str, str]:
    """A user's, with settings of theirs."""
    (place / "home" / ".config" / "fumehood").mkdir(parents=True)
    (place / "home" / ".config" / "fumehood" / "settings.yaml").write_text(settings)
    names = {"XDG_CONFIG_HOME": "", "FUMEHOOD_HOME": str(place / "state"), "HOME": str(place / "home")}
    return {**os.environ, **names}


SETTINGS = """
hidden: [".env*", .git/config]
permissions: {deny: ["Edit(LICENSE)", "Read(keys/**)"]}
"""
# Opens the file without naming it: no reading of the words sees that.
UNNAMED = "python3 -c 'print(open(chr(46) + \"en\" + chr(118)).read())'; cat k*s/a.p*m; cat .e*v"


async def test_a_session_hides_what_settings_say_from_tools_programs_and_prompts(repo: Path, place: Path) -> None:
    environ = environment(place, SETTINGS)
    (repo / "CLAUDE.md").write_text("Be kind.\n@.env\n@keys/a.pem\n")
    script = place / "script.yaml"
    replies = [
        tool("Read", file_path=str(SEEN / ".env")),
        tool("Read", file_path=str(SEEN / "to-env")),
        tool("Write", file_path=str(SEEN / "deep" / ".env"), content="x"),
        bash("cat .env"),
        bash(f"{{ {UNNAMED}; }} 2>&1; ls"),
        tool("Grep", pattern=SECRET[:-1] + ".", output_mode="content"),
        bash('python3 -c \'open("LICEN" + "SE", "a")\' 2>&1'),
        {"text": "ok"},
    ]
    script.write_text(yaml.safe_dump(replies))
    async with run(new_spec(repo, environ=environ, model=f"scripted:{script}"), environ=environ) as session:
        async for _ in session.turn("go"):
            pass
        read, link, write, cat, program, grep, keep = bodies(session, ToolFinished)
        for refused in (read, link, write, cat):
            assert "hidden by policy: hidden(.env*)" in refused.content
        assert "Permission denied" in program.content
        assert "LICENSE" in program.content
        assert grep.content == "No matches found"
        assert "Read-only file system" in keep.content
        journal = b"".join(path.read_bytes() for path in files(place / "state"))
        assert SECRET.encode() not in journal
        assert b"Be kind." in journal


async def test_what_the_host_adds_is_refused_by_tools_at_once_and_hidden_from_the_next_turn_on(
    repo: Path, place: Path
) -> None:
    environ = environment(place, SETTINGS)
    script = place / "script.yaml"
    look = "cat new/.e*v; echo done"
    named = tool("Read", file_path=str(SEEN / "new" / ".env"))
    script.write_text(yaml.safe_dump([bash("ls"), {"text": "ok"}, named, bash(look), {"text": "ok"}]))
    async with run(new_spec(repo, environ=environ, model=f"scripted:{script}"), environ=environ) as session:
        async for _ in session.turn("go"):
            pass
        (repo / "new").mkdir()
        (repo / "new" / ".env").write_text(SECRET)
        async for _ in session.turn("go on"):
            pass
        _, refused, looked = bodies(session, ToolFinished)
        assert "hidden by policy" in refused.content
        assert looked.content == "cat: new/.env: Permission denied\ndone"
        assert [body.reason for body in bodies(session, BoxEnded)] == ["masked"]
        assert len(bodies(session, BoxStarted)) == 2


async def test_a_session_that_falls_to_a_whole_copy_keeps_the_mask(bench: Bench, repo: Path, place: Path) -> None:
    inside = bench.session(repo, place / "state", masks=secrets())
    await inside.workspace.prepare()
    mounts = await inside.workspace.fall()
    await inside._start(mounts)
    assert inside.workspace.rungs == {str(SEEN): "copy"}
    assert await sought(inside) == ["0", "0"]
    assert await inside.workspace.changes() == ()
    await inside.discard()


async def test_what_comes_before_the_roots_are_surveyed_is_masked_too(bench: Bench, repo: Path, place: Path) -> None:
    inside = bench.session(repo, place / "state", masks=secrets())
    await inside.workspace.prepare()
    (repo / "new").mkdir()
    (repo / "new" / ".env").write_text(SECRET)
    await inside.workspace.start_manifest()
    drift = await inside.workspace.drift()
    assert drift.unmasked == (f"{repo}/new/.env",)
    assert drift.paths == ()
    await inside.workspace.prepare()
    assert (await inside.workspace.drift()).unmasked == ()
    await inside.workspace.discard()
