"""BoxSpec and the protocols that a box fulfils: what the rest of the product may ask of a box."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import field
from enum import StrEnum
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Protocol, Self, TypeAlias

from sandbox.dataclass import dataclass


class Rung(StrEnum):
    """How a root is copied on write, best first."""

    OVERLAY = "overlay"
    REFLINK = "reflink"
    COPY = "copy"


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """Whom commands run as: the repository owner's numeric ids on the host."""

    uid: int
    gid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of a box; sizes in bytes, `cpus` None means no bound."""

    pids: int = 512
    memory: int = 2 << 30
    cpus: float | None = None
    nofile: int = 4096
    file_size: int = 5 << 30
    disk: int = 10 << 30
    disk_floor: int = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """One volume in the box. `name` is the engine's volume (or a host path for a read-only bind). `top`: uid, gid
    and time (ns) of its top directory, for an engine that would change them.
    """

    volume: str
    at: PurePosixPath
    read_only: bool = False
    top: tuple[int, int, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BoxSpec:
    """A box before it exists. `mounts` are made by the workspace (roots, HOME, /tmp, /var/tmp) and
    the image's toolbox; every path is absolute as the box sees it.
    """

    session: str
    image: str
    owner: Owner
    cwd: PurePosixPath
    mounts: tuple[Mount, ...]
    files: Mapping[PurePosixPath, Path] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)
    system_writable: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    runtime: str = ""
    locale: str = "C.UTF-8"
    timezone: str = "UTC"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pty:
    """A terminal's size in characters."""

    rows: int
    columns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Capture:
    """Bounds what comes over the pipe: the first `inline` bytes of output arrive as Stdout/Stderr;
    when there is more, all of it goes to `path` in the box as well (made with mode 0600, by the
    owner, never through a link), and Exited tells the size and the last `tail` bytes.
    `path` None: what is over the cap is counted and dropped. Over `limit` bytes in all the process
    group is killed.
    """

    inline: int = 64 << 10
    tail: int = 16 << 10
    path: PurePosixPath | None = None
    limit: int = 5 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One process group in the box. `environment` is added to the box's own. `timeout` in seconds:
    then SIGTERM, after `grace` SIGKILL, to the whole session of processes. `shell`: argv is one
    element, run by bash (sh where there is none) so that the working directory it ends in is
    reported in Exited.cwd. `merge`: stderr goes into stdout in the order written. `detach`: the
    process outlives the stream and the call that began it (not the box).
    """

    argv: tuple[str, ...]
    cwd: PurePosixPath
    environment: Mapping[str, str] = field(default_factory=dict)
    shell: bool = False
    merge: bool = False
    stdin: bool = False
    pty: Pty | None = None
    timeout: float | None = None
    grace: float = 2.0
    capture: Capture | None = None
    detach: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Stdout:
    """Bytes of standard output, in order."""

    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Stderr:
    """Bytes of standard error, in order."""

    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Exited:
    """Last item of a Process. `code` is negative for a signal. `killed`: "", timeout, cancelled,
    output, memory, lost. `size`: bytes of output in all; `tail` and `path` when it was capped.
    """

    code: int
    killed: str = ""
    size: int = 0
    tail: bytes = b""
    path: PurePosixPath | None = None
    cwd: PurePosixPath | None = None
    seconds: float = 0.0


Output: TypeAlias = Stdout | Stderr | Exited


class Process(Protocol):
    """A running command. Iterate it once; it ends with exactly one Exited. Leaving the iteration
    early (cancellation) kills the process group unless the command is detached.
    """

    pid: int

    def __aiter__(self) -> AsyncIterator[Output]:
        """Output as it comes, then Exited. Raises BoxLostError when the pipe ends first."""
        ...

    async def write_stdin(self, data: bytes | None) -> None:
        """Feed standard input (waits for credit); None closes it."""
        ...

    async def resize(self, pty: Pty) -> None:
        """Tell a pty its new size."""
        ...

    async def kill(self, signal: int = 9) -> None:
        """Signal the whole session of processes. No error when it is gone already."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Stat:
    """lstat of a path. `kind`: file, directory, link, fifo, socket, device. `digest` is not computed."""

    kind: str
    mode: int
    size: int
    mtime_ns: int
    uid: int
    gid: int
    link: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolution:
    """A path as the box resolves it: `link` = parents resolved, last name kept; `target` = all
    resolved (what does not exist yet resolves through its nearest existing parent). `error`: a
    code (loop, denied, invalid) when it cannot be resolved; link and target then equal path.
    """

    path: PurePosixPath
    link: PurePosixPath
    target: PurePosixPath
    kind: str
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """A file's bytes from `offset` on, at most the asked number, and its whole stat."""

    data: bytes
    stat: Stat
    offset: int = 0


class Box(Protocol):
    """A session's container. Async context manager: entering starts it, leaving ends it.

    Every path is absolute in the box and opened without following any link (openat2
    RESOLVE_NO_SYMLINKS): pass what `resolve` gave. File requests act as the owner. All raise
    PathError (codes in sandbox.wire.PathCode), BoxLostError, DiskFullError.
    """

    async def exec(self, command: Command) -> Process:
        """Start a command; returns when it runs. Raises PathError when cwd or argv[0] is not there."""
        ...

    async def read(self, path: PurePosixPath, *, offset: int = 0, limit: int = 16 << 20) -> Content:
        """Read a regular file; anything else is PathError(not_file)."""
        ...

    async def write(
        self, path: PurePosixPath, data: bytes, *, mode: int | None = None, expect: Stat | None = None
    ) -> Stat:
        """Replace or create a file, parents made: in place, so that links and mode stay.
        `mode` counts for a new file only. `expect`: refuse (PathError changed) when the file's
        size or mtime_ns differ.
        """
        ...

    async def stat(self, path: PurePosixPath) -> Stat:
        """Lstat."""
        ...

    async def resolve(self, paths: tuple[PurePosixPath, ...]) -> tuple[Resolution, ...]:
        """Resolve many paths in one request, in order; never raises for a single path."""
        ...


class OwnedBox(Box, Protocol):
    """A Box that somebody opens and closes."""

    async def __aenter__(self) -> Self:
        """Start."""
        ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End: the container goes, the layers stay."""
        ...
