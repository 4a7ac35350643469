"""What a place of the box held at a moment, as a Tree: by the rows of a checkpoint, by what was kept of a root's own
directory, and one over the other. The trees of now are in `sandbox.trees` and `sandbox.kepttree`.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Iterator

from sandbox.bases import Bases
from sandbox.manifest import Stamp
from sandbox.marks import OPAQUE
from sandbox.states import Payload, Row, State
from sandbox.trees import Entry, Tree

Read = Callable[[Payload], Iterator[bytes | int]]


class StateTree:
    """What a layer held at a checkpoint, as a Tree. `read` gives a row's content."""

    def __init__(self, state: State, read: Read) -> None:
        self._state = state
        self._read = read
        self._children: dict[str, list[str]] | None = None

    def scan(self, path: bytes) -> list[Entry]:
        """What a directory held, sorted by name."""
        if self._children is None:
            self._children = {}
            for name in self._state:
                if name:
                    self._children.setdefault(name.rpartition("/")[0], []).append(name)
        found = [_entry(name, self._state[name]) for name in self._children.get(os.fsdecode(path), [])]
        return sorted(found, key=lambda entry: entry.path)

    def stat(self, path: bytes) -> Entry | None:
        """The row of a path."""
        row = self._state.get(os.fsdecode(path))
        return None if row is None else _entry(os.fsdecode(path), row)

    def chunks(self, path: bytes, limit: int | None = None) -> Iterator[bytes | int]:
        """A file's content out of the store."""
        return cut_at(self._read(self._row(path).payload), limit)

    def readlink(self, path: bytes) -> bytes:
        """A link's text."""
        payload = self._row(path).payload
        assert isinstance(payload, str)
        return os.fsencode(payload)

    def attributes(self, path: bytes) -> dict[str, bytes]:
        """Attributes of the user namespace."""
        found = self._row(path).attributes
        return {name: bytes.fromhex(value) for name, value in found.items() if name.startswith("user.")}

    def _row(self, path: bytes) -> Row:
        row = self._state.get(os.fsdecode(path))
        if row is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return row


class Began:
    """A root's own directory as it was when the session began, as far as that is known: what the host changed
    since comes out of the store where it was kept, else it is as it is now.
    """

    def __init__(self, host: Tree, bases: Bases) -> None:
        self._host = host
        self._bases = bases

    def scan(self, path: bytes) -> list[Entry]:
        """What is there now and was there then."""
        return [then for entry in self._host.scan(path) if (then := self._then(entry.path, entry)) is not None]

    def stat(self, path: bytes) -> Entry | None:
        """As it was."""
        return self._then(path, self._host.stat(path))

    def chunks(self, path: bytes, limit: int | None = None) -> Iterator[bytes | int]:
        """The content that was kept, else the host's."""
        kept = self._kept(path, self._host.stat(path))
        return cut_at(iter([self._bases.content(kept[1])]), limit) if kept else self._host.chunks(path, limit)

    def readlink(self, path: bytes) -> bytes:
        """The host's."""
        return self._host.readlink(path)

    def attributes(self, path: bytes) -> dict[str, bytes]:
        """The host's."""
        return self._host.attributes(path)

    def _kept(self, path: bytes, now: Entry | None) -> tuple[Stamp, str] | None:
        kept = self._bases.first(os.fsdecode(path))
        return None if kept is None or (now is not None and now.stamp.same(kept[0])) else kept

    def _then(self, path: bytes, now: Entry | None) -> Entry | None:
        kept = self._kept(path, now)
        if kept:
            return _stamped(path, kept[0])
        return None if now is not None and self._bases.was_absent(os.fsdecode(path)) else now


class Merged:
    """An upper directory over a lower one, as the box sees them. `lower` None: a whole copy."""

    def __init__(self, upper: Tree, lower: Tree | None) -> None:
        self._upper = upper
        self._lower = lower
        self._shown: dict[bytes, bool] = {b"": lower is not None}

    def shows(self, directory: bytes) -> bool:
        """Whether what lies beneath shows through in a directory."""
        known = self._shown.get(directory)
        if known is None:
            known = self.shows(directory.rpartition(b"/")[0])
            above = self._upper.stat(directory) if known else None
            if above is not None:
                known = above.is_directory and self._upper.attributes(directory).get(OPAQUE) not in (b"y", b"x")
            self._shown[directory] = known
        return known

    def scan(self, path: bytes) -> list[Entry]:
        """What a directory holds."""
        above = self._upper.stat(path)
        found = {e.path: e for e in self._upper.scan(path)} if above is not None and above.is_directory else {}
        if self._lower is not None and self.shows(path):
            found = {entry.path: entry for entry in self._lower.scan(path)} | found
        return [found[name] for name in sorted(found) if not found[name].is_whiteout]

    def stat(self, path: bytes) -> Entry | None:
        """Lstat; None where nothing is."""
        above = self._upper.stat(path)
        if above is not None:
            return None if above.is_whiteout else above
        return self._lower.stat(path) if self._lower is not None and self.shows(path.rpartition(b"/")[0]) else None

    def chunks(self, path: bytes, limit: int | None = None) -> Iterator[bytes | int]:
        """A file's content."""
        return self._holder(path).chunks(path, limit)

    def readlink(self, path: bytes) -> bytes:
        """A link's text."""
        return self._holder(path).readlink(path)

    def attributes(self, path: bytes) -> dict[str, bytes]:
        """Attributes of the user namespace."""
        return self._holder(path).attributes(path)

    def _holder(self, path: bytes) -> Tree:
        if self._lower is None or self._upper.stat(path) is not None:
            return self._upper
        return self._lower


def cut_at(pieces: Iterable[bytes | int], limit: int | None) -> Iterator[bytes | int]:
    """The first `limit` bytes of pieces."""
    for piece in pieces:
        length = piece if isinstance(piece, int) else len(piece)
        if limit is not None:
            length = min(length, limit)
            limit -= length
        yield length if isinstance(piece, int) else piece[:length]
        if limit == 0:
            return


def _entry(name: str, row: Row) -> Entry:
    return Entry(
        path=os.fsencode(name),
        mode=row.mode,
        size=row.size,
        mtime_ns=row.mtime_ns,
        ctime_ns=row.ctime_ns,
        inode=row.inode,
        device=row.device,
        uid=row.uid,
        gid=row.gid,
        links=row.links,
    )


def _stamped(path: bytes, stamp: Stamp) -> Entry:
    return Entry(
        path=path,
        mode=stamp.mode,
        size=stamp.size,
        mtime_ns=stamp.mtime_ns,
        ctime_ns=stamp.ctime_ns,
        inode=stamp.inode,
        device=0,
        uid=0,
        gid=0,
        links=1,
    )
