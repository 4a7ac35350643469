"""A session's container: how it is made, its hardening, its life. What is said over the pipe to the
server inside is in `sandbox.pipe` and `sandbox.process`.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, Self, cast

from sandbox.accounts import HOME, USER, account_files
from sandbox.checks import OWN_KERNEL
from sandbox.containers import SYSTEM_LABEL, ContainerSpec, session_labels
from sandbox.engine import Engine
from sandbox.errors import EngineRefusedError, ImageMissingError, ProtocolError, SandboxError
from sandbox.pipe import Pipe
from sandbox.process import StreamProcess, rows_of
from sandbox.rootless import as_mapped, is_ours
from sandbox.seccomp import seccomp_json, supported
from sandbox.spec import BoxSpec, Command, Content, Mount, Resolution, Stat
from sandbox.streams import Grant
from sandbox.toolbox import SERVER, TOOLBOX_ENVIRONMENT, TOOLBOX_PYTHON
from sandbox.wire import FOR_COMMANDS, PROXY_PORT

MAIN = f"{SERVER}/sandbox/server/main.py"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
CAPABILITIES = ("SETUID", "SETGID", "KILL", "SETPCAP")
SYSTEM_CAPABILITIES = ("CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "SETFCAP")
MASKED_PATHS = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
    "/sys/kernel/debug",
    "/sys/kernel/vmcoreinfo",
)
READONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
SHM = 256 << 20
RUN = 64 << 20
SMALLEST_TMPFS = 16 << 20
PROXY = f"http://127.0.0.1:{PROXY_PORT}"
# What programs look for on their way out. ALL_PROXY is http too: some stop at a socks5h that they cannot speak, which
# is spoken at the same port for those who ask for it.
PROXY_ENVIRONMENT = {
    name: value
    for both, value in {
        "http_proxy": PROXY,
        "https_proxy": PROXY,
        "ftp_proxy": PROXY,
        "all_proxy": PROXY,
        "no_proxy": "localhost,127.0.0.1,::1",
    }.items()
    for name in (both, both.upper())
} | {"NODE_USE_ENV_PROXY": "1"}
REMOVALS, REMOVAL_PAUSE = 5, 0.2
ANSWER_SECONDS = 120.0
# What the server's hello must hold, and what it means where it does not.
WANTED = {
    "userns": "no user namespaces: commands run beside the server, told apart by uid only",
    "seccomp": "no seccomp filter: the kernel's whole interface is open to commands",
    "fsuid": "no per-thread file ids: file requests are refused where the owner alone may read",
}


class ContainerBox:
    """An OwnedBox in a container. `scratch`: a directory on this machine for small files that the engine
    mounts or reads (shared and kept between sessions: a cache); without one a temporary one is made.
    `grants`: what the box may open by itself over the pipe. `keep_container`, once set: its end leaves the
    container, stopped.
    """

    def __init__(
        self,
        spec: BoxSpec,
        engine: Engine,
        *,
        scratch: Path | None = None,
        grants: Mapping[str, Grant] | None = None,
        start_timeout: float = 30.0,
    ) -> None:
        self.spec = as_mapped(spec) if is_ours(engine) else spec
        self.container = ""
        self.keep_container = False
        self._engine = engine
        self._scratch = scratch
        self._temporary: Path | None = None
        self._grants = grants
        self._start_timeout = start_timeout
        self._pipe: Pipe | None = None

    @property
    def pipe(self) -> Pipe:
        """The pipe to the server, once started."""
        assert self._pipe is not None, "the box is not open"
        return self._pipe

    @property
    def features(self) -> frozenset[str]:
        """What the server said it has."""
        return self.pipe.features

    @property
    def lost(self) -> asyncio.Event:
        """Set when the box is over, by whomever."""
        return self.pipe.lost

    @property
    def used_fallbacks(self) -> tuple[str, ...]:
        """A sentence for every part of the hardening that this host or engine does not give. A runtime with a
        kernel of its own needs no filter before the host's.
        """
        own = {"seccomp"} if self.spec.runtime in OWN_KERNEL else set()
        return tuple(text for feature, text in WANTED.items() if feature not in self.features | own)

    # Life

    async def __aenter__(self) -> Self:
        """Start. Raises ImageMissingError, EngineRefusedError, EngineLostError, BoxStartError."""
        starting = asyncio.create_task(asyncio.to_thread(self._start))
        try:
            sock = await asyncio.shield(starting)
            self._pipe = await Pipe.connect(sock, grants=self._grants, timeout=self._start_timeout)
        except BaseException:
            await asyncio.shield(self._undo(starting))
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End: the container goes, the layers stay."""
        self.pipe.close()
        await asyncio.shield(asyncio.to_thread(self._remove))

    async def stop(self, error: SandboxError) -> None:
        """End all that runs in it at once; whoever uses the box gets `error`. It is still to be left."""
        self.pipe.close(error)
        await asyncio.to_thread(self._engine.containers.kill, self.container)

    async def _undo(self, starting: asyncio.Task[socket.socket]) -> None:
        with suppress(SandboxError, OSError):
            sock = await starting
            if self._pipe is None:
                sock.close()
        await asyncio.to_thread(self._remove)

    def _start(self) -> socket.socket:
        """Create, attach, start; in a thread. The socket carries the pipe."""
        containers = self._engine.containers
        self._check_runtime()
        spec = self.container_spec()
        try:
            self.container = containers.create(spec)
        except EngineRefusedError as error:
            if "seccomp" not in str(error):
                raise
            self.container = containers.create(self.container_spec(filtered=False))
        sock = containers.attach(self.container)
        try:
            containers.start(self.container)
        except BaseException:
            sock.close()
            raise
        return sock

    def _check_runtime(self) -> None:
        """Podman passes over a runtime that it is asked for by this interface: better none than another one."""
        engine, runtime = self._engine, self.spec.runtime
        if runtime and engine.kind == "podman" and engine.info.default_runtime != runtime:
            raise EngineRefusedError(
                f"Podman would not use the runtime {runtime}",
                hint=f"start its service with `podman --runtime {runtime}`",
            )

    def _remove(self) -> None:
        """In a thread. An engine that is at the end of the container itself may refuse at first."""
        end = self._engine.containers.kill if self.keep_container else self._engine.containers.remove
        for _ in range(REMOVALS if self.container else 0):
            try:
                end(self.container)
                break
            except SandboxError:
                time.sleep(REMOVAL_PAUSE)
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)

    # What it is made of

    def container_spec(self, *, filtered: bool = True) -> ContainerSpec:
        """The container as the engine is asked for it. `filtered`: with the seccomp profile."""
        spec = self.spec
        image = self._engine.images.find(spec.image)
        if image is None:
            raise ImageMissingError(f"the engine has no image {spec.image}")
        owner, limits = spec.owner, spec.limits
        settings = [f"uid={owner.uid}", f"gid={owner.gid}"]
        capabilities: tuple[str, ...] = CAPABILITIES
        if spec.system_writable:
            owner_is_root, settings = True, ["uid=0", "gid=0", "system=1"]
            capabilities += SYSTEM_CAPABILITIES
        else:
            owner_is_root = owner.uid == 0
        if owner_is_root and "SETFCAP" not in capabilities:
            capabilities += ("SETFCAP",)
        mounts = self._mounts(image.id)
        if self._engine.kind == "podman":  # gives the top of each new volume the image's time, or its own user
            tops = [(mount.top, mount.at) for mount in mounts if mount.top]
            settings += [f"top={uid}:{gid}:{time_ns}:{at}" for (uid, gid, time_ns), at in tops]
            capabilities = (*capabilities, *({"CHOWN"} - set(capabilities)))
        return ContainerSpec(
            image=spec.image,
            command=(*TOOLBOX_PYTHON, MAIN, *settings),
            name=f"fumehood-{spec.session[:12]}-{secrets.token_hex(3)}",
            labels=session_labels(spec.session)
            | dict(spec.labels)
            | ({SYSTEM_LABEL: "1"} if spec.system_writable else {}),
            environment=self._environment(image.environment),
            mounts=mounts,
            tmpfs=self._tmpfs({str(mount.at) for mount in mounts}, image.volumes),
            capabilities=capabilities,
            security_opt=self._security(filtered=filtered),
            masked_paths=MASKED_PATHS,
            readonly_paths=READONLY_PATHS,
            ulimits={"nofile": limits.nofile, "core": 0, "fsize": limits.file_size},
            read_only=not spec.system_writable,
            stdin=True,
            runtime=spec.runtime,
            auto_remove=not spec.system_writable,
            pids=limits.pids,
            memory=limits.memory,
            cpus=limits.cpus,
            shm_size=min(SHM, limits.memory // 4),
        )

    def _mounts(self, image: str) -> tuple[Mount, ...]:
        spec = self.spec
        files = {str(at): str(path) for at, path in spec.files.items()}
        if self._engine.on_this_machine and not spec.system_writable:
            passwd, group = account_files(self._engine, image, spec.owner, self._directory())
            files = {"/etc/passwd": str(passwd), "/etc/group": str(group)} | files
        binds = (Mount(volume=path, at=PurePosixPath(at), read_only=True) for at, path in files.items())
        return (*spec.mounts, *binds)

    def _tmpfs(self, mounted: set[str], volumes: tuple[str, ...]) -> dict[str, str]:
        """Places that are nobody's layer. Together they are smaller than the memory of the box."""
        owner, memory = self.spec.owner, self.spec.limits.memory
        uid, gid = (0, 0) if self.spec.system_writable else (owner.uid, owner.gid)
        mine, private = f"rw,nosuid,nodev,uid={uid},gid={gid}", "755"
        if self._engine.kind == "podman":  # knows no owner of a tmpfs; nobody else is in the box
            mine, private = "rw,nosuid,nodev", "1777"
        wanted = {"/run": f"{mine},mode={private},noexec,size={min(RUN, memory // 8)}"}
        rest = ["/tmp", "/var/tmp", HOME, *(volume for volume in volumes if volume.startswith("/"))]  # noqa: S108
        rest = [place for place in dict.fromkeys(rest) if place not in mounted]
        size = max(memory // 4 // max(len(rest), 1), SMALLEST_TMPFS)
        for place in rest:
            mode = "1777" if place in {"/tmp", "/var/tmp"} else private  # noqa: S108
            wanted[place] = f"{mine},mode={mode},exec,size={size}"
        return {place: options for place, options in wanted.items() if place not in mounted}

    def _environment(self, image: tuple[str, ...]) -> dict[str, str]:
        spec = self.spec
        """What the user passes goes with each command, over the pipe: the engine keeps a container's variables, and
        an image made of it has them too.
        """
        theirs = dict(entry.partition("=")[::2] for entry in image)
        path = theirs.get("PATH") or PATH
        mine = {
            "PATH": path,
            "HOME": HOME,
            "USER": "root" if spec.system_writable or spec.owner.uid == 0 else USER,
            "LANG": spec.locale,
            "TZ": spec.timezone,
            "TERM": "dumb",
        }
        mine["LOGNAME"] = mine["USER"]
        if (
            spec.system_writable and spec.owner.uid != 0
        ):  # uid 0 works in a repository that is somebody else's: git asks
            mine |= {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": "*"}
        wanted = mine | (PROXY_ENVIRONMENT if self._grants else {})
        wanted[FOR_COMMANDS] = ":".join(TOOLBOX_ENVIRONMENT)
        for name in TOOLBOX_ENVIRONMENT:  # meant for commands, not for the server's own loader
            value = theirs.get(name, "")
            if value:
                wanted[f"{FOR_COMMANDS}_{name}"] = value
        return wanted | TOOLBOX_ENVIRONMENT

    def _security(self, *, filtered: bool) -> tuple[str, ...]:
        options = ("no-new-privileges", *(self._filter() if filtered else ("seccomp=unconfined",)))
        if self._engine.kind == "podman":  # passes over the field that Docker has for it
            options += (f"mask={':'.join(MASKED_PATHS)}",)
        return options

    def _filter(self) -> tuple[str, ...]:
        """Our seccomp profile: as JSON to Docker, as a file's path to Podman. None for other runtimes than
        the engine's own kind, which filter by themselves.
        """
        engine, runtime = self._engine, self.spec.runtime
        machine = os.uname().machine if engine.on_this_machine else engine.info.architecture
        if runtime in {"runsc", "kata", "kata-runtime"} or not supported(machine):
            return ()
        profile = seccomp_json(machine)
        if engine.kind != "podman":
            return (f"seccomp={profile}",)
        file = self._directory() / "seccomp.json"
        file.write_text(profile, "utf-8")
        return (f"seccomp={file}",)

    def _directory(self) -> Path:
        if self._scratch is not None:
            self._scratch.mkdir(parents=True, exist_ok=True)
            return self._scratch
        if self._temporary is None:
            self._temporary = Path(tempfile.mkdtemp(prefix="fumehood-"))
        return self._temporary

    # What is asked of it

    async def exec(self, command: Command) -> StreamProcess:
        """See Box."""
        if self.spec.environment:
            command = replace(command, environment={**self.spec.environment, **command.environment})
        return await StreamProcess.start(self.pipe, command)

    async def read(self, path: PurePosixPath, *, offset: int = 0, limit: int = 16 << 20) -> Content:
        """See Box."""
        arguments = {"path": str(path), "offset": offset, "limit": limit}
        result, data = await self.pipe.request("read", arguments, path=str(path))
        if len(data) > limit:
            raise self.pipe.violated("more than was asked for")
        return Content(data=data, stat=self._stat(result), offset=offset)

    async def write(
        self, path: PurePosixPath, data: bytes, *, mode: int | None = None, expect: Stat | None = None
    ) -> Stat:
        """See Box."""
        arguments: dict[str, Any] = {"path": str(path)}
        if mode is not None:
            arguments["mode"] = mode
        if expect is not None:
            arguments["expect"] = [expect.size, expect.mtime_ns]
        result, _ = await self.pipe.request("write", arguments, path=str(path), body=data)
        return self._stat(result)

    async def stat(self, path: PurePosixPath) -> Stat:
        """See Box."""
        result, _ = await self.pipe.request("stat", {"path": str(path)}, path=str(path))
        return self._stat(result)

    async def resolve(self, paths: tuple[PurePosixPath, ...]) -> tuple[Resolution, ...]:
        """See Box."""
        if not paths:
            return ()
        _, body = await self.pipe.request("resolve", {"paths": [str(p) for p in paths]}, path=str(paths[0]))
        try:
            rows = rows_of(body, len(paths))
        except ProtocolError as error:
            raise self.pipe.violated(str(error)) from error
        return tuple(_resolution(path, row) for path, row in zip(paths, rows, strict=True))

    async def kill_all(self) -> None:
        """End every process of the box but its server; running commands end as cancelled."""
        await self.pipe.request("kill_all", {}, path="")

    async def root_changed(self, *, again: bool = False) -> bool:
        """Whether the root file system changed since its watch began; `again`: the watch begins anew now. Only
        where it is writable. Raises BoxLostError, PathError.
        """
        result, _ = await self.pipe.request("root", {"again": again}, path="/")
        return result.get("changed") is not False

    async def ping(self) -> None:
        """Ask whether the server still answers."""
        await self.pipe.request("ping", {}, path="")

    def _stat(self, result: dict[str, Any]) -> Stat:
        try:
            return stat_of(result)
        except ProtocolError as error:
            raise self.pipe.violated(str(error)) from error


def asking(box: ContainerBox) -> Callable[[bool], bool]:
    """Asks the box, from other threads than this loop's, whether its root file system changed (see `System.begin`)."""
    loop = asyncio.get_running_loop()

    def ask(again: bool) -> bool:
        asked = asyncio.run_coroutine_threadsafe(box.root_changed(again=again), loop)
        return asked.result(ANSWER_SECONDS)

    return ask


_KINDS = frozenset({"file", "directory", "link", "fifo", "socket", "device"})
_NUMBERS = ("mode", "size", "mtime_ns", "uid", "gid")


def stat_of(result: dict[str, Any]) -> Stat:
    """A Stat from a result off the wire. Raises ProtocolError."""
    numbers = {name: result.get(name) for name in _NUMBERS}
    kind, link = result.get("kind"), result.get("link", "")
    if kind not in _KINDS or not isinstance(link, str) or not all(type(n) is int for n in numbers.values()):
        raise ProtocolError("a stat that makes no sense")
    return Stat(kind=kind, link=link, **cast("dict[str, int]", numbers))


def _resolution(path: PurePosixPath, row: list[str]) -> Resolution:
    link, target, kind, error = row
    if error:
        return Resolution(path=path, link=path, target=path, kind="", error=error)
    return Resolution(path=path, link=PurePosixPath(link), target=PurePosixPath(target), kind=kind)
