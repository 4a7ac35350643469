"""The main job over `DOCKER_HOST=ssh://…`, through a real sshd: the engine there is taken to see none of our files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.engine import Engine
from tests.e2e.conftest import Bench, bash, tree_digest
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


def test_the_main_job_over_ssh(repository: Bench, engine: Engine, fix: str, server: Server) -> None:
    """What cannot be done there yet is refused, and costs nothing of what was done."""
    socket = engine.endpoint.removeprefix("unix://")
    repository.environ |= {"DOCKER_HOST": f"ssh://127.0.0.1:{server.port}{socket}", "PATH": server.path}
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

    repository.run("apply")
    assert (repository.place / "deep/link").read_text() == "1\n"
    assert "a + b" in (repository.place / "calc.py").read_text()
    assert "Accepted publickey" in server.log.read_text()
    session = repository.sessions()[0]["session"]
    repository.run("discard", "--yes")
    assert engine.volumes.list(f"fumehood.session={session}") == []
