"""Freezing a layer: its upper directory goes to the pool as it is, an empty one takes its place. O(1) in what it
holds, but for the walk that writes down its rows. And squashing: many frozen layers told as one.

With a box on the layers that needs its mount replaced beneath it (`Swap`); where that cannot be, and somebody
stands on the layers, nothing is frozen.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Protocol

from sandbox.capture import Capture
from sandbox.dataclass import dataclass
from sandbox.errors import StoreError, WorkspaceError
from sandbox.intents import FREEZE, RESTORE, Intent, discard, finish
from sandbox.keeper import Keeper
from sandbox.layers import Layer, beneath, overlay_options
from sandbox.places import Places
from sandbox.points import Log
from sandbox.pool import Pool
from sandbox.rebuild import Rebuild
from sandbox.spec import Rung
from sandbox.states import Delta, State, flatten


class SwapError(Exception):
    """The mounts in the box could not be replaced; all is as it was. `dead`: it is not, and the box was ended."""

    def __init__(self, why: str, *, dead: bool = False) -> None:
        super().__init__(why)
        self.dead = dead


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """The directories of one overlay. `lowers`: the topmost first, the root's last."""

    lowers: tuple[Path, ...]
    upper: Path
    work: Path


class Staged(Protocol):
    """Mounts that are ready to take the place of others. `close` it in any case."""

    def swap(self) -> None:
        """All of them now. Raises SwapError."""
        ...

    def close(self) -> None:
        """Let go of what was not used, and of what was replaced."""
        ...


class Swap(Protocol):
    """How what stands on the layers comes to stand on others. `way`: rest or live."""

    way: str

    def held(self, at: PurePosixPath) -> str:
        """Who in the box holds on to a place; "" for nobody."""
        ...

    def stage(self, stacks: Mapping[PurePosixPath, Stack]) -> Staged:
        """Make the mounts, by place. Raises SwapError; nothing was changed then."""
        ...


class AtRest:
    """Nothing stands on the layers: the next box is started over them as they are then."""

    way = "rest"

    def held(self, at: PurePosixPath) -> str:  # noqa: ARG002
        """Nobody."""
        return ""

    def stage(self, stacks: Mapping[PurePosixPath, Stack]) -> AtRest:  # noqa: ARG002
        """Nothing to do."""
        return self

    def swap(self) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Nothing to do."""


class Freezing:
    """For one session. `directory`: where its intents lie. The caller sees to it that nothing moves."""

    def __init__(self, places: Places, pool: Pool, keeper: Keeper, *, directory: Path) -> None:
        self._places = places
        self._pool = pool
        self._keeper = keeper
        self._directory = directory

    def impossible(self, layer: Layer) -> bool:
        """Whether a layer cannot be frozen in any case, for now."""
        if layer.rung is not Rung.OVERLAY or layer.remote or (self._directory / RESTORE).exists():
            return True
        # A directory that changes its parent has `..` rewritten: that is writing in it.
        return not os.access(self._places.top(layer), os.W_OK, effective_ids=True)

    def refused(self, layer: Layer, swap: Swap) -> bool:
        """Whether a layer cannot be frozen just now."""
        return self.impossible(layer) or bool(swap.held(layer.at))

    def freeze(self, layer: Layer, state: State, swap: Swap, log: Log) -> tuple[State, Delta]:
        """Freeze a layer of which `state` was the last that is known. Returns the new state, and what had changed
        since. Raises SwapError, OSError, UnsteadyError, WorkspaceError, StoreError: it is as it was then.
        """
        top = self._places.top(layer)
        known = State(state, state.lowers)
        capture = Capture(top, None, self._keeper, local=not layer.remote, skip=self._places.covers.skipping(layer))
        delta = capture.run(known)
        if capture.skipped:
            raise SwapError("what is hidden by policy was written to, and is not to be kept")
        for path in delta.gone:
            known.pop(path, None)
        known.update(delta.rows)
        with self._pool.shared():
            lowers = self.room(layer, layer.lowers, log)
            name = self._begin(known)
            try:
                self._replace(layer, (name, *lowers), name, swap)
            except SwapError as error:
                if not error.dead:
                    self._forget(name)
                raise
            except (OSError, WorkspaceError, StoreError):
                self._forget(name)
                raise
        fresh = State(lowers=(name, *lowers))
        fresh.update(Capture(top, None, self._keeper).run(State()).rows)
        return fresh, delta

    def stack(self, layer: Layer, lowers: Sequence[str], upper: Path, work: Path) -> Stack:
        """The directories of a layer over these frozen ones. Raises WorkspaceError where one is missing."""
        trees = tuple(self._pool.tree(each) for each in lowers)
        for tree in trees:
            if not tree.is_dir():
                raise StoreError(f"the frozen layer {tree.parent.name} is missing")
        return Stack(lowers=(*trees, *beneath(self._places.path(layer))), upper=upper, work=work)

    def _begin(self, rows: State) -> str:
        name = self._pool.begin(rows)
        self._places.refer(name)
        return name

    def _forget(self, name: str) -> None:
        """Nothing came of it."""
        if not self._pool.tree(name).exists():
            shutil.rmtree(self._pool.place(name), ignore_errors=True)
            with suppress(OSError):
                self._places.unrefer(name)

    def _replace(self, layer: Layer, lowers: tuple[str, ...], name: str, swap: Swap) -> None:
        place, top = self._places.path(layer), self._places.top(layer)
        new, work = place / "new", place / "new.work"
        discard(new)
        discard(work)
        made = self._pool.place(name) / "new"
        made.mkdir(mode=0o700)
        try:
            made.rename(new)  # what comes from there can go there: it is one mount
        except OSError as error:
            raise SwapError(f"the pool is elsewhere: {error.strerror}") from error
        work.mkdir()
        self._places.dress(top, new)
        stack = self.stack(layer, lowers[1:], new, work)
        stack = Stack(lowers=(top, *stack.lowers), upper=new, work=work)
        staged = swap.stage({layer.at: stack})
        intent = Intent(
            layers={layer.name: top.name},
            lowers={layer.name: lowers},
            frozen={layer.name: str(self._pool.tree(name))},
        )
        file = self._directory / FREEZE
        try:
            intent.write(file)
            try:
                staged.swap()
            except SwapError as error:
                if not error.dead:
                    file.unlink()
                    discard(new)
                    discard(work)
                    raise
                finish(self._places.directory, intent)
                file.unlink()
                self._places.reload()
                raise
            finish(self._places.directory, intent)
            file.unlink()
            self._places.reload()
        finally:
            staged.close()

    def room(self, layer: Layer, lowers: tuple[str, ...], log: Log) -> tuple[str, ...]:
        """The frozen ones of a layer, squashed where one more would be too many."""
        probe = self._pool.tree("0" * 12)
        try:
            overlay_options(self._places.path(layer), [probe] * (len(lowers) + 1))
        except WorkspaceError:
            return (self.squash(lowers, log),)
        return lowers

    def squash(self, lowers: Sequence[str], log: Log) -> str:
        """One new frozen layer that is as these together; files by hard links where that can be (nothing writes to
        either). Raises OSError, StoreError.
        """
        flat = flatten(State(lowers=tuple(lowers)), self._pool.rows)
        return self.plant(flat, log)

    def plant(self, state: State, log: Log) -> str:
        """A new frozen layer that holds a state as it is told. Raises OSError, StoreError."""
        name = self._begin(State())
        try:
            half = self._pool.place(name) / "half"
            half.mkdir(mode=0o700)
            Rebuild(half, log, self._keeper, frozen=self._pool.tree).run(state)
            rows = State(Capture(half, None, self._keeper).run(State()).rows)
            self._pool.tell(name, rows)
            half.rename(self._pool.tree(name))
        except BaseException:
            self._forget(name)
            raise
        return name
