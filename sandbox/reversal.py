"""What brings back what a finished apply replaced: its record, as its log tells it, and the orders made from that."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sandbox.dataclass import dataclass
from sandbox.kept import Kept, fill_kept
from sandbox.manifest import Stamp
from sandbox.selection import Action, ApplyConflictError, Remark
from sandbox.store import Store
from sandbox.transaction_log import Order
from sandbox.trees import LocalTree


class UndoRefusedError(ApplyConflictError):
    """The host changed since what is to be taken back. Nothing was written."""

    exit_code = 54


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A finished apply, read from its log."""

    header: dict[str, Any]
    steps: list[dict[str, Any]]
    kept: dict[tuple[str, str], Kept]
    results: dict[tuple[str, str], Stamp | None]
    expected: dict[tuple[str, str], Stamp | None]
    around: list[dict[str, Any]]
    around_after: list[dict[str, Any]]

    @classmethod
    def read(cls, log: Store) -> Record:
        """From the notes of its log."""
        from_type: dict[str, list[dict[str, Any]]] = {}
        for body in log.notes():
            from_type.setdefault(body["type"], []).append(body)
        return cls(
            header=from_type["header"][0],
            steps=from_type.get("step", []),
            kept={(row["root"], row["path"]): Kept.from_json(row) for row in from_type.get("kept", ())},
            results={
                (row["root"], row["path"]): None if row["stamp"] is None else Stamp(**row["stamp"])
                for row in from_type.get("result", ())
            },
            expected={
                (row["root"], row["path"]): None if row["expect"] is None else Stamp(**row["expect"])
                for row in reversed(from_type.get("step", []))
            },
            around=from_type.get("around", []),
            around_after=from_type.get("around after", []),
        )


def reverse(record: Record, log: Store, tops: Mapping[str, Path]) -> list[Order]:
    """The orders that bring back what a finished apply replaced. Raises UndoRefusedError."""
    actions: dict[tuple[str, str], set[str]] = {}
    for row in record.steps:
        actions.setdefault((row["root"], row["path"]), set()).add(row["action"])
    with contextlib.ExitStack() as stack:
        trees = {name: stack.enter_context(LocalTree(top)) for name, top in tops.items()}
        _refuse_changed(record, trees)
    groups: dict[Action, list[Order]] = {action: [] for action in Action}
    for key in sorted(record.results, key=lambda key: (key[0], os.fsencode(key[1]))):
        after, before = record.results[key], record.kept.get(key)
        root, path = key[0], os.fsencode(key[1])
        made: dict[Action, Order] = {}
        same = before is not None and after is not None and before.is_directory == stat.S_ISDIR(after.mode)
        if after is not None and not same:
            action = Action.RMDIR if stat.S_ISDIR(after.mode) else Action.DELETE
            made[action] = Order(root=root, path=path, action=action, expect=after)
        expect = after if same else None
        if before is None:
            pass
        elif actions[key] == {Action.CHMOD.value} or (same and before.is_directory):
            mode = stat.S_IMODE(before.mode)
            made[Action.CHMOD] = Order(root=root, path=path, action=Action.CHMOD, expect=after, mode=mode)
        elif before.is_directory:
            made[Action.MKDIR] = Order(root=root, path=path, action=Action.MKDIR, expect=None)
            mode = stat.S_IMODE(before.mode)
            made[Action.CHMOD] = Order(
                root=root, path=path, action=Action.CHMOD, expect=None, mode=mode, mtime_ns=before.mtime_ns
            )
        elif before.is_link:
            target = os.fsencode(before.target)
            made[Action.LINK] = Order(
                root=root, path=path, action=Action.LINK, expect=expect, target=target, mtime_ns=before.mtime_ns
            )
        else:
            fill = fill_kept(log, before)
            made[Action.WRITE] = Order(root=root, path=path, action=Action.WRITE, expect=expect, fill=fill)
        for action, order in made.items():
            groups[action].append(order)
    for action in (Action.DELETE, Action.RMDIR, Action.CHMOD):
        groups[action].reverse()
    return [order for action in Action for order in groups[action]]


def _refuse_changed(record: Record, trees: Mapping[str, LocalTree]) -> None:
    moved = []
    for (root, path), after in sorted(record.results.items(), key=lambda row: row[0]):
        now = trees[root].stat(os.fsencode(path))
        same = now.stamp.same(after) if now is not None else after is None
        if not same:
            moved.append(Remark(root=root, path=path, why="changed on the host since it was applied"))
        elif now is not None and now.is_directory and (root, path) not in record.kept:
            ours = {os.fsencode(name) for place, name in record.results if place == root}
            if {entry.path for entry in trees[root].scan(now.path)} - ours:
                moved.append(Remark(root=root, path=path, why="holds something that was made on the host since"))
    if moved:
        raise UndoRefusedError(moved, hint="nothing was taken back; put these aside, or change them by hand")
