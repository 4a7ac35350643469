"""Where a path that a user or the box names lies: which layer or root holds it, and where beneath."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from sandbox.errors import WorkspaceError
from sandbox.layers import Layer
from sandbox.roots import Root, to_host


def find_layer(layers: Iterable[Layer], path: str) -> tuple[Layer, str]:
    """The layer that holds a path, and the path beneath it."""
    for layer in layers:
        for top in (PurePosixPath(layer.host) if layer.host else None, layer.at):
            if top is not None and PurePosixPath(path).is_relative_to(top):
                inner = str(PurePosixPath(path).relative_to(top))
                return layer, "" if inner == "." else inner
    raise WorkspaceError(f"{path} lies in no writable place of the box")


def find_root(roots: tuple[Root, ...], path: str, *, cwd: Path) -> tuple[str, str]:
    """(root, path beneath it) of a path as a user names it: relative to `cwd`, absolute on the host or in the box. It
    need not exist. Raises WorkspaceError for what lies in no root.
    """
    host = Path(os.path.normpath(cwd.resolve() / path))
    for root in roots:
        if host.is_relative_to(root.host):
            return root.name, str(host.relative_to(root.host))
    found = to_host(roots, PurePosixPath(os.path.normpath(path)))
    if found is None:
        raise WorkspaceError(f"{path} lies in no root of this session")
    return found[0].name, found[1]
