"""Which directories of the host a session sees, and where in the box each appears."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from sandbox.dataclass import dataclass
from sandbox.errors import WorkspaceError
from sandbox.gitdir import find_top, read_head
from sandbox.spec import Owner

_RESERVED = tuple(
    PurePosixPath(p)
    for p in (
        "/bin", "/boot", "/dev", "/etc", "/home/box", "/lib", "/opt/fumehood", "/proc",
        "/root", "/run", "/sbin", "/sys", "/tmp", "/usr", "/var",  # noqa: S108 - a place in the box, nothing is written
    )
)  # fmt: skip
_WORKSPACE = PurePosixPath("/workspace")
_MAX_PATH = 3000


@dataclass(frozen=True, slots=True, kw_only=True)
class Root:
    """A directory of the host (absolute, no link in it) and where the box sees it. `name` is
    unique in the session and safe as a file name. `head`: HEAD's id at the start, "" for none.
    """

    host: Path
    at: PurePosixPath
    name: str
    head: str = ""

    @property
    def owner(self) -> Owner:
        """Whose directory it is, now."""
        found = self.host.stat()
        return Owner(uid=found.st_uid, gid=found.st_gid)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The roots, the first one the session's own; the box's working directory; what the user should know."""

    roots: tuple[Root, ...]
    cwd: PurePosixPath
    notes: tuple[str, ...] = ()


def find_roots(
    cwd: Path,
    add_dirs: Iterable[Path],
    *,
    home: Path,
    state: Path,
    really: bool = False,
    engine_data: str = "",
) -> Found:
    """The session's roots: the repository around `cwd` (else `cwd`), its git directory where that
    lies elsewhere, then `add_dirs`. `home`: the user's; `state`: where we keep our own things;
    `engine_data`: where the engine keeps its. Raises WorkspaceError for a directory that cannot
    be used, or is refused without `really`.
    """
    here = _directory(cwd)
    repository = find_top(here)
    notes = []
    wanted = [repository.top if repository else here]
    if repository:
        wanted += repository.outside
        if repository.unverified is not None:
            notes.append(
                f"{repository.top}/.git names {repository.unverified}, which does not point back: not seen in the box"
            )
    wanted += [_directory(path) for path in add_dirs]
    hosts = _without_nested(wanted)
    if not really:
        for host in hosts:
            _refuse(host, home=home, state=state, engine_data=engine_data)
    roots: list[Root] = []
    for host in hosts:
        at = _place(host, [root.at for root in roots])
        dirs = repository if repository and host == repository.top else find_top(host)
        head = read_head(dirs) if dirs and dirs.top == host else ""
        roots.append(Root(host=host, at=at, name=_unique_name(at, [root.name for root in roots]), head=head))
    seen = to_box(tuple(roots), here)
    assert seen is not None
    return Found(roots=tuple(roots), cwd=seen, notes=tuple(notes))


def to_box(roots: tuple[Root, ...], host: Path) -> PurePosixPath | None:
    """Where the box sees a host path, None when it does not."""
    for root in roots:
        if host == root.host or host.is_relative_to(root.host):
            return root.at / host.relative_to(root.host)
    return None


def to_host(roots: tuple[Root, ...], path: PurePosixPath) -> tuple[Root, str] | None:
    """The root that holds a box path, and the path relative to it."""
    for root in roots:
        if path == root.at or path.is_relative_to(root.at):
            return root, str(path.relative_to(root.at))
    return None


def _directory(path: Path) -> Path:
    try:
        real = path.resolve(strict=True)
        if not real.is_dir():
            raise WorkspaceError(f"{_shown(path)} is not a directory")
    except (OSError, RuntimeError) as error:
        raise WorkspaceError(
            f"{_shown(path)} cannot be used: {getattr(error, 'strerror', None) or error}",
            hint="name a directory that exists and that you may read",
        ) from error
    if not os.access(real, os.R_OK | os.X_OK):
        raise WorkspaceError(
            f"{_shown(path)} cannot be read by you", hint=f"make it readable (chmod u+rx) or run as its owner: {real}"
        )
    if len(os.fsencode(real)) > _MAX_PATH:
        raise WorkspaceError(f"{_shown(path)[:80]}… is too long a path")
    return real


def _without_nested(wanted: list[Path]) -> list[Path]:
    """Each directory once; one that lies in another is part of that, which takes its place."""
    kept: list[Path] = []
    for path in wanted:
        outer = min((other for other in wanted if path.is_relative_to(other)), key=lambda p: len(p.parts))
        if outer not in kept:
            kept.append(outer)
    return kept


def _refuse(host: Path, *, home: Path, state: Path, engine_data: str) -> None:
    guarded = {
        "your home directory": home,
        "fumehood's own state": state,
        "your ssh keys": home / ".ssh",
        "the engine's data": Path(engine_data or "/var/lib/docker"),
    }
    reason = "the whole host" if host == Path("/") else ""
    for what, place in guarded.items():
        real = Path(os.path.realpath(place))
        if host == real or real.is_relative_to(host):
            reason = reason or what
        elif place != home and host.is_relative_to(real):
            reason = reason or f"part of {what}"
    if reason:
        raise WorkspaceError(
            f"{_shown(host)} is or holds {reason}", hint="go to a project's directory; --really takes it all the same"
        )


def _reserved(path: PurePosixPath) -> bool:
    """Whether the box needs this place itself."""
    if path in (PurePosixPath("/"), _WORKSPACE) or path.parts[1].startswith("lib"):
        return True
    return any(path.is_relative_to(place) or place.is_relative_to(path) for place in _RESERVED)


def _place(host: Path, taken: list[PurePosixPath]) -> PurePosixPath:
    own = PurePosixPath(host)
    if not _reserved(own) and _plain(str(own)) and _free(own, taken):
        return own
    name = "".join(c if _plain(c) else "_" for c in host.name) or "root"
    number = 1
    while not _free(place := _WORKSPACE / (name if number == 1 else f"{name}-{number}"), taken):
        number += 1
    return place


def _free(path: PurePosixPath, taken: list[PurePosixPath]) -> bool:
    return not any(path.is_relative_to(other) or other.is_relative_to(path) for other in taken)


def _plain(text: str) -> bool:
    """Whether every engine can carry it as a place to mount at: as JSON, and Podman within a comma-separated line."""
    return all(c >= " " and c not in '\x7f:,"' and not "\ud800" <= c <= "\udfff" for c in text)


def _unique_name(at: PurePosixPath, taken: list[str]) -> str:
    """A short file name for the root's layers."""
    name = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "_" for c in at.name).strip(".")[:32] or "root"
    number = 1
    while (unique := name if number == 1 else f"{name}-{number}") in taken or unique in ("home", "tmp", "vartmp"):
        number += 1
    return unique


def _shown(path: Path) -> str:
    return os.fsencode(path).decode("utf-8", "backslashreplace")
