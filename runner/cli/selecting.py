"""Which session and which paths a command's words mean, and a yes from the user."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from runner.errors import SessionNotFoundError, UsageError
from runner.sessions.store import Store, state_home

HOME = "/home/box"  # as sandbox.accounts has it, of which the command line knows nothing
_HEX = re.compile(r"[0-9a-fA-F]{4,12}")
_PREFIX = re.compile(r"[0-9a-fA-F][0-9a-fA-F-]{3,35}")


def open_store() -> Store:
    """The store that the environment names."""
    return Store(state_home(os.environ))


def split_session(words: list[str], *, points: bool = False) -> tuple[str | None, tuple[str, ...]]:
    """A first word that begins a session's id is the session; the rest are paths (`points`: or checkpoints, which a
    word may be that begins no session).
    """
    if not words or not _PREFIX.fullmatch(words[0]):
        return None, tuple(words)
    try:
        return open_store().find(words[0]).session, tuple(words[1:])
    except SessionNotFoundError:
        if points or os.path.lexists(Path(words[0])):
            return None, tuple(words)
        raise


def split_points(words: list[str], session: str | None) -> tuple[str | None, tuple[str, ...], tuple[str, ...]]:
    """Session, checkpoints (two at most) and paths of a diff's words, in that order or checkpoints first. Up to
    eight characters that begin a session's id are the session; other words of hexadecimal digits are
    checkpoints, but for short ones that name something here; the rest are paths.
    """
    points: list[str] = []
    rest = list(words)
    while rest:
        word = rest[0]
        if session is None and (named := _session(word)) is not None:
            session = named
        elif len(points) < 2 and _HEX.fullmatch(word) and (len(word) == 12 or not os.path.lexists(Path(word))):
            points.append(word.lower())
        else:
            break
        del rest[0]
    if session is None and not points:
        session, paths = split_session(rest)
        return session, (), paths
    return session, tuple(points), tuple(rest)


def _session(word: str) -> str | None:
    """The session whose id begins so."""
    try:
        return open_store().find(word).session if _PREFIX.fullmatch(word) else None
    except SessionNotFoundError:
        return None


def absolute(paths: tuple[str, ...]) -> tuple[str, ...]:
    """Paths as the user means them here; no link in their last part is followed."""
    return tuple(os.path.abspath(path) for path in paths)  # noqa: PTH100  # `..` goes by name, links stay


def in_box(paths: tuple[str, ...]) -> tuple[str, ...]:
    """As `absolute`, with `~` for the box's home directory."""
    return tuple(
        f"{HOME}{path[1:]}" if path == "~" or path.startswith("~/") else absolute((path,))[0] for path in paths
    )


def with_home(path: str) -> str:
    """The other way round: a path of the box as a user writes it."""
    return f"~{path.removeprefix(HOME)}" if path == HOME or path.startswith(f"{HOME}/") else path


def confirm(question: str, *, yes: bool) -> bool:
    """A yes by flag or at the terminal. Raises UsageError where nobody can be asked."""
    if yes:
        return True
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError("nobody can be asked here: add --yes")
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")
