"""Where sessions lie on disk, `$FUMEHOOD_HOME/sessions/<uuid>/`, and how they are found. What is in the files belongs
to the journal and the workspace.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Any

from runner.dataclass import dataclass
from runner.errors import JournalError, SessionNotFoundError, UsageError
from runner.sessions.glance import answered, unfinished
from runner.sessions.lock import Lock
from runner.spec import SessionSpec

ORIGIN_VERSION = 1


class State(StrEnum):
    """What a session is doing: owned by a live process, at rest, or left in the middle of a turn."""

    RUNNING = "running"
    IDLE = "idle"
    STALE = "stale"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A session on disk. `updated`: seconds since the epoch at which the journal last grew."""

    session: str
    directory: Path
    spec: SessionSpec
    updated: float

    @property
    def journal(self) -> Path:
        """The journal's file; it may not exist yet."""
        return self.directory / "journal.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a fork came from: a session, and the checkpoint of its that the files were at."""

    session: str
    checkpoint: str
    at: float

    def write(self, directory: Path) -> None:
        """Into a session's directory."""
        write_json(directory / "origin.json", {"version": ORIGIN_VERSION, **asdict(self)})


def state_home(environ: Mapping[str, str]) -> Path:
    """`$FUMEHOOD_HOME`, else fumehood's directory in the XDG state home. Raises UsageError."""
    named = environ.get("FUMEHOOD_HOME", "")
    if named:
        home = Path(named)
        if not home.is_absolute():
            raise UsageError(f"FUMEHOOD_HOME must be an absolute path, not {named!r}")
        return home
    state = environ.get("XDG_STATE_HOME", "")
    if state and Path(state).is_absolute():
        return Path(state) / "fumehood"
    return Path(environ.get("HOME") or Path.home()) / ".local" / "state" / "fumehood"


class Store:
    """All sessions of one `$FUMEHOOD_HOME`. Directories are 0700, made when first needed. `layers`: the pool of
    frozen layers (`sandbox.pool`).
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self.sessions = home / "sessions"
        self.cache = home / "cache"
        self.layers = home / "layers"

    def prepare(self) -> None:
        """Make the directories. Raises UsageError when the place cannot hold state."""
        try:
            for directory in (self.home, self.sessions, self.cache):
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = self.home.stat()
            if found.st_uid == os.geteuid() and stat.S_IMODE(found.st_mode) & 0o077:
                self.home.chmod(0o700)
        except OSError as error:
            raise UsageError(f"cannot keep sessions in {self.home}: {error.strerror}") from error
        if not os.access(self.home, os.W_OK | os.X_OK):
            raise UsageError(f"cannot keep sessions in {self.home}: it is not writable (set FUMEHOOD_HOME)")

    def directory(self, session: str) -> Path:
        """Where the session lies or will lie."""
        return self.sessions / session

    def lock(self, session: str) -> Lock:
        """The session's lock, not taken yet."""
        return Lock(self.directory(session) / "lock")

    def save(self, spec: SessionSpec) -> Stored:
        """Make the session's directory, or write its spec anew. Atomic."""
        self.prepare()
        directory = self.directory(spec.session)
        directory.mkdir(mode=0o700, exist_ok=True)
        write_json(directory / "spec.json", spec.to_json())
        return self.load(spec.session)

    def origin(self, stored: Stored) -> Origin | None:
        """Of a fork, where it came from; None for a session that is none. Raises JournalError."""
        file = stored.directory / "origin.json"
        try:
            body = json.loads(file.read_bytes())
            if body.pop("version") != ORIGIN_VERSION:
                raise JournalError(f"{file} is of a version that is not known")
            return Origin(**body)
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise JournalError(f"{file}: {error}") from error

    def load(self, session: str) -> Stored:
        """Raises SessionNotFoundError, and JournalError for a spec that cannot be read."""
        directory = self.directory(session)
        path = directory / "spec.json"
        try:
            written = path.stat()
            spec = SessionSpec.from_json(json.loads(path.read_bytes()))
        except (FileNotFoundError, NotADirectoryError) as error:
            raise SessionNotFoundError(f"no session {session}") from error
        except (OSError, ValueError) as error:
            raise JournalError(f"session {session} cannot be read: {error}") from error
        try:
            updated = (directory / "journal.jsonl").stat().st_mtime
        except OSError:
            updated = written.st_mtime
        return Stored(
            session=session,
            directory=directory,
            spec=spec,
            updated=max(updated, written.st_mtime),
        )

    def __iter__(self) -> Iterator[Stored]:
        """Every readable session, newest first; damaged ones are left out."""
        found: list[Stored] = []
        for name in self.names():
            try:
                found.append(self.load(name))
            except (SessionNotFoundError, JournalError):
                continue
        yield from sorted(found, key=lambda stored: stored.updated, reverse=True)

    def names(self) -> list[str]:
        """The ids of all sessions, damaged ones too."""
        try:
            return sorted(entry.name for entry in self.sessions.iterdir() if is_session_id(entry.name))
        except FileNotFoundError:
            return []

    def find(self, prefix: str) -> Stored:
        """The one session whose id begins so. Raises SessionNotFoundError (none, or several)."""
        wanted = prefix.lower()
        if is_session_id(wanted):
            return self.load(wanted)
        matches = [name for name in self.names() if wanted and name.startswith(wanted)]
        if not matches:
            raise SessionNotFoundError(f"no session begins with {prefix!r} (see: fumehood sessions)")
        if len(matches) > 1:
            few = ", ".join(name[:13] for name in matches[:4])
            raise SessionNotFoundError(f"{prefix!r} fits {len(matches)} sessions: {few}")
        return self.load(matches[0])

    def latest(self, cwd: Path) -> Stored:
        """The newest session of this directory, else of a root that holds it; one whose model never answered (the
        start failed) only where there is no other. Raises SessionNotFoundError.
        """
        here = str(cwd)
        empty: Stored | None = None
        above: Stored | None = None
        for stored in self:
            if stored.spec.cwd == here:
                if answered(stored.journal) or self.lock(stored.session).held():
                    return stored
                empty = empty or stored
            elif above is None and any(_holds(root.host, here) for root in stored.spec.roots):
                above = stored
        found = empty or above
        if found is None:
            raise SessionNotFoundError(f"no session was started in {cwd} yet")
        return found

    def chosen(self, session: str | None, cwd: Path) -> str:
        """As `choose`, the id only: of a session that cannot be read, too."""
        if session and is_session_id(session.lower()) and self.directory(session.lower()).is_dir():
            return session.lower()
        matches = [name for name in self.names() if session and name.startswith(session.lower())]
        return matches[0] if len(matches) == 1 else self.choose(session, cwd).session

    def choose(self, session: str | None, cwd: Path) -> Stored:
        """What a command means: the named session, else this directory's latest."""
        return self.find(session) if session else self.latest(cwd)

    def state(self, stored: Stored, *, owned: bool = True) -> State:
        """Running, idle, or stale (its last turn never ended and nobody owns it). `owned` False: the caller does."""
        if owned and self.lock(stored.session).held():
            return State.RUNNING
        return State.STALE if unfinished(stored.journal) else State.IDLE

    def forget(self, stored: Stored) -> None:
        """Remove the session's directory. The layers must be gone already (they may need the keeper)."""
        shutil.rmtree(stored.directory, ignore_errors=True)
        if stored.directory.exists():
            raise JournalError(f"{stored.directory} could not be removed whole")


def write_json(file: Path, body: Mapping[str, Any]) -> None:
    """Whole or not at all."""
    beside = file.with_name(f".{file.name}.new")
    beside.write_text(json.dumps(body, indent=1) + "\n", encoding="ascii")
    beside.chmod(0o600)
    beside.replace(file)


def is_session_id(text: str) -> bool:
    """Whether this is a UUID in its usual form."""
    try:
        return str(uuid.UUID(text)) == text
    except ValueError:
        return False


def _holds(root: str, path: str) -> bool:
    return path == root or path.startswith(root.rstrip("/") + "/")
