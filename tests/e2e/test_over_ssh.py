"""The main job over `DOCKER_HOST=ssh://…`, through a real sshd: the engine there is taken to see none of our files, and
what policy hides never gets there.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.engine import Engine
from tests.e2e.conftest import Bench, bash, tree_digest
from tests.support.policies import put
from tests.support.relay import Relay
from tests.support.sshd import Server, serve_ssh

pytestmark = [
    pytest.mark.box,
    pytest.mark.network,
    pytest.mark.program("sshd"),
    pytest.mark.program("docker"),  # what the other end of ssh runs
    pytest.mark.timeout(300),
]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    place = tmp_path / "ssh"
    place.mkdir()
    with serve_ssh(place) as server:
        yield server


HIDDEN, SEEN = b"hunter2-of-the-hidden-files", b"everybody-may-see-this"


@pytest.fixture
def relay(repository: Bench, engine: Engine, server: Server, tmp_path: Path) -> Iterator[Relay]:
    """Hears all that goes to the other machine's engine."""
    with Relay(tmp_path / "engine.sock", engine.endpoint, seeks=(HIDDEN, SEEN)) as relay:
        repository.environ |= {"DOCKER_HOST": f"ssh://127.0.0.1:{server.port}{relay.path}", "PATH": server.path}
        yield relay


def with_secrets(top: Path) -> None:
    """Files that settings hide, each with the same secret, and one that they do not."""
    put(top / "fumehood.yaml", {"hidden": [".env*", ".git/config"], "permissions": {"deny": ["Read(./keys/**)"]}})
    (top / "keys").mkdir()
    for name in (".env", ".env.local", "keys/id"):
        (top / name).write_text(HIDDEN.decode())
    (top / "linked").hardlink_to(top / ".env")
    (top / "plain").write_text(SEEN.decode())
    url = f"https://user:{HIDDEN.decode()}@example.org/x.git"
    subprocess.run(["git", "-C", top, "remote", "add", "origin", url], check=True)


def test_the_main_job_over_ssh(repository: Bench, engine: Engine, fix: str, server: Server, relay: Relay) -> None:
    """What cannot be done there yet is refused, and costs nothing of what was done."""
    with_secrets(repository.place)
    before = tree_digest(repository.place)

    assert repository.run("-p", "--model", fix, "mend it").stdout == "Mended.\n"
    more = repository.script({"tools": [bash("echo 1 > one; mkdir deep; ln -s ../one deep/link")]}, {"text": "did"})
    repository.run("-p", "--continue", "--model", more, "one more")
    assert "another machine" in repository.run("undo", check=49).stderr
    assert "another machine" in repository.run("fork", check=49).stderr
    repository.run("clean")
    diff = repository.run("diff", "--stat").stdout
    assert ("calc.py" in diff, "one" in diff, "deep/link" in diff) == (True, True, True)
    assert repository.run("shell", "-c", "cat deep/link; python3 -B check.py").stdout == "1\nall is well\n"
    assert tree_digest(repository.place) == before
    seek = "cat plain; ls -A keys; git remote get-url origin; cat .env .env.local linked 2>&1 | grep -c denied"
    shown = repository.run("shell", "-c", seek).stdout
    assert shown == f"{SEEN.decode()}https://example.org/x.git\n3\n"
    assert relay.sought == {SEEN}

    repository.run("apply")
    assert (repository.place / ".env").read_text() == (repository.place / "linked").read_text() == HIDDEN.decode()
    assert (repository.place / "deep/link").read_text() == "1\n"
    assert "a + b" in (repository.place / "calc.py").read_text()
    assert "Accepted publickey" in server.log.read_text()
    session = repository.sessions()[0]["session"]
    repository.run("discard", "--yes")
    assert engine.volumes.list(f"fumehood.session={session}") == []
