"""Going back to a checkpoint: new directories beside the old ones (`sandbox.rebuild`; on another machine new volumes:
`sandbox.refill`), then an intent record, then renames (`sandbox.intents`). Before the record nothing happened, after
it whoever comes next finishes. Everything blocks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from sandbox.capture import Capture
from sandbox.copies import remove_tree
from sandbox.errors import WorkspaceError
from sandbox.freezing import AtRest, Freezing, Stack, Swap, SwapError
from sandbox.intents import RESTORE, TRASH, Intent, discard, finish, finish_restore
from sandbox.keeper import Keeper
from sandbox.layers import Layer
from sandbox.places import Places
from sandbox.points import Log
from sandbox.pool import Pool
from sandbox.rebuild import Rebuild
from sandbox.refill import Refill
from sandbox.remade import note as note_remade
from sandbox.spec import Rung
from sandbox.states import State, same_state, stamped
from sandbox.taking import Present, Taking


class Restoring:
    """For one session. What is present, and where it stands in the log, is `taking`'s; it is brought up to date.
    `directory`: where the intent lies.
    """

    def __init__(
        self,
        taking: Taking,
        freezing: Freezing,
        refill: Refill,
        *,
        places: Places,
        pool: Pool,
        keeper: Keeper,
        directory: Path,
    ) -> None:
        self._taking = taking
        self._freezing = freezing
        self._refill = refill
        self._places = places
        self._pool = pool
        self._keeper = keeper
        self._intent = directory / RESTORE

    def restore(self, log: Log, checkpoint: str, *, note: Mapping[str, Any], swap: Swap | None) -> tuple[str, ...]:
        """See Checkpoints.restore. Raises OSError beside."""
        system = self._taking.system
        wanted = {name: self._unmasked(name, state) for name, state in log.state(checkpoint).items()}
        self._taking.load(log)
        layers = [la for la in self._taking.layers if not same_state(self._taking.state(la), wanted[la.name])]
        if swap is not None and any(layer.rung is not Rung.OVERLAY for layer in layers):
            raise SwapError("a whole copy cannot be replaced under a box")
        image = log.image(checkpoint)
        again = ("system",) if image != self._taking.image(log) else ()
        if again and swap is not None:
            raise SwapError("a root file system cannot be replaced under a box")
        if system is not None:
            system.require(image)
            system.forget()
        with ExitStack() as after:
            afar = self._refill.beside((la for la in layers if la.remote), wanted, log)
            stacks = {la.at: self._build(la, wanted[la.name], log) for la in layers if not la.remote}
            staged = (swap or AtRest()).stage(stacks)
            after.callback(staged.close)
            intent = Intent(
                layers={layer.name: self._places.switch(layer) for layer in layers},
                lowers={layer.name: wanted[layer.name].lowers for layer in layers},
                checkpoint=checkpoint,
                note=dict(note),
            )
            intent.write(self._intent)
            dead: SwapError | None = None
            try:
                staged.swap()
            except SwapError as error:
                if not error.dead:
                    self._intent.unlink()
                    raise
                dead = error
            finish(self._places.directory, intent)
        self._places.reload()
        self._arrive(checkpoint, layers, wanted | afar, log)
        if dead is not None:
            raise dead
        return (*(layer.name for layer in layers), *again)

    @property
    def pending(self) -> dict[str, Any] | None:
        """The note of a restore that is done in the layers and was not yet `settle`d."""
        intent = Intent.read(self._intent)
        return None if intent is None else dict(intent.note)

    def settle(self) -> None:
        """What went with the restore is done too."""
        self._intent.unlink(missing_ok=True)

    def finish(self) -> None:
        """Finish what an intent on record decided; remove what one without left behind."""
        finish_restore(self._places.directory, self._intent)
        self._places.reload()

    def empty_trash(self, layer: str = "*") -> None:
        """Remove what was replaced, of one layer or of all."""
        for place in self._places.directory.glob(f"{layer}/{TRASH}*"):
            if place.is_file():
                self._refill.remove(place)
                continue
            for path in remove_tree(place):
                with suppress(OSError, WorkspaceError):
                    self._keeper.remove(path)
            remove_tree(place)

    def _unmasked(self, name: str, state: State) -> State:
        """A state without what is masked by now: a rule may be newer than a checkpoint."""
        layer = next((each for each in self._taking.layers if each.name == name), None)
        skip = self._places.covers.skipping(layer) if layer is not None else None
        if skip is None:
            return state
        return State(((path, row) for path, row in state.items() if not skip(path)), state.lowers)

    def _arrive(self, checkpoint: str, layers: Sequence[Layer], states: dict[str, State], log: Log) -> None:
        """These layers were made anew: know what they hold. `states`: of all. What tells which names of a copy are one
        file is not as the log has it any more, and goes with what is new next.
        """
        afar = any(layer.remote for layer in layers)
        if afar:
            self._keeper.close()  # it stands on what was replaced
        owed: dict[str, State] = {}
        for layer in layers:
            if layer.rung is not Rung.OVERLAY:
                told = states[layer.name]
                states[layer.name] = made_anew = self._as_made(layer, told, log)
                owed[layer.name] = State((path, row) for path, row in made_anew.items() if not row.one_file(told[path]))
        made = {layer.name for layer in layers}
        kept = {la.name: self._taking.state(la) for la in self._taking.layers if la.name not in made}
        self._taking.present = Present(states=states | kept, owed=owed, loaded=True)
        log.go(checkpoint)
        if afar:  # else whoever comes next would have all of it read again
            log.restack(self._taking.present.states)

    def _as_made(self, layer: Layer, state: State, log: Log) -> State:
        """The state of a whole copy that was made again, with the stamps that it has now, which are noted. What was
        replaced goes first: it has links to the same files, and their ctime moves with each.
        """
        self.empty_trash(layer.name)
        if not layer.remote:
            top, skip = self._places.top(layer), self._places.covers.skipping(layer)
            state = stamped(state, Capture(top, None, self._keeper, skip=skip).run(State()).rows)
        note_remade(self._places.path(layer), state, log.first().get(layer.name, State()))
        return state

    def _build(self, layer: Layer, state: State, log: Log) -> Stack:
        place = self._places.path(layer)
        target, work = place / "new", place / "new.work"
        discard(target)
        discard(work)
        target.mkdir(mode=0o700)
        work.mkdir()
        now = self._taking.present.states.get(layer.name, State())
        Rebuild(target, log, self._keeper, old=self._places.top(layer), now=now).run(state)
        self._places.covers.shade(layer, target, (self._pool.tree(each) for each in state.lowers))
        return self._freezing.stack(layer, state.lowers, target, work)
