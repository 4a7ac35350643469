"""Whether anything but our own server lives in a box, and holding all of it still for a moment.

The processes are counted in the container's cgroup, which anybody may read; where it cannot be found
(an engine on another machine) something is taken to live. Holding is the engine's pause.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sandbox.engine import Engine, NotFoundError
from sandbox.errors import EngineRefusedError, SandboxError

_CGROUPS = Path("/sys/fs/cgroup")


class Freezer:
    """For one container, made when its server has said hello and nothing else was started. Blocks."""

    def __init__(self, engine: Engine, container: str) -> None:
        self._engine = engine
        self._container = container
        self._procs = _find(engine, container)
        self._own = self._living() or frozenset()

    def busy(self) -> bool:
        """Whether a process lives that is not of the server."""
        living = self._living()
        return living is None or bool(living - self._own)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Nothing in the box moves meanwhile: a box that has ended needs no holding, and a rootless engine may
        have no freezer (`fumehood doctor` says so). Raises what the engine raises.
        """
        try:
            self._engine.containers.pause(self._container)
        except EngineRefusedError:
            if self._runs() and not cannot_hold(self._engine):
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

    def _living(self) -> frozenset[str] | None:
        """Ids of the box's processes on this machine; None where they cannot be told."""
        if self._procs is None:
            return None
        try:
            return frozenset(self._procs.read_text().split())
        except OSError:
            return None


def cannot_hold(engine: Engine) -> bool:
    """Whether an engine has no cgroup for its containers: without root there is none in the first version."""
    return engine.info.rootless and engine.info.cgroup == "1"


def _find(engine: Engine, container: str) -> Path | None:
    """The file that lists a container's processes."""
    if not engine.on_this_machine:
        return None
    with suppress(SandboxError, OSError, KeyError, ValueError):
        first = int(engine.containers.inspect(container)["State"]["Pid"])
        for line in Path(f"/proc/{first}/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers in ("", "pids"):
                file = _CGROUPS / controllers / path.lstrip("/") / "cgroup.procs"
                if str(first) in file.read_text().split():
                    return file
    return None
