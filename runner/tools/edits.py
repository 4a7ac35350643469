"""Replacing a piece of a text by another: where it matches, and which bytes change. Pure.

A newline in the old text matches LF and CRLF; the new text takes the line ends of what it
replaces, so that everything outside a match, and every line end inside that is not part of the
change, stays as it was.
"""

from __future__ import annotations

import difflib
import re
from bisect import bisect_right
from collections.abc import Iterator

from runner.dataclass import dataclass

HINT_LINES = 20_000
_NEWLINE = r"(?:\r\n|(?<!\r)\n)"
_NUMBERED = re.compile(r"^ *\d+\t", re.MULTILINE)
_QUOTES = str.maketrans("\u2018\u2019\u201c\u201d", "''\"\"")


class EditError(ValueError):
    """The edit cannot be made; the message says why, for the model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replaced:
    """The text after an edit, and how many matches were replaced."""

    text: str
    count: int


def replace(text: str, old: str, new: str, *, everywhere: bool = False) -> Replaced:
    """Replace `old` in `text`. Raises EditError when it is not there, not unique (and not `everywhere`;
    overlapping matches count) or nothing would change. `old` is not empty.
    """
    if old == new:
        raise EditError("old_string and new_string are the same: nothing to change.")
    spans = list(_matches(text, old))
    if not spans:
        raise EditError(_missing(text, old))
    if not everywhere and len(spans) > 1:
        raise EditError(_ambiguous(text, spans))
    chosen = list(_apart(spans))
    pieces, at = [], 0
    for start, end in chosen:
        pieces += [text[at:start], _fitted(text, start, end, new)]
        at = end
    result = "".join([*pieces, text[at:]])
    if result == text:
        raise EditError("old_string and new_string differ in their line ends only: nothing to change.")
    return Replaced(text=result, count=len(chosen))


def _matches(text: str, old: str) -> Iterator[tuple[int, int]]:
    """All matches in order, overlapping ones too."""
    if "\r\n" in text and "\n" in old:
        pattern = _NEWLINE.join(re.escape(line) for line in old.replace("\r\n", "\n").split("\n"))
        for found in re.finditer(f"(?=({pattern}))", text):
            yield found.span(1)
        return
    at = text.find(old)
    while at >= 0:
        yield at, at + len(old)
        at = text.find(old, at + 1)


def _apart(spans: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """From left to right, those that do not overlap one taken before."""
    free = 0
    for start, end in spans:
        if start >= free:
            yield start, end
            free = end


def _fitted(text: str, start: int, end: int, new: str) -> str:
    """`new` with the line ends of the place where it goes; unchanged where the text has LF only."""
    if "\r\n" not in text or "\n" not in new:
        return new
    parts = re.split(r"(\r\n|\n)", text[start:end])
    old_lines, old_ends = parts[::2], parts[1::2]
    lines = new.replace("\r\n", "\n").split("\n")
    ends = [old_ends[0] if old_ends else _nearby_end(text, start, end)] * (len(lines) - 1)
    room = min(len(ends), len(old_ends))
    head = 0
    while head < room and lines[head] == old_lines[head]:
        ends[head] = old_ends[head]
        head += 1
    tail = 1
    while tail <= room - head and lines[-tail] == old_lines[-tail]:
        ends[-tail] = old_ends[-tail]
        tail += 1
    return "".join(line + line_end for line, line_end in zip(lines, [*ends, ""], strict=True))


def _nearby_end(text: str, start: int, end: int) -> str:
    """The end of the line that the match stands in, else of the line before."""
    at = text.find("\n", end)
    if at < 0:
        at = text.rfind("\n", 0, start)
    return "\r\n" if at > 0 and text[at - 1] == "\r" else "\n"


def _line_numbers(text: str, offsets: list[int]) -> list[int]:
    starts = [0, *(found.end() for found in re.finditer("\n", text))]
    return [bisect_right(starts, offset) for offset in offsets]


def _ambiguous(text: str, spans: list[tuple[int, int]]) -> str:
    lines = ", ".join(map(str, _line_numbers(text, [start for start, _ in spans[:10]])))
    more = ", …" if len(spans) > 10 else ""
    return (
        f"old_string matches {len(spans)} places (lines {lines}{more}) and must match one. "
        "Give more of the text around the place that you mean, or set replace_all to change all of them."
    )


def _missing(text: str, old: str) -> str:
    return " ".join(part for part in ("old_string was not found in the file.", _hint(text, old)) if part)


def _hint(text: str, old: str) -> str:
    lines, wanted = text.split("\n"), old.split("\n")
    if _NUMBERED.search(old) and _NUMBERED.sub("", old) in text.replace("\r\n", "\n"):
        return "It contains line numbers as Read shows them: leave the number and the tab out."
    if len(lines) > HINT_LINES:
        return ""
    for what, form in (("its white space", _squeezed), ("the form of its quotes", _plain_quotes)):
        at = _window([form(line) for line in lines], [form(line) for line in wanted])
        if at is not None:
            shown = "\n".join(line.rstrip("\r") for line in lines[at : at + min(len(wanted), 12)])
            return f"Line {at + 1} and following match but for {what}; the file has:\n{shown}"
    return _closest(lines, wanted)


def _squeezed(line: str) -> str:
    return " ".join(line.split())


def _plain_quotes(line: str) -> str:
    return line.rstrip("\r").translate(_QUOTES)


def _window(lines: list[str], wanted: list[str]) -> int | None:
    """Where `wanted` stands as whole lines (its first and last may be empty: a cut at a line's edge)."""
    while len(wanted) > 1 and not wanted[-1]:
        wanted = wanted[:-1]
    if not any(wanted):
        return None
    if len(wanted) == 1:
        return next((at for at, line in enumerate(lines) if wanted[0] in line), None)
    size = len(wanted)
    return next((at for at in range(len(lines) - size + 1) if lines[at : at + size] == wanted), None)


def _closest(lines: list[str], wanted: list[str]) -> str:
    """The file's line most like the longest line that was asked for."""
    needle = max(wanted, key=lambda line: len(line.strip())).strip()[:300]
    if len(needle) < 4:
        return ""
    matcher = difflib.SequenceMatcher(autojunk=False)
    matcher.set_seq2(needle)
    best, at = 0.6, None
    for number, line in enumerate(lines):
        candidate = line.strip()[:300]
        matcher.set_seq1(candidate)
        if matcher.real_quick_ratio() > best and matcher.quick_ratio() > best and (ratio := matcher.ratio()) > best:
            best, at = ratio, number
    if at is None:
        return ""
    return f"The line most like it is line {at + 1}:\n{lines[at].rstrip()[:500]}"
