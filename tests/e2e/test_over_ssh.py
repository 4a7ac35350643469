"""The main job over `DOCKER_HOST=ssh://…`, through a real sshd: the engine's machine has none of our files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.engine import Engine
from tests.e2e.conftest import Bench, bash, tree_digest
from tests.support.sshd import Server, serve_ssh

pytestmark = [pytest.mark.box, pytest.mark.network, pytest.mark.program("sshd"), pytest.mark.timeout(300)]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    place = tmp_path / "ssh"
    place.mkdir()
    with serve_ssh(place) as server:
        yield server


def test_run_diff_undo_fork_and_apply_over_ssh(repository: Bench, engine: Engine, fix: str, server: Server) -> None:
    socket = engine.endpoint.removeprefix("unix://")
    repository.environ |= {"DOCKER_HOST": f"ssh://127.0.0.1:{server.port}{socket}", "PATH": server.path}
    before = tree_digest(repository.place)

    done = repository.run("-p", "--model", fix, "mend it")
    assert done.stdout == "Mended.\n"
    assert tree_digest(repository.place) == before
    more = repository.script({"tools": [bash("echo 1 > one; mkdir -p deep/er; ln -s ../one deep/link")]}, {"text": "did"})
    repository.run("-p", "--continue", "--model", more, "one more")
    assert "one" in repository.run("diff", "--stat").stdout
    repository.run("undo")
    assert repository.run("shell", "-c", "cat calc.py; ls one").stdout == "def add(a, b):\n    return a + b\n"
    repository.run("redo")
    (fork,) = json.loads(repository.run("fork", "--json").stdout)["forks"]
    assert repository.run("shell", fork, "-c", "cat one; python3 -B check.py").stdout == "1\nall is well\n"
    assert tree_digest(repository.place) == before

    repository.run("apply", fork)
    assert (repository.place / "one").read_text() == "1\n"
    assert "a + b" in (repository.place / "calc.py").read_text()
    assert "Accepted publickey" in server.log.read_text()
