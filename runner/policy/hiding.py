"""`hidden:` of settings: places that are not to be seen in the box at all, as rules that deny every tool the same."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from runner.effects import Place

if TYPE_CHECKING:
    from runner.policy.policy import Policy

# Not the file is hidden, which git needs, but the logins in it.
LOGINS = ".git/config"
WORD = "hidden"
LOCK = "hidden .git/config logins"


def rule_text(pattern: str) -> str:
    """How a verdict names it."""
    return f"{WORD}({pattern})"


def is_hidden(text: str) -> bool:
    """Whether a rule came from `hidden:`."""
    return text.startswith(f"{WORD}(")


def variants(pattern: str, place: Place) -> Iterator[tuple[str, Place, PurePosixPath | None]]:
    """The rules that a pattern stands for, and where each is read: below every root, unless it says where."""
    roots = (place.roots or (place.cwd,)) if not pattern.startswith(("//", "~")) else (place.cwd,)
    for root in roots:
        for tool in ("Read", "Edit"):
            yield f"{tool}({pattern})", replace(place, cwd=root), root


def hides_logins(policy: Policy) -> bool:
    """Whether git configurations are to be seen without logins."""
    return LOCK in policy.locks
