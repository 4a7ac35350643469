"""Masks from patterns as rules have them, for tests that know no policy."""

from __future__ import annotations

from pathlib import PurePosixPath

from runner.effects import Place
from runner.policy.patterns import path_pattern
from sandbox.masks import Masks, PathRule


def masks(top: PurePosixPath, *hide: str, keep: tuple[str, ...] = (), logins: bool = False) -> Masks:
    """Of a root that is seen under its own path."""
    place = Place(cwd=top, home=PurePosixPath("/home/box"), roots=(top,))

    def rules(patterns: tuple[str, ...]) -> tuple[PathRule, ...]:
        found = [path_pattern(each, place, anywhere=True) for each in patterns]
        return tuple(PathRule(each.key, each.source) for each in found)

    return Masks(hide=rules(hide), keep=rules(keep), logins=logins)
