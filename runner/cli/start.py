"""What the command line asked for: what to start, before it is a spec, and how to show it."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Any

from runner.dataclass import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """`fields`, `turn` and `box`: what was named of SessionSpec, TurnLimits and BoxLimits. One at most of
    `session` (a new one's id), `resume` (an id's prefix) and `latest` is set. `prompt_tool`: who answers in place of
    the user, of a server that `mcp_config` describes.
    """

    fields: Mapping[str, Any] = field(default_factory=dict)
    turn: Mapping[str, Any] = field(default_factory=dict)
    box: Mapping[str, Any] = field(default_factory=dict)
    add_dirs: tuple[Path, ...] = ()
    session: str = ""
    resume: str | None = None
    latest: bool = False
    really: bool = False
    prompt_tool: str | None = None
    mcp_config: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """How a run is shown. `headless`: only the result (or messages) on stdout, nobody is asked."""

    format: str = "text"
    headless: bool = False
    verbose: bool = False
    partial: bool = False
    quiet: bool = False

    @property
    def live(self) -> bool:
        """Whether there is a terminal to draw on."""
        return not self.headless and not self.quiet and sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"

    @property
    def asks(self) -> bool:
        """Whether somebody is there to answer a permission question."""
        return self.live and sys.stdin.isatty()
