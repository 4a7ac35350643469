"""What a session's container is made of: its command, mounts, places in memory, environment and hardening,
as the engine is asked for it. Its life is in `sandbox.box`.
"""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from pathlib import Path, PurePosixPath

from sandbox.accounts import HOME, USER, account_files
from sandbox.checks import OWN_KERNEL
from sandbox.containers import SYSTEM_LABEL, ContainerSpec, session_labels
from sandbox.engine import Engine
from sandbox.errors import ImageMissingError
from sandbox.seccomp import seccomp_json, supported
from sandbox.spec import BoxSpec, Mount
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


class Blueprint:
    """Of one box. `scratch`: where small files lie that the engine mounts or reads; None: in a temporary directory,
    until `close`. `proxied`: the usual variables name the proxy. Everything blocks.
    """

    def __init__(self, spec: BoxSpec, engine: Engine, *, scratch: Path | None, proxied: bool) -> None:
        self._spec = spec
        self._engine = engine
        self._scratch = scratch
        self._proxied = proxied
        self._temporary: Path | None = None

    def close(self) -> None:
        """Remove what was written down for the engine."""
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)

    def container(self, *, filtered: bool = True) -> ContainerSpec:
        """The container as the engine is asked for it. `filtered`: with the seccomp profile."""
        spec = self._spec
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
        spec = self._spec
        files = {str(at): str(path) for at, path in spec.files.items()}
        if self._engine.on_this_machine and not spec.system_writable:
            passwd, group = account_files(self._engine, image, spec.owner, self._directory())
            files = {"/etc/passwd": str(passwd), "/etc/group": str(group)} | files
        binds = (Mount(volume=path, at=PurePosixPath(at), read_only=True) for at, path in files.items())
        return (*spec.mounts, *binds)

    def _tmpfs(self, mounted: set[str], volumes: tuple[str, ...]) -> dict[str, str]:
        """Places that are nobody's layer. Together they are smaller than the memory of the box."""
        owner, memory = self._spec.owner, self._spec.limits.memory
        uid, gid = (0, 0) if self._spec.system_writable else (owner.uid, owner.gid)
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
        """What the user passes goes with each command, over the pipe: the engine keeps a container's variables, and
        an image made of it has them too.
        """
        spec = self._spec
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
        if spec.system_writable and spec.owner.uid != 0:  # uid 0 works in what is somebody else's: git asks
            mine |= {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": "*"}
        wanted = mine | (PROXY_ENVIRONMENT if self._proxied else {})
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
        engine, runtime = self._engine, self._spec.runtime
        machine = os.uname().machine if engine.on_this_machine else engine.info.architecture
        if runtime in OWN_KERNEL or not supported(machine):
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
