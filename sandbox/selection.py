"""What is to be applied, and the words for it: a selection, a step on the host, a remark, and the errors of both."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import field
from enum import StrEnum

from sandbox.changes import Change
from sandbox.dataclass import dataclass
from sandbox.errors import SandboxError
from sandbox.held import HeldBack
from sandbox.trees import Entry


class Action(StrEnum):
    """One step on the host, in the order in which steps are taken."""

    DELETE = "delete"
    RMDIR = "rmdir"
    MKDIR = "mkdir"
    WRITE = "write"
    LINK = "link"
    CHMOD = "chmod"


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What to apply. `paths`: (root, path) pairs, each with all beneath it; None: everything. `held`:
    what is held back too. `hunks`: of these files, only these runs of changed lines (by number, from 0).
    Where host and box both changed a path: `force` takes the box's, `ours` leaves the host's, `merge`
    joins their lines and, with `markers`, writes conflict markers where that is no way; else it is refused.
    """

    paths: tuple[tuple[str, str], ...] | None = None
    held: bool = False
    force: bool = False
    ours: bool = False
    merge: bool = False
    markers: bool = False
    hunks: Mapping[tuple[str, str], frozenset[int]] = field(default_factory=dict)

    def takes(self, change: Change) -> bool:
        """Whether the change is selected."""
        return self.paths is None or any(
            root == change.root and _beneath(change.path, path) for root, path in self.paths
        )

    def names(self, change: Change, held: HeldBack) -> bool:
        """Whether a change that is held back was asked for by name: itself, or a held directory above it."""
        if self.held:
            return True
        return any(
            root == change.root
            and (path == change.path or (_beneath(change.path, path) and any(r.matches(path) for r in held.held)))
            for root, path in self.paths or ()
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Remark:
    """A path and what is to be said of it."""

    root: str
    path: str
    why: str


NAMED = 20


class ApplyConflictError(SandboxError):
    """An apply would lose what the host changed. Nothing was written. `merging`: lines were to be joined."""

    exit_code = 53

    def __init__(
        self,
        conflicts: Sequence[Remark],
        *,
        merging: bool = False,
        hint: str = "",
    ) -> None:
        by_reason: dict[str, list[str]] = {}
        for remark in conflicts[:NAMED]:
            name = os.fsencode(remark.path).decode("utf-8", "backslashreplace")
            by_reason.setdefault(remark.why, []).append(name)
        text = "; ".join(f"{', '.join(names)}: {why}" for why, names in by_reason.items())
        more = f" (and {len(conflicts) - NAMED} more)" if len(conflicts) > NAMED else ""
        merge = "mark where lines collide with --markers" if merging else "merge with --3way"
        ways = f"{merge}, take the box's with --theirs, keep the host's with --ours, or name other paths"
        super().__init__(text + more, hint=hint or ways)
        self.conflicts = tuple(conflicts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step. `expect`: the host's entry as it was seen (None: nothing there). `content` and `mode`, where
    they are not the layer's own; `taken`: what of the box is in it, when both sides' changes are.
    """

    action: Action
    change: Change
    expect: Entry | None
    content: bytes | None = None
    mode: int | None = None
    taken: bytes | None = None

    @property
    def path(self) -> bytes:
        """Relative to the root."""
        return os.fsencode(self.change.path)


class PlanError(SandboxError):
    """What was asked for is not there to be applied."""

    exit_code = 55


def remark(change: Change, why: str) -> Remark:
    """What is to be said of a change's path."""
    return Remark(root=change.root, path=change.path, why=why)


def _beneath(path: str, above: str) -> bool:
    return above in ("", ".") or path == above or path.startswith(above.rstrip("/") + "/")
