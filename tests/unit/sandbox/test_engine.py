"""Finding an engine and speaking to it, against a small server that answers as engines do."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from sandbox.containers import ContainerSpec, owner_alive, owner_label
from sandbox.engine import ConflictError, Engine, NotFoundError, connect
from sandbox.errors import (
    EngineLostError,
    EngineMissingError,
    EnginePermissionError,
    EngineRefusedError,
    ImageMissingError,
)
from sandbox.spec import Mount

pytestmark = pytest.mark.user

PING = b"HTTP/1.1 200 OK\r\nApi-Version: 1.41\r\nServer: Docker/20.10\r\nContent-Length: 2\r\n\r\nOK"


def answer(status: int, body: object, *, headers: str = "") -> bytes:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return f"HTTP/1.1 {status} X\r\nContent-Length: {len(data)}\r\n{headers}\r\n".encode() + data


class FakeEngine:
    """Answers requests on a unix socket with what it was given, and remembers them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.asked: list[tuple[str, bytes]] = []
        self.answers: dict[str, bytes | Callable[[socket.socket], None]] = {"GET /_ping": PING}
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(8)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    @property
    def environ(self) -> dict[str, str]:
        return {"DOCKER_HOST": f"unix://{self.path}"}

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)

    def _serve(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            with sock:
                self._answer(sock)

    def _answer(self, sock: socket.socket) -> None:
        data = b""
        while b"\r\n\r\n" not in data:
            data += sock.recv(65536)
        head, _, body = data.partition(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        length = next((int(line.split(":")[1]) for line in lines if line.lower().startswith("content-length")), 0)
        while len(body) < length:
            body += sock.recv(65536)
        line = lines[0].rpartition(" ")[0]
        self.asked.append((line, body))
        found = next((a for start, a in self.answers.items() if line.startswith(start)), answer(404, {"message": "no"}))
        if callable(found):
            found(sock)
        else:
            sock.sendall(found)


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[FakeEngine]:
    engine = FakeEngine(tmp_path / "engine.sock")
    yield engine
    engine.close()


@pytest.fixture
def engine(fake: FakeEngine) -> Engine:
    return connect(fake.environ)


def test_docker_is_told_from_podman(fake: FakeEngine) -> None:
    assert connect(fake.environ).kind == "docker"
    fake.answers["GET /_ping"] = PING.replace(b"Server: Docker/20.10", b"Libpod-Api-Version: 4.3.1")
    assert connect(fake.environ).kind == "podman"


@pytest.mark.parametrize(("theirs", "ours"), [(b"1.41", "1.41"), (b"1.44", "1.44"), (b"1.52", "1.44")])
def test_the_version_spoken_is_one_that_both_know(fake: FakeEngine, theirs: bytes, ours: str) -> None:
    fake.answers["GET /_ping"] = PING.replace(b"1.41", theirs)
    assert connect(fake.environ).api == ours


def test_an_engine_that_is_too_old_is_refused(fake: FakeEngine) -> None:
    fake.answers["GET /_ping"] = PING.replace(b"1.41", b"1.24")
    with pytest.raises(EngineMissingError, match="too old"):
        connect(fake.environ)


def test_no_engine_is_said_with_a_hint(tmp_path: Path) -> None:
    with pytest.raises(EngineMissingError) as refused:
        connect({"DOCKER_HOST": f"unix://{tmp_path}/none.sock"})
    assert refused.value.hint
    with pytest.raises(EngineMissingError):
        connect({"DOCKER_HOST": "carrier-pigeon://coop"})


def test_an_engine_without_permission_is_told_from_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    with pytest.raises(EnginePermissionError) as refused:
        connect({"DOCKER_HOST": f"unix://{tmp_path}/engine.sock"})
    assert "group" in refused.value.hint


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, EngineRefusedError),
        (403, EnginePermissionError),
        (404, NotFoundError),
        (409, ConflictError),
        (500, EngineRefusedError),
    ],
)
def test_errors_are_translated(fake: FakeEngine, engine: Engine, status: int, kind: type[Exception]) -> None:
    fake.answers["POST /v1.41/containers/abc/start"] = answer(status, {"message": "the engine's words"})
    with pytest.raises(kind, match="the engine's words"):
        engine.containers.start("abc")


def test_what_is_gone_is_not_found_whatever_the_status(fake: FakeEngine, engine: Engine) -> None:
    message = "container abc does not exist in database: no such container"
    fake.answers["GET /v1.41/containers/abc/json"] = answer(500, {"message": message})
    with pytest.raises(NotFoundError):
        engine.containers.inspect("abc")


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{}",
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{x}",
    ],
)
def test_an_engine_that_dies_in_mid_answer_is_lost(fake: FakeEngine, engine: Engine, broken: bytes) -> None:
    fake.answers["GET /v1.41/containers/abc/json"] = broken
    with pytest.raises(EngineLostError):
        engine.containers.inspect("abc")


def test_chunked_answers_are_read(fake: FakeEngine, engine: Engine) -> None:
    text = json.dumps([{"Id": "x", "State": "running", "Names": ["/n"]}]).encode()
    pieces = [text[:5], text[5:6], text[6:]]
    body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
    fake.answers["GET /v1.41/containers/json"] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body
    assert [(found.id, found.name) for found in engine.containers.list("a=b")] == [("x", "n")]
    assert "label" in fake.asked[-1][0]


def test_an_image_that_is_not_there_is_its_own_error(fake: FakeEngine, engine: Engine) -> None:
    fake.answers["POST /v1.41/containers/create"] = answer(404, {"message": "No such image: nope:latest"})
    with pytest.raises(ImageMissingError):
        engine.containers.create(ContainerSpec(image="nope", command=("x",)))
    assert engine.images.find("nope") is None
    assert engine.images.find("NO PE\n") is None


def test_removing_what_is_gone_or_going_is_no_error(fake: FakeEngine, engine: Engine) -> None:
    engine.containers.remove("abc")
    replies = [answer(409, {"message": "removal of container abc is already in progress"}), answer(404, {})]
    fake.answers["DELETE /v1.41/containers/abc"] = lambda sock: sock.sendall(replies.pop(0))
    engine.containers.remove("abc")
    assert replies == []
    fake.answers["DELETE /v1.41/containers/abc"] = answer(409, {"message": "cannot remove a running container"})
    with pytest.raises(ConflictError):
        engine.containers.remove("abc")


def test_ids_are_not_paths(engine: Engine) -> None:
    for name in ("", "../images", "a/b", "a?force=1"):
        with pytest.raises(EngineRefusedError):
            engine.containers.start(name)


def test_a_containers_body_says_all_of_its_hardening() -> None:
    spec = ContainerSpec(
        image="i",
        command=("a", "b"),
        mounts=(
            Mount(volume="vol", at=PurePosixPath("/a, b:c")),
            Mount(volume="/host/x", at=PurePosixPath("/x"), read_only=True),
        ),
        capabilities=("KILL",),
        security_opt=("no-new-privileges",),
        ulimits={"core": 0},
        masked_paths=("/proc/kcore",),
        stdin=True,
        pids=5,
        memory=100,
        cpus=1.5,
    )
    body = spec.body()
    host = body["HostConfig"]
    assert (body["Entrypoint"], body["Cmd"], body["User"], body["Healthcheck"]) == (
        ["a"],
        ["b"],
        "0:0",
        {"Test": ["NONE"]},
    )
    assert (body["OpenStdin"], body["StdinOnce"], body["Tty"]) == (True, True, False)
    assert host["Mounts"] == [
        {"Source": "vol", "Target": "/a, b:c", "ReadOnly": False, "Type": "volume", "VolumeOptions": {"NoCopy": True}},
        {"Source": "/host/x", "Target": "/x", "ReadOnly": True, "Type": "bind"},
    ]
    assert (host["CapDrop"], host["CapAdd"], host["ReadonlyRootfs"], host["NetworkMode"]) == (
        ["ALL"],
        ["KILL"],
        True,
        "none",
    )
    assert (host["PidsLimit"], host["Memory"], host["MemorySwap"], host["NanoCpus"]) == (5, 100, 100, 1_500_000_000)
    assert host["LogConfig"] == {"Type": "none", "Config": {}}
    assert host["Ulimits"] == [{"Name": "core", "Soft": 0, "Hard": 0}]
    assert not host["Privileged"]


def test_owners_are_told_dead_from_alive() -> None:
    mine = owner_label()
    boot, pid, start = mine.split(":")
    assert owner_alive(mine)
    assert not owner_alive(f"{boot}:{pid}:{int(start) + 1}"), "another process with the same number"
    assert not owner_alive(f"another-boot:{pid}:{start}")
    for nonsense in ("", "::", "x", f"{boot}:x:{start}", f"{boot}:{pid}:"):
        assert not owner_alive(nonsense)
