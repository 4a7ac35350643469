"""The diff of a session: changes with their contents on both sides, renames found, as text, counts or JSON."""

from __future__ import annotations

import hashlib
import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from sandbox.bases import Bases
from sandbox.changes import Base, Change, Kind
from sandbox.dataclass import dataclass
from sandbox.errors import StoreError
from sandbox.gitpatch import Blob, Patch, format_patch
from sandbox.trees import Entry, Tree, content

SHOWN_BYTES = 8 << 20
PATCH_BYTES = 256 << 20
_RENAME_BYTES = 1 << 20
_RENAME_PAIRS = 20_000
_SIMILAR = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class FileDiff:
    """One change with its text. `held`: why apply holds it back, "" when it does not. `sides`: what was
    compared.
    """

    change: Change
    patch: Patch
    held: str = ""
    sides: tuple[Blob | None, Blob | None] = (None, None)

    def to_json(self) -> dict[str, Any]:
        """For `diff --json`. Bytes of names that are no UTF-8 stand as lone surrogates (PEP 383)."""
        change = self.change
        return {
            "root": change.root,
            "path": change.path,
            "kind": change.kind.value,
            "source": change.source,
            "similarity": change.similarity,
            "old": _side(change.old),
            "new": _side(change.new),
            "added": self.patch.added,
            "removed": self.patch.removed,
            "binary": self.patch.binary,
            "base": change.base.value,
            "drifted": change.drifted,
            "special": change.special,
            "held": self.held,
        }


def _side(entry: Entry | None) -> dict[str, Any] | None:
    if entry is None:
        return None
    types = {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "link"}
    return {
        "type": types.get(stat.S_IFMT(entry.mode), "special"),
        "mode": f"{stat.S_IMODE(entry.mode):04o}",
        "size": entry.size,
    }


class Sides:
    """Reads both sides of the changes of one root, contents up to `limit` bytes."""

    def __init__(self, upper: Tree, lower: Tree, bases: Bases, *, limit: int = SHOWN_BYTES) -> None:
        self._limit = limit
        self._upper = upper
        self._lower = lower
        self._bases = bases

    def old(self, change: Change) -> Blob | None:
        """The base where it is known, else what the host has now."""
        if change.base is Base.STORED:
            try:
                data = self._bases.stored(change.path)
            except StoreError:
                return None
            return Blob(mode=self._bases.stored_mode(change.path), content=data)
        if change.base is Base.ABSENT or change.old is None:
            return None
        return _blob(self._lower, os.fsencode(change.source or change.path), change.old, self._limit)

    def new(self, change: Change) -> Blob | None:
        """What the layer has."""
        return None if change.new is None else _blob(self._upper, os.fsencode(change.path), change.new, self._limit)

    def texts(self, change: Change) -> tuple[bytes | None, bytes | None]:
        """Both contents; None for what is not there or too large."""
        old, new = self.old(change), self.new(change)
        return old.content if old else None, new.content if new else None

    def patch(self, change: Change, *, binary: bool = False) -> Patch:
        """The change as text; `binary`: with the contents of binary files."""
        new_path = os.fsencode(change.path)
        old_path = os.fsencode(change.source or change.path)
        old, new = self.old(change), self.new(change)
        if old is None and new is None:
            return Patch(text=b"")
        return format_patch(old_path, new_path, old, new, similarity=change.similarity, binary=binary)


def _blob(tree: Tree, path: bytes, entry: Entry, limit: int) -> Blob | None:
    """None for what git does not know: directories, devices, FIFOs."""
    if entry.is_link:
        return Blob(mode=entry.mode, content=tree.readlink(path))
    if not entry.is_file:
        return None
    if entry.size > limit:
        return Blob(mode=entry.mode, content=None)
    return Blob(mode=entry.mode, content=content(tree, path, limit))


def with_renames(changes: Sequence[Change], upper: Tree, lower: Tree) -> list[Change]:
    """The changes with deleted and added files of like content joined into renames (50 % of the
    lines, as git counts). Equal contents are found first; the rest up to a bound. Order: by path.
    """
    gone = [c for c in changes if c.kind is Kind.DELETED and _movable(c, c.old) and c.base is Base.HOST]
    come = [c for c in changes if c.kind is Kind.ADDED and _movable(c, c.new)]
    joined: dict[str, Change] = {}
    used: set[str] = set()
    for old, new, similarity in _matches(gone, come, upper, lower):
        if old.path not in used and new.path not in joined:
            used.add(old.path)
            joined[new.path] = replace(
                new, kind=Kind.RENAMED, old=old.old, base=old.base, source=old.path, similarity=similarity
            )
    return [joined.get(c.path, c) if c.kind is Kind.ADDED else c for c in changes if c.path not in used]


def _movable(change: Change, entry: Entry | None) -> bool:
    return entry is not None and entry.is_file and entry.size > 0 and not change.in_git and not change.drifted


def _matches(gone: list[Change], come: list[Change], upper: Tree, lower: Tree) -> Iterator[tuple[Change, Change, int]]:
    """Candidates, best first."""
    sizes = {c.old.size for c in gone if c.old} & {c.new.size for c in come if c.new}
    by_digest: dict[bytes, list[Change]] = {}
    for old in gone:
        if old.old and old.old.size in sizes and old.old.size <= SHOWN_BYTES:
            by_digest.setdefault(_digest(lower, old), []).append(old)
    left = []
    for new in come:
        assert new.new is not None
        same = by_digest.get(_digest(upper, new), []) if new.new.size in sizes and new.new.size <= SHOWN_BYTES else []
        if same:
            best = next((c for c in same if _name(c) == _name(new)), same[0])
            same.remove(best)
            yield best, new, 100
        else:
            left.append(new)
    gone_left = [c for c in gone if c.old and c.old.size <= _RENAME_BYTES]
    left = [c for c in left if c.new and c.new.size <= _RENAME_BYTES]
    if not gone_left or len(gone_left) * len(left) > _RENAME_PAIRS:
        return
    olds = [(c, _lines_of(lower, c)) for c in gone_left]
    scored = []
    for new in left:
        lines = _lines_of(upper, new)
        for old, others in olds:
            score = _similarity(others, lines)
            if score >= _SIMILAR:
                scored.append((score, _name(old) == _name(new), old, new))
    scored.sort(key=lambda row: (-row[0], not row[1]))
    for score, _, old, new in scored:
        yield old, new, score


def _name(change: Change) -> str:
    return change.path.rpartition("/")[2]


def _digest(tree: Tree, change: Change) -> bytes:
    return hashlib.blake2b(content(tree, os.fsencode(change.path), SHOWN_BYTES)).digest()


def _lines_of(tree: Tree, change: Change) -> Counter[bytes]:
    return Counter(content(tree, os.fsencode(change.path), _RENAME_BYTES).splitlines(keepends=True))


def _similarity(old: Counter[bytes], new: Counter[bytes]) -> int:
    """Percent of the larger file's bytes that stand in both, by lines."""
    sizes = [sum(len(line) * count for line, count in side.items()) for side in (old, new)]
    if min(sizes) * 100 < max(sizes) * _SIMILAR:
        return 0
    common = sum(len(line) * count for line, count in (old & new).items())
    return min(common * 100 // max(*sizes, 1), 99)


def format_stat(diffs: Iterable[FileDiff], *, width: int = 80) -> str:
    """As `git diff --stat` prints it. Names are escaped, not shortened."""
    rows = []
    found = list(diffs)
    filled = {diff.change.path.rpartition("/")[0] for diff in found}
    for diff in found:
        change = diff.change
        entry = change.new or change.old
        directory = entry is not None and entry.is_directory and not diff.patch.text
        if directory and (change.path in filled or change.kind is Kind.DELETED):
            continue
        name = _shown(change.path)
        if change.source:
            name = f"{_shown(change.source)} => {name}"
        special = change.special or ("directory" if directory else "")
        rows.append((name, diff.patch, special))
    if not rows:
        return ""
    longest = max(len(name) for name, _, _ in rows)
    most = max(patch.added + patch.removed for _, patch, _ in rows)
    digits = len(str(most))
    room = max(width - longest - digits - 5, 10)
    lines = []
    for name, patch, special in rows:
        total = patch.added + patch.removed
        bar = "Bin" if patch.binary else special
        if not bar and total:
            scale = min(1.0, room / most)
            plus = max(round(patch.added * scale), 1 if patch.added else 0)
            bar = "+" * plus + "-" * max(round(patch.removed * scale), 1 if patch.removed else 0)
        count = "" if patch.binary or special else str(total)
        lines.append(f" {name:<{longest}} | {count:>{digits}} {bar}".rstrip())
    added, removed = sum(p.added for _, p, _ in rows), sum(p.removed for _, p, _ in rows)
    summary = f" {len(rows)} file{'s' if len(rows) != 1 else ''} changed"
    if added or not removed:
        summary += f", {added} insertion{'s' if added != 1 else ''}(+)"
    if removed or not added:
        summary += f", {removed} deletion{'s' if removed != 1 else ''}(-)"
    return "\n".join([*lines, summary]) + "\n"


def _shown(path: str) -> str:
    return (
        os.fsencode(path).decode("utf-8", "backslashreplace").encode("unicode_escape").decode("ascii")
        if not (path.isprintable())
        else path
    )
