"""The structured patch of a change: hunks with three lines of context, as clients draw them."""

from __future__ import annotations

import asyncio
from difflib import SequenceMatcher
from typing import Any

from runner.tools.text import showable, split_lines

CONTEXT = 3
COMPARED = 20_000
OFF_LOOP = 1 << 18
NO_NEWLINE = "\\ No newline at end of file"


async def patched(before: str, after: str) -> list[dict[str, Any]]:
    """`structured_patch`, beside the event loop where it may take a while."""
    if len(before) + len(after) < OFF_LOOP:
        return structured_patch(before, after)
    return await asyncio.to_thread(structured_patch, before, after)


def structured_patch(before: str, after: str) -> list[dict[str, Any]]:
    """Hunks {oldStart, oldLines, newStart, newLines, lines}; line numbers from 1. A change of more than
    COMPARED lines is not compared line by line but shown as one replacement.
    """
    old, new = split_lines(before), split_lines(after)
    head = _common(old, new, 0)
    tail = _common(old[::-1], new[::-1], head)
    old_end, new_end = len(old) - tail, len(new) - tail
    if head == old_end and head == new_end:
        return []
    if old_end - head + new_end - head > COMPARED:
        regions = [(head, old_end, head, new_end)]
    else:
        matcher = SequenceMatcher(None, old[head:old_end], new[head:new_end])
        regions = [
            (head + a, head + b, head + c, head + d) for tag, a, b, c, d in matcher.get_opcodes() if tag != "equal"
        ]
    return [_hunk(old, new, group) for group in _grouped(regions)]


def _common(one: list[str], other: list[str], taken: int) -> int:
    """How many lines are equal from the start, leaving `taken` lines of each alone at the end."""
    room = min(len(one), len(other)) - taken
    for at in range(room):
        if one[at] != other[at]:
            return at
    return max(room, 0)


Region = tuple[int, int, int, int]


def _grouped(regions: list[Region]) -> list[list[Region]]:
    groups: list[list[Region]] = []
    for region in regions:
        if groups and region[0] - groups[-1][-1][1] <= 2 * CONTEXT:
            groups[-1].append(region)
        else:
            groups.append([region])
    return groups


def _hunk(old: list[str], new: list[str], group: list[Region]) -> dict[str, Any]:
    first, last = group[0], group[-1]
    before = min(CONTEXT, first[0])
    start, stop = first[0] - before, min(last[1] + CONTEXT, len(old))
    new_start, new_stop = first[2] - before, min(last[3] + CONTEXT, len(new))
    lines: list[str] = []
    at = start
    for a, b, c, d in group:
        lines += _marked(" ", old[at:a]) + _marked("-", old[a:b]) + _marked("+", new[c:d])
        at = b
    lines += _marked(" ", old[at:stop])
    return {
        "oldStart": start + (stop > start),
        "oldLines": stop - start,
        "newStart": new_start + (new_stop > new_start),
        "newLines": new_stop - new_start,
        "lines": lines,
    }


def _marked(sign: str, lines: list[str]) -> list[str]:
    marked = []
    for line in lines:
        marked.append(sign + showable(line.removesuffix("\n")))
        if not line.endswith("\n"):
            marked.append(NO_NEWLINE)
    return marked
