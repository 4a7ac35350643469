"""Which refs a session moved in the box, read from the files of its git directories."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from sandbox.changes import Change
from sandbox.dataclass import dataclass
from sandbox.trees import Tree, content

_ID = re.compile(rb"[0-9a-f]{40}(?:[0-9a-f]{24})?\Z")
_PACKED_LIMIT = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class RefMove:
    """A ref (or HEAD) of a git directory and the ids before and after; "" where it did not exist. For
    HEAD it may be the name of a branch.
    """

    root: str
    git: str
    ref: str
    old: str
    new: str


def ref_moves(root: str, changes: Sequence[Change], upper: Tree, lower: Tree) -> list[RefMove]:
    """The moved refs, by git directory and name. `changes`: those inside git directories."""
    gits: dict[bytes, dict[bytes, Change]] = {}
    for change in changes:
        path = os.fsencode(change.path)
        before, found, inside = (b"/" + path).rpartition(b"/.git/")
        git = (before + b"/.git").lstrip(b"/") if found else b""
        gits.setdefault(git, {})[inside if found else path] = change
    moves = []
    for git, touched in gits.items():
        old_packed = _packed(lower, git)
        new_packed = _packed(upper, git) if _there(touched, b"packed-refs") else old_packed
        packed = touched.get(b"packed-refs")
        if packed is not None and packed.new is None:
            new_packed = {}
        names = {name for name in touched if name == b"HEAD" or name.startswith(b"refs/")}
        names |= {
            name for name in old_packed.keys() | new_packed.keys() if old_packed.get(name) != new_packed.get(name)
        }
        for name in sorted(names):
            path = git + b"/" + name if git else name
            moved = touched.get(name)
            old = _read(lower, path) or old_packed.get(name, b"")
            if moved is None:
                new = _read(lower, path)
            else:
                new = _read(upper, path) if moved.new is not None and moved.new.is_file else b""
            new = new or new_packed.get(name, b"")
            if old != new:
                moves.append(
                    RefMove(
                        root=root,
                        git=os.fsdecode(git),
                        ref=os.fsdecode(name),
                        old=old.decode("utf-8", "backslashreplace"),
                        new=new.decode("utf-8", "backslashreplace"),
                    )
                )
    return moves


def _there(touched: dict[bytes, Change], name: bytes) -> bool:
    change = touched.get(name)
    return change is not None and change.new is not None and change.new.is_file


def _read(tree: Tree, path: bytes) -> bytes:
    try:
        entry = tree.stat(path)
        text = content(tree, path, 4096).strip() if entry is not None and entry.is_file else b""
    except OSError:
        return b""
    return text if _ID.match(text) else text.removeprefix(b"ref:").strip() if text.startswith(b"ref:") else b""


def _packed(tree: Tree, git: bytes) -> dict[bytes, bytes]:
    path = git + b"/packed-refs" if git else b"packed-refs"
    try:
        entry = tree.stat(path)
        text = content(tree, path, _PACKED_LIMIT) if entry is not None and entry.is_file else b""
    except OSError:
        return {}
    rows = (line.split(b" ", 1) for line in text.splitlines() if line[:1] not in (b"#", b"^"))
    return {row[1]: row[0] for row in rows if len(row) == 2 and _ID.match(row[0])}
