"""The bed of the time machine over a real box: the directory is looked at and written to as the box has it mounted."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

from sandbox.changes import Change
from sandbox.copies import remove_tree
from sandbox.layers import Layer
from sandbox.pool import Pool
from sandbox.selection import Selection
from tests.support.beds import START, write_tree
from tests.support.sessions import Bench

_Found = TypeVar("_Found")


class BoxBed:
    """A box is there whenever the directory is `seen`, and gone when its layers are to `rest`. As root: through the
    mount namespace of the box.
    """

    over = True

    def __init__(self, bench: Bench, base: Path) -> None:
        self._bench, self._base = bench, base
        self._loop = asyncio.new_event_loop()
        self._pool = Pool(base / "pool")
        self._beds = [self]
        self.host = base / "repo"
        self.host.mkdir(parents=True)
        write_tree(self.host, START)
        self._name, self._state = str(uuid.uuid4()), base / "state"
        self._open()
        self.seen()
        self._run(self._inside.workspace.start_manifest())
        self._run(self._inside.workspace._surveys.walked())

    def _open(self) -> None:
        self._inside = self._bench.session(self.host, self._state, name=self._name, pool=self._pool)
        self.checkpoints = self._inside.workspace.checkpoints
        self.views = self._inside.workspace._views

    def _run(self, work: Coroutine[Any, Any, _Found]) -> _Found:
        return self._loop.run_until_complete(work)

    def seen(self) -> Path:
        if self._inside.box is None:
            self._run(self._inside.again())
        pid = self._bench.engine.containers.inspect(self._inside.box_id)["State"]["Pid"]
        return Path(f"/proc/{pid}/root{self._inside.cwd}")

    @property
    def layer(self) -> Layer:
        """The root's, as it stands."""
        return next(layer for layer in self._inside.workspace.layers if layer.host is not None)

    def changes(self) -> list[Change]:
        return self.views.changes(self.layer, [])

    def apply(self, selection: Selection | None = None) -> None:
        self.views.apply(self.changes(), selection or Selection(), dry=False)

    def rest(self) -> None:
        self._run(self._inside.end())

    def again(self) -> None:
        self.rest()
        self._run(self._inside.workspace.release())
        self._open()
        self.seen()
        self.rest()

    def fork(self, checkpoint: str) -> BoxBed:
        made = object.__new__(type(self))
        made.__dict__.update(self.__dict__)
        made._name = str(uuid.uuid4())
        made._state = self._base / f"state-{len(self._beds)}"
        made._state.mkdir()
        self._run(self._inside.workspace.fork(checkpoint, [(made._name, made._state)]))
        made._open()
        made.seen()
        self._beds.append(made)
        return made

    def close(self) -> None:
        for bed in self._beds:
            self._run(bed._inside.discard())
        self._loop.close()
        remove_tree(self._base)
