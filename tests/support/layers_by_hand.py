"""Upper directories as the kernel's overlay writes them, made by hand: for tests without an engine."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path
from typing import TypeAlias

from sandbox.bases import Bases
from sandbox.changes import Change, classify, overlay_pairs
from sandbox.manifest import Manifest
from sandbox.store import Store
from sandbox.trees import LocalTree
from sandbox.walk import encode, walk

# A directory is a dict, a file (mode, content), a link its target.
Node: TypeAlias = "dict[str, Node] | tuple[int, bytes] | str"
Shape: TypeAlias = "dict[str, Node]"


def build(root: Path, shape: Shape) -> None:
    """Make a tree."""
    for name, node in shape.items():
        path = root / name
        if isinstance(node, dict):
            path.mkdir()
            build(path, node)
        elif isinstance(node, str):
            path.symlink_to(node)
        else:
            path.write_bytes(node[1])
            path.chmod(node[0])


def read(root: Path) -> Shape:
    """The tree as a shape again."""
    shape: Shape = {}
    for path in sorted(root.iterdir()):
        if path.is_symlink():
            shape[path.name] = str(path.readlink())
        elif path.is_dir():
            shape[path.name] = read(path)
        else:
            shape[path.name] = (stat.S_IMODE(path.stat().st_mode), path.read_bytes())
    return shape


def whiteout(path: Path) -> None:
    """A removed name. Anybody may make a 0/0 device."""
    os.mknod(path, stat.S_IFCHR, os.makedev(0, 0))


def write_upper(upper: Path, lower: Shape, wanted: Shape, *, opaque: bool = False) -> None:
    """What an overlay's upper directory holds when `lower` was turned into `wanted`. `opaque`: every
    directory that both have was removed and made again.
    """
    for name in lower.keys() - wanted.keys():
        whiteout(upper / name)
    for name, node in wanted.items():
        below = lower.get(name)
        if isinstance(node, dict):
            if isinstance(below, dict) and below == node and not opaque:
                continue
            (upper / name).mkdir()
            if isinstance(below, dict) and not opaque:
                write_upper(upper / name, below, node, opaque=opaque)
            else:
                if below is not None:
                    os.setxattr(upper / name, "user.overlay.opaque", b"y")
                build(upper / name, node)
        elif node != below:
            build(upper, {name: node})


class Stage:
    """A root, its layer, and a session that began just now."""

    def __init__(self, base: Path, lower: Shape) -> None:
        self.base = base
        self.root, self.upper, self.store = base / "root", base / "upper", base / "log"
        self.root.mkdir()
        self.upper.mkdir()
        build(self.root, lower)
        self.lower = lower
        (base / "manifest").write_bytes(encode(walk(os.fsencode(self.root)), 0))

    def change(self, wanted: Shape, *, opaque: bool = False) -> None:
        """The box turns the root into `wanted`."""
        shutil.rmtree(self.upper)
        self.upper.mkdir()
        write_upper(self.upper, self.lower, wanted, opaque=opaque)

    def changes(self, *, store: Store | None = None) -> list[Change]:
        """As a session finds them."""
        manifest = Manifest(self.base / "manifest")
        try:
            bases = Bases("root", manifest, store, began_ns=0)
            with LocalTree(self.upper) as upper, LocalTree(self.root) as lower:
                pairs = overlay_pairs(upper, lower)
                return [bases.judge(c) for pair in pairs if (c := classify("root", pair, upper, lower)) is not None]
        finally:
            manifest.close()
