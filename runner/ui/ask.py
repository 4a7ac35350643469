"""A permission question: exactly what would run, with nothing hidden or cut unless the user is told so."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from rich.text import Text

from runner.ui.glyphs import Glyphs
from runner.ui.safe import one_line, visible
from runner.ui.view import AskView

YES, NO, ALL, ALWAYS, INSPECT = "y", "n", "v", "a", "i"
_SAID = {YES: "yes", NO: "no", ALWAYS: "always", INSPECT: "yes, and look into each request"}
_SHOWN = 60
_DIFF = {
    "old_string": ("-", "red"),
    "new_string": ("+", "green"),
    "content": ("+", "green"),
    "new_source": ("+", "green"),
}


_WANTS = {"ExitPlanMode": "this is the plan: go on with it?"}


def question(ask: AskView, glyphs: Glyphs, *, whole: bool = False) -> tuple[list[Text], int]:
    """The lines that show what would run, and how many were left out (none with `whole`)."""
    body = [line for key, value in ask.input.items() for line in _field(key, value)]
    left = 0 if whole else max(0, len(body) - _SHOWN)
    shown = body[: len(body) - left]
    wants = _WANTS.get(ask.tool, f"{one_line(ask.tool, 60)} asks for permission")
    head = Text().append("? ", "bold yellow").append(wants, "bold")
    if ask.reason and ask.tool not in _WANTS:
        head.append(f": {one_line(ask.reason)}")
    lines = [head, *(Text().append(f"  {glyphs.bar} ", "yellow").append(line) for line in shown)]
    if left:
        lines.append(Text(f"  {glyphs.warn} {left} more lines are not shown; v shows them", "bold yellow"))
    return lines, left


def grant_lines(ask: AskView) -> list[Text]:
    """What "always" would allow, and where that is written; nothing where it is not offered."""
    if not ask.always:
        return []
    return [
        Text()
        .append("  always: ", "dim")
        .append(visible(ask.always, lines=False))
        .append("  in this workspace", "dim"),
        Text(f"  written to {visible(ask.kept, lines=False)}; fumehood policy approvals takes it back", "dim"),
    ]


def inspected(ask: AskView) -> dict[str, Any] | None:
    """The input of an answer that allows requests to the host and has each judged by itself; None where no TLS is asked
    for, and each is so anyway.
    """
    to = ask.input.get("to")
    if ask.tool != "Network" or not isinstance(to, str) or not to.startswith("https://"):
        return None
    return ask.input | {"rule": f"{to}/*"}


def keys_line(left: int, *, always: bool = False, inspect: bool = False) -> Text:
    """What can be pressed. What was not seen cannot be allowed."""
    line = Text().append("Allow this?  ", "bold")
    line = line.append("v", "bold").append(" show the rest") if left else line.append("y", "bold green").append(" yes")
    if always and not left:
        line = line.append("  ").append("a", "bold green").append(" always")
    if inspect and not left:
        line = line.append("  ").append("i", "bold green").append(" yes, and look into each request")
    return line.append("  ").append("n", "bold red").append(" no")


def said_line(said: str) -> Text:
    """What was answered, for the record."""
    return Text(f"  you said {_SAID[said]}", "bold")


def _field(key: str, value: Any) -> list[Text]:
    if key == "edits" and isinstance(value, list):
        return [line for edit in value if isinstance(edit, Mapping) for k, v in edit.items() for line in _field(k, v)]
    mark, style = _DIFF.get(key, ("", ""))
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    lines = [visible(line.expandtabs(4), lines=False) for line in text.split("\n")]
    if mark:
        return [Text(f"{mark} {line}", style) for line in lines]
    if key == "command" or len(lines) > 1:
        return [Text(one_line(key, 40), "dim"), *(Text(f"  {line}", "bold") for line in lines)]
    return [Text().append(f"{one_line(key, 40)}  ", "dim").append(lines[0])]
