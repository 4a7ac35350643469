"""Collecting what nothing needs any more: old checkpoints, what only they held, leftovers of crashes, old caches.

Only what is at rest is touched, under the session's own lock. Sessions themselves, their layers, their latest
state and the bases of what they changed are never collected: that is `discard`'s. What a session may still
want is decided here; how a store is written anew is `sandbox.compaction`'s.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import field, replace
from pathlib import Path

from runner.dataclass import dataclass
from runner.errors import FumehoodError, JournalError, SessionBusyError, SessionNotFoundError
from runner.journal import Journal
from runner.sessions.caches import old_caches
from runner.sessions.store import State, Store
from runner.sessions.timeline import Timeline
from sandbox.compaction import beside, frozen_in, never, repack, thin
from sandbox.copies import remove_tree
from sandbox.errors import SandboxError, StoreError
from sandbox.layers import LayerTable
from sandbox.points import INHERITED
from sandbox.pool import Pool
from sandbox.store import Store as Log

DAY = 86400.0
MAX_AGE = 30.0
MAX_SIZE = 10 << 30
TURNS = 20
# So long after its last sign of life a leftover of a start is no start any more.
_ABANDONED = 3600.0
_WORTH_PACKING = 64 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What is old: `max_age` in days, of checkpoints and caches; `max_size`: bytes that all stores of checkpoints
    may take together. `turns`: of each session so many last ones can be taken back whatever their age.
    """

    max_age: float = MAX_AGE
    max_size: int = MAX_SIZE
    turns: int = TURNS
    dry: bool = False


@dataclass(slots=True, kw_only=True)
class Collected:
    """What was (or would be) done in one session or cache. `freed`: bytes; of a dry run without what packing saves.
    `skipped`: why nothing was looked at.
    """

    name: str
    checkpoints: int = 0
    trash: int = 0
    blobs: int = 0
    files: int = 0
    freed: int = 0
    skipped: str = ""

    def __bool__(self) -> bool:
        return bool(self.checkpoints or self.trash or self.blobs or self.files or self.freed or self.skipped)


@dataclass(slots=True, kw_only=True)
class Collection:
    """The report of a run. `stores`: bytes of all stores of checkpoints afterwards."""

    dry: bool
    rows: list[Collected] = field(default_factory=list)
    stores: int = 0

    @property
    def freed(self) -> int:
        """Bytes, in all."""
        return sum(row.freed for row in self.rows)


class Collector:
    """`empty` removes the trash of a session at rest, in whatever way its files need (a keeper)."""

    def __init__(
        self, store: Store, rules: Rules, *, empty: Callable[[str], None], clock: Callable[[], float] = time.time
    ) -> None:
        self._store = store
        self._rules = rules
        self._empty = empty
        self._clock = clock

    def run(self) -> Collection:
        """Every session, then caches. What is damaged or at work is named and left alone. Blocks."""
        done = Collection(dry=self._rules.dry)
        rows = {name: self._session(name) for name in self._store.names()}
        self._shrink(rows)
        self._shared(rows)
        done.rows += [row for row in rows.values() if row]
        if not any(self._store.lock(name).held() for name in rows):
            before = self._clock() - self._rules.max_age * DAY
            for place, files in old_caches(self._store.cache, before):
                row = Collected(name=f"cache/{place}", files=len(files), freed=sum(map(_bytes, files)))
                if not self._rules.dry:
                    for file in files:
                        remove_tree(file)
                done.rows.append(row)
        done.stores = sum(_bytes(self._log(name)) for name in self._store.names())
        return done

    def _log(self, session: str) -> Path:
        return self._store.directory(session) / "store" / "checkpoints"

    def _session(self, name: str) -> Collected:
        row = Collected(name=name)
        abandoned = self._is_abandoned(self._store.directory(name))
        with self._at_rest(row) as directory:
            if directory is None:
                return row
            if not (directory / "spec.json").exists():
                if abandoned:
                    self._leftover(directory, row)
                return row
            old = self._clock() - self._rules.max_age * DAY
            self._drop(name, row, {each for each, at in self._droppable(name) if at < old})
            self._blobs(directory, row)
            self._trash(directory, row)
            self._pack_others(directory, row)
        return row

    @contextmanager
    def _at_rest(self, row: Collected) -> Iterator[Path | None]:
        """The session's directory, locked; None where it must be left alone. Errors are told in the row."""
        directory = self._store.directory(row.name)
        try:
            with self._store.lock(row.name):
                why = _waits(directory)
                row.skipped = why
                yield None if why else directory
        except SessionBusyError:
            row.skipped = "at work"
            yield None
        except (FumehoodError, SandboxError, OSError) as error:
            row.skipped = str(error)

    def _droppable(self, name: str) -> list[tuple[str, float]]:
        """(id, time) of the checkpoints that the session can do without, oldest first."""
        log = self._log(name)
        if not log.exists():
            return []
        stored = self._store.load(name)
        if self._store_state(name) is State.STALE:  # broken off in mid-turn: whoever goes on with it may want all
            return []
        journal = Journal.view(stored.directory)
        try:
            path = {event.id for event in journal.path()}
            timeline = Timeline.read(journal.read(), path=path, head=journal.head())
        finally:
            journal.close()
        if any(log.parent.glob(INHERITED + "*")):  # a fork: its first checkpoint builds on its origin's
            return []
        needed = timeline.needed(self._rules.turns)
        with Log(log, writable=False) as opened:
            notes = list(opened.notes())
        present = next((note["id"] for note in reversed(notes) if note["type"] in ("checkpoint", "restored")), "")
        points = [(note["id"], float(note["at"])) for note in notes if note["type"] == "checkpoint"]
        return [(each, at) for each, at in points if each not in needed and each != present]

    def _store_state(self, name: str) -> State:
        """As the lock that is ours does not tell."""
        return self._store.state(self._store.load(name), owned=False)

    def _drop(self, name: str, row: Collected, drop: set[str]) -> None:
        log = self._log(name)
        row.checkpoints += len(drop)
        if not log.exists():
            return
        if self._rules.dry:
            row.freed += _only_of(log, drop) if drop else 0
            return
        with Log(log, writable=False) as opened:
            worth = opened.plain > _WORTH_PACKING or opened.torn
        beside(log).unlink(missing_ok=True)
        if drop or worth:
            done = thin(log, frozenset(drop))
            row.freed += max(done.before - done.after, 0)

    def _shrink(self, rows: dict[str, Collected]) -> None:
        """While all stores together are too large: what can be done without, of the session that rested longest."""
        total = sum(_bytes(self._log(name)) for name in rows)
        if self._rules.dry:
            total -= sum(row.freed for row in rows.values())

        def rested(name: str) -> float:
            with suppress(JournalError, SessionNotFoundError):
                return self._store.load(name).updated
            return 0.0

        for name in sorted(rows, key=rested):
            row = rows[name]
            if total <= self._rules.max_size or row.skipped:
                continue
            before = row.freed
            with self._at_rest(row) as directory:
                if directory is not None and (directory / "spec.json").exists():
                    found = {each for each, _ in self._droppable(name)}
                    if found:
                        self._drop(name, row, found)
            total -= row.freed - before

    def _is_abandoned(self, directory: Path) -> bool:
        """Whether a start was killed there long ago: no spec was written yet, so no layer was made. To be asked
        before the lock is taken, which writes to it.
        """
        if (directory / "spec.json").exists() or (directory / "layers").exists():
            return False
        newest = max(path.lstat().st_mtime for path in [directory, *directory.iterdir()])
        return self._clock() - newest > _ABANDONED

    def _shared(self, rows: dict[str, Collected]) -> None:
        """Frozen layers: a session names no longer what only its dropped checkpoints stood on, and what no session
        names goes.
        """
        row = Collected(name="layers")
        pool = Pool(self._store.layers, sessions=self._store.sessions)
        for session in rows.values():
            if session.checkpoints and not (self._rules.dry or session.skipped):
                with self._at_rest(session) as directory:
                    if directory is not None:
                        _name_fewer(directory)
        try:
            sizes = {layer: pool.size(layer) for layer, users in pool.references().items() if not users}
            gone, left = pool.sweep(dry=self._rules.dry)
            if not self._rules.dry:
                with suppress(OSError, StoreError):  # what cannot be read, fsck tells
                    pool.digest((layer for layer, users in pool.references().items() if users), never)
        except StoreError as error:
            row.skipped = f"no frozen layer is collected: {error}"
        else:
            row.files, row.freed = len(gone) - len(left), sum(sizes.get(layer, 0) for layer in gone)
        rows[row.name] = row

    def _leftover(self, directory: Path, row: Collected) -> None:
        row.files, row.freed = 1, sum(_bytes(path) for path in directory.rglob("*"))
        if not self._rules.dry:
            remove_tree(directory)

    def _blobs(self, directory: Path, row: Collected) -> None:
        """Payloads that no record names: a crash came between."""
        named = set()
        with suppress(FileNotFoundError):
            for line in (directory / "journal.jsonl").read_bytes().splitlines():
                if b'"$blob"' in line:
                    named |= {value["$blob"] for value in json.loads(line)["body"].values() if _is_blob(value)}
            for blob in (directory / "blobs").iterdir():
                if blob.name not in named and self._clock() - blob.lstat().st_mtime > _ABANDONED:
                    row.blobs += 1
                    row.freed += _bytes(blob)
                    if not self._rules.dry:
                        blob.unlink()

    def _trash(self, directory: Path, row: Collected) -> None:
        """Directories that a way back replaced, and whose removal was cut off."""
        found = [*(directory / "layers").glob("*/.trash-*"), *(directory / "layers").glob("*/new")]
        row.trash = len(found)
        if not found:
            return
        row.freed += sum(_bytes(path) for top in found for path in top.rglob("*"))
        if not self._rules.dry:
            self._empty(row.name)

    def _pack_others(self, directory: Path, row: Collected) -> None:
        """The bases, and what applies overwrote."""
        if self._rules.dry:
            return
        files = [directory / "store" / "log", *(directory / "store" / "applies").glob("*.done")]
        for file in files:
            if file.exists():
                with Log(file, writable=False) as opened:
                    worth = opened.plain > _WORTH_PACKING
                if worth:
                    done = repack(file)
                    row.freed += max(done.before - done.after, 0)


def _waits(directory: Path) -> str:
    """Why a session at rest must be left alone, "" where not."""
    if (directory / "store" / "restore.json").exists():
        return "a way back was cut off: any command about the session ends it first"
    if any((directory / "store" / "applies").glob("*.open")):
        return "an apply was cut off: any command about the session ends it first"
    return ""


def _name_fewer(directory: Path) -> None:
    """Take out of the session's table what neither its layers nor any of its checkpoints stands on. A fork's may be
    needed by what it took over from its origin: it keeps all.
    """
    file = directory / "layers" / "layers.json"
    table = LayerTable.read(file)
    if table is None or any((directory / "store").glob(INHERITED + "*")):
        return
    needed = frozen_in(directory / "store" / "checkpoints") | {name for la in table.layers for name in la.lowers}
    if not needed >= set(table.frozen):
        replace(table, frozen=tuple(name for name in table.frozen if name in needed)).write(file)


def _only_of(log: Path, drop: set[str]) -> int:
    """Bytes of what the log grew by for these checkpoints: more than can be freed where others share it."""
    with Log(log, writable=False) as opened:
        return sum(int(note["size"]) for note in opened.notes() if note.get("id") in drop and "size" in note)


def _is_blob(value: object) -> bool:
    return isinstance(value, dict) and "$blob" in value


def _bytes(path: Path) -> int:
    """On the disk."""
    try:
        return path.lstat().st_blocks * 512
    except OSError:
        return 0
