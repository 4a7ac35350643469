"""What a command that asks for something prints, for people and for programs."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

from typer import Option

from runner.ui.safe import visible

AsJson = Annotated[bool, Option("--json", help="One JSON value.")]


def out(line: str = "") -> None:
    """A line of the answer."""
    sys.stdout.write(visible(line, lines=False) + "\n")


def out_json(value: Any) -> None:
    """The answer for a program: ASCII only, so nothing in it drives a terminal."""
    sys.stdout.write(json.dumps(value, indent=1) + "\n")
