"""What a checkpoint takes in: all layers walked for what is new against the last state; contents go into the log, or
the layer is frozen where much is new.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import field

from sandbox.capture import Capture, MuchError, UnsteadyError
from sandbox.dataclass import dataclass
from sandbox.errors import WorkspaceError
from sandbox.freezing import Freezing, Swap, SwapError
from sandbox.keeper import Keeper
from sandbox.layers import Layer
from sandbox.places import Places
from sandbox.points import Log
from sandbox.states import Delta, Row, State
from sandbox.system import System

# A layer is frozen when its upper directory holds, or will hold, more entries or bytes than these.
MOST_ENTRIES = 500
MOST_BYTES = 16 << 20
_TRIES = 3
Freeze = Callable[[], AbstractContextManager[object]]


@dataclass(slots=True)
class Present:
    """The states of all layers as of the last checkpoint or restore, once they are loaded."""

    states: dict[str, State] = field(default_factory=dict)
    owed: dict[str, State] = field(default_factory=dict)
    loaded: bool = False


@dataclass(slots=True)
class Taken:
    """What one `take` found. `frozen`: what had changed in the layers that were frozen. `image`: of the root file
    system.
    """

    deltas: dict[str, Delta] = field(default_factory=dict)
    frozen: dict[str, Delta] = field(default_factory=dict)
    much: list[Layer] = field(default_factory=list)
    image: str = ""


class Taking:
    """For one session. `present` is brought up to date in place where only stamps moved or a layer was frozen."""

    def __init__(self, places: Places, keeper: Keeper, freezing: Freezing) -> None:
        self._places = places
        self._keeper = keeper
        self._freezing = freezing
        self.present = Present()
        self.most = (MOST_ENTRIES, MOST_BYTES)
        self.system: System | None = None

    @property
    def layers(self) -> tuple[Layer, ...]:
        """All that the session has. Raises WorkspaceError before there are any."""
        if self._places.table is None:
            raise WorkspaceError("this session has no layers yet")
        return self._places.table.layers

    def load(self, log: Log) -> None:
        """Know the present states. Raises StoreError."""
        if not self.present.loaded:
            self.present = Present(states=log.state(log.present) if log.present else {}, loaded=True)

    @contextmanager
    def sure(self) -> Iterator[None]:
        """What is known of the present is forgotten where what is done with it fails."""
        try:
            yield
        except BaseException:
            self.present.loaded = False
            raise

    def state(self, layer: Layer) -> State:
        """What is known of a layer; nothing where it stands on others by now (a crash came after it was frozen)."""
        state = self.present.states.setdefault(layer.name, State(lowers=layer.lowers))
        if state.lowers != layer.lowers:
            state = State(lowers=layer.lowers)
        return state

    def is_large(self, state: Mapping[str, Row]) -> bool:
        """Whether it is worth freezing."""
        entries, size = self.most
        return len(state) > entries or sum(row.size for row in state.values() if row.is_file) > size

    def image(self, log: Log) -> str:
        """The image of the root file system as it stands, "" for the session's own."""
        kept = log.image(log.present)
        return kept if self.system is None else self.system.present(kept, after=log.present)

    def _root_changed(self) -> bool:
        """Whether the root file system must be kept too; what changes in it from here on is seen next time."""
        if self.system is None or not self.system.look():
            return False
        self.system.watch()
        return True

    def find(self, log: Log, taken: Taken, *, busy: bool, freeze: Freeze, swap: Swap | None) -> None:
        """All that changed; what is much is frozen where it can be. What had not changed in the root file system before
        the files were taken in must not have changed meanwhile either: the state is of one moment.
        """
        for _ in range(_TRIES):
            root = self._root_changed()
            try:
                with ExitStack() as still:
                    if busy or root:
                        still.enter_context(freeze())
                    self.capture(log, taken, settle=busy, bounded=swap is not None, rotate=swap is not None)
                    if taken.much and swap is not None:
                        if not (busy or root):
                            still.enter_context(freeze())
                        self.freeze(log, taken, swap)
                    taken.image = self.system.commit() if self.system is not None and root else self.image(log)
            except UnsteadyError:
                busy = True
                continue
            if root or self.system is None or not self.system.look():
                return
        raise WorkspaceError("the box writes faster than a checkpoint can be taken")

    def capture(self, log: Log, taken: Taken, *, settle: bool, bounded: bool, rotate: bool) -> None:
        """Find what is new, layer by layer. `bounded`: what is too much to be read is only told (`much`); `rotate`: so
        is what has become too much little by little.
        """
        taken.deltas, taken.much = {}, []
        for layer in self.layers:
            log.store.flush()
            try:
                self._capture_one(log, layer, taken, settle=settle, most=self.most if bounded else None, rotate=rotate)
            except MuchError:
                log.store.drop()
                taken.much.append(layer)
        for name, owed in self.present.owed.items() if taken.deltas or taken.frozen else ():
            rows, gone, lowers = taken.deltas.get(name, Delta(rows={}, gone=[]))
            late = {path: row for path, row in owed.items() if path not in rows and path not in gone}
            if late and lowers is None:
                taken.deltas[name] = Delta(rows=late | rows, gone=gone)

    def _capture_one(
        self,
        log: Log,
        layer: Layer,
        taken: Taken,
        *,
        settle: bool,
        most: tuple[int, int] | None = None,
        rotate: bool = False,
    ) -> None:
        state = self.state(layer)
        known = self.present.states[layer.name]
        capture = Capture(
            self._places.top(layer),
            log.store,
            self._keeper,
            settle=settle,
            local=not layer.remote,
            most=most,
            gives_up=lambda: not self._freezing.impossible(layer),
            skip=self._places.covers.skipping(layer),
        )
        delta = capture.run(state)
        self.present.owed.setdefault(layer.name, State()).update(capture.owed)
        if state.lowers != known.lowers:
            taken.deltas[layer.name] = Delta(rows=delta.rows, gone=[], lowers=state.lowers)
        elif delta:
            taken.deltas[layer.name] = delta
        if not rotate or not (delta or most is None) or not self.is_large({**state, **delta.rows}):
            return
        if not self._freezing.impossible(layer):
            taken.much.append(layer)

    def freeze(self, log: Log, taken: Taken, swap: Swap) -> None:
        """Freeze the layers in which much is, those that cannot be are read after all. Nothing moves meanwhile."""
        for layer in taken.much:
            frozen = not self._freezing.refused(layer, swap) and self._frozen(log, layer, taken, swap)
            if not frozen and layer.name not in taken.deltas:
                self._capture_one(log, layer, taken, settle=True)
        taken.much = []

    def _frozen(self, log: Log, layer: Layer, taken: Taken, swap: Swap) -> bool:
        """Freeze one layer, if it turns out that it can be."""
        try:
            state, delta = self._freezing.freeze(layer, self.state(layer), swap, log)
        except SwapError as error:
            if error.dead:
                raise WorkspaceError(f"the box had to be ended: {error}") from error
            return False
        earlier = taken.frozen.get(layer.name, Delta(rows={}, gone=[]))
        taken.frozen[layer.name] = Delta(rows={**earlier.rows, **delta.rows}, gone=earlier.gone + delta.gone)
        self.present.states[layer.name] = state
        self.present.owed.pop(layer.name, None)
        taken.deltas.pop(layer.name, None)
        return True


def summary(*found: Mapping[str, Delta]) -> tuple[int, list[str]]:
    """How many paths that are no directories, and the first of their names, layer and path."""
    paths = set()
    for deltas in found:
        for name, delta in deltas.items():
            paths |= {f"{name}/{path}" for path, row in delta.rows.items() if not row.is_directory}
            paths |= {f"{name}/{path}" for path in delta.gone}
    return len(paths), sorted(paths)[:20]
