"""A stack of frozen layers reads as the kernel's overlay shows it."""

from __future__ import annotations

import ctypes
import os
import shutil
import tempfile
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sandbox.changes import overlay_pairs
from sandbox.copies import remove_tree
from sandbox.stacks import StackTree
from sandbox.trees import LocalTree, Tree
from tests.support.stand import CHANGES, change, meaning

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts an overlay without a box")


def shown(root: Path, upper: Tree) -> dict[bytes, tuple[Any, ...]]:
    """What the box sees: the root with what a (merged) upper directory says."""
    found: dict[bytes, tuple[Any, ...]] = {}
    with LocalTree(root) as lower:
        left = [b""]
        while left:
            directory = left.pop()
            for entry in lower.scan(directory):
                found[entry.path] = meaning(lower, entry.path)
                left += [entry.path] if entry.is_directory else []
        for path, _, above in overlay_pairs(upper, lower):
            if above is None:
                found.pop(path, None)
            else:
                found[path] = meaning(upper, path)
    return found


class Mounted:
    """A root with an overlay over it, as an engine mounts it, that is frozen now and then."""

    def __init__(self, base: Path) -> None:
        self.base, self.root, self.at = base, base / "root", base / "merged"
        self.frozen: list[Path] = []
        for directory in (self.root, self.at):
            directory.mkdir(parents=True)
        self.layer = self.root  # of `change`
        self._mount()

    def _mount(self) -> None:
        number = len(self.frozen)
        self.upper, work = self.base / f"u{number}", self.base / f"w{number}"
        self.upper.mkdir()
        work.mkdir()
        under = ":".join(map(str, [*self.frozen, self.root]))
        options = f"lowerdir={under},upperdir={self.upper},workdir={work},userxattr,index=off,metacopy=off"
        done = ctypes.CDLL(None).mount(b"overlay", os.fsencode(self.at), b"overlay", 0, options.encode())
        assert done == 0

    def freeze(self) -> None:
        self.close()
        self.frozen.insert(0, self.upper)
        self._mount()

    def close(self) -> None:
        ctypes.CDLL(None).umount2(os.fsencode(self.at), 2)


def by_kernel(at: Path) -> dict[bytes, tuple[Any, ...]]:
    with LocalTree(at) as merged:
        left, found = [b""], {}
        while left:
            for entry in merged.scan(left.pop()):
                found[entry.path] = meaning(merged, entry.path)
                left += [entry.path] if entry.is_directory else []
    return found


@needs_root
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(CHANGES, st.lists(CHANGES, min_size=1, max_size=4))
def test_a_stack_reads_as_the_kernel_shows_it(beneath: list[Any], rounds: list[Any]) -> None:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as base:

        class At:
            pass

        at: Any = At()
        (Path(base) / "m").mkdir()
        made = Mounted(Path(base) / "m")
        try:
            at.root = at.home = made.root
            made.close()
            for each in beneath:
                if each[0] not in ("whiteout", "opaque"):
                    change(at, *each)
            shutil.rmtree(made.upper)
            shutil.rmtree(made.base / "w0")
            made._mount()
            at.root = at.home = made.at
            for number, changes in enumerate(rounds):
                for each in changes:
                    if each[0] not in ("whiteout", "opaque"):
                        change(at, *each)
                with ExitStack() as stack:
                    tops = [made.upper, *made.frozen]
                    trees = [stack.enter_context(closing(LocalTree(top))) for top in tops]
                    assert shown(made.root, StackTree(trees)) == by_kernel(made.at)
                if number + 1 < len(rounds):
                    made.freeze()
        finally:
            made.close()
            remove_tree(Path(base) / "m")
