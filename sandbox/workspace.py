"""The workspace of a session: its roots seen copy-on-write in the box, and what changed in them.

Files of the host are only ever written by `apply`. Blocking work runs in threads; walks of whole
trees in processes of their own.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from sandbox.bases import Bases
from sandbox.changes import Change, classify, listed_pairs, overlay_pairs
from sandbox.copies import remove_tree
from sandbox.disk import usage_of
from sandbox.engine import Engine
from sandbox.errors import StoreError, WorkspaceError
from sandbox.gitdir import find_top, read_head
from sandbox.layers import Layer
from sandbox.manifest import Drifted, Manifest, find_drift, find_touched, write_manifest
from sandbox.places import Places
from sandbox.roots import Root
from sandbox.skeleton import own_places
from sandbox.spec import Mount, Owner, Rung
from sandbox.store import Store
from sandbox.trees import LocalTree, Tree

_UNLINKED = b"U"


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """What the host changed since the session began. `paths` are sorted and not capped; `heads`:
    root name → HEAD's id then and now, where it moved.
    """

    paths: tuple[Drifted, ...] = ()
    heads: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.paths or self.heads)


class Workspace:
    """The layers of one session. `state` is the session's own directory (0700); `engine` None will
    do for what needs none (changes, diff, apply, usage). One owner at a time (the session's lock).
    """

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
    ) -> None:
        self.roots = roots
        self._engine = engine
        self._state = state
        self._forced = rung
        self._fresh = False
        self._walks: dict[str, asyncio.Task[None]] = {}
        self._places = Places(
            state / "layers",
            session=session,
            owner=owner,
            roots=roots,
            own=own_places(name=identity[0], email=identity[1], files=home_files),
            chown=self._give,
        )

    async def prepare(self) -> tuple[Mount, ...]:
        """Make the layers where there are none yet, define the engine's volumes, and return what
        the box mounts. Takes no longer for a large root, on the overlay rung. Raises WorkspaceError,
        DiskFullError, and what an engine raises.
        """
        engine = self._need_engine()
        local = engine.on_this_machine and not (_is_private(engine.endpoint) and engine.info.rootless)

        def make() -> tuple[Mount, ...]:
            self._fresh = self._places.make(local=local, forced=self._forced, began_ns=time.time_ns())
            return self._places.mounts(engine)

        mounts = await asyncio.to_thread(make)
        await self._note_copies()
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
            return self._places.mounts(engine)

        mounts = await asyncio.to_thread(fall)
        await self._note_copies()
        return mounts

    @property
    def layers(self) -> tuple[Layer, ...]:
        """All layers, roots first; empty before `prepare`."""
        return self._places.table.layers if self._places.table else ()

    @property
    def rungs(self) -> dict[str, str]:
        """Where the box sees each root → the rung it stands on."""
        return {str(layer.at): layer.rung.value for layer in self.layers if layer.host is not None}

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know: why a root is not on the best rung, what could not be copied."""
        reasons = tuple(
            f"{layer.host}: {layer.rung} copy instead of overlay: {layer.reason}"
            for layer in self.layers
            if layer.reason and layer.host is not None
        )
        return reasons + self._places.problems

    async def start_manifest(self) -> None:
        """Begin to write down, in the background, what the roots look like. Once, when the session is new."""
        for layer in self.layers:
            file = self._places.path(layer) / "manifest"
            if self._fresh and layer.host is not None and layer.name not in self._walks and not file.exists():
                walk = write_manifest(layer.host, file, self._skip(layer.host))
                self._walks[layer.name] = asyncio.create_task(walk, name=f"manifest of {layer.name}")

    async def changes(self, *, root: str | None = None) -> tuple[Change, ...]:
        """All that the session changed, per root sorted by path, `.git` included, with what is known
        of each base. Renames are pairs of deleted and added. Raises WorkspaceError.
        """
        await self._walked()
        found: list[Change] = []
        for layer in self.layers:
            if layer.host is None or root not in (None, layer.name):
                continue
            touched: list[bytes] = []
            if layer.rung is not Rung.OVERLAY:
                touched = await self._touched(layer)
            found += await asyncio.to_thread(self._changes_of, layer, touched)
        return tuple(found)

    async def capture(self) -> int:
        """Keep the base contents of what the session changed so far; call it when a turn ends. A
        later edit of these files on the host is then a drift that can be shown and merged.
        """
        changes = await self.changes()

        def capture() -> int:
            count = 0
            with self._store(writable=True) as store:
                for layer in self.layers:
                    if layer.host is not None:
                        with self._bases(layer, store) as bases, LocalTree(layer.host) as lower:
                            count += bases.capture((c for c in changes if c.root == layer.name), lower)
            return count

        return await asyncio.to_thread(capture)

    async def drift(self) -> Drift:
        """What the host changed since the session began: a walk of every root, in a process of its
        own. Raises WorkspaceError.
        """
        await self._walked()
        paths: list[Drifted] = []
        heads: dict[str, tuple[str, str]] = {}
        for layer in self.layers:
            file = self._places.path(layer) / "manifest"
            if layer.host is None or not file.exists():
                continue
            found = await find_drift(layer.name, layer.host, file, self._skip(layer.host))
            paths += await asyncio.to_thread(self._not_ours, layer, found)
        for root in self.roots:
            dirs = await asyncio.to_thread(find_top, root.host)
            now = read_head(dirs) if dirs and dirs.top == root.host else ""
            if now != root.head:
                heads[root.name] = (root.head, now)
        return Drift(paths=tuple(paths), heads=heads)

    async def usage(self) -> int:
        """Bytes on disk of layers and store."""
        return await asyncio.to_thread(usage_of, self._state)

    async def release(self) -> None:
        """Remove the engine's volumes, after the box has gone. The layers stay."""
        for task in self._walks.values():
            task.cancel()
        await asyncio.gather(*self._walks.values(), return_exceptions=True)
        self._walks.clear()
        if self._engine is not None:
            await asyncio.to_thread(self._places.unmount, self._engine)

    async def discard(self) -> None:
        """Release, and remove the layers and the store too. Raises WorkspaceError where something stays."""
        await self.release()
        left = await asyncio.to_thread(remove_tree, self._places.directory)
        if left:
            raise WorkspaceError(f"{left[0]} cannot be removed by you")
        await asyncio.to_thread(remove_tree, self._state / "store")
        self._places.table = None

    def upper(self, layer: Layer) -> Tree:
        """What a layer holds, to read. The caller closes it."""
        return LocalTree(self._places.top(layer))

    def _changes_of(self, layer: Layer, touched: list[bytes]) -> list[Change]:
        assert layer.host is not None
        with (
            LocalTree(self._places.top(layer)) as upper,
            LocalTree(layer.host) as lower,
            self._store(writable=False) as store,
            self._bases(layer, store) as bases,
        ):
            overlay = layer.rung is Rung.OVERLAY
            pairs = overlay_pairs(upper, lower) if overlay else listed_pairs(touched, upper, lower)
            found = [bases.judge(c) for pair in pairs if (c := classify(layer.name, pair, upper, lower)) is not None]
        return sorted(found, key=lambda change: os.fsencode(change.path))

    async def _touched(self, layer: Layer) -> list[bytes]:
        """The paths of a whole copy that were changed since it was made."""
        top, file = self._places.top(layer), self._places.path(layer) / "copy.manifest"
        found = await find_touched(top, file)
        closed = [path for letter, path in found if letter == _UNLINKED]
        if closed:
            raise WorkspaceError(f"{os.fsdecode(closed[0])} in the box's copy cannot be read by you")
        return [path for _, path in found if path != b"."]

    async def _note_copies(self) -> None:
        """Write down what each whole copy held at first: the session's changes show against it."""
        for layer in self.layers:
            place = self._places.path(layer)
            if layer.rung is not Rung.OVERLAY and not layer.remote and not (place / "copy.manifest").exists():
                await write_manifest(place / "copy", place / "copy.manifest")

    async def _walked(self) -> None:
        """Wait for manifests that are being written."""
        if self._walks:
            await asyncio.gather(*self._walks.values())

    def _not_ours(self, layer: Layer, found: tuple[Drifted, ...]) -> list[Drifted]:
        """Without the paths that we applied and nobody touched since."""
        assert layer.host is not None
        with (
            self._store(writable=False) as store,
            self._bases(layer, store) as bases,
            LocalTree(layer.host) as lower,
        ):
            return [d for d in found if not bases.untouched(d.path, lower.stat(os.fsencode(d.path)))]

    @contextmanager
    def _store(self, *, writable: bool) -> Iterator[Store | None]:
        file = self._state / "store" / "log"
        if writable:
            file.parent.mkdir(exist_ok=True, mode=0o700)
        elif not file.exists():
            yield None
            return
        with Store(file, writable=writable) as store:
            yield store

    @contextmanager
    def _bases(self, layer: Layer, store: Store | None) -> Iterator[Bases]:
        table = self._places.table
        assert table is not None
        manifest: Manifest | None = None
        try:
            manifest = Manifest(self._places.path(layer) / "manifest")
        except (FileNotFoundError, StoreError):
            manifest = None
        try:
            yield Bases(layer.name, manifest, store, began_ns=table.began_ns)
        finally:
            if manifest is not None:
                manifest.close()

    def _skip(self, host: Path) -> tuple[bytes, ...]:
        """Our own state, where a root holds it."""
        state = self._state.resolve()
        return (os.fsencode(state.relative_to(host)),) if state.is_relative_to(host) else ()

    def _give(self, path: Path, owner: Owner) -> None:
        raise WorkspaceError(f"{path} cannot be given to user {owner.uid} by you")

    def _need_engine(self) -> Engine:
        if self._engine is None:
            raise WorkspaceError("this needs a container engine")
        return self._engine


def _is_private(endpoint: str) -> bool:
    """Whether an endpoint may be a user's own engine: only then is it worth asking."""
    return "/run/user/" in endpoint or "/home/" in endpoint


Progress = Callable[[str], None]
