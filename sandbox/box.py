"""A session's container: its life, and what is asked of it. What it is made of is in `sandbox.blueprint`, what is
said over the pipe to the server inside in `sandbox.pipe` and `sandbox.process`.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, Self, cast

from sandbox.blueprint import Blueprint
from sandbox.checks import OWN_KERNEL
from sandbox.engine import Engine
from sandbox.errors import EngineRefusedError, ProtocolError, SandboxError
from sandbox.pipe import Pipe
from sandbox.process import StreamProcess, rows_of
from sandbox.rootless import as_mapped, is_ours
from sandbox.spec import BoxSpec, Command, Content, Resolution, Stat
from sandbox.streams import Grant

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
        self.blueprint = Blueprint(self.spec, engine, scratch=scratch, proxied=bool(grants))
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
        spec = self.blueprint.container()
        try:
            self.container = containers.create(spec)
        except EngineRefusedError as error:
            if "seccomp" not in str(error):
                raise
            self.container = containers.create(self.blueprint.container(filtered=False))
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
        self.blueprint.close()

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
