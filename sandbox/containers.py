"""Containers of an engine: the specification, and the calls of their life."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import field, replace
from pathlib import Path
from typing import Any

from sandbox.dataclass import dataclass
from sandbox.errors import EngineRefusedError, ImageMissingError
from sandbox.spec import Mount
from sandbox.transport import ConflictError, NotFoundError, Transport, parse_json

LABEL = "fumehood"
SESSION_LABEL = "fumehood.session"
OWNER_LABEL = "fumehood.owner"
SYSTEM_LABEL = "fumehood.system"
LAYER_LABEL = "fumehood.layer"  # of a volume that is a layer itself, not the definition of a mount
REMOVAL_SECONDS = 20.0


def owner_label() -> str:
    """This process, so that others can tell when it is dead: host boot id, pid, start time."""
    return f"{_boot_id()}:{os.getpid()}:{_start_time(os.getpid())}"


def owner_alive(label: str) -> bool:
    """Whether the process of an owner label still runs on this machine, since this boot."""
    boot, _, rest = label.partition(":")
    pid, _, start = rest.partition(":")
    return boot == _boot_id() and pid.isdigit() and bool(start) and _start_time(int(pid)) == start


def owner_dead(label: str) -> bool:
    """Whether the process of an owner label is known to be dead: it ran here, since this boot and in this
    process's own pid namespace, and does not any more. False where that cannot be told.
    """
    return label.partition(":")[0] == _boot_id() and not owner_alive(label)


def session_labels(session: str) -> dict[str, str]:
    """The labels that everything of a session carries."""
    return {LABEL: "1", SESSION_LABEL: session, OWNER_LABEL: owner_label()}


def _boot_id() -> str:
    """This boot and this pid namespace, in which alone a pid means something."""
    try:
        namespace = Path("/proc/self/ns/pid").stat().st_ino
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text('ascii').strip()}-{namespace}"
    except OSError:
        return "-"


def _start_time(pid: int) -> str:
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return ""
    fields = stat.rpartition(b")")[2].split()
    return "" if fields[0] == b"Z" else fields[19].decode()


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerSpec:
    """A container before it exists. `mounts`: a volume's name, or an absolute host path to bind.
    `tmpfs`: box path → mount options. Sizes in bytes. `network`: none or host.
    """

    image: str
    command: tuple[str, ...]
    name: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    mounts: tuple[Mount, ...] = ()
    tmpfs: Mapping[str, str] = field(default_factory=dict)
    capabilities: tuple[str, ...] = ()
    security_opt: tuple[str, ...] = ()
    masked_paths: tuple[str, ...] | None = None
    readonly_paths: tuple[str, ...] | None = None
    ulimits: Mapping[str, int] = field(default_factory=dict)
    read_only: bool = True
    network: str = "none"
    user: str = "0:0"
    working_dir: str = "/"
    stdin: bool = False
    runtime: str = ""
    hostname: str = "box"
    auto_remove: bool = False
    pids: int | None = None
    memory: int | None = None
    cpus: float | None = None
    shm_size: int | None = None

    def body(self) -> dict[str, Any]:
        """The request body of the Docker API's container create."""
        return {
            "Image": self.image,
            # for Podman an empty entrypoint means the image's own
            "Entrypoint": list(self.command[:1]),
            "Cmd": list(self.command[1:]),
            "Labels": dict(self.labels),
            "Env": [f"{key}={value}" for key, value in self.environment.items()],
            "User": self.user,
            "WorkingDir": self.working_dir,
            "Hostname": self.hostname if self.network != "host" else "",
            "StopSignal": "SIGKILL",
            "Healthcheck": {"Test": ["NONE"]},
            "NetworkDisabled": self.network == "none",
            "Tty": False,
            "OpenStdin": self.stdin,
            "StdinOnce": self.stdin,
            "AttachStdin": self.stdin,
            "AttachStdout": True,
            "AttachStderr": True,
            "HostConfig": self._host_config(),
        }

    def _host_config(self) -> dict[str, Any]:
        config: dict[str, Any] = {
            "Mounts": [_mount(mount) for mount in self.mounts],
            "Tmpfs": dict(self.tmpfs),
            "CapDrop": ["ALL"],
            "CapAdd": list(self.capabilities),
            "SecurityOpt": list(self.security_opt),
            "ReadonlyRootfs": self.read_only,
            "NetworkMode": self.network,
            "IpcMode": "private",
            "LogConfig": {"Type": "none", "Config": {}},
            "Ulimits": [{"Name": name, "Soft": value, "Hard": value} for name, value in self.ulimits.items()],
            "AutoRemove": self.auto_remove,
            "Init": False,
            "Privileged": False,
        }
        optional = {
            "PidsLimit": self.pids,
            "Memory": self.memory,
            "MemorySwap": self.memory,
            "NanoCpus": None if self.cpus is None else int(self.cpus * 1e9),
            "ShmSize": self.shm_size,
            "Runtime": self.runtime or None,
            "MaskedPaths": None if self.masked_paths is None else list(self.masked_paths),
            "ReadonlyPaths": None if self.readonly_paths is None else list(self.readonly_paths),
        }
        return config | {key: value for key, value in optional.items() if value is not None}


def _mount(mount: Mount) -> dict[str, Any]:
    common = {"Source": mount.volume, "Target": str(mount.at), "ReadOnly": mount.read_only}
    if mount.volume.startswith("/"):
        return common | {"Type": "bind"}
    return common | {"Type": "volume", "VolumeOptions": {"NoCopy": True}}


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerInfo:
    """One line of the engine's list. `state`: created, running, paused, exited, dead."""

    id: str
    name: str
    state: str
    labels: Mapping[str, str]


class Containers:
    """Calls on containers; all block, all raise errors of `sandbox.errors`. `ulimits`: for every container
    whose specification names no such limit.
    """

    def __init__(self, transport: Transport, prefix: str, *, ulimits: Mapping[str, int] | None = None) -> None:
        self._transport = transport
        self._prefix = prefix
        self._ulimits = dict(ulimits or {})

    def create(self, spec: ContainerSpec) -> str:
        """Create, and return the id. ImageMissingError, or EngineRefusedError with the engine's words."""
        query = {"name": spec.name or None}
        body = replace(spec, ulimits=self._ulimits | dict(spec.ulimits)).body()
        try:
            with self._transport.open("POST", f"{self._prefix}/containers/create", query=query, body=body) as r:
                return str(parse_json(b"".join(r.chunks()))["Id"])
        except NotFoundError as error:
            if "image" in str(error).lower():
                raise ImageMissingError(f"the engine has no image {spec.image}") from error
            raise

    def attach(self, container: str) -> socket.socket:
        """Standard streams of a container that has not started yet, as one raw connection. What comes
        out carries the engine's 8-byte headers (stream, length). The caller closes it.
        """
        query = {"stream": True, "stdin": True, "stdout": True, "stderr": True, "logs": False}
        return self._transport.hijack(f"{self._prefix}/containers/{container}/attach", query=query)

    def start(self, container: str) -> None:
        """Start; EngineRefusedError with the engine's words when it cannot."""
        self._call("POST", container, "/start", timeout=120)

    def wait(self, container: str, timeout: float | None = None) -> int:
        """Wait for the end: the exit code. EngineLostError after `timeout` seconds."""
        with self._transport.open("POST", self._path(container, "/wait"), timeout=timeout or 86_400) as reply:
            return int(parse_json(b"".join(reply.chunks()))["StatusCode"])

    def kill(self, container: str) -> None:
        """SIGKILL everything in it. No error when it does not run."""
        try:
            self._call("POST", container, "/kill", query={"signal": "SIGKILL"})
        except (NotFoundError, ConflictError):
            return

    def pause(self, container: str) -> None:
        """Stop the clock for everything in it (the cgroup freezer)."""
        self._call("POST", container, "/pause")

    def unpause(self, container: str) -> None:
        """Let it go on. No error when it is gone or was not paused."""
        try:
            self._call("POST", container, "/unpause")
        except (NotFoundError, ConflictError, EngineRefusedError):
            return

    def remove(self, container: str, *, force: bool = True) -> None:
        """Remove with its anonymous volumes; waits where the engine is at it already, so that what the
        container held is free afterwards. No error when it is gone.
        """
        until = time.monotonic() + REMOVAL_SECONDS
        while True:
            try:
                self._call("DELETE", container, query={"force": force, "v": True}, timeout=120)
            except NotFoundError:
                return
            except ConflictError as error:
                passing = "in progress" in str(error) or "state improper" in str(error)
                if not passing or time.monotonic() > until:
                    raise
                time.sleep(0.02)
            else:
                return

    def inspect(self, container: str) -> Mapping[str, Any]:
        """The engine's own description. NotFoundError where there is none."""
        with self._transport.open("GET", self._path(container, "/json")) as reply:
            return dict(parse_json(b"".join(reply.chunks())))

    def list(self, label: str = LABEL, *, all: bool = True) -> list[ContainerInfo]:  # noqa: A002
        """Containers that carry a label (`key` or `key=value`); `all` includes those not running."""
        query = {"all": all, "filters": {"label": [label]}}
        with self._transport.open("GET", f"{self._prefix}/containers/json", query=query) as reply:
            rows = parse_json(b"".join(reply.chunks()))
        return [
            ContainerInfo(
                id=row["Id"],
                name=(row.get("Names") or ["/"])[0].lstrip("/"),
                state=row["State"],
                labels=row.get("Labels") or {},
            )
            for row in rows
        ]

    def put_archive(self, container: str, path: str, data: bytes | Iterable[bytes]) -> None:
        """Unpack a tar at `path`. The engine refuses it for a read-only root file system."""
        headers = {"Content-Type": "application/x-tar"}
        target = self._path(container, "/archive")
        with self._transport.open(
            "PUT", target, query={"path": path}, body=data, headers=headers, timeout=600
        ) as reply:
            b"".join(reply.chunks())

    def get_archive(self, container: str, path: str) -> Iterator[bytes]:
        """A tar of `path`, piece by piece. NotFoundError where there is none."""
        with self._transport.open("GET", self._path(container, "/archive"), query={"path": path}) as reply:
            yield from reply.chunks()

    def logs(self, container: str) -> bytes:
        """What a container with a log driver wrote (ours have none; for helpers of others)."""
        query = {"stdout": True, "stderr": True}
        with self._transport.open("GET", self._path(container, "/logs"), query=query) as reply:
            return b"".join(reply.chunks())

    def commit(self, container: str, *, repository: str, tag: str, changes: Sequence[str]) -> str:
        """Store the root file system as an image, which the caller holds still; the image's id. `changes`:
        Dockerfile lines. All else of the image's configuration is the container's.
        """
        query = {"container": container, "repo": repository, "tag": tag, "pause": False, "changes": tuple(changes)}
        with self._transport.open("POST", f"{self._prefix}/commit", query=query, body={}, timeout=600) as reply:
            return str(parse_json(b"".join(reply.chunks()))["Id"])

    def export(self, container: str) -> Iterator[bytes]:
        """The whole root file system as a tar, piece by piece."""
        with self._transport.open("GET", self._path(container, "/export"), timeout=600) as reply:
            yield from reply.chunks()

    def _path(self, container: str, suffix: str) -> str:
        if not container.replace("-", "").replace("_", "").replace(".", "").isalnum():
            raise EngineRefusedError(f"not a container id: {container!r}")
        return f"{self._prefix}/containers/{container}{suffix}"

    def _call(
        self,
        method: str,
        container: str,
        suffix: str = "",
        *,
        query: Mapping[str, object] | None = None,
        timeout: float | None = None,
    ) -> None:
        with self._transport.open(method, self._path(container, suffix), query=query, timeout=timeout) as reply:
            for _ in reply.chunks():
                pass
