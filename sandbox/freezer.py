"""Whether anything but our own server lives in a box, and holding all of it still for a moment.

The processes are counted in the container's cgroup, which anybody may read; where it cannot be found
(an engine on another machine) something is taken to live. Holding is the engine's pause.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sandbox.engine import Engine, NotFoundError
from sandbox.errors import EngineRefusedError, SandboxError

_CGROUPS = Path("/sys/fs/cgroup")
_PAUSE = 0.005


class Freezer:
    """For one container, made when its server has said hello and nothing else was started. Blocks. `pid`: its first
    process, as this machine counts them; 0 where it is not known.
    """

    def __init__(self, engine: Engine, container: str) -> None:
        self._engine = engine
        self._container = container
        self._procs, self.pid = _find(engine, container)
        self._own = self.living() or frozenset()

    def busy(self) -> bool:
        """Whether a process lives that is not of the server."""
        living = self.living()
        return living is None or bool(living - self._own)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Nothing in the box moves meanwhile: a box that has ended needs no holding. Raises what the engine
        raises.
        """
        try:
            self._engine.containers.pause(self._container)
        except EngineRefusedError:
            if self._runs():
                raise
        try:
            yield
        finally:
            self._engine.containers.unpause(self._container)

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
            return frozenset(self._procs.read_text().split())
        except OSError:
            return None


def _find(engine: Engine, container: str) -> tuple[Path | None, int]:
    """The file that lists a container's processes, and the first of them (0: unknown)."""
    if not engine.on_this_machine:
        return None, 0
    with suppress(SandboxError, OSError, KeyError, ValueError):
        first = int(engine.containers.inspect(container)["State"]["Pid"])
        for line in Path(f"/proc/{first}/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers in ("", "pids"):
                file = _CGROUPS / controllers / path.lstrip("/") / "cgroup.procs"
                if str(first) in file.read_text().split():
                    return file, first
    return None, 0
