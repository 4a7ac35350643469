"""A container engine behind the Docker API: Docker, or Podman's socket. Finding it, what it is, and
its images and volumes; containers are next door. Everything here blocks: call it from threads.
"""

from __future__ import annotations

import importlib
import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from resource import RLIMIT_NOFILE, RLIMIT_NPROC, getrlimit
from typing import Any

from sandbox.containers import LABEL, ContainerInfo, Containers, ContainerSpec, owner_alive, owner_label, session_labels
from sandbox.dataclass import dataclass
from sandbox.errors import (
    EngineLostError,
    EngineMissingError,
    EnginePermissionError,
    EngineRefusedError,
    ImageMissingError,
)
from sandbox.transport import ConflictError, NotFoundError, SocketTransport, Transport, parse_json

__all__ = [
    "ConflictError",
    "ContainerInfo",
    "ContainerSpec",
    "Containers",
    "Engine",
    "EngineInfo",
    "ImageInfo",
    "Images",
    "NotFoundError",
    "VolumeInfo",
    "Volumes",
    "connect",
    "owner_alive",
    "owner_label",
    "session_labels",
]

# What we speak: the bodies we send are the same in all of these. Docker 29 refuses less than 1.44.
NEWEST_API = (1, 44)
OLDEST_API = (1, 40)
# Podman's names for what Docker and uname call otherwise: images and toolboxes are cached by them.
_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
OPEN_FILES, PROCESSES = 4096, 32768


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineInfo:
    """What an engine says of itself. `local`: paths of this machine are the engine's too."""

    kind: str
    version: str
    api: str
    endpoint: str
    local: bool
    rootless: bool
    userns_remap: bool
    runtimes: tuple[str, ...]
    default_runtime: str
    architecture: str
    cgroup: str
    seccomp: bool
    root_dir: str
    storage: str
    operating_system: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageInfo:
    """An image of the engine. `layers` are RootFS.Layers, lowest first; `size` in bytes; `volumes`
    and `environment` are what its configuration declares (not trusted).
    """

    id: str
    tags: tuple[str, ...]
    layers: tuple[str, ...]
    labels: Mapping[str, str]
    size: int
    created: str
    architecture: str
    volumes: tuple[str, ...] = ()
    environment: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeInfo:
    """A volume of the engine."""

    name: str
    labels: Mapping[str, str]


class Images:
    """Calls on images."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def find(self, name: str) -> ImageInfo | None:
        """By name, tag or id; None where the engine has none."""
        if not name or any(c in name for c in " ?#\n\r"):
            return None
        try:
            return _image(self._engine.get(f"/images/{name}/json"))
        except NotFoundError:
            return None
        except EngineRefusedError as error:
            if "invalid reference" in str(error):
                return None
            raise

    def load_tar(
        self,
        stream: Iterable[bytes],
        *,
        repository: str,
        tag: str,
        labels: Mapping[str, str],
        changes: Sequence[str] = (),
    ) -> ImageInfo:
        """Import a root file system's tar as a one-layer image. `changes`: Dockerfile lines."""
        lines = (*changes, *(f"LABEL {json.dumps(key)}={json.dumps(value)}" for key, value in labels.items()))
        # the tag within the name: Podman 4 takes no notice of a tag beside it
        query = {"fromSrc": "-", "repo": f"{repository}:{tag}", "changes": lines}
        headers = {"Content-Type": "application/x-tar"}
        path = f"{self._engine.prefix}/images/create"
        with self._engine.transport.open(
            "POST", path, query=query, body=iter(stream), headers=headers, timeout=900
        ) as reply:
            lines_back = b"".join(reply.chunks()).splitlines()
        for line in filter(None, lines_back):
            answer = parse_json(line)
            if "error" in answer:
                raise EngineRefusedError(f"the engine refused the image: {answer['error']}")
        image = self.find(f"{repository}:{tag}")
        if image is None:
            raise EngineRefusedError(f"the engine did not keep the image {repository}:{tag}")
        return image

    def pull(self, name: str) -> ImageInfo:
        """Fetch from a registry with the user's credentials (none over ssh). ImageMissingError when none gives it."""
        if ":" not in name.rpartition("/")[2] and "@" not in name:
            name += ":latest"
        if self._engine.endpoint.startswith("ssh://"):
            return self._pull_openly(name)
        sdk = importlib.import_module("sandbox.sdk")  # lazy: 0.3 s, needed here only
        sdk.pull(self._engine.endpoint, self._engine.environ, version=self._engine.api, name=name)
        image = self.find(name)
        if image is None:
            raise EngineLostError(f"{name} was pulled, but the engine does not have it")
        return image

    def _pull_openly(self, name: str) -> ImageInfo:
        path = f"{self._engine.prefix}/images/create"
        try:
            with self._engine.transport.open("POST", path, query={"fromImage": name}, timeout=600) as reply:
                lines = b"".join(reply.chunks()).splitlines()
        except EngineRefusedError as error:
            raise ImageMissingError(f"{name}: {error}") from error
        errors = [answer["error"] for answer in map(parse_json, filter(None, lines)) if "error" in answer]
        image = None if errors else self.find(name)
        if image is None:
            raise ImageMissingError(f"{name}: {errors[0] if errors else 'not had'}")
        return image

    def list(self, label: str = LABEL) -> list[ImageInfo]:
        """Images that carry a label (`key` or `key=value`)."""
        rows = self._engine.get("/images/json", query={"filters": {"label": [label]}})
        found = (self.find(row["Id"]) for row in rows)
        return [image for image in found if image is not None]

    def tag(self, image: str, *, repository: str, tag: str) -> None:
        """Give an image one more name."""
        self._engine.call("POST", f"/images/{image}/tag", query={"repo": repository, "tag": tag})

    def remove(self, image: str) -> None:
        """Remove an image or a name of it. No error when it is gone."""
        try:
            self._engine.call("DELETE", f"/images/{image}")
        except NotFoundError:
            return


class Volumes:
    """Calls on volumes. A volume of ours is only a mount's definition: removing it loses nothing."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def create(self, name: str, *, options: Mapping[str, str], labels: Mapping[str, str]) -> str:
        """Define a volume of the local driver. The engine mounts it with the first container."""
        body = {"Name": name, "Driver": "local", "DriverOpts": dict(options), "Labels": dict(labels)}
        with self._engine.transport.open("POST", f"{self._engine.prefix}/volumes/create", body=body) as reply:
            return str(parse_json(b"".join(reply.chunks()))["Name"])

    def find(self, name: str) -> VolumeInfo | None:
        """By name; None where there is none."""
        try:
            row = self._engine.get(f"/volumes/{name}")
        except NotFoundError:
            return None
        # Podman takes the beginning of a name for the name where no other begins so
        return VolumeInfo(name=row["Name"], labels=row.get("Labels") or {}) if row["Name"] == name else None

    def remove(self, name: str, *, missing_ok: bool = True, patience: float = 0.0) -> None:
        """Remove; ConflictError while a container uses it, NotFoundError unless `missing_ok`. `patience`: seconds
        to try for where it is in use; Podman may still be at the end of a container that is gone already.
        """
        until = time.monotonic() + patience
        while True:
            try:
                if self._engine.kind == "podman" and self.find(name) is None:
                    raise NotFoundError(f"no volume {name}")  # noqa: TRY301
                self._engine.call("DELETE", f"/volumes/{name}")
            except NotFoundError:
                if not missing_ok:
                    raise
            except ConflictError:
                if time.monotonic() < until:
                    time.sleep(0.05)
                    continue
                raise
            return

    def list(self, label: str = LABEL) -> list[VolumeInfo]:
        """Volumes that carry a label (`key` or `key=value`)."""
        rows = self._engine.get("/volumes", query={"filters": {"label": [label]}})["Volumes"] or []
        return [VolumeInfo(name=row["Name"], labels=row.get("Labels") or {}) for row in rows]


class Engine:
    """A connected engine. Safe to use from several threads; `close` when done."""

    def __init__(self, transport: Transport, *, api: str, kind: str, environ: Mapping[str, str]) -> None:
        self.transport = transport
        self.endpoint = transport.endpoint
        self.api = api
        self.kind = kind
        self.environ = dict(environ)
        self.prefix = f"/v{api}"
        self.images = Images(self)
        self.volumes = Volumes(self)
        self.containers = Containers(transport, self.prefix, ulimits=_podman_limits() if kind == "podman" else None)

    def close(self) -> None:
        """Give up what is kept open."""
        self.transport.close()

    def get(self, path: str, *, query: Mapping[str, object] | None = None) -> Any:
        """GET and parse."""
        with self.transport.open("GET", self.prefix + path, query=query) as reply:
            return parse_json(b"".join(reply.chunks()))

    def call(self, method: str, path: str, *, query: Mapping[str, object] | None = None) -> None:
        """A request whose answer does not matter."""
        with self.transport.open(method, self.prefix + path, query=query, timeout=120) as reply:
            for _ in reply.chunks():
                pass

    def require_runtime(self, name: str) -> None:
        """Raises EngineRefusedError where the engine has no OCI runtime of this name or path."""
        names = self.info.runtimes
        if names and name not in names and not name.startswith("/"):
            raise EngineRefusedError(f"the engine has no runtime {name}", hint=f"it has: {', '.join(names)}")

    @property
    def on_this_machine(self) -> bool:
        """Reached by a unix socket; says nothing of a desktop product's hidden machine (see `info.local`)."""
        return self.endpoint.startswith("unix://")

    @cached_property
    def info(self) -> EngineInfo:
        """Asked once (18 ms): keep it out of the way of a box's start."""
        info, version = self.get("/info"), self.get("/version")
        options = " ".join(info.get("SecurityOptions") or [])
        system = info.get("OperatingSystem") or ""
        return EngineInfo(
            kind=self.kind,
            version=version.get("Version") or "",
            api=self.api,
            endpoint=self.endpoint,
            local=self.on_this_machine and "desktop" not in system.lower(),
            rootless="name=rootless" in options or info.get("Rootless") is True,  # Podman says it apart
            userns_remap="name=userns" in options,
            runtimes=tuple(sorted(info.get("Runtimes") or {})),
            default_runtime=info.get("DefaultRuntime") or "",
            architecture=_MACHINES.get(info.get("Architecture"), info.get("Architecture") or ""),
            cgroup=str(info.get("CgroupVersion") or "1"),
            seccomp="name=seccomp" in options,
            root_dir=info.get("DockerRootDir") or "",
            storage=info.get("Driver") or "",
            operating_system=system,
        )


def connect(environ: Mapping[str, str]) -> Engine:
    """The engine that DOCKER_HOST names, else the first that answers of: Docker's socket, rootless
    Docker's, Podman's (the user's, the system's). EngineMissingError, EnginePermissionError.
    """
    named = environ.get("DOCKER_HOST", "").strip()
    if named:
        return _connect(named, environ)
    refused: EnginePermissionError | None = None
    for endpoint in _endpoints(environ):
        try:
            return _connect(endpoint, environ)
        except EnginePermissionError as error:
            refused = refused or error
        except (EngineMissingError, EngineLostError):
            continue
    if refused is not None:
        raise refused
    raise EngineMissingError(
        "no container engine answers",
        hint="install one (`sudo apt-get install docker.io`, or podman with `systemctl --user start podman.socket`), "
        "or name it in DOCKER_HOST",
    )


def _endpoints(environ: Mapping[str, str]) -> list[str]:
    run = environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}"
    home = environ.get("HOME", "")
    paths = [
        "/var/run/docker.sock",
        f"{run}/docker.sock",
        f"{home}/.docker/run/docker.sock" if home else "",
        f"{run}/podman/podman.sock",
        "/run/podman/podman.sock",
    ]
    return [f"unix://{path}" for path in paths if path]


def _connect(endpoint: str, environ: Mapping[str, str]) -> Engine:
    scheme = endpoint.partition("://")[0]
    transport: Transport
    if scheme == "unix" or (scheme == "tcp" and not environ.get("DOCKER_TLS_VERIFY")):
        transport = SocketTransport(endpoint)
    elif scheme == "ssh":
        transport = importlib.import_module("sandbox.ssh").SshTransport(endpoint, environ)  # lazy: for these only
    elif scheme in {"tcp", "https"}:
        sdk = importlib.import_module("sandbox.sdk")  # lazy: 0.3 s, needed for these endpoints only
        transport = sdk.SdkTransport(endpoint, environ, version="1.41")
    else:
        raise EngineMissingError(
            f"DOCKER_HOST={endpoint}: not unix://, tcp:// or ssh://",
            hint="such as unix:///var/run/docker.sock; unset it for the usual ones",
        )
    try:
        with transport.open("GET", "/_ping", timeout=10) as reply:
            b"".join(reply.chunks())
            api = _version(reply.headers.get("api-version", ""))
            podman = "libpod-api-version" in reply.headers or "libpod" in reply.headers.get("server", "").lower()
    except EngineLostError as error:  # it was never there
        transport.close()
        raise EngineMissingError(f"{endpoint}: {error}", hint="set DOCKER_HOST to an engine, or unset it") from error
    except BaseException:
        transport.close()
        raise
    if api < OLDEST_API:
        raise EngineMissingError(
            f"the engine at {endpoint} is too old (API {api[0]}.{api[1]})", hint="Docker 20.10 or Podman 4"
        )
    chosen = min(api, NEWEST_API)
    return Engine(transport, api=f"{chosen[0]}.{chosen[1]}", kind="podman" if podman else "docker", environ=environ)


def _podman_limits() -> dict[str, int]:
    """Podman asks for a million open files and processes unless told, which not every host may grant: as many
    as we may, or fewer, for its service may less. What bounds a box is its own limits and those of its cgroup.
    """
    most = {"nofile": (RLIMIT_NOFILE, OPEN_FILES), "nproc": (RLIMIT_NPROC, PROCESSES)}
    return {
        name: limit if (hard := getrlimit(which)[1]) < 0 else min(hard, limit) for name, (which, limit) in most.items()
    }


def _version(text: str) -> tuple[int, int]:
    major, _, minor = text.partition(".")
    return (int(major), int(minor)) if major.isdigit() and minor.isdigit() else (0, 0)


def _image(row: Mapping[str, Any]) -> ImageInfo:
    config = row.get("Config") or {}
    return ImageInfo(
        id=row["Id"],
        tags=tuple(row.get("RepoTags") or ()),
        layers=tuple((row.get("RootFS") or {}).get("Layers") or ()),
        labels=config.get("Labels") or {},
        size=int(row.get("Size") or 0),
        created=str(row.get("Created") or ""),
        architecture=row.get("Architecture") or "",
        volumes=tuple(config.get("Volumes") or ()),
        environment=tuple(config.get("Env") or ()),
    )
