"""What sessions and caches take on the disk. A file that several names share is counted once, where it is met first; a
frozen layer is the session's that alone stands on it, and nobody's where several do.
"""

from __future__ import annotations

import os
from dataclasses import field
from pathlib import Path

from runner.dataclass import dataclass
from runner.errors import JournalError, SessionNotFoundError
from runner.sessions.store import State, Store
from sandbox.errors import StoreError
from sandbox.pool import Pool

PARTS = {
    "layers": "layers",
    "store": "store",
    "journal.jsonl": "journal",
    "blobs": "blobs",
    "net.recording": "recording",
}
OTHER = "other"


@dataclass(slots=True)
class Size:
    """`apparent`: what files say they hold; `disk`: blocks that are theirs. `shared`: of the blocks, those that
    were counted before, under another name. Bytes. `closed`: directories that could not be entered.
    """

    apparent: int = 0
    disk: int = 0
    shared: int = 0
    closed: int = 0

    def add(self, other: Size) -> None:
        """Both together."""
        self.apparent += other.apparent
        self.disk += other.disk
        self.shared += other.shared
        self.closed += other.closed


@dataclass(slots=True, kw_only=True)
class SessionUsage:
    """One session's, by part: layers (frozen ones that it alone stands on, too), store (checkpoints, bases, applies),
    journal, blobs, recording, other. `with_others`: frozen layers that it shares with forks, in no total of a session.
    """

    session: str
    state: str
    directory: str
    parts: dict[str, Size]
    total: Size
    with_others: Size = field(default_factory=Size)


@dataclass(slots=True, kw_only=True)
class Usage:
    """All of it. `common`: what belongs to no session, by its name in the state home: caches, shared layers."""

    sessions: list[SessionUsage] = field(default_factory=list)
    common: dict[str, Size] = field(default_factory=dict)
    total: Size = field(default_factory=Size)


def measure(store: Store, session: str = "") -> Usage:
    """All sessions and what they share, or one session. Blocks."""
    usage, seen, frozen = Usage(), set[tuple[int, int]](), frozen_layers(store)
    for name in [session] if session else store.names():
        made = _of_session(store, name, seen)
        for layer in frozen.own.get(name, ()):
            size = size_of(layer, seen)
            made.parts["layers"].add(size)
            made.total.add(size)
        for layer in frozen.shared.get(name, ()):
            made.with_others.add(size_of(layer, set()))
        usage.sessions.append(made)
        usage.total.add(made.total)
    if not session:
        for place in _common(store):
            size = size_of(place, seen, frozen.owned)
            usage.common[str(place.relative_to(store.home))] = size
            usage.total.add(size)
    return usage


@dataclass(slots=True, kw_only=True)
class FrozenLayers:
    """Directories of frozen layers: by session those that it alone stands on, and those that others do, too. `owned`:
    all of the first kind.
    """

    own: dict[str, list[Path]] = field(default_factory=dict)
    shared: dict[str, list[Path]] = field(default_factory=dict)
    owned: frozenset[bytes] = frozenset()


def frozen_layers(store: Store) -> FrozenLayers:
    """Who stands on which. Where a session's table cannot be read, that cannot be told: none is anybody's then."""
    pool, found, owned = Pool(store.layers, sessions=store.sessions), FrozenLayers(), []
    try:
        references = pool.references()
    except StoreError:
        return found
    for layer, sessions in references.items():
        for session in sessions:
            mine = found.own if len(sessions) == 1 else found.shared
            mine.setdefault(session, []).append(pool.place(layer))
        owned += [os.fsencode(pool.place(layer))] if len(sessions) == 1 else []
    found.owned = frozenset(owned)
    return found


def size_of(top: Path, seen: set[tuple[int, int]], but: frozenset[bytes] = frozenset()) -> Size:
    """Of a file or a directory with all beneath it, without what lies at `but`; no link is followed.
    `seen`: devices and inodes that were counted before; those found are added.
    """
    size, left = Size(), [os.fsencode(top)]
    while left:
        path = left.pop()
        if path in but:
            continue
        try:
            found = os.lstat(path)
        except OSError:
            continue
        directory = (found.st_mode & 0o170000) == 0o040000
        size.apparent += 0 if directory else found.st_size
        if (found.st_dev, found.st_ino) in seen:
            size.shared += found.st_blocks * 512
        else:
            size.disk += found.st_blocks * 512
            if found.st_nlink > 1 or directory:
                seen.add((found.st_dev, found.st_ino))
        if directory:
            try:
                left += [path + b"/" + name for name in os.listdir(path)]  # noqa: PTH208  # bytes
            except OSError:
                size.closed += 1
    return size


def _common(store: Store) -> list[Path]:
    """The directories of the state home that are no session's: each cache by itself."""
    found: list[Path] = []
    try:
        for place in sorted(store.home.iterdir()):
            if place == store.cache:
                found += sorted(store.cache.iterdir())
            elif place != store.sessions:
                found.append(place)
    except OSError:
        return found
    return found


def _of_session(store: Store, name: str, seen: set[tuple[int, int]]) -> SessionUsage:
    try:
        stored = store.load(name)
        state, directory = store.state(stored), stored.spec.cwd
    except (JournalError, SessionNotFoundError):
        state, directory = None, "?"
    made = SessionUsage(
        session=name,
        state="damaged" if state is None else State(state).value,
        directory=directory,
        parts={part: Size() for part in (*PARTS.values(), OTHER)},
        total=Size(),
    )
    for entry in sorted(store.directory(name).iterdir()):
        made.parts[PARTS.get(entry.name, OTHER)].add(size_of(entry, seen))
    for size in made.parts.values():
        made.total.add(size)
    return made
