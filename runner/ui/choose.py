"""The model's own questions to the user (AskUserQuestion): options by number, one question after the other."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from rich.text import Text

from runner.ui.glyphs import Glyphs
from runner.ui.safe import one_line

TOOL = "AskUserQuestion"
_LEAVE = frozenset({"n", "\x1b", "\x04"})


def is_questions(tool: str, sent: Mapping[str, Any]) -> bool:
    """Whether an approval is one of the model's questions, in the form that can be put here."""
    questions = sent.get("questions")
    return tool == TOOL and isinstance(questions, list) and bool(questions) and all(map(_is_question, questions))


def _is_question(one: Any) -> bool:
    if not isinstance(one, Mapping) or not isinstance(one.get("question"), str):
        return False
    options = one.get("options")
    labelled = isinstance(options, list) and all(
        isinstance(o, Mapping) and isinstance(o.get("label"), str) for o in options
    )
    return labelled and 0 < len(options or ()) < 10


def lines_of(one: Mapping[str, Any], glyphs: Glyphs) -> list[Text]:
    """A question with its options."""
    lines = [Text().append("? ", "bold yellow").append(one_line(one["question"], 400), "bold")]
    for number, option in enumerate(one["options"], start=1):
        line = Text().append(f"  {glyphs.bar} ", "yellow").append(f"{number} ", "bold green")
        line.append(one_line(option["label"], 100), "bold").append(
            f"  {one_line(str(option.get('description', '')), 200)}"
        )
        lines.append(line)
    return lines


def hint(one: Mapping[str, Any], chosen: list[int]) -> Text:
    """What can be pressed."""
    line = Text().append(f"1-{len(one['options'])}", "bold green")
    if not one.get("multiSelect"):
        return line.append(" choose  ").append("n", "bold red").append(" no answer")
    line.append(" choose several, ").append("Enter", "bold green").append(" done  ").append("n", "bold red")
    return line.append(" no answer" + (f"  chosen: {', '.join(map(str, chosen))}" if chosen else ""))


async def choose(one: Mapping[str, Any], key: Callable[[], Awaitable[str]], show: Callable[[Text], None]) -> str | None:
    """The label chosen (several joined by commas); None when the user gives no answer."""
    labels = [str(option["label"]) for option in one["options"]]
    chosen: list[int] = []
    while True:
        show(hint(one, chosen))
        pressed = await key()
        if pressed.lower() in _LEAVE:
            return None
        if pressed in {"\r", "\n"} and chosen:
            return ", ".join(labels[number - 1] for number in sorted(chosen))
        if not (pressed.isascii() and pressed.isdigit() and 1 <= int(pressed) <= len(labels)):
            continue
        number = int(pressed)
        if not one.get("multiSelect"):
            return labels[number - 1]
        chosen = [n for n in chosen if n != number] if number in chosen else sorted([*chosen, number])
