"""Layers: the directories that hold what a session writes, and the mounts that an engine makes of them.

On the overlay rung a layer is `lower` (a link to the root, or a skeleton of ours), frozen layers of the
pool (`sandbox.pool`), `upper` (what changed since) and `work` (the kernel's). On the copy rungs it is
`copy`, the whole tree; on another machine a volume of the engine there, which `filled` names
(`sandbox.remote`). The link keeps odd characters and long paths out of the option string, which
holds one page and is cut silently. `mask` (`sandbox.covers`) hides places of the root: it lies next above `lower`.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import stat
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, field
from pathlib import Path, PurePosixPath

from sandbox.dataclass import dataclass
from sandbox.errors import StoreError, WorkspaceError
from sandbox.spec import Owner, Rung

LAYERS_VERSION = 2  # 1 knew no frozen layers
MOST_LOWERS = 20
MASK = "mask"
FILLED = "filled"  # of a layer on another machine: names the volume that holds it
_OPTIONS_LENGTH = 4000
_OVERLAY_MAGIC = 0x794C7630
FICLONE = 0x40049409
# Marks a whole copy whose files were made again since its manifest was written: inode and ctime tell nothing then.
REMADE = "remade"
_OPTIONS = "userxattr,index=off,metacopy=off,nosuid,nodev"


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One writable place of the box. `host`: the root beneath it, None where a skeleton of ours is.
    `reason`: why it is not on the best rung. `remote`: it lives in a volume of the engine. `planted`:
    files that we wrote into the layer ourselves, as text: they are no change of the session's. `lowers`: the
    frozen layers between root and upper directory, the topmost first.
    """

    name: str
    at: PurePosixPath
    host: Path | None
    rung: Rung
    reason: str = ""
    remote: bool = False
    planted: Mapping[str, str] = field(default_factory=dict)
    lowers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerTable:
    """All layers of a session, as `layers.json` keeps them. `began_ns`: when they were made. `frozen`: every
    frozen layer that the session may need, for its checkpoints too: what no table names is garbage.
    """

    session: str
    began_ns: int
    owner: Owner
    layers: tuple[Layer, ...]
    frozen: tuple[str, ...] = ()

    def write(self, file: Path) -> None:
        """Whole or not at all."""
        rows = [
            asdict(layer) | {"at": str(layer.at), "host": None if layer.host is None else str(layer.host)}
            for layer in self.layers
        ]
        body = {
            "version": LAYERS_VERSION,
            "session": self.session,
            "began_ns": self.began_ns,
            "owner": asdict(self.owner),
            "frozen": self.frozen,
            "layers": rows,
        }
        new = file.with_suffix(".new")
        new.write_text(json.dumps(body, indent=1) + "\n")
        new.replace(file)

    @classmethod
    def read(cls, file: Path) -> LayerTable | None:
        """None where there is none yet. Raises StoreError for a damaged or newer file."""
        try:
            body = json.loads(file.read_bytes())
            if body["version"] not in (1, LAYERS_VERSION):
                raise StoreError(f"{file}: version {body['version']} is not known")
            layers = tuple(
                Layer(
                    name=row["name"],
                    at=PurePosixPath(row["at"]),
                    host=None if row["host"] is None else Path(row["host"]),
                    rung=Rung(row["rung"]),
                    reason=row["reason"],
                    remote=row["remote"],
                    planted=row["planted"],
                    lowers=tuple(row["lowers"]),
                )
                for row in body["layers"]
            )
            return cls(
                session=body["session"],
                began_ns=body["began_ns"],
                owner=Owner(**body["owner"]),
                layers=layers,
                frozen=tuple(body.get("frozen", ())),
            )
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(f"{file}: {error}") from error


def choose_rung(host: Path, layers: Path, *, local: bool, forced: Rung | None) -> tuple[Rung, str]:
    """The best rung that can be tried for a root, and why it is not a better one. Overlay may still
    be refused by the engine when the box starts. Raises WorkspaceError when `forced` cannot be.
    """
    reason = "" if local else "the engine does not see this machine's files"
    reason = reason or _no_overlay(host, layers)
    if forced is None and not reason:
        return Rung.OVERLAY, ""
    if forced is Rung.OVERLAY:
        if reason:
            raise WorkspaceError(f"no overlay over {host}: {reason}", hint="leave --cow out, or name copy")
        return Rung.OVERLAY, ""
    reason = f"--cow {forced}" if forced else reason
    clones = local and can_reflink(host, layers)
    if forced is Rung.REFLINK and not clones:
        raise WorkspaceError(f"{host} and {layers} lie on no file system that shares blocks", hint="use --cow copy")
    return (Rung.REFLINK if clones and forced is not Rung.COPY else Rung.COPY), reason


def _no_overlay(host: Path, layers: Path) -> str:
    """Why an overlay of `host` with its upper directory in `layers` cannot be, as far as can be known before."""
    if any(c in str(layers) for c in ':,\\"\n') or any("\ud800" <= c <= "\udfff" for c in str(layers)):
        return "odd characters in the path of our own state"
    if _is_overlay(host):
        return "the directory lies on an overlay file system itself"
    if _is_overlay(layers):
        return "our own state lies on an overlay file system"
    if layers.resolve().is_relative_to(host):
        return "the directory holds our own state"
    try:
        os.setxattr(layers, "user.fumehood.probe", b"1")
        os.removexattr(layers, "user.fumehood.probe")
    except OSError:
        return "the file system of our own state keeps no user attributes"
    return ""


def _is_overlay(path: Path) -> bool:
    buffer = ctypes.create_string_buffer(256)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.statfs(os.fsencode(path), buffer) != 0:
        return False
    return ctypes.c_long.from_buffer(buffer).value & 0xFFFFFFFF == _OVERLAY_MAGIC


def can_reflink(source: Path, target: Path) -> bool:
    """Whether files of one directory can share their blocks with copies in the other."""
    if source.stat().st_dev != target.stat().st_dev:
        return False
    with tempfile.TemporaryFile(dir=target) as one, tempfile.TemporaryFile(dir=target) as two:
        one.write(b"x" * 4096)
        one.flush()
        try:
            fcntl.ioctl(two.fileno(), FICLONE, one.fileno())
        except OSError:
            return False
    return True


def beneath(directory: Path) -> tuple[Path, ...]:
    """What lies beneath all that was written in the layer in `directory`: what masks the root, if anything does, and
    the root.
    """
    mask = directory / MASK
    return (*((mask,) if mask.is_dir() else ()), directory / "lower")


def overlay_options(directory: Path, lowers: Iterable[Path] = ()) -> dict[str, str]:
    """The local volume driver's options for the layer in `directory`, over frozen directories, the topmost first.
    Raises WorkspaceError where they are more than the kernel takes.
    """
    lowers = tuple(lowers)
    upper, work = directory / "upper", directory / "work"
    options = (
        f"lowerdir={':'.join(map(str, (*lowers, *beneath(directory))))},upperdir={upper},workdir={work},{_OPTIONS}"
    )
    if len(lowers) > MOST_LOWERS or len(os.fsencode(options)) > _OPTIONS_LENGTH:
        raise WorkspaceError(f"too many frozen layers in {directory}")
    return {"type": "overlay", "device": "overlay", "o": options}


def copy_attributes(source: Path, target: Path, *, owner: Owner | None = None) -> bool:
    """Give a directory another's mode, times, user attributes, ACLs and owner (`owner` instead, where
    given). False when the owner could not be set by this user.
    """
    seen = source.stat()
    wanted = owner or Owner(uid=seen.st_uid, gid=seen.st_gid)
    owned = True
    has = target.stat()
    if (has.st_uid, has.st_gid) != (wanted.uid, wanted.gid):
        try:
            os.chown(target, wanted.uid, wanted.gid)
        except PermissionError:
            owned = False
    for name in os.listxattr(source):
        if name.startswith("system.posix_acl_") or (name.startswith("user.") and not name.startswith("user.overlay.")):
            try:
                os.setxattr(target, name, os.getxattr(source, name))
            except OSError as error:
                if error.errno not in (errno.ENOTSUP, errno.ENODATA, errno.EPERM):
                    raise
    target.chmod(stat.S_IMODE(seen.st_mode))
    os.utime(target, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    return owned
