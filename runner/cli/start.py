"""What the command line asked for, before it is a spec."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """`fields`, `turn` and `box`: what was named of SessionSpec, TurnLimits and BoxLimits. One at most of
    `session` (a new one's id), `resume` (an id's prefix) and `latest` is set.
    """

    fields: Mapping[str, Any] = field(default_factory=dict)
    turn: Mapping[str, Any] = field(default_factory=dict)
    box: Mapping[str, Any] = field(default_factory=dict)
    add_dirs: tuple[Path, ...] = ()
    session: str = ""
    resume: str | None = None
    latest: bool = False
    really: bool = False
