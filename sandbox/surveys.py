"""What the roots of a session looked like when it began, written down in the background, and what that tells later:
what the host changed since, and what of a whole copy was touched. Walks run in processes of their own.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import field
from pathlib import Path

from sandbox.dataclass import dataclass
from sandbox.gitdir import find_top, read_head
from sandbox.layers import Layer
from sandbox.manifest import Drifted, Manifest, find_drift, find_touched, write_manifest
from sandbox.places import Places
from sandbox.roots import Root
from sandbox.spec import Rung
from sandbox.views import Views

_UNREADABLE = b"U"


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """What the host changed since the session began. `paths` are sorted and not capped, without what is masked;
    `heads`: root name → HEAD's id then and now, where it moved. `unmasked`: what appeared there and is to be
    masked, but is not before the box is started anew.
    """

    paths: tuple[Drifted, ...] = ()
    heads: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    unmasked: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.paths or self.heads)


class Surveys:
    """Of one session, whose own directory is `state`. Close it."""

    def __init__(self, places: Places, views: Views, *, state: Path) -> None:
        self._places = places
        self._views = views
        self._state = state
        self._walks: dict[str, asyncio.Task[None]] = {}
        self._looked: set[str] = set()

    async def close(self) -> None:
        """End what is being walked; what was not finished is as if it had never begun."""
        for task in self._walks.values():
            task.cancel()
        await asyncio.gather(*self._walks.values(), return_exceptions=True)
        self._walks.clear()

    async def start(self) -> None:
        """Begin to write down, in the background, what the roots look like. Once, when the session is new."""
        for layer in self._views.roots:
            file = self._places.path(layer) / "manifest"
            if layer.host is not None and layer.name not in self._walks and not file.exists():
                walk = write_manifest(layer.host, file, self.skip(layer.host))
                self._walks[layer.name] = asyncio.create_task(walk, name=f"manifest of {layer.name}")

    async def touched(self, layer: Layer) -> list[bytes]:
        """The paths of a whole copy that were changed since it was made."""
        if layer.remote:
            return sorted(await asyncio.to_thread(self._views.touched_beneath, layer, [b""]))
        top, file = self._places.top(layer), self._places.path(layer) / "copy.manifest"
        found = await find_touched(top, file)
        paths = {path for letter, path in found if letter != _UNREADABLE and path != b"."}
        closed = [path for letter, path in found if letter == _UNREADABLE]
        paths = await asyncio.to_thread(self._views.without_remade, layer, paths)
        if closed:
            paths |= await asyncio.to_thread(self._views.touched_beneath, layer, closed)
        return sorted(paths)

    async def note_copies(self, layers: Sequence[Layer]) -> None:
        """Write down what each whole copy held at first: the session's changes show against it."""
        for layer in layers:
            place = self._places.path(layer)
            if layer.rung is Rung.OVERLAY or (place / "copy.manifest").exists():
                continue
            if not layer.remote:
                await write_manifest(place / "copy", place / "copy.manifest")
            elif layer.host is not None:
                await asyncio.to_thread(self._views.note_remote, layer, place / "copy.manifest")

    async def walked(self) -> None:
        """Wait for manifests that are being written."""
        if self._walks:
            await asyncio.gather(*map(asyncio.shield, self._walks.values()))

    def skip(self, host: Path) -> tuple[bytes, ...]:
        """Our own state, where a root holds it."""
        state = self._state.resolve()
        return (os.fsencode(state.relative_to(host)),) if state.is_relative_to(host) else ()

    def _slipped_in(self, layer: Layer, file: Path) -> list[str]:
        """What is to be masked, and came after masks were looked for and before the manifest was written: it is no
        drift. Looked for once.
        """
        covers = self._places.covers
        if layer.name in self._looked or covers.skipping(layer) is None:
            return []
        with closing(Manifest(file)) as manifest:
            paths = [os.fsdecode(path) for path in manifest.beneath(b"") if b".git" not in path.split(b"/")]
        self._looked.add(layer.name)
        return [f"{layer.host}/{path}" for path in paths if covers.appeared(layer, path)]

    async def drift(self, roots: Sequence[Root]) -> Drift:
        """What the host changed since the session began: a walk of every root, in a process of its
        own. Raises WorkspaceError.
        """
        await self.walked()
        paths: list[Drifted] = []
        heads: dict[str, tuple[str, str]] = {}
        covers = self._places.covers
        unmasked = await asyncio.to_thread(covers.stale, self._views.roots)
        for layer in self._views.roots:
            file = self._places.path(layer) / "manifest"
            if layer.host is not None and file.exists():
                found = await find_drift(layer.name, layer.host, file, self.skip(layer.host))
                unmasked += await asyncio.to_thread(self._slipped_in, layer, file)
                unmasked += [f"{layer.host}/{d.path}" for d in found if covers.appeared(layer, d.path)]
                found = tuple(each for each in found if not covers.names(layer, each.path))
                paths += await asyncio.to_thread(self._views.not_ours, layer, found) if found else []
        for root in roots:
            now = await asyncio.to_thread(_head_of, root.host)
            if now != root.head:
                heads[root.name] = (root.head, now)
        return Drift(paths=tuple(paths), heads=heads, unmasked=tuple(unmasked))


def _head_of(host: Path) -> str:
    dirs = find_top(host)
    return read_head(dirs) if dirs and dirs.top == host else ""
