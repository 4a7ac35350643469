"""Making, mounting, and removing the layers of a session: directories in our state, volumes of the engine."""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from sandbox.containers import LAYER_LABEL, SESSION_LABEL, session_labels
from sandbox.copies import copy_tree, remove_tree
from sandbox.covers import Covers
from sandbox.engine import ConflictError, Engine, NotFoundError
from sandbox.errors import DiskFullError, StoreError, WorkspaceError
from sandbox.gitlinks import box_links
from sandbox.keeper import LAYERS, KeeperImage
from sandbox.layers import FILLED, Layer, LayerTable, can_reflink, choose_rung, copy_attributes, overlay_options
from sandbox.remote import default_volume, fill_volumes, read_mark, tar_pieces, write_mark
from sandbox.roots import Root
from sandbox.skeleton import Skeleton
from sandbox.spec import Mount, Owner, Rung
from sandbox.system import STATE_LABEL, state_mark

REMOVAL_SECONDS = 10.0
Chown = Callable[[Path, Owner], None]


def nothing_more(_path: Path) -> None:
    """Where nobody can take away what this process may not."""


class Places:
    """The layers below `directory` (`state/layers`), on disk and in the engine. Everything blocks."""

    def __init__(
        self,
        directory: Path,
        *,
        session: str,
        owner: Owner,
        roots: tuple[Root, ...],
        own: tuple[Skeleton, ...],
        chown: Chown,
        image: Callable[[], KeeperImage],
        frozen: Callable[[str], Path] | None = None,
        remove: Callable[[Path], None] = nothing_more,
    ) -> None:
        """`chown` gives a directory to another user where this process may not. `image`: for the container
        that fills volumes on another machine. `frozen`: where a frozen layer lies. `remove`: takes away what
        this process may not.
        """
        self._frozen = frozen
        self._image = image
        self.directory = directory
        self.session = session
        self._owner = owner
        self._roots = roots
        self._own = own
        self._chown = chown
        self.table = LayerTable.read(directory / "layers.json")
        self.problems: tuple[str, ...] = ()
        self.covers = Covers(self, remove)

    def make(self, *, local: bool, forced: Rung | None, began_ns: int) -> bool:
        """Make the layers that are not there yet. True when the session is new."""
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        fresh = self.table is None
        have = {layer.name: layer for layer in self.table.layers} if self.table else {}
        links = box_links(self._roots) if len(self._roots) > 1 else {}
        layers = [
            have.get(root.name) or self._new_root(root, links.get(root.name, {}), local=local, forced=forced)
            for root in self._roots
        ]
        layers += [have.get(own.name) or self._new_own(own, local=local, forced=forced) for own in self._own]
        for layer in layers:
            if layer.host is not None and not layer.host.is_dir():
                raise WorkspaceError(f"{layer.host} is gone", hint="put it back; the session's own changes are kept")
        self._record(layers, self.table.began_ns if self.table else began_ns)
        return fresh

    def fall(self) -> None:
        """The engine refused to mount the overlays: put every one of them on the next rung.
        Raises WorkspaceError where a layer holds work already.
        """
        assert self.table is not None
        layers = []
        for layer in self.table.layers:
            if layer.rung is Rung.OVERLAY:
                upper = self.path(layer) / "upper"
                if layer.lowers or any(entry.name not in layer.planted for entry in upper.iterdir()):
                    raise WorkspaceError(
                        f"the engine does not mount the overlay of {layer.at} any more",
                        hint="use the engine that began this session",
                    )
                source = layer.host or self.path(layer) / "lower"
                rung = Rung.REFLINK if can_reflink(source, self.directory) else Rung.COPY
                fallen = replace(layer, rung=rung, reason="the engine refused to mount an overlay")
                self._copy(fallen, source)
                layers.append(fallen)
            else:
                layers.append(layer)
        self._record(layers, self.table.began_ns)

    def path(self, layer: Layer) -> Path:
        """Where a layer lies."""
        return self.directory / layer.name

    def top(self, layer: Layer) -> Path:
        """The directory that holds what was written."""
        return self.directory.joinpath(layer.name, "upper" if layer.rung is Rung.OVERLAY else "copy")

    def switch(self, layer: Layer) -> str:
        """What takes the place of another when a layer is made anew: a directory, or the mark of a volume."""
        return FILLED if layer.remote else self.top(layer).name

    def trees(self, layer: Layer) -> tuple[Path, ...]:
        """The frozen directories that a layer stands on, the topmost first. Raises StoreError where one is missing."""
        found = tuple(self._frozen(name) for name in layer.lowers) if self._frozen is not None else ()
        missing = [tree for tree in found if not tree.is_dir()]
        if missing or len(found) != len(layer.lowers):
            raise StoreError(f"a frozen layer of {layer.at} is missing: {missing[0] if missing else layer.lowers[0]}")
        return found

    def reload(self) -> None:
        """Take up what a finished intent wrote into the table."""
        self.table = LayerTable.read(self.directory / "layers.json")

    def refer(self, frozen: str) -> None:
        """This session needs a frozen layer from now on."""
        assert self.table is not None
        self._write(replace(self.table, frozen=(*self.table.frozen, frozen)))

    def unrefer(self, frozen: str) -> None:
        """It does not."""
        assert self.table is not None
        self._write(replace(self.table, frozen=tuple(name for name in self.table.frozen if name != frozen)))

    def dress(self, source: Path, target: Path) -> None:
        """Give a directory of ours another's attributes, owner and times, by the keeper where this process may not."""
        self._attributes(source, target, None)

    def copy_skeleton(self, source: Path, target: Path) -> None:
        """Our own beginning of HOME and the like once more, for a fork."""
        shutil.copytree(source, target, symlinks=True)
        for path in (target, *target.rglob("*")):
            self._own_by(path, self._owner)

    def mounts(self, engine: Engine, *, fresh: bool = False) -> tuple[Mount, ...]:
        """Define the engine's volumes anew and return what to mount. `fresh`: there can be none yet."""
        assert self.table is not None
        if not fresh:
            self.require(engine)
        self._fill_remote(
            engine, [la for la in self.table.layers if la.remote and not (self.path(la) / FILLED).exists()]
        )
        places = [self._mount(engine, layer, fresh=fresh) for layer in self.table.layers]
        return (*places, *(mount for layer in self.table.layers for mount in self.covers.mounts(layer)))

    def unmount(self, engine: Engine) -> None:
        """Remove the engine's volumes; they are definitions only (a remote one holds the layer: it stays).
        Those of a container that is kept stay with it.
        """
        names = [self.volume(layer) for layer in self.table.layers if layer.rung is Rung.OVERLAY] if self.table else []
        used = [name for name in names if not _removed(engine, name)]
        if used and not self._is_kept(engine):
            until = time.monotonic() + REMOVAL_SECONDS
            for name in used:
                _removed(engine, name, patience=until - time.monotonic())

    def _is_kept(self, engine: Engine) -> bool:
        """Whether a container of the session's stays: it does not go by itself, and nobody waits for it to."""
        found = engine.containers.list(f"{SESSION_LABEL}={self.session}")
        return any(not _goes_by_itself(engine, container.id) for container in found)

    def require(self, engine: Engine) -> None:
        """Raises WorkspaceError where a volume that holds a layer is not there: an engine would make an empty one."""
        filled = [la for la in (self.table.layers if self.table else ()) if (self.path(la) / FILLED).exists()]
        there = {each.name for each in engine.volumes.list(f"{SESSION_LABEL}={self.session}")} if filled else set()
        for layer in filled:
            if self.volume(layer) not in there:
                raise WorkspaceError(
                    f"the engine does not have what the session wrote in {layer.at} ({self.volume(layer)})",
                    hint="use the engine that began this session (DOCKER_HOST); where that has lost it, "
                    "`fumehood fork CHECKPOINT` still has all that a checkpoint holds",
                )

    def remove_remote(self, engine: Engine) -> None:
        """Remove the volumes that hold layers on another machine, those that were replaced or never used too."""
        if any(layer.remote for layer in (self.table.layers if self.table else ())):
            for volume in engine.volumes.list(f"{SESSION_LABEL}={self.session}"):
                if LAYER_LABEL in volume.labels:
                    engine.volumes.remove(volume.name, patience=REMOVAL_SECONDS)

    def remote_mounts(self) -> tuple[Mount, ...]:
        """The layers on another machine, as a keeper has them; empty where all are on this one."""
        layers = self.table.layers if self.table else ()
        return tuple(Mount(volume=self.volume(la), at=LAYERS / la.name / "copy") for la in layers if la.remote)

    def volume(self, layer: Layer) -> str:
        """The name of a layer's volume. Raises StoreError."""
        named = read_mark(self.path(layer) / FILLED) if layer.remote else ""
        return named or default_volume(self.session, layer.name)

    @property
    def labels(self) -> dict[str, str]:
        """What a volume that is a layer of this session carries."""
        return session_labels(self.session) | {STATE_LABEL: state_mark(self.directory.parent)}

    def _mount(self, engine: Engine, layer: Layer, *, fresh: bool) -> Mount:
        if layer.rung is not Rung.OVERLAY and not layer.remote:
            return Mount(volume=str(self.path(layer) / "copy"), at=layer.at)
        name = self.volume(layer)
        if layer.rung is Rung.OVERLAY:
            if not fresh and engine.volumes.find(name) is not None:
                engine.volumes.remove(name, patience=REMOVAL_SECONDS)
            options = overlay_options(self.path(layer), self.trees(layer))
            engine.volumes.create(name, options=options, labels=session_labels(self.session))
        return Mount(volume=name, at=layer.at, top=None if layer.remote else self._top_of(layer))

    def _top_of(self, layer: Layer) -> tuple[int, int, int]:
        """As it should be, whatever an earlier start left."""
        seen = layer.host.stat() if layer.host else None
        owner = Owner(uid=seen.st_uid, gid=seen.st_gid) if seen else self._owner
        return owner.uid, owner.gid, self.top(layer).stat().st_mtime_ns

    def _fill_remote(self, engine: Engine, layers: Sequence[Layer]) -> None:
        if not layers:
            return
        failures: list[str] = []
        pieces = (piece for layer in layers for piece in self._sent(layer, failures))
        volumes = {layer.name: self.volume(layer) for layer in layers}
        fill_volumes(engine, self._image(), volumes, pieces, labels=self.labels)
        self.problems += tuple(failures)
        for layer in layers:
            write_mark(self.path(layer) / FILLED, volumes[layer.name])

    def _sent(self, layer: Layer, failures: list[str]) -> Iterator[bytes]:
        """What a layer on another machine begins with."""
        source, inside = layer.host or self.path(layer) / "lower", self.directory.resolve()
        return tar_pieces(
            layer.name,
            source,
            failures,
            owner=self._owner if layer.host is None else None,
            skip=inside if inside.is_relative_to(source) else None,
            masked=self.covers.contents(layer) if layer.host is not None else {},
        )

    def _new_root(self, root: Root, links: Mapping[str, bytes], *, local: bool, forced: Rung | None) -> Layer:
        rung, reason = choose_rung(root.host, self.directory, local=local, forced=forced)
        layer = Layer(
            name=root.name,
            at=root.at,
            host=root.host,
            rung=rung,
            reason=reason,
            remote=not local,
            planted={path: os.fsdecode(text) for path, text in links.items()},
        )
        self._clear(layer)
        (self.path(layer) / "lower").symlink_to(root.host)
        self._fill(layer, root.host, None)
        return layer

    def _new_own(self, own: Skeleton, *, local: bool, forced: Rung | None) -> Layer:
        place = self.directory / own.name
        remove_tree(place)
        place.mkdir(mode=0o700)
        own.write(place / "lower")
        for path in (place / "lower").rglob("*"):
            self._own_by(path, self._owner)
        rung, reason = choose_rung(place / "lower", self.directory, local=local, forced=forced)
        layer = Layer(name=own.name, at=own.at, host=None, rung=rung, reason=reason, remote=not local)
        self._fill(layer, place / "lower", self._owner)
        return layer

    def _fill(self, layer: Layer, source: Path, owner: Owner | None) -> None:
        if layer.rung is not Rung.OVERLAY:
            self._copy(layer, source, owner=owner)
            return
        place = self.path(layer)
        (place / "work").mkdir()
        (place / "upper").mkdir()
        self._plant(layer, source, place / "upper")
        self._attributes(source, place / "upper", owner)

    def _plant(self, layer: Layer, source: Path, target: Path) -> None:
        """Write our own files into a layer, with the directories above them as they are beneath."""
        for path, text in layer.planted.items():
            parents = [parent for parent in reversed(Path(path).parents) if parent != Path()]
            for parent in parents:
                (target / parent).mkdir(exist_ok=True)
            (target / path).unlink(missing_ok=True)
            (target / path).write_bytes(os.fsencode(text))
            for made in (Path(path), *reversed(parents)):
                self._attributes(source / made, target / made, None)

    def _copy(self, layer: Layer, source: Path, *, owner: Owner | None = None) -> None:
        if layer.remote:
            return
        target = self.path(layer) / "copy"
        partial = target.with_name("copy.partial")
        remove_tree(partial)
        remove_tree(target)
        partial.mkdir()
        inside = self.directory.resolve()
        skip = inside if inside.is_relative_to(source) else None
        try:
            self.problems += copy_tree(source, partial, reflink=layer.rung is Rung.REFLINK, skip=skip)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise DiskFullError(f"no space for a copy of {source}") from error
            raise WorkspaceError(f"{source} cannot be copied: {error.strerror}") from error
        self._plant(layer, source, partial)
        self._attributes(source, partial, owner or (self._owner if layer.host is None else None))
        partial.rename(target)

    def _own_by(self, path: Path, owner: Owner) -> None:
        """Give a path to the owner, by the keeper where this process may not."""
        seen = path.stat()
        if (seen.st_uid, seen.st_gid) != (owner.uid, owner.gid):
            try:
                os.chown(path, owner.uid, owner.gid)
            except PermissionError:
                self._chown(path, owner)

    def _attributes(self, source: Path, target: Path, owner: Owner | None) -> None:
        if not copy_attributes(source, target, owner=owner):
            seen = source.stat()
            self._chown(target, owner or Owner(uid=seen.st_uid, gid=seen.st_gid))

    def _clear(self, layer: Layer) -> None:
        """An earlier start broke off before it was recorded: nothing of the box's can be in there."""
        left = remove_tree(self.path(layer))
        if left:
            raise WorkspaceError(f"{left[0]} cannot be removed")
        self.path(layer).mkdir(mode=0o700)

    def _record(self, layers: list[Layer], began_ns: int) -> None:
        kept = self.table.frozen if self.table else ()
        self._write(
            LayerTable(session=self.session, began_ns=began_ns, owner=self._owner, layers=tuple(layers), frozen=kept)
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """Why a root is not on the best rung, and what could not be copied."""
        reasons = tuple(
            f"{layer.host}: {layer.rung} instead of overlay: {layer.reason}"
            for layer in (self.table.layers if self.table else ())
            if layer.reason and layer.host is not None
        )
        return reasons + self.problems

    def _write(self, table: LayerTable) -> None:
        table.write(self.directory / "layers.json")
        self.table = table


def _removed(engine: Engine, volume: str, *, patience: float = 0.0) -> bool:
    """Whether a volume is gone now; False where something uses it."""
    try:
        engine.volumes.remove(volume, patience=patience)
    except ConflictError:
        return False
    return True


def _goes_by_itself(engine: Engine, container: str) -> bool:
    try:
        return bool(engine.containers.inspect(container)["HostConfig"].get("AutoRemove"))
    except NotFoundError:
        return True
