"""A stage with all kinds of changes, and applies of it as a session makes them, step by step."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path

from sandbox.apply import Applied, Applies, Part, Recovered
from sandbox.bases import Bases
from sandbox.held import HeldBack
from sandbox.manifest import Manifest
from sandbox.plan import Plan, make_plan
from sandbox.selection import ApplyConflictError, Selection
from sandbox.store import Store
from sandbox.transaction import nothing
from sandbox.trees import LocalTree
from sandbox.walk import encode, walk
from tests.support.layers_by_hand import Shape, Stage

HELD = HeldBack.load()


BEFORE: Shape = {
    "kept": (0o644, b"same"),
    "file": (0o640, b"old content"),
    "gone": (0o600, b"deleted"),
    "dir": {"x": (0o644, b"x"), "sub": {"y": (0o755, b"y")}},
    "swap": (0o644, b"a file"),
    "mode": (0o644, b"mode only"),
    "link": "kept",
}


AFTER: Shape = {
    "kept": (0o644, b"same"),
    "file": (0o640, b"new content, longer"),
    "dir": (0o644, b"a file now"),
    "swap": {"inside": (0o644, b"a directory now"), "deep": {"z": (0o600, b"z")}},
    "mode": (0o755, b"mode only"),
    "link": "file",
    "new": {"n": (0o644, b"n")},
}


class Work:
    """The applies of a stage, opened as a session does."""

    def __init__(self, stage: Stage, reached: Callable[[str], None] = nothing) -> None:
        self.stage = stage
        self.applies = Applies(stage.base / "applies", {"root": stage.root}, session="0123456789", reached=reached)

    def apply(self, selection: Selection | None = None, *, between: Callable[[], object] = bool) -> tuple[Applied, ...]:
        return self.planned(selection, between=between)[1]

    def planned(
        self, selection: Selection | None = None, *, between: Callable[[], object] = bool
    ) -> tuple[Plan, tuple[Applied, ...]]:
        """Plan, stage, check, commit. `between`: what the host does after the plan was made."""
        with ExitStack() as stack:
            bases, upper, lower = self._open(stack)
            changes = [c for c in self.stage.changes(store=self._store) if not bases.is_taken(c, upper)]
            plan = make_plan(changes, selection or Selection(), upper=upper, host=lower, bases=bases, held=HELD)
            if plan.conflicts:
                raise ApplyConflictError(plan.conflicts)
            with self.applies.begin([Part(top=self.stage.root, plan=plan, upper=upper, bases=bases)]) as work:
                work.stage()
                between()
                work.check()
                return plan, work.commit()

    def capture(self) -> None:
        """Keep the base contents of what changed so far."""
        with ExitStack() as stack:
            bases, _, lower = self._open(stack)
            bases.capture(self.stage.changes(store=self._store), lower)

    def undo(self) -> tuple[Applied, ...]:
        with ExitStack() as stack:
            return self.applies.undo({"root": self._open(stack)[0]})

    def recover(self) -> list[Recovered]:
        with ExitStack() as stack:
            return self.applies.recover({"root": self._open(stack)[0]})

    def _open(self, stack: ExitStack) -> tuple[Bases, LocalTree, LocalTree]:
        manifest = stack.enter_context(closing(Manifest(self.stage.base / "manifest")))
        self._store = stack.enter_context(Store(self.stage.store, writable=True))
        return (
            Bases("root", manifest, self._store, began_ns=0),
            stack.enter_context(LocalTree(self.stage.upper)),
            stack.enter_context(LocalTree(self.stage.root)),
        )


def times(root: Path) -> dict[str, int]:
    return {str(path.relative_to(root)): path.lstat().st_mtime_ns for path in [root, *root.rglob("*")]}


def file_times(root: Path, found: dict[str, int]) -> dict[str, int]:
    """Without the directories': a name of ours that came and went moves these."""
    return {name: found[name] for name in found if not (root / name).is_dir()}


def fresh(tmp: Path, number: int) -> Stage:
    base = tmp / str(number)
    base.mkdir()
    stage = Stage(base, BEFORE)
    for index, path in enumerate(sorted(stage.root.rglob("*"), reverse=True)):
        if not path.is_symlink():
            os.utime(path, (1_000_000 + index, 1_000_000 + index))
    os.utime(stage.root, (999, 999))
    (base / "manifest").write_bytes(encode(walk(os.fsencode(stage.root)), 0))
    stage.change(AFTER)
    return stage
