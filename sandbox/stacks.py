"""A stack of directories read as the overlay that they are parts of: the upper directory and the frozen layers
beneath it, merged into what one upper directory over the same root would hold.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence

from sandbox.marks import OPAQUE
from sandbox.trees import Entry, Tree

_HIDES = (b"y", b"x")


class StackTree:
    """A Tree. `trees`: the upper directory first, then the frozen layers from the topmost down; whoever made them
    closes them. They must not change their directories meanwhile in what concerns more than one of them.
    """

    def __init__(self, trees: Sequence[Tree]) -> None:
        self._trees = trees
        self._seen: dict[bytes, tuple[tuple[Tree, ...], bool]] = {}

    def scan(self, path: bytes) -> list[Entry]:
        """What a directory holds, whiteouts too, sorted by name."""
        trees, _ = self._directory(path)
        if not trees:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
        found: dict[bytes, Entry] = {}
        for tree in trees:
            for entry in tree.scan(path):
                found.setdefault(entry.path, entry)
        return [found[name] for name in sorted(found)]

    def stat(self, path: bytes) -> Entry | None:
        """Lstat; None where nothing is in any of them."""
        found = self._find(path)
        return None if found is None else found[1]

    def chunks(self, path: bytes, limit: int | None = None) -> Iterator[bytes | int]:
        """A regular file's content in pieces; holes as numbers."""
        return self._top(path).chunks(path, limit)

    def readlink(self, path: bytes) -> bytes:
        """A link's text."""
        return self._top(path).readlink(path)

    def attributes(self, path: bytes) -> dict[str, bytes]:
        """Attributes of the user namespace: a directory that hides what lies beneath all of it says so."""
        tree, entry = self._found(path)
        own = {name: value for name, value in tree.attributes(path).items() if name != OPAQUE}
        if entry.is_directory and self._directory(path)[1]:
            own[OPAQUE] = b"y"
        return own

    def _top(self, path: bytes) -> Tree:
        return self._found(path)[0]

    def _found(self, path: bytes) -> tuple[Tree, Entry]:
        found = self._find(path)
        if found is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return found

    def _find(self, path: bytes) -> tuple[Tree, Entry] | None:
        """The topmost tree that has a path, and what it is there."""
        trees = self._trees if not path else self._directory(path.rpartition(b"/")[0])[0]
        for tree in trees:
            entry = tree.stat(path)
            if entry is not None:
                return tree, entry
        return None

    def _directory(self, path: bytes) -> tuple[tuple[Tree, ...], bool]:
        """The trees that a directory is merged of, topmost first (none: it is no directory), and whether it hides what
        lies beneath all of them.
        """
        if not path:
            return tuple(self._trees), False
        known = self._seen.get(path)
        if known is None:
            known = self._seen[path] = self._merge(path)
        return known

    def _merge(self, path: bytes) -> tuple[tuple[Tree, ...], bool]:
        merged: list[Tree] = []
        above, _ = self._directory(path.rpartition(b"/")[0])
        for tree in above:
            entry = tree.stat(path)
            if entry is None:
                continue
            if not entry.is_directory:
                return tuple(merged), bool(merged)
            merged.append(tree)
            if tree.attributes(path).get(OPAQUE) in _HIDES:
                return tuple(merged), True
        return tuple(merged), False
