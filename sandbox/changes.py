"""What a session changed in a root: the layer compared with what lies beneath it.

Nothing here needs root, and nothing writes. A path that was copied up but is the same as before
(touched, rewritten) is no change; times and owners are none either, nor are a directory's attributes.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from enum import StrEnum
from typing import TypeAlias

from sandbox.dataclass import dataclass
from sandbox.marks import OPAQUE
from sandbox.trees import Entry, Tree, same_content

Pair: TypeAlias = tuple[bytes, Entry | None, Entry | None]


class Kind(StrEnum):
    """What happened to a path."""

    ADDED = "added"
    DELETED = "deleted"
    MODIFIED = "modified"
    MODE = "mode"
    TYPE = "type"
    RENAMED = "renamed"


class Base(StrEnum):
    """What is known of a path as it was when the session began. `host`: what lies on the host now
    is it; `stored`: the host changed it since, we kept the content; `absent`: it was not there;
    `unknown`: the host changed it before we kept it.
    """

    HOST = "host"
    STORED = "stored"
    ABSENT = "absent"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One path of one root. `path` is relative to the root, as os.fsdecode gives it. `old` is the
    host's entry beneath (None: none), `new` the layer's. `drifted`: the host changed the path since
    the session began. `source` and `similarity` (percent) say where a renamed file came from.
    `in_git`: the path belongs to a git directory, and is never part of a diff's text.
    """

    root: str
    path: str
    kind: Kind
    old: Entry | None
    new: Entry | None
    base: Base = Base.HOST
    drifted: bool = False
    source: str = ""
    similarity: int = 0
    in_git: bool = False

    @property
    def special(self) -> str:
        """fifo, socket or device: such a thing is never applied. Else ""."""
        mode = self.new.mode if self.new else 0
        if stat.S_ISFIFO(mode):
            return "fifo"
        if stat.S_ISSOCK(mode):
            return "socket"
        return "device" if stat.S_ISCHR(mode) or stat.S_ISBLK(mode) else ""


def overlay_pairs(upper: Tree, lower: Tree) -> Iterator[Pair]:
    """(path, below, above) for all that an overlay's upper directory touches, parents first."""
    yield from _visit(upper, lower, b"", merged=True)


def _visit(upper: Tree, lower: Tree, path: bytes, *, merged: bool) -> Iterator[Pair]:
    """`merged`: the lower directory of the same name shows through."""
    for above in upper.scan(path):
        below = lower.stat(above.path)
        if above.is_whiteout:
            if below is not None:
                yield from _gone(lower, below)
        elif above.is_directory:
            both = below is not None and below.is_directory
            yield above.path, below, above
            shows = merged and both and upper.attributes(above.path).get(OPAQUE) not in (b"y", b"x")
            if both and not shows:
                kept = {entry.path for entry in upper.scan(above.path)}
                for entry in lower.scan(above.path):
                    if entry.path not in kept:
                        yield from _gone(lower, entry)
            yield from _visit(upper, lower, above.path, merged=shows)
        else:
            if below is not None and below.is_directory:
                for entry in lower.scan(above.path):
                    yield from _gone(lower, entry)
            yield above.path, below, above


def _gone(lower: Tree, entry: Entry) -> Iterator[Pair]:
    yield entry.path, entry, None
    if entry.is_directory:
        for child in lower.scan(entry.path):
            yield from _gone(lower, child)


def listed_pairs(paths: Iterable[bytes], copy: Tree, lower: Tree) -> Iterator[Pair]:
    """The same for a whole copy, of which `paths` were changed since it was made. Directories above them that are
    none beneath are among them, so that there is a place for what they hold.
    """
    wanted = set(paths)
    for path in list(wanted):
        parent = path.rpartition(b"/")[0] if copy.stat(path) is not None else b""
        while parent and parent not in wanted and not _is_directory(lower.stat(parent)):
            wanted.add(parent)
            parent = parent.rpartition(b"/")[0]
    for path in sorted(wanted):
        below, above = lower.stat(path), copy.stat(path)
        if below is not None or above is not None:
            yield path, below, above


def _is_directory(entry: Entry | None) -> bool:
    return entry is not None and entry.is_directory


def classify(root: str, pair: Pair, upper: Tree, lower: Tree, *, git: bool = False) -> Change | None:
    """The pair as a change, or None where both sides are the same. `git`: the root is a git directory."""
    path, below, above = pair
    kind = _kind(path, below, above, upper, lower)
    if kind is None:
        return None
    in_git = git or b".git" in path.split(b"/")
    return Change(root=root, path=os.fsdecode(path), kind=kind, old=below, new=above, in_git=in_git)


def _kind(path: bytes, below: Entry | None, above: Entry | None, upper: Tree, lower: Tree) -> Kind | None:
    if above is None or below is None:
        missing = Kind.ADDED if above is not None else Kind.DELETED
        return None if above is below else missing
    if stat.S_IFMT(above.mode) != stat.S_IFMT(below.mode):
        return Kind.TYPE
    if above.is_link:
        return Kind.MODIFIED if upper.readlink(path) != lower.readlink(path) else None
    if above.is_file and (above.size != below.size or not same_content(upper, path, lower, path)):
        return Kind.MODIFIED
    if above.is_file and other_attributes(upper, lower, path):
        return Kind.MODIFIED
    return Kind.MODE if stat.S_IMODE(above.mode) != stat.S_IMODE(below.mode) else None


def other_attributes(one: Tree, two: Tree, path: bytes) -> bool:
    """Whether a path that both have has other user attributes in each."""
    return user_attributes(one, path) != user_attributes(two, path)


def user_attributes(tree: Tree, path: bytes) -> dict[str, bytes]:
    """The user attributes of a path, without what an overlay writes for itself."""
    return {name: value for name, value in tree.attributes(path).items() if not name.startswith("user.overlay.")}
