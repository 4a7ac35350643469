"""Taking in a layer: a walk that sees what was touched since the last state, and stores it at once. Of a layer
that is about to be frozen only the rows are taken: its contents stay where they are.

One pass, by descriptors of directories, no link followed; what this process may not read is read by
the keeper. The tree may be written beside it: a file that changes while it is read is told.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from sandbox.keeper import Keeper
from sandbox.kepttree import KeptTree
from sandbox.states import Delta, Payload, Row, State
from sandbox.store import AT_ONCE, Store
from sandbox.trees import Entry, file_chunks
from sandbox.walk import MAX_DEPTH

PIECE = 4 << 20
KEPT_ATTRIBUTES = ("user.", "system.posix_acl_")
# The kernel's own notes on a layer, true of this one only.
DROPPED_ATTRIBUTES = frozenset({f"user.overlay.{name}" for name in ("origin", "impure", "nlink", "uuid")})
_KIND = 0o170000
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class UnsteadyError(Exception):
    """A file was written while it was read; the state never existed."""


class MuchError(Exception):
    """More is new in the layer than the caller wants to be read."""


class Capture:
    """Takes in one layer. `settle`: write each captured file's pages out first, so that a later store
    through a mapping moves its stamp (needed while something else runs in the box). `most`: how many new
    entries and bytes are read, then MuchError where `gives_up` says so; None: all. `store` None: neither contents
    nor attributes of files are read. `skip`: paths that are passed over with all beneath them; `skipped`: whether
    any was met.
    """

    def __init__(
        self,
        top: Path,
        store: Store | None,
        keeper: Keeper,
        *,
        settle: bool = False,
        local: bool = True,
        most: tuple[int, int] | None = None,
        gives_up: Callable[[], bool] = lambda: True,
        skip: Callable[[str], bool] | None = None,
    ) -> None:
        self._skip = skip
        self.skipped = False
        self._most, self._gives_up = most, gives_up
        self._count = self._bytes = 0
        self._top = top
        self._store = store
        self._keeper = keeper
        self._settle = settle
        self._is_local = local
        self.owed = State()
        self._before = State()
        self._rows = State()
        self._seen: set[str] = set()

    def run(self, before: State) -> Delta:
        """What is new against `before`. Where only stamps moved, `before` gets them and nothing is new; `owed`
        are those that tell which names are one file: they go with what is new next.
        Raises OSError, UnsteadyError, MuchError, and what the keeper raises.
        """
        self._before, self._rows, self._seen = before, State(), set()
        self._walk()
        for path, row in list(self._rows.items()):
            old = before.get(path)
            if old is not None and row.same(old):
                before[path] = self._rows.pop(path)
                if not row.one_file(old):
                    self.owed[path] = row
        gone = [] if self._seen >= before.keys() else [path for path in before if path not in self._seen]
        return Delta(rows=self._rows, gone=gone)

    def _walk(self) -> None:
        if not self._is_local:
            self._closed("")
            return
        try:
            top = os.open(self._top, _DIRECTORY)
        except PermissionError:
            self._closed("")
            return
        try:
            seen, old = os.fstat(top), self._before.get("")
            self._seen.add("")
            if old is None or old[:5] != _touch(seen):
                self._meet("", seen, top, None)
            self._visit(top, "", 0)
        finally:
            os.close(top)

    def _visit(self, directory: int, prefix: str, depth: int) -> None:
        before, below, met, skip = self._before, [], self._seen.add, self._skip
        with os.scandir(directory) as entries:
            for entry in entries:
                try:
                    seen = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                name = entry.name
                path = prefix + name
                if skip is not None and skip(path):
                    self.skipped = True
                    continue
                met(path)
                old = before.get(path)
                if (  # `_touch`, told without making it: this is what a checkpoint of nothing takes its time for
                    old is None
                    or old[3] != seen.st_ctime_ns
                    or old[2] != seen.st_mtime_ns
                    or old[1] != seen.st_size
                    or old[0] != seen.st_ino
                    or old[4] != seen.st_mode
                ):
                    self._meet(path, seen, directory, name)
                if seen.st_mode & _KIND == stat.S_IFDIR:
                    below.append(name)
        for name in below:
            path = prefix + name
            if depth >= MAX_DEPTH:
                raise OSError(errno.ELOOP, "too many directories in each other", path)
            try:
                child = os.open(name, _DIRECTORY, dir_fd=directory)
            except PermissionError:
                self._closed(path)
                continue
            except FileNotFoundError as error:
                raise UnsteadyError(path) from error
            try:
                self._visit(child, path + "/", depth + 1)
            finally:
                os.close(child)

    def _meet(self, path: str, seen: os.stat_result, directory: int, name: str | None) -> None:
        """Take in a path that this process can see, and that is new or was touched."""
        if self._store is None and stat.S_ISREG(seen.st_mode):
            self._rows[path] = _seen(seen, None, {})  # nothing is read: content and attributes stay where they are
            return
        self._weigh(seen.st_mode, seen.st_size)
        try:
            self._rows[path] = self._row(path, seen, directory, name)
        except PermissionError:
            self._rows[path] = self._kept_row(Entry.of(os.fsencode(path), seen))

    def _weigh(self, mode: int, size: int) -> None:
        self._count += 1
        self._bytes += size if stat.S_ISREG(mode) else 0
        if self._most is not None and (self._count > self._most[0] or self._bytes > self._most[1]):
            if self._gives_up():
                raise MuchError
            self._most = None

    def _row(self, path: str, seen: os.stat_result, directory: int, name: str | None) -> Row:
        kind = stat.S_IFMT(seen.st_mode)
        if name is None:
            return _seen(seen, "", _attributes(directory))
        if kind == stat.S_IFREG:
            assert self._store is not None
            opened = os.open(name, _FILE, dir_fd=directory)
            try:
                return _seen(seen, self._content(self._store, opened, path, seen), _attributes(opened))
            finally:
                os.close(opened)
        if kind == stat.S_IFDIR:
            opened = os.open(name, _DIRECTORY, dir_fd=directory)
            try:
                return _seen(seen, "", _attributes(opened))
            finally:
                os.close(opened)
        if kind == stat.S_IFLNK:
            return _seen(seen, os.fsdecode(os.readlink(os.fsencode(name), dir_fd=directory)), {})
        return _seen(seen, "", {})

    def _content(self, store: Store, opened: int, path: str, seen: os.stat_result) -> Payload:
        if self._settle:
            os.fdatasync(opened)
        size = seen.st_size
        if size < AT_ONCE and seen.st_blocks * 512 >= size:
            try:
                name, found = store.add_file(opened, size)
            except BlockingIOError as error:  # it became a FIFO
                raise UnsteadyError(path) from error
            payload: Payload = name
        elif stat.S_ISREG(os.fstat(opened).st_mode):
            payload = _pieces(store, file_chunks(opened))
            found = sum(length for _, length in payload)
        else:
            raise UnsteadyError(path)
        if found != size or _touch(os.fstat(opened)) != _touch(seen):
            raise UnsteadyError(path)
        return payload

    # By the keeper

    def _tree(self) -> KeptTree:
        return KeptTree(self._top, self._keeper, local=self._is_local)

    def _kept_row(self, entry: Entry) -> Row:
        tree = self._tree()
        try:
            if entry.is_link:
                return _made(entry, os.fsdecode(tree.readlink(entry.path)), {})
            if not (entry.is_file or entry.is_directory):
                return _made(entry, "", {})
            payload: Payload = ""
            if entry.is_file:
                if self._store is None:
                    return _made(entry, None, {})
                payload = _pieces(self._store, tree.chunks(entry.path))
            found = tree.kept_attributes(entry.path)
            kept = {name: value.hex() for name, value in found.items() if _is_kept(name)}
            return _made(entry, payload, kept)
        finally:
            tree.close()

    def _closed(self, path: str) -> None:
        """All beneath a directory that this process may not enter."""
        tree, changed = self._tree(), []
        try:
            for entry in tree.below(os.fsencode(path), top=not path):
                name = os.fsdecode(entry.path)
                if self._skip is not None and self._skip(name):
                    self.skipped = True
                    continue
                self._seen.add(name)
                old = self._before.get(name)
                if old is None or old[:5] != _stamp(entry):
                    self._weigh(entry.mode, entry.size)
                    changed.append(entry)
            self._kept_rows(tree, changed)
        finally:
            tree.close()

    def _kept_rows(self, tree: KeptTree, changed: list[Entry]) -> None:
        """Small files are asked for many at one go."""
        store = self._store
        small = [entry for entry in changed if store is not None and entry.is_file and entry.size < AT_ONCE]
        for entry, attributes, data in tree.wholes(small):
            if store is None or data is None:
                continue
            if len(data) != entry.size:
                raise UnsteadyError(entry.path)
            kept = {name: value.hex() for name, value in attributes.items() if _is_kept(name)}
            self._rows[os.fsdecode(entry.path)] = _made(entry, store.add(data), kept)
        for entry in changed:
            if os.fsdecode(entry.path) not in self._rows:
                self._rows[os.fsdecode(entry.path)] = self._kept_row(entry)


def _stamp(entry: Entry) -> tuple[int, int, int, int, int]:
    return entry.inode, entry.size, entry.mtime_ns, entry.ctime_ns, entry.mode


def _touch(seen: os.stat_result) -> tuple[int, int, int, int, int]:
    return seen.st_ino, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns, seen.st_mode


def _seen(seen: os.stat_result, payload: Payload, attributes: dict[str, str]) -> Row:
    return Row(
        seen.st_ino,
        seen.st_size,
        seen.st_mtime_ns,
        seen.st_ctime_ns,
        seen.st_mode,
        seen.st_uid,
        seen.st_gid,
        seen.st_rdev,
        seen.st_nlink,
        payload,
        attributes,
    )


def _made(entry: Entry, payload: Payload, attributes: dict[str, str]) -> Row:
    return Row(*_stamp(entry), entry.uid, entry.gid, entry.device, entry.links, payload, attributes)


def _is_kept(name: str) -> bool:
    return name.startswith(KEPT_ATTRIBUTES) and name not in DROPPED_ATTRIBUTES


def _pieces(store: Store, chunks: Iterable[bytes | int]) -> list[list[Any]]:
    """Store contents in pieces cut at multiples of PIECE, so that what is appended to costs its end."""
    pieces: list[list[Any]] = []
    for chunk in _cut(chunks):
        if isinstance(chunk, int):
            pieces.append(["", chunk])
        else:
            pieces.append([store.add(chunk), len(chunk)])
    return pieces


def _attributes(opened: int) -> dict[str, str]:
    try:
        names = os.listxattr(opened)
        return {name: os.getxattr(opened, name).hex() for name in names if _is_kept(name)} if names else {}
    except OSError as error:
        if error.errno in (errno.ENOTSUP, errno.ENODATA):
            return {}
        raise


def _cut(chunks: Iterable[bytes | int]) -> Iterator[bytes | int]:
    """The same bytes, in pieces that end at multiples of PIECE; holes stay whole."""
    waiting, at = bytearray(), 0
    for chunk in chunks:
        if isinstance(chunk, int):
            if waiting:
                yield bytes(waiting)
                waiting.clear()
            at += chunk
            yield chunk
            continue
        view = memoryview(chunk)
        while view:
            taken = view[: PIECE - at % PIECE]
            waiting += taken
            at += len(taken)
            view = view[len(taken) :]
            if at % PIECE == 0:
                yield bytes(waiting)
                waiting.clear()
    if waiting:
        yield bytes(waiting)
