"""Layers in volumes of an engine on another machine: filled by a tar that goes over the engine's API, with what lies
on this machine here, with a state of the session in `sandbox.refill`. A small file of the layer's directory names its
volume. Everything that follows (changes, diff, apply) reads such a layer through the keeper.
"""

from __future__ import annotations

import json
import os
import stat
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path, PurePosixPath
from types import MappingProxyType

from sandbox.containers import LAYER_LABEL, ContainerSpec
from sandbox.engine import Engine
from sandbox.errors import DiskFullError, EngineRefusedError, StoreError
from sandbox.intents import NEW, TRASH
from sandbox.keeper import KeeperImage
from sandbox.layers import FILLED
from sandbox.spec import Mount, Owner

_PLACE = PurePosixPath("/layer")
MARK_VERSION = 1
_CHUNK = 1 << 20
FILL_SECONDS = 3600
NOTHING_MASKED: Mapping[str, bytes | None] = MappingProxyType({})


def default_volume(session: str, layer: str) -> str:
    """The name of a layer's volume, until one that was filled anew takes its place."""
    return f"fumehood-{session.replace('-', '')[:12]}-{layer}"


def write_mark(mark: Path, volume: str) -> None:
    """Name a volume: whole or not at all, and durable. What no mark names is garbage."""
    new = mark.with_name(f"{mark.name}.half")
    with new.open("w") as opened:
        json.dump({"version": MARK_VERSION, "volume": volume}, opened)
        opened.flush()
        os.fsync(opened.fileno())
    new.replace(mark)


def read_mark(mark: Path) -> str:
    """The volume that a mark names, "" for the first one, or where there is no mark. Raises StoreError."""
    try:
        data = mark.read_bytes()
        body = json.loads(data) if data else {"version": MARK_VERSION, "volume": ""}
        if body["version"] != MARK_VERSION:
            raise StoreError(f"{mark}: version {body['version']} is not known")
        return str(body["volume"])
    except FileNotFoundError:
        return ""
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{mark}: {error}") from error


def volumes_named(layers: Path, session: str) -> frozenset[str]:
    """The volumes that marks name in the directory of a session's layers, those in the trash too. Raises StoreError,
    OSError.
    """
    marks = [mark for mark in layers.glob("*/*") if mark.name in (FILLED, NEW) or mark.name.startswith(TRASH)]
    return frozenset(read_mark(mark) or default_volume(session, mark.parent.name) for mark in marks if mark.is_file())


def fill_volumes(
    engine: Engine,
    image: KeeperImage,
    volumes: Mapping[str, str],
    pieces: Iterable[bytes],
    *,
    labels: Mapping[str, str],
) -> None:
    """Make volumes (by the names of layers) with what one tar holds beneath `layer/NAME`. `pieces`: of the tar, but its
    end. `labels`: of the session that it is for. Raises DiskFullError, and what an engine raises.
    """
    for volume in volumes.values():
        engine.volumes.remove(volume)
        engine.volumes.create(volume, options={}, labels={**labels, LAYER_LABEL: "1"})
    # Podman unpacks into the volumes of a container only while it runs
    running = engine.kind == "podman"
    spec = ContainerSpec(
        image=image.image,
        command=(*image.command[:-1], "-c", f"import time; time.sleep({FILL_SECONDS})") if running else image.command,
        labels=labels,
        mounts=(*image.mounts, *(Mount(volume=volume, at=_PLACE / name) for name, volume in volumes.items())),
        read_only=False,
    )
    container = engine.containers.create(spec)
    try:
        if running:
            engine.containers.start(container)
        engine.containers.put_archive(container, "/", chain(pieces, (bytes(2 * tarfile.BLOCKSIZE),)))
    except EngineRefusedError as error:
        if "no space" in str(error).lower():
            raise DiskFullError("no space for the layers on the engine's machine") from error
        raise
    finally:
        engine.containers.remove(container)


def tar_pieces(
    layer: str,
    source: Path,
    failures: list[str],
    *,
    owner: Owner | None,
    skip: Path | None,
    masked: Mapping[str, bytes | None] = NOTHING_MASKED,
) -> Iterator[bytes]:
    """A tar of `source` and all beneath it, for a layer, piece by piece, without its end; owners kept (or all
    `owner`'s). No link is followed. `masked`: by path, what goes in the place of a file (None: nothing is to be seen
    of it, or of a directory). `failures` gets a line for each thing that could not be copied.
    """
    for path in _walk(source, skip, masked):
        inner = str(path.relative_to(source))
        name = name_in_tar(layer, inner)
        try:
            yield from placeholder(path, name, masked[inner]) if inner in masked else _entry(path, name, owner)
        except OSError as error:
            failures.append(f"{name}: {error.strerror}")


def name_in_tar(layer: str, path: str) -> str:
    """Of a path of a layer. An engine would leave the owner and mode of a directory called "." as they are."""
    return str(PurePosixPath(_PLACE.name) / layer / path)


def _walk(top: Path, skip: Path | None, masked: Mapping[str, bytes | None]) -> Iterator[Path]:
    yield top
    left = [top]
    while left:
        directory = left.pop()
        try:
            with os.scandir(directory) as entries:
                names = sorted(entries, key=lambda entry: entry.name)
        except OSError:
            continue
        for entry in names:
            path = directory / entry.name
            if path != skip:
                yield path
                if entry.is_dir(follow_symlinks=False) and not (masked and str(path.relative_to(top)) in masked):
                    left.append(path)


def placeholder(path: Path, name: str, data: bytes | None) -> Iterator[bytes]:
    """What goes in the place of a masked path."""
    seen = path.lstat()
    info = tarfile.TarInfo(name)
    info.mtime = int(seen.st_mtime)
    if stat.S_ISDIR(seen.st_mode):
        info.type, info.mode = tarfile.DIRTYPE, 0o555
    elif data is None:
        info.mode = 0
    else:
        info.mode, info.size, info.uid, info.gid = stat.S_IMODE(seen.st_mode), len(data), seen.st_uid, seen.st_gid
    yield header(info)
    if data:
        yield data + bytes(-len(data) % tarfile.BLOCKSIZE)


def _entry(path: Path, name: str, owner: Owner | None) -> Iterator[bytes]:
    """Header and content of one path; nothing for a socket or a device."""
    seen = path.lstat()
    info = tarfile.TarInfo(name)
    info.mode, info.mtime = stat.S_IMODE(seen.st_mode), int(seen.st_mtime)
    info.pax_headers = {"mtime": seconds(seen.st_mtime_ns)}
    info.uid, info.gid = (owner.uid, owner.gid) if owner else (seen.st_uid, seen.st_gid)
    types = {stat.S_IFLNK: tarfile.SYMTYPE, stat.S_IFDIR: tarfile.DIRTYPE, stat.S_IFIFO: tarfile.FIFOTYPE}
    if stat.S_ISREG(seen.st_mode):
        opened = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(opened, "rb") as file:
            info.size = os.fstat(opened).st_size
            info.pax_headers |= _attributes(opened)
            yield header(info)
            left = info.size
            while left:
                # A file that shrank meanwhile is filled up: its header has gone out already.
                piece = file.read(min(_CHUNK, left)) or bytes(min(_CHUNK, left))
                left -= len(piece)
                yield piece
            yield bytes(-info.size % tarfile.BLOCKSIZE)
    elif kind := types.get(stat.S_IFMT(seen.st_mode)):
        info.type = kind
        info.linkname = str(path.readlink()) if kind == tarfile.SYMTYPE else ""
        yield header(info)


def _attributes(opened: int) -> dict[str, str]:
    """The user attributes of an open file, as a tar carries them."""
    try:
        names = [name for name in os.listxattr(opened) if name.startswith("user.")]
        return {f"SCHILY.xattr.{name}": os.getxattr(opened, name).decode("utf-8", "surrogateescape") for name in names}
    except OSError:
        return {}


def header(info: tarfile.TarInfo) -> bytes:
    """The bytes that come before an entry's content."""
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def seconds(ns: int) -> str:
    """A time as a tar has it."""
    return f"{'-' if ns < 0 else ''}{abs(ns) // 10**9}.{abs(ns) % 10**9:09d}"
