"""Layers in volumes of an engine on another machine: filled by a tar that goes over the engine's API.

Everything that follows (changes, diff, apply) reads such a layer through the keeper.
"""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from types import MappingProxyType

from sandbox.containers import LAYER_LABEL, ContainerSpec, session_labels
from sandbox.engine import Engine
from sandbox.keeper import KeeperImage
from sandbox.spec import Mount, Owner

_PLACE = PurePosixPath("/layer")
_CHUNK = 1 << 20
FILL_SECONDS = 3600
NOTHING_MASKED: Mapping[str, bytes | None] = MappingProxyType({})


def fill_volume(
    engine: Engine,
    image: KeeperImage,
    volume: str,
    source: Path,
    *,
    session: str,
    owner: Owner | None,
    skip: Path | None,
    masked: Mapping[str, bytes | None] = NOTHING_MASKED,
) -> tuple[str, ...]:
    """Make a volume with a copy of `source`, owners kept (or all `owner`'s). `masked`: by path, what goes in the place
    of a file (None: nothing is to be seen of it, or of a directory). Returns a line for each thing
    that could not be copied. Attributes do not go along. Raises what an engine raises.
    """
    engine.volumes.remove(volume)
    engine.volumes.create(volume, options={}, labels=session_labels(session) | {LAYER_LABEL: "1"})
    # Podman unpacks into the volumes of a container only while it runs
    running = engine.kind == "podman"
    spec = ContainerSpec(
        image=image.image,
        command=(*image.command[:-1], "-c", f"import time; time.sleep({FILL_SECONDS})") if running else image.command,
        labels=session_labels(session),
        mounts=(*image.mounts, Mount(volume=volume, at=_PLACE)),
        read_only=False,
    )
    container = engine.containers.create(spec)
    failures: list[str] = []
    try:
        if running:
            engine.containers.start(container)
        engine.containers.put_archive(
            container, "/", tar_pieces(source, failures, owner=owner, skip=skip, masked=masked)
        )
    finally:
        engine.containers.remove(container)
    return tuple(failures)


def tar_pieces(
    source: Path,
    failures: list[str],
    *,
    owner: Owner | None,
    skip: Path | None,
    masked: Mapping[str, bytes | None] = NOTHING_MASKED,
) -> Iterator[bytes]:
    """A tar of `source`, named `layer`, and all beneath it, piece by piece. No link is followed. An engine
    would leave the owner and mode of a directory called "." as they are. `masked` as in `fill_volume`.
    """
    for path in _walk(source, skip, masked):
        inner = str(path.relative_to(source))
        name = str(PurePosixPath(_PLACE.name) / inner)
        try:
            yield from _placeholder(path, name, masked[inner]) if inner in masked else _entry(path, name, owner)
        except OSError as error:
            failures.append(f"{name}: {error.strerror}")
    yield bytes(2 * tarfile.BLOCKSIZE)


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


def _placeholder(path: Path, name: str, data: bytes | None) -> Iterator[bytes]:
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
    yield info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
    if data:
        yield data + bytes(-len(data) % tarfile.BLOCKSIZE)


def _entry(path: Path, name: str, owner: Owner | None) -> Iterator[bytes]:
    """Header and content of one path; nothing for a socket or a device."""
    seen = path.lstat()
    info = tarfile.TarInfo(name)
    info.mode, info.mtime = stat.S_IMODE(seen.st_mode), int(seen.st_mtime)
    info.pax_headers = {"mtime": f"{seen.st_mtime_ns // 10**9}.{seen.st_mtime_ns % 10**9:09d}"}
    info.uid, info.gid = (owner.uid, owner.gid) if owner else (seen.st_uid, seen.st_gid)
    types = {stat.S_IFLNK: tarfile.SYMTYPE, stat.S_IFDIR: tarfile.DIRTYPE, stat.S_IFIFO: tarfile.FIFOTYPE}
    if stat.S_ISREG(seen.st_mode):
        opened = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(opened, "rb") as file:
            info.size = os.fstat(opened).st_size
            yield info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
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
        yield info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
