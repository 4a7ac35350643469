"""A plain model of what a session's directory must hold: two trees as dicts (the host's, and what the box wrote
over it), with the rules by which one shows through the other. Nothing of ours is imported: it is what tests
hold our code against.
"""

from __future__ import annotations

import copy
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias


@dataclass(eq=False)
class Node:
    """A file, directory, link or fifo. One object under several names is one file with several names.
    `mtime` None: not set by hand since it was last written. `opaque`: nothing shows through a directory.
    """

    kind: str
    mode: int = 0
    data: bytes = b""
    target: str = ""
    attributes: dict[str, bytes] = field(default_factory=dict)
    mtime: int | None = None
    opaque: bool = False

    def same(self, other: Node | None) -> bool:
        """For an apply: what it brings over."""
        return other is not None and self.told() == other.told()

    def told(self) -> tuple[Any, ...]:
        attributes = tuple(sorted(self.attributes.items())) if self.kind == "file" else ()
        return self.kind, 0 if self.kind == "link" else self.mode & 0o777, self.data, self.target, attributes


GONE = Node("gone")
Tree: TypeAlias = "dict[str, Node]"


def above(path: str) -> Iterator[str]:
    """The directories above a path, the nearest first, without the top."""
    while "/" in path:
        path = path.rpartition("/")[0]
        yield path


def children(tree: Tree, path: str) -> list[str]:
    prefix = path + "/" if path else ""
    return [p for p in tree if p.startswith(prefix) and p != path and "/" not in p[len(prefix) :]]


def beneath(tree: Tree, path: str) -> list[str]:
    return [p for p in tree if p.startswith(path + "/")]


class Layer:
    """What the box wrote (`upper`), over `host`; or, where nothing shows through, all that it sees."""

    def __init__(self, host: Tree, *, over: bool) -> None:
        self.host = host
        self.over = over
        self.upper: Tree = {} if over else copy.deepcopy(host)
        self.touched: set[str] = set()

    def saved(self) -> tuple[Tree, set[str]]:
        return copy.deepcopy((self.upper, self.touched))

    def load(self, saved: tuple[Tree, set[str]]) -> None:
        self.upper, self.touched = copy.deepcopy(saved)

    def shows(self, path: str) -> bool:
        """Whether the host's entry of this name is what is beneath the box's."""
        if not self.over:
            return False
        for parent in above(path):
            mine, theirs = self.upper.get(parent), self.host.get(parent)
            if theirs is None or theirs.kind != "dir":
                return False
            if mine is not None and (mine.kind != "dir" or mine.opaque):
                return False
        return True

    def lower(self, path: str) -> Node | None:
        return self.host.get(path) if self.shows(path) else None

    def view(self) -> Tree:
        """What the box sees."""
        found: Tree = {}

        def visit(path: str) -> None:
            names = dict.fromkeys(children(self.upper, path))
            if self.over:
                names |= dict.fromkeys(p for p in children(self.host, path) if self.shows(p))
            for name in names:
                node = self.upper.get(name) or self.host[name]
                if node is GONE or node.kind == "gone":
                    continue
                found[name] = node
                if node.kind == "dir":
                    visit(name)

        visit("")
        return found

    def at(self, path: str) -> Node | None:
        return self.view().get(path)

    def raised(self, path: str) -> Node:
        """The box's own node of a path, copied up with the directories above it."""
        self._raise_parents(path)
        if path not in self.upper:
            self.upper[path] = copy.deepcopy(self.host[path])
            self.touched.add(path)
        self.touched |= {p for p, node in self.upper.items() if node is self.upper[path]}
        return self.upper[path]

    def put(self, path: str, node: Node, *, moved: bool = False) -> None:
        """A new name. A directory in the place of something beneath hides it."""
        self._raise_parents(path)
        if node.kind == "dir":
            parent = path.rpartition("/")[0]
            merge = self.over and (not parent or (self.shows(parent) and self._is_host_directory(parent)))
            node.opaque = self.lower(path) is not None or (moved and merge)
        self.upper[path] = node
        self.touched.add(path)
        self._parent_written(path)

    def remove(self, path: str) -> None:
        """A name, with all beneath it."""
        for p in [path, *beneath(self.view(), path), *beneath(self.upper, path)]:
            self.touched.add(p)
        self._raise_parents(path)
        for p in [path, *beneath(self.upper, path)]:
            self.upper.pop(p, None)
        if self.lower(path) is not None:
            self.upper[path] = GONE
        self._parent_written(path)

    def _is_host_directory(self, path: str) -> bool:
        node = self.host.get(path)
        return node is not None and node.kind == "dir"

    def _raise_parents(self, path: str) -> None:
        for parent in above(path):
            if parent not in self.upper:
                self.upper[parent] = copy.deepcopy(self.host[parent])
                self.touched.add(parent)

    def _parent_written(self, path: str) -> None:
        parent = path.rpartition("/")[0]
        if parent:
            self.raised(parent).mtime = None


def told(tree: Tree) -> dict[str, tuple[Any, ...]]:
    """A tree as it is compared: kind, mode, content, target, attributes, and mtime where it was set by hand."""
    return {
        path: (
            node.kind,
            0 if node.kind == "link" else node.mode,
            node.data,
            node.target,
            tuple(sorted(node.attributes.items())),
            node.mtime,
        )
        for path, node in tree.items()
    }


def twins(tree: Tree) -> set[frozenset[str]]:
    """Which names are one file."""
    names: dict[int, set[str]] = {}
    for path, node in tree.items():
        if node.kind == "file":
            names.setdefault(id(node), set()).add(path)
    return {frozenset(each) for each in names.values() if len(each) > 1}


_KINDS = {stat.S_IFREG: "file", stat.S_IFDIR: "dir", stat.S_IFLNK: "link", stat.S_IFIFO: "fifo"}


def seen(top: str) -> tuple[dict[str, tuple[Any, ...]], set[frozenset[str]]]:
    """A real tree in the form of `told` and `twins`."""
    found: dict[str, tuple[Any, ...]] = {}
    names: dict[int, set[str]] = {}

    def visit(directory: str, prefix: str) -> None:
        for name in os.listdir(directory):  # noqa: PTH208
            place, path = f"{directory}/{name}", prefix + name
            try:
                entry = os.lstat(place)
            except FileNotFoundError:
                # The kernel lists a removal's mark where the host has lost the directory beneath since.
                continue
            kind = _KINDS[stat.S_IFMT(entry.st_mode)]
            data, target = b"", ""
            if kind == "file":
                with open(place, "rb") as file:  # noqa: PTH123
                    data = file.read()
                names.setdefault(entry.st_ino, set()).add(path)
            elif kind == "link":
                target = os.readlink(place)  # noqa: PTH115
            attributes: dict[str, bytes] = {}
            if kind in ("file", "dir"):
                listed = [a for a in os.listxattr(place) if a.startswith("user.") and ".overlay." not in a]
                attributes = {a: os.getxattr(place, a) for a in listed}
            mode = 0 if kind == "link" else stat.S_IMODE(entry.st_mode)
            found[path] = (kind, mode, data, target, tuple(sorted(attributes.items())), entry.st_mtime_ns)
            if kind == "dir":
                visit(place, path + "/")

    visit(top, "")
    return found, {frozenset(each) for each in names.values() if len(each) > 1}


def agree(model: dict[str, tuple[Any, ...]], real: dict[str, tuple[Any, ...]]) -> None:
    """Raise AssertionError naming what differs."""
    fitted = {path: (*row[:5], model[path][5] and row[5]) if path in model else row for path, row in real.items()}
    differing = {
        path: (_short(model.get(path)), _short(fitted.get(path)))
        for path in sorted(model.keys() | fitted.keys())
        if model.get(path) != fitted.get(path)
    }
    assert not differing, f"path: (model, real) = {differing}"


def _short(row: tuple[Any, ...] | None) -> Any:
    return row if row is None or len(row[2]) < 100 else (*row[:2], f"{len(row[2])} bytes", *row[3:])
