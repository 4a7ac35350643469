"""The workspace of a session: its roots seen copy-on-write in the box, and what changed in them.

Files of the host are only ever written by `apply`. Blocking work runs in threads; walks of whole
trees in processes of their own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing, nullcontext
from pathlib import Path
from typing import Any

from sandbox.addresses import find_root
from sandbox.apply import Applied, AppliedReport, Recovered
from sandbox.changes import Change
from sandbox.checkpoints import Checkpoints
from sandbox.compaction import Background, Stop
from sandbox.compare import Past
from sandbox.copies import remove_tree
from sandbox.diff import FileDiff
from sandbox.disk import usage_of
from sandbox.engine import Engine, ImageInfo
from sandbox.errors import WorkspaceError
from sandbox.footing import Footing, Restored
from sandbox.freezer import Freezer
from sandbox.gitrefs import RefMove
from sandbox.held import HeldBack
from sandbox.keeper import Keeper, KeeperImage
from sandbox.layers import Layer
from sandbox.masks import Masks
from sandbox.places import Places
from sandbox.points import Checkpoint, images_named_by_others
from sandbox.pool import Pool
from sandbox.removal import remove_frozen, remove_layers
from sandbox.rootless import is_local
from sandbox.roots import Root
from sandbox.selection import PlanError, Selection
from sandbox.skeleton import own_places
from sandbox.spec import Mount, Owner, Rung
from sandbox.surveys import Drift, Surveys
from sandbox.system import System
from sandbox.threads import from_thread, to_its_end
from sandbox.views import Views


class Workspace:
    """The layers of one session. One owner at a time (the session's lock)."""

    def __init__(
        self,
        engine: Engine | None,
        *,
        session: str,
        state: Path,
        roots: tuple[Root, ...],
        owner: Owner,
        rung: Rung | None = None,
        identity: tuple[str, str] = ("", ""),
        home_files: Mapping[str, bytes] | None = None,
        keeper: Callable[[], KeeperImage] | None = None,
        held: HeldBack | None = None,
        pool: Pool | None = None,
        masks: Masks | None = None,
    ) -> None:
        """`state`: the session's own directory (0700). `engine` None will do for what needs none
        (changes, diff, apply, usage, while nothing is out of this user's reach). `owner`: whom
        commands run as. `rung` forces one. `identity`: git name and email for HOME; `home_files`:
        more for it. `keeper`: what its container is made of, called in a thread when first needed. `pool`: of
        frozen layers, shared by sessions; its own without one. `masks`: what the box must not see or change, taken
        up by `prepare`; None: as the last time.
        """
        self.masks = masks
        self.roots = roots
        self._engine = engine
        self._state = state
        self._forced = rung
        self._fresh = False
        layers = state / "layers"
        self.pool = pool or Pool(state / "store" / "frozen")
        self._keeper = Keeper(
            engine,
            keeper,
            session=session,
            layers=layers,
            roots={root.name: root.host for root in roots},
            mounts=self._remote_mounts,
            frozen=self.pool.directory,
        )
        self._places = Places(
            layers,
            session=session,
            owner=owner,
            roots=roots,
            own=own_places(name=identity[0], email=identity[1], files=home_files),
            chown=self._keeper.chown,
            image=self._keeper.image,
            frozen=self.pool.tree,
            remove=self._keeper.remove,
        )
        self.checkpoints = Checkpoints(self._places, self._keeper, directory=state / "store", pool=self.pool)
        self.system = self.checkpoints.system = System(engine, session=session, state=state)
        self.footing = Footing(self._places, self.checkpoints)
        self._views = Views(self._places, self._keeper, store=state / "store" / "log", held=held or HeldBack.load())
        self._surveys = Surveys(self._places, self._views, state=state)
        self._packing = Background(self._tend)
        self.past = Past(self._places, self.checkpoints, self._views)

    async def prepare(self) -> tuple[Mount, ...]:
        """Make the layers where there are none yet, define the engine's volumes, and return what
        the box mounts. Takes no longer for a large root, on the overlay rung. Raises WorkspaceError,
        DiskFullError, and what an engine raises.
        """
        engine = self._need_engine()

        def make() -> tuple[Mount, ...]:
            self.finish_restore()
            self.system.rescue(lambda: self.checkpoints.present)
            self.footing.stands = True
            local = is_local(engine)
            self._fresh = self._places.make(local=local, forced=self._forced, began_ns=time.time_ns())
            self._places.covers.cover(self.layers, self.masks, self._surveys.skip)
            return self._places.mounts(engine, fresh=self._fresh)

        mounts = await to_its_end(make)
        await self._surveys.note_copies(self.layers)
        return mounts

    async def fall(self) -> tuple[Mount, ...]:
        """After the engine refused to start the box over an overlay: put all of it on the next rung.
        Raises WorkspaceError where that is no way out.
        """
        engine = self._need_engine()
        if not any(layer.rung is Rung.OVERLAY for layer in self.layers) or self._forced is Rung.OVERLAY:
            raise WorkspaceError("the engine refuses the layers as they are", hint="--cow copy may do")

        def fall() -> tuple[Mount, ...]:
            self._places.unmount(engine)
            self._places.fall()
            self._places.covers.cover(self.layers, self.masks, self._surveys.skip)
            return self._places.mounts(engine)

        mounts = await to_its_end(fall)
        await self._surveys.note_copies(self.layers)
        return mounts

    def finish_restore(self) -> None:
        """After a crash: a restore that was decided is carried out. Before anything reads or mounts the layers."""
        self.checkpoints.finish()

    async def checkpoint(self, label: str) -> Checkpoint | None:
        """Keep the present state of all writable places; None where nothing changed since the last one. While
        other processes live in the box, it is held still. Layers in which much changed are frozen where they can
        be, else copied. Raises WorkspaceError, DiskFullError, StoreError.
        """
        return await self.footing.checkpoint(label, first=lambda: self.system.rescue(lambda: self.checkpoints.present))

    def tidy(self) -> None:
        """Compress what the log of checkpoints holds by now, where there is enough of it, and take digests of what was
        frozen since; in the background.
        """
        if self.checkpoints.wants_packing or self.pool.undigested(self._frozen):
            self._packing.start()

    def _tend(self, stop: Stop) -> None:
        if self.checkpoints.wants_packing:
            self.checkpoints.pack(stop)
        self.pool.digest(self._frozen, stop)

    @property
    def _frozen(self) -> tuple[str, ...]:
        return self._places.table.frozen if self._places.table is not None else ()

    async def restore(self, checkpoint: str, note: Mapping[str, Any] | None = None) -> Restored | None:
        """Go back to a checkpoint, the present state having been taken. What runs in the box beside its server is
        ended first. None where the box has to end for it (`ended`), and nothing was done. `note` is kept with the
        intent until `checkpoints.settle`.
        """
        return await self.footing.restore(checkpoint, note)

    async def fork(self, checkpoint: str, targets: Sequence[tuple[str, Path]]) -> tuple[str, ...]:
        """Fill the empty state directories of new sessions (id, directory) with what this one was at a checkpoint. The
        names of the layers that had to be copied once for it. Raises WorkspaceError, DiskFullError, StoreError.
        """
        await self._surveys.walked()
        return await asyncio.shield(asyncio.to_thread(self.checkpoints.fork, checkpoint, targets))

    @property
    def freezer(self) -> Freezer | None:
        """Of the box, once its server has said hello; set by who runs it."""
        return self.footing.freezer

    @freezer.setter
    def freezer(self, freezer: Freezer | None) -> None:
        self.footing.freezer = freezer

    async def image(self, base: ImageInfo) -> ImageInfo:
        """What the next box starts from: `base`, or what was kept of its root file system. Raises SandboxError."""

        def choose() -> ImageInfo:
            checkpoints = self.checkpoints
            if not (self._state / "store" / "checkpoints").exists():
                return self.system.image(base, "", after="")
            return self.system.image(base, checkpoints.image, after=checkpoints.present)

        return await asyncio.to_thread(choose)

    async def ending(self) -> None:
        """Told by who runs the box, when it is about to go: what it wrote into its root file system is kept, where
        that is writable. Where this raises a SandboxError, its container must stay.
        """

        def end() -> None:
            freezer = self.freezer
            self.system.end(lambda: self.checkpoints.present, freezer.frozen if freezer is not None else nullcontext)

        await asyncio.shield(asyncio.to_thread(end))

    async def ended(self) -> None:
        """Told by who runs the box, when it has gone: from now on nothing stands on the layers."""
        await self.footing.ended()

    @property
    def layers(self) -> tuple[Layer, ...]:
        """All layers, roots first; empty before the first `prepare`."""
        return self._places.table.layers if self._places.table else ()

    @property
    def rungs(self) -> dict[str, str]:
        """Where the box sees each root → the rung it stands on."""
        return {str(layer.at): layer.rung.value for layer in self.layers if layer.host is not None}

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know: why a root is not on the best rung, what could not be copied."""
        return self._places.notes + self._places.covers.notes

    async def start_manifest(self) -> None:
        """Begin to write down, in the background, what the roots look like. Once, when the session is new."""
        if self._fresh:
            await self._surveys.start()

    async def changes(self, *, root: str | None = None) -> tuple[Change, ...]:
        """All that the session changed, per root sorted by path, git directories included, with what
        is known of each base. Renames are pairs of deleted and added. Raises WorkspaceError.
        """
        await self._surveys.walked()
        found: list[Change] = []
        for layer in self._views.roots:
            if root in (None, layer.name):
                touched = [] if layer.rung is Rung.OVERLAY else await self._surveys.touched(layer)
                found += await asyncio.to_thread(self._views.changes, layer, touched)
        return tuple(found)

    async def capture(self) -> int:
        """Keep the base contents of what the session changed so far; call it when a turn ends. A
        later edit of these files on the host is then a drift that can be shown and merged.
        """
        return await asyncio.to_thread(self._views.capture, await self.changes())

    async def diffs(
        self, paths: Iterable[tuple[str, str]] | None = None, *, git: bool = False
    ) -> AsyncIterator[FileDiff]:
        """Each change with its text (a git patch; empty where git sees none), renames found, per root
        in path order. `paths`: (root, path) pairs from `locate`. `git`: what lies in git directories
        too, which is else left to `commits`.
        """
        selection = Selection(paths=None if paths is None else tuple(paths))
        changes = [c for c in await self.changes() if (git or not c.in_git) and selection.takes(c)]
        for layer in self._views.roots:
            mine = [change for change in changes if change.root == layer.name]
            if mine:
                async with aclosing(from_thread(self._views.diffs(layer, mine))) as found:
                    async for item in found:
                        yield item

    async def diff(self, paths: Iterable[tuple[str, str]] | None = None) -> AsyncIterator[bytes]:
        """The text of `diffs`, file by file: what `git apply` takes."""
        async for item in self.diffs(paths):
            if item.patch.text:
                yield item.patch.text

    async def patch(self, selection: Selection) -> AsyncIterator[bytes]:
        """The selected changes as a patch that `git apply` takes whole, file by file, binary ones included.
        What is held back is left out until named. Raises PlanError for what no patch can hold.
        """
        changes = [c for c in await self.changes() if not c.in_git and selection.takes(c)]
        if len({change.root for change in changes}) > 1:
            raise PlanError("a patch is for one directory", hint="name paths of one")
        for layer in self._views.roots:
            mine = [change for change in changes if change.root == layer.name]
            if mine:
                async with aclosing(from_thread(self._views.patch(layer, mine, selection))) as found:
                    async for piece in found:
                        yield piece

    async def commits(self) -> tuple[RefMove, ...]:
        """The refs that were moved in the box: never applied as files, taken over as commits."""
        changes = [change for change in await self.changes() if change.in_git]
        moves: list[RefMove] = []
        for layer in self._views.roots:
            mine = [change for change in changes if change.root == layer.name]
            if mine:
                moves += await asyncio.to_thread(self._views.commits, layer, mine)
        return tuple(moves)

    async def apply(self, selection: Selection | None = None, *, dry: bool = False) -> AppliedReport:
        """Write the selected changes onto the host: all, or none of them. Raises ApplyConflictError when
        the host changed one of the paths since the session began (see Selection); WorkspaceError,
        DiskFullError. `dry`: only report (conflicts too). May be run again at any time: what is there
        already is no change any more.
        """
        return await asyncio.to_thread(self._views.apply, await self.changes(), selection or Selection(), dry=dry)

    async def undo_apply(self) -> tuple[Applied, ...]:
        """Take the latest apply back; again for the one before. () when there is none. Raises
        UndoRefusedError, with nothing written, where the host changed since.
        """
        return await asyncio.to_thread(self._views.undo_apply)

    async def recover(self) -> tuple[Recovered, ...]:
        """Bring an apply that was cut off (by a kill, a power loss) to its end. Every command of a session
        begins with it; it costs next to nothing where nothing was. Raises WorkspaceError.
        """
        return tuple(await asyncio.to_thread(self._views.recover))

    def locate(self, paths: Iterable[str], *, cwd: Path) -> tuple[tuple[str, str], ...]:
        """(root, path) of paths as a user names them: relative to `cwd`, absolute on the host or in the
        box. They need not exist. Raises WorkspaceError for what lies in no root.
        """
        return tuple(find_root(self.roots, path, cwd=cwd) for path in paths)

    async def drift(self) -> Drift:
        """What the host changed since the session began: a walk of every root. Raises WorkspaceError."""
        return await self._surveys.drift(self.roots)

    async def usage(self) -> int:
        """Bytes on disk of layers and store, and of the frozen layers that it stands on."""
        return await asyncio.to_thread(lambda: usage_of(self._state) + self.frozen_size())

    def frozen_size(self) -> int:
        """Bytes of the files in the frozen layers that the session stands on. Blocks."""
        if self.pool.directory.is_relative_to(self._state):
            return 0  # counted with all else of the session
        return sum(self.pool.size(name) for name in {name for layer in self.layers for name in layer.lowers})

    async def release(self) -> None:
        """Remove the keeper and the engine's volumes, after the box has gone. The layers stay."""
        await self._surveys.close()
        await asyncio.to_thread(self._packing.stop)
        await self.footing.close()
        await asyncio.to_thread(self.checkpoints.close)
        await asyncio.to_thread(self._keeper.close)
        if self._engine is not None:
            await asyncio.to_thread(self._places.unmount, self._engine)

    async def discard(self) -> None:
        """Release, and remove the layers and the store too. Raises WorkspaceError where something stays
        (marks of the kernel that belong to root need the keeper).
        """
        await self.release()
        await asyncio.to_thread(self.system.discard, lambda: images_named_by_others(self._state))
        if self._engine is not None:
            await asyncio.to_thread(self._places.remove_remote, self._engine)
        try:
            await asyncio.to_thread(remove_layers, self._places.directory, self._keeper)
            await asyncio.to_thread(remove_frozen, self.pool, self._keeper)
            await asyncio.to_thread(remove_tree, self._state / "store")
        finally:
            await asyncio.to_thread(self._keeper.close)
        self._places.table = None

    def _remote_mounts(self) -> tuple[Mount, ...]:
        if self._engine is not None:
            self._places.require(self._engine)
        return self._places.remote_mounts()

    def _need_engine(self) -> Engine:
        if self._engine is None:
            raise WorkspaceError("this needs a container engine")
        return self._engine
