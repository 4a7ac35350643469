"""The main job and going back in it over `DOCKER_HOST=ssh://…`, through a real sshd: the engine there is taken to see
none of our files, and what policy hides never gets there.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from sandbox.engine import Engine
from tests.e2e.conftest import Bench, bash, tree_digest
from tests.support.policies import put
from tests.support.relay import Relay, TcpRelay
from tests.support.sshd import Server, serve_ssh
from tests.support.torture import bodies, left_over, stopped

pytestmark = [
    pytest.mark.box,
    pytest.mark.network,
    pytest.mark.program("sshd"),
    pytest.mark.program("docker"),  # what the other end of ssh runs
    pytest.mark.timeout(900),
]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    place = tmp_path / "ssh"
    place.mkdir()
    with serve_ssh(place) as server:
        yield server


HIDDEN, PLAIN = b"hunter2-of-the-hidden-files", b"everybody-may-see-this"


@pytest.fixture
def relay(repository: Bench, engine: Engine, server: Server, tmp_path: Path) -> Iterator[Relay]:
    """Hears all that goes to the other machine's engine."""
    with Relay(tmp_path / "engine.sock", engine.endpoint, seeks=(HIDDEN, PLAIN)) as relay:
        repository.environ |= {"DOCKER_HOST": f"ssh://127.0.0.1:{server.port}{relay.path}", "PATH": server.path}
        yield relay


def with_secrets(top: Path) -> None:
    """Files that settings hide, each with the same secret, and one that they do not."""
    put(top / "fumehood.yaml", {"hidden": [".env*", ".git/config"], "permissions": {"deny": ["Read(./keys/**)"]}})
    (top / "keys").mkdir()
    for name in (".env", ".env.local", "keys/id"):
        (top / name).write_text(HIDDEN.decode())
    (top / "linked").hardlink_to(top / ".env")
    (top / "plain").write_text(PLAIN.decode())
    url = f"https://user:{HIDDEN.decode()}@example.org/x.git"
    subprocess.run(["git", "-C", top, "remote", "add", "origin", url], check=True)


def test_the_main_job_over_ssh(repository: Bench, engine: Engine, fix: str, server: Server, relay: Relay) -> None:
    with_secrets(repository.place)
    before = tree_digest(repository.place)

    assert repository.run("-p", "--model", fix, "mend it").stdout == "Mended.\n"
    more = repository.script({"tools": [bash("echo 1 > one; mkdir deep; ln -s ../one deep/link")]}, {"text": "did"})
    repository.run("-p", "--continue", "--model", more, "one more")
    repository.run("undo")
    repository.run("redo")
    repository.run("clean")
    diff = repository.run("diff", "--stat").stdout
    assert ("calc.py" in diff, "one" in diff, "deep/link" in diff) == (True, True, True)
    assert repository.run("shell", "-c", "cat deep/link; python3 -B check.py").stdout == "1\nall is well\n"
    assert tree_digest(repository.place) == before
    seek = "cat plain; ls -A keys; git remote get-url origin; cat .env .env.local linked 2>&1 | grep -c denied"
    shown = repository.run("shell", "-c", seek).stdout
    assert shown == f"{PLAIN.decode()}https://example.org/x.git\n3\n"
    assert relay.sought == {PLAIN}

    repository.run("apply")
    assert (repository.place / ".env").read_text() == (repository.place / "linked").read_text() == HIDDEN.decode()
    assert (repository.place / "deep/link").read_text() == "1\n"
    assert "a + b" in (repository.place / "calc.py").read_text()
    assert "Accepted publickey" in server.log.read_text()
    session = repository.sessions()[0]["session"]
    repository.run("discard", "--yes")
    assert engine.volumes.list(f"fumehood.session={session}") == []


COMMIT = "git -c user.name=a -c user.email=a@b commit -q --allow-empty -m"
FIRST = f"echo 1 > one; chmod 4711 one; ln one twin; echo home > ~/note; echo t > /tmp/t; {COMMIT} first"
SECOND = f"rm one; echo 2 > two; echo changed > ~/note; rm /tmp/t calc.py; {COMMIT} second"
LOOK = "cat one; stat -c '%a %h' one; cat ~/note /tmp/t; git log --format=%s -1; test ! -e two && ls calc.py"
SEEN = "1\n4711 2\nhome\nt\nfirst\ncalc.py\n"


def held(engine: Engine, session: str) -> list[str]:
    return sorted(volume.name for volume in engine.volumes.list(f"fumehood.session={session}"))


def two_turns(bench: Bench) -> str:
    """A session of them; its name."""
    for number, (work, said) in enumerate(((FIRST, "did one"), (SECOND, "did two"))):
        model = bench.script({"tools": [bash(work)]}, {"text": said})
        bench.run("-p", *(["--continue"] if number else []), "--model", model, f"thing {number + 1}")
    (session,) = (row["session"] for row in bench.sessions())
    return str(session)


LONG = (pytest.mark.slow, pytest.mark.torture)  # each command over ssh takes seconds


@pytest.fixture
def near(repository: Bench, engine: Engine) -> Iterator[Bench]:
    """By TCP, which is quicker."""
    with TcpRelay(engine.endpoint) as relay:
        repository.environ |= {"DOCKER_HOST": relay.host}
        yield repository


@pytest.mark.parametrize("way", ["near", pytest.param("relay", marks=LONG)])
def test_undo_redo_rewind_and_fork_elsewhere(
    repository: Bench, engine: Engine, way: str, request: pytest.FixtureRequest
) -> None:
    request.getfixturevalue(way)
    before = tree_digest(repository.place)
    session = two_turns(repository)
    assert "files and conversation taken back" in repository.run("undo").stdout
    assert repository.run("shell", "-c", LOOK).stdout == SEEN

    third = repository.script(
        {"expect": "took back the last 1 turns", "tools": [bash("cat ~/note > three; echo more >> one")]},
        {"text": "did"},
    )
    repository.run("-p", "--continue", "--model", third, "thing 3")
    repository.run("undo")
    report = json.loads(repository.run("redo", "--json").stdout)
    assert (report["what"], report["box"]) == ("both", "kept")
    assert repository.run("shell", "-c", "cat three one").stdout == "home\n1\nmore\n"
    points = {
        row["turn"]: row["checkpoint"]
        for row in json.loads(repository.run("checkpoints", "--json").stdout)["checkpoints"]
    }

    (fork,) = json.loads(repository.run("fork", session, points[1], "--json").stdout)["forks"]
    assert repository.run("shell", fork, "-c", LOOK).stdout == SEEN
    assert len(held(engine, fork)) == len(held(engine, session)) == 4
    assert repository.run("shell", session, "-c", "cat three").stdout == "home\n"
    assert "three" not in repository.run("diff", fork, "--stat").stdout
    repository.run("discard", fork, "--yes")
    assert held(engine, fork) == []

    repository.run("rewind", points[1], "--files")
    assert repository.run("shell", "-c", LOOK).stdout == SEEN
    assert tree_digest(repository.place) == before
    repository.run("apply")
    assert ((repository.place / "one").read_text(), (repository.place / "calc.py").exists()) == ("1\n", True)
    assert not (repository.place / "two").exists()
    assert "all is well" in repository.run("fsck").stdout
    repository.run("discard", "--yes")
    assert held(engine, session) == []


@pytest.mark.slow
@pytest.mark.torture
def test_an_undo_over_ssh_that_is_killed_is_done_or_not_done(repository: Bench, engine: Engine, relay: Relay) -> None:
    killed(repository, engine, (0.9,))


@pytest.mark.parametrize(
    "parts",
    [(0.5, 0.95), pytest.param([n / 40 for n in range(1, 41)], marks=LONG)],
)
def test_an_undo_elsewhere_that_is_killed_is_done_or_not_done(
    near: Bench, engine: Engine, parts: Sequence[float]
) -> None:
    killed(near, engine, parts)


def killed(bench: Bench, engine: Engine, parts: Sequence[float]) -> None:
    """Undo, killed after these parts of what it does."""
    session = two_turns(bench)
    whole = bench.run("diff").stdout
    count = stopped(bench, "undo", at=0).count
    undone = bench.run("diff").stdout
    assert whole != undone
    bench.run("redo")
    outcomes = set()
    for part in parts:
        end = stopped(bench, "undo", at=int(count * part))
        what = f"killed at {part} of {count}: {end.hit}; exit {end.code}; {end.err}"
        bench.run("rewind", "1", "--dry-run")
        now = bench.run("diff").stdout
        assert now in (whole, undone), what
        outcomes.add(now)
        kinds = [body["kind"] for body in bodies(bench, session, "HeadMoved")]
        assert kinds[-1] == ("undo" if now == undone else "redo"), what
        assert left_over(bench, session) == [], what
        assert bench.run("fsck", check=None).returncode == 0, what
        bench.run("gc")
        assert len(held(engine, session)) == 4, what
        if now == undone:
            bench.run("redo")
    assert len(parts) < 10 or outcomes == {whole, undone}
    assert bench.run("diff").stdout == whole
    bench.run("undo")
    assert bench.run("shell", "-c", LOOK).stdout == SEEN
    bench.run("discard", "--yes")
    assert held(engine, session) == []


@pytest.mark.slow
def test_a_fork_elsewhere_that_is_killed_is_there_whole_or_leaves_nothing(near: Bench, engine: Engine) -> None:
    session = two_turns(near)
    told = near.run("diff", session).stdout
    count = stopped(near, "fork", session, at=0).count
    for part in (0.5, 0.9):
        for row in near.sessions():
            if row["session"] != session:
                near.run("discard", row["session"], "--yes")
        end = stopped(near, "fork", session, at=int(count * part))
        what = f"killed at {part} of {count}: {end.hit}; exit {end.code}; {end.err}"
        near.run("gc")
        near.run("clean")
        sessions = [row["session"] for row in near.sessions()]
        assert all(near.run("diff", each).stdout == told for each in sessions), what
        volumes = [v for v in engine.volumes.list("fumehood.layer") if near.environ["FUMEHOOD_HOME"] in str(v.labels)]
        assert {v.labels["fumehood.session"] for v in volumes} == set(sessions), what
        assert len(volumes) == 4 * len(sessions), what
    for each in near.sessions():
        near.run("discard", each["session"], "--yes")
