from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.engine import connect
from sandbox.errors import EngineMissingError
from sandbox.ssh import command
from tests.support.engines import answering
from tests.support.ssh import pretend_ssh

ANSWER = b"HTTP/1.1 200 OK\r\nApi-Version: 1.41\r\nContent-Length: 2\r\n\r\nOK"


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "s"
    with answering(path, ANSWER):
        yield path


def test_an_engine_is_reached_through_the_users_ssh(engine: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    environ = pretend_ssh(tmp_path, engine) | {
        "DOCKER_HOST": "ssh://me@far:2222",
        "XDG_RUNTIME_DIR": str(tmp_path / "run"),
    }
    connected = connect(environ)
    assert (connected.kind, connected.api, connected.on_this_machine) == ("docker", "1.41", False)
    connected.close()
    (line,) = (tmp_path / "seen").read_text().splitlines()
    assert line.startswith("-o ControlMaster=auto")
    assert line.endswith("-p 2222 -l me -- far docker system dial-stdio")
    assert list((tmp_path / "run").iterdir()) == []


def test_what_ssh_says_is_the_reason(engine: Path, tmp_path: Path) -> None:
    environ = pretend_ssh(tmp_path, engine) | {"DOCKER_HOST": "ssh://refused"}
    with pytest.raises(EngineMissingError, match="port 22: Connection refused") as caught:
        connect(environ)
    assert "without a question" in caught.value.hint


def test_without_ssh_it_is_said(tmp_path: Path) -> None:
    with pytest.raises(EngineMissingError, match="ssh cannot be run"):
        connect({"DOCKER_HOST": "ssh://far", "PATH": str(tmp_path)})


@pytest.mark.parametrize("endpoint", ["ssh://", "ssh://-oProxyCommand=x", "ssh://-x@far", "ssh://a:b@far", "ssh://h:x"])
def test_what_names_no_host_is_refused(endpoint: str) -> None:
    with pytest.raises(EngineMissingError, match="names no host"):
        command(endpoint)


def test_a_socket_there_is_named_in_one_word() -> None:
    found = command("ssh://far/run/my podman.sock;x")
    assert found[-5:] == ["docker", "--host", "'unix:///run/my podman.sock;x'", "system", "dial-stdio"]
