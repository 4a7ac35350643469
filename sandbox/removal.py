"""Removing what a session holds on disk; what only root or the owner of the files may, its keeper does."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from sandbox.copies import remove_tree
from sandbox.errors import StoreError, WorkspaceError
from sandbox.keeper import Keeper
from sandbox.pool import Pool


def remove_layers(directory: Path, keeper: Keeper) -> None:
    """All layers of a session. Raises WorkspaceError where something stays."""
    for path in remove_tree(directory):
        keeper.remove(path)
    left = remove_tree(directory)
    if left:
        raise WorkspaceError(f"{left[0]} cannot be removed")


def remove_frozen(pool: Pool, keeper: Keeper) -> None:
    """Frozen layers that nobody needs any more; what cannot be told or removed now is `gc`'s."""
    with suppress(StoreError):
        for path in pool.sweep()[1]:
            keeper.remove(path)
        pool.sweep()
