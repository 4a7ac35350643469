"""Making layers on another machine again from states: new volumes beside those that are in use, filled by one tar
out of the store. What a tar cannot tell (holes, sockets, attributes) and what an engine unpacks otherwise the keeper
mends, and each volume is looked over before anything counts on it.

A volume's name is written down first, as `new` in the layer's directory: an intent turns that into the layer's own
mark (`sandbox.intents`), and a mark that went to the trash says what to remove.
"""

from __future__ import annotations

import binascii
import os
import stat
import tarfile
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path

from sandbox.dataclass import dataclass
from sandbox.errors import SandboxError, StoreError, WorkspaceError
from sandbox.intents import NEW, discard
from sandbox.keeper import LAYERS, Keeper
from sandbox.kepttree import KeptTree
from sandbox.layers import FILLED, Layer
from sandbox.places import REMOVAL_SECONDS, Places
from sandbox.points import Log
from sandbox.remote import (
    default_volume,
    fill_volumes,
    header,
    name_in_tar,
    placeholder,
    read_mark,
    seconds,
    write_mark,
)
from sandbox.spec import Mount
from sandbox.states import Row, State, stamped
from sandbox.trees import Entry

_PIECE = 40 << 10  # in base64 within one frame
_HOLES = 1 << 20  # with less in holes a file goes whole
_TYPES = {stat.S_IFLNK: tarfile.SYMTYPE, stat.S_IFDIR: tarfile.DIRTYPE, stat.S_IFIFO: tarfile.FIFOTYPE}


@dataclass(frozen=True, slots=True, kw_only=True)
class Filling:
    """A state of a layer, the volume that is to hold it, and the file that names that before it is there."""

    layer: Layer
    state: State
    volume: str
    mark: Path


class Refill:
    """For the layers of one session. Everything blocks."""

    def __init__(self, places: Places, keeper: Keeper) -> None:
        self._places = places
        self._keeper = keeper

    def beside(self, layers: Iterable[Layer], states: Mapping[str, State], log: Log) -> dict[str, State]:
        """New volumes for these layers, marked `new` until an intent says otherwise. As `fill`."""
        fillings = []
        for layer in layers:
            mark = self._places.path(layer) / NEW
            volume = f"{default_volume(self._places.session, layer.name)}-{uuid.uuid4().hex[:8]}"
            discard(mark)
            fillings.append(Filling(layer=layer, state=states[layer.name], volume=volume, mark=mark))
        return self.fill(fillings, log, labels=self._places.labels)

    def fill(self, fillings: Sequence[Filling], log: Log, *, labels: Mapping[str, str]) -> dict[str, State]:
        """Make volumes hold states. These, with the stamps that they have there, by the names of layers. Raises
        WorkspaceError where something cannot be made again there, DiskFullError, StoreError, OSError, and what engine
        and keeper raise; the volumes are gone then, or the marks stay.
        """
        if not fillings:
            return {}
        engine, image = self._keeper.engine, self._keeper.image()
        for each in fillings:
            write_mark(each.mark, each.volume)
        volumes = {each.layer.name: each.volume for each in fillings}
        pieces = (piece for each in fillings for piece in self._tar(each.layer, each.state, log))
        mounts = tuple(Mount(volume=volume, at=LAYERS / name / NEW) for name, volume in volumes.items())
        try:
            fill_volumes(engine, image, volumes, pieces, labels=labels)
            with closing(self._keeper.over(mounts)) as keeper:
                return {each.layer.name: self._mended(each, keeper, log) for each in fillings}
        except (SandboxError, OSError):
            with suppress(SandboxError, OSError):
                for each in fillings:
                    engine.volumes.remove(each.volume)
                    each.mark.unlink()
            raise

    def _mended(self, filling: Filling, keeper: Keeper, log: Log) -> State:
        at, skip = self._places.path(filling.layer) / NEW, self._places.covers.skipping(filling.layer)
        return _Mending(keeper, at, log, skip).run(filling.state)

    def remove(self, mark: Path) -> None:
        """Remove the volume that a mark in the trash names, and the mark; both stay where something uses it still, or
        no engine answers.
        """
        first = default_volume(self._places.session, mark.parent.name)
        with suppress(SandboxError):
            volume, used = (read_mark(each) or first for each in (mark, mark.with_name(FILLED)))
            if volume != used:
                self._keeper.engine.volumes.remove(volume, patience=REMOVAL_SECONDS)
            mark.unlink()

    def _tar(self, layer: Layer, state: State, log: Log) -> Iterator[bytes]:
        """All of a state that a tar can tell, and what stands for masked paths."""
        first: dict[int, str] = {}
        for path, row in sorted(state.items(), key=lambda item: os.fsencode(item[0])):
            info = tarfile.TarInfo(name_in_tar(layer.name, path))
            info.mode, info.uid, info.gid = stat.S_IMODE(row.mode), row.uid, row.gid
            info.mtime, info.pax_headers = max(row.mtime_ns, 0) // 10**9, {"mtime": seconds(row.mtime_ns)}
            if row.links > 1 and not row.is_directory and (other := first.setdefault(row.inode, path)) != path:
                info.type, info.linkname = tarfile.LNKTYPE, name_in_tar(layer.name, other)
                yield header(info)
            elif row.is_file:
                info.size = 0 if is_sparse(row) else row.size
                yield header(info)
                if info.size:
                    yield from _content(row, log)
                    yield bytes(-info.size % tarfile.BLOCKSIZE)
            elif kind := _TYPES.get(stat.S_IFMT(row.mode)):
                info.type = kind
                info.linkname = str(row.payload) if row.is_link else ""
                yield header(info)
        for path, data in self._places.covers.contents(layer).items() if layer.host is not None else ():
            above = state.get(path.rpartition("/")[0])
            if layer.host is not None and above is not None and above.is_directory:
                with suppress(OSError):
                    yield from placeholder(layer.host / path, name_in_tar(layer.name, path), data)


class _Mending:
    """Makes what lies in a volume what a state says."""

    def __init__(self, keeper: Keeper, at: Path, log: Log, skip: Callable[[str], bool] | None) -> None:
        self._keeper = keeper
        self._at = at
        self._log = log
        self._skip = skip

    def run(self, state: State) -> State:
        """The state with the stamps of what is there in the end."""
        seen = self._seen(state)
        touched = {path for path, row in state.items() if row.attributes and not row.is_link}
        made: set[int] = set()
        for path, row in state.items():
            if stat.S_ISSOCK(row.mode) and path not in seen:
                self._ask("bind", path)
                touched |= {path, path.rpartition("/")[0]}
            elif is_sparse(row) and (row.links < 2 or row.inode not in made):
                made.add(row.inode)
                self._write(path, row)
                touched.add(path)
        touched |= {path for path, row in state.items() if not _is_made(seen.get(path), row)}
        for path in sorted(touched, key=os.fsencode, reverse=True):  # a directory after what it holds
            row = state[path]
            attributes = {} if row.is_link else row.attributes
            told = {"uid": row.uid, "gid": row.gid, "mode": row.mode, "mtime_ns": row.mtime_ns}
            self._ask("dress", path, attributes=attributes, **told)
        if touched:
            seen = self._seen(state)
        for path, row in state.items():
            if not _is_made(seen.get(path), row):
                raise WorkspaceError(f"{path or self._at.parent.name} cannot be made again on the engine's machine")
        return stamped(state, {path: entry_row(entry) for path, entry in seen.items()})

    def _seen(self, state: State) -> dict[str, Entry]:
        tree = KeptTree(self._at, self._keeper, local=False)
        found = {os.fsdecode(entry.path): entry for entry in tree.below(b"", top=True)}
        return {path: entry for path, entry in found.items() if path in state and not (self._skip and self._skip(path))}

    def _write(self, path: str, row: Row) -> None:
        at = 0
        for piece in _pieces(row, self._log):
            if isinstance(piece, bytes):
                for start in range(0, len(piece), _PIECE):
                    data = binascii.b2a_base64(piece[start : start + _PIECE], newline=False).decode("ascii")
                    self._ask("write", path, offset=at + start, size=0, data=data)
            at += len(piece) if isinstance(piece, bytes) else piece
        self._ask("write", path, offset=0, size=at, data="")

    def _ask(self, kind: str, path: str, **arguments: object) -> None:
        try:
            self._keeper.request(kind, path=self._keeper.place(self._at / path), **arguments)
        except OSError as error:
            error.filename = path
            raise


def entry_row(entry: Entry) -> Row:
    """An entry as a row of which neither content nor attributes are known."""
    stamp = (entry.inode, entry.size, entry.mtime_ns, entry.ctime_ns, entry.mode)
    return Row(*stamp, entry.uid, entry.gid, entry.device, entry.links, "", {})


def is_sparse(row: Row) -> bool:
    """Whether a file has holes that are worth to be kept."""
    holes = sum(length for digest, length in row.payload if not digest) if isinstance(row.payload, list) else 0
    return row.is_file and holes >= _HOLES


def _is_made(entry: Entry | None, row: Row) -> bool:
    if entry is None:
        return False
    return entry_row(entry)._replace(payload=row.payload, attributes=row.attributes).same(row)


def _pieces(row: Row, log: Log) -> Iterator[bytes | int]:
    if row.payload is None:
        raise StoreError("a content that was never read")
    for piece in log.pieces(row.payload):
        yield log.get(piece) if isinstance(piece, str) else piece


def _content(row: Row, log: Log) -> Iterator[bytes]:
    for piece in _pieces(row, log):
        yield piece if isinstance(piece, bytes) else bytes(piece)
