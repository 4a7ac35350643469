"""Whether anything but our own server lives in a box, and holding all of it still for a moment.

The processes are counted in the container's cgroup, which anybody may read; where it cannot be found
(an engine on another machine) something is taken to live. Where this process may write there (root), it
holds the cgroup itself, in a fraction of a millisecond; else the engine pauses the container.
"""

from __future__ import annotations

import os
import signal
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sandbox.dataclass import dataclass
from sandbox.engine import Engine, NotFoundError
from sandbox.errors import EngineRefusedError, SandboxError

_CGROUPS = Path("/sys/fs/cgroup")
_HOLD_SECONDS = 2.0
_PAUSE = 0.005
_PAUSE_ATTEMPTS, _PAUSE_AGAIN = 10, 0.1
# Lets go of the cgroup at the end of its input: when its maker is done with it, or dead.
_GUARD = 'read -r _; printf %s "$1" > "$2"'


@dataclass(frozen=True, slots=True, kw_only=True)
class _Switch:
    """The file that holds a cgroup: what to write, and what says that it is held."""

    file: Path
    hold: str
    let_go: str
    told: Path
    held: str


class Freezer:
    """For one container, made when its server has said hello and nothing else was started. Blocks. `pid`: its first
    process, as this machine counts them; 0 where it is not known.
    """

    def __init__(self, engine: Engine, container: str) -> None:
        self._engine = engine
        self._container = container
        self._procs, self._switch, self.pid = _find(engine, container)
        self._own = self.living() or frozenset()
        self._guard: tuple[int, int] | None = None

    def busy(self) -> bool:
        """Whether a process lives that is not of the server."""
        living = self.living()
        return living is None or bool(living - self._own)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Nothing in the box moves meanwhile: a box that has ended needs no holding, and a rootless engine may
        have no freezer (`fumehood doctor` says so). Raises what the engine raises.
        """
        let_go = self._hold() or self._pause()
        try:
            yield
        finally:
            let_go()

    def _hold(self) -> Callable[[], None] | None:
        """Hold the cgroup; None where this process may not, or it does not come to rest."""
        switch = self._switch
        if switch is None or not os.access(switch.file, os.W_OK):
            return None
        if self._guard is None:
            self._guard = _guard(switch)
            weakref.finalize(self, _dismiss, *self._guard)

        def let_go() -> None:
            with suppress(OSError):
                switch.file.write_text(switch.let_go)

        try:
            switch.file.write_text(switch.hold)
            until = time.monotonic() + _HOLD_SECONDS
            while switch.held not in switch.told.read_text().split("\n"):
                if time.monotonic() > until:
                    let_go()
                    return None
                time.sleep(0.0005)
        except OSError:
            let_go()
            return None
        return let_go

    def _pause(self) -> Callable[[], None]:
        for again in (True,) * _PAUSE_ATTEMPTS + (False,):
            try:
                self._engine.containers.pause(self._container)
                break
            except EngineRefusedError:  # runc gives up soon on processes that will not rest
                if not self._runs() or cannot_hold(self._engine):
                    break
                if not again:
                    raise
                time.sleep(_PAUSE_AGAIN)
        return lambda: self._engine.containers.unpause(self._container)

    def _runs(self) -> bool:
        try:
            return bool(self._engine.containers.inspect(self._container)["State"]["Running"])
        except NotFoundError:
            return False

    def end_others(self, seconds: float = 3.0) -> bool:
        """End all processes that are not of the server, where this process may; whether none is left."""
        if self.busy():
            with self.frozen():  # so that none can have children before it ends
                for pid in (self.living() or frozenset()) - self._own:
                    with suppress(ProcessLookupError, PermissionError):
                        os.kill(int(pid), signal.SIGKILL)
        until = time.monotonic() + seconds
        while self.busy() and time.monotonic() < until:
            time.sleep(_PAUSE)
        return not self.busy()

    def living(self) -> frozenset[str] | None:
        """Ids of the box's processes on this machine; None where they cannot be told."""
        if self._procs is None:
            return None
        try:
            with self._procs.open("rb", buffering=0) as file:
                return frozenset(file.read().decode().split())
        except OSError:
            return None


def _guard(switch: _Switch) -> tuple[int, int]:
    """A process that lets go when this one dies: its pid, and what to close once it is not needed any more."""
    ours, theirs = os.pipe()
    try:
        actions = [
            (os.POSIX_SPAWN_DUP2, ours, 0),
            *((os.POSIX_SPAWN_OPEN, n, "/dev/null", os.O_RDWR, 0) for n in (1, 2)),
        ]
        argv = ["/bin/sh", "-c", _GUARD, "sh", switch.let_go, str(switch.file)]
        return os.posix_spawn("/bin/sh", argv, {}, file_actions=actions, setsid=True), theirs
    except BaseException:
        os.close(theirs)
        raise
    finally:
        os.close(ours)


def _dismiss(pid: int, pipe: int) -> None:
    os.close(pipe)
    with suppress(ChildProcessError):
        os.waitpid(pid, 0)


def cannot_hold(engine: Engine) -> bool:
    """Whether an engine has no cgroup for its containers: without root there is none in the first version."""
    return engine.info.rootless and engine.info.cgroup == "1"


def _find(engine: Engine, container: str) -> tuple[Path | None, _Switch | None, int]:
    """The file that lists a container's processes, what holds them, and the first of them (0: unknown)."""
    procs, switch, found = None, None, 0
    if not engine.on_this_machine:
        return procs, switch, found
    with suppress(SandboxError, OSError, KeyError, ValueError):
        first = int(engine.containers.inspect(container)["State"]["Pid"])
        for line in Path(f"/proc/{first}/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            place = _CGROUPS / controllers / path.lstrip("/")
            if controllers not in ("", "pids", "freezer"):
                continue
            if str(first) not in (place / "cgroup.procs").read_text().split():
                continue
            procs, found = procs or place / "cgroup.procs", first
            switch = switch or _switch_in(place)
    return procs, switch, found


def _switch_in(place: Path) -> _Switch | None:
    """Version 1's freezer, or version 2's, which every cgroup has."""
    if (place / "freezer.state").exists():
        state = place / "freezer.state"
        return _Switch(file=state, hold="FROZEN", let_go="THAWED", told=state, held="FROZEN")
    if (place / "cgroup.freeze").exists():
        told = place / "cgroup.events"
        return _Switch(file=place / "cgroup.freeze", hold="1", let_go="0", told=told, held="frozen 1")
    return None
