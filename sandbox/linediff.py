"""Which lines differ between two texts, in time that is bounded for any input.

Lines that stand exactly once in both texts are anchors (patience diff, B. Cohen); what lies between
them goes through Myers' O(ND) algorithm ("An O(ND) Difference Algorithm", 1986) up to a bound, and
is replaced as a whole above it. The result is always a correct edit script, not always the shortest.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence

_MOST_EDITS = 400
_MOST_PASSES = 40
Span = tuple[int, int, int, int]


def changed_spans(old: Sequence[bytes], new: Sequence[bytes]) -> list[Span]:
    """(old start, old end, new start, new end) of each run of lines that was replaced, in order, with
    at least one equal line between two runs.
    """
    ids: dict[bytes, int] = {}
    a = [ids.setdefault(line, len(ids)) for line in old]
    b = [ids.setdefault(line, len(ids)) for line in new]
    merged: list[Span] = []
    for span in _spans(a, b):
        if merged and merged[-1][1] == span[0] and merged[-1][3] == span[2]:
            merged[-1] = (merged[-1][0], span[1], merged[-1][2], span[3])
        else:
            merged.append(span)
    return merged


def _spans(a: list[int], b: list[int]) -> Iterator[Span]:
    """Depth first with a stack of our own: texts nest deeper than Python's."""
    stack = [(0, len(a), 0, len(b))]
    work = _MOST_PASSES * (len(a) + len(b))
    while stack:
        low_a, high_a, low_b, high_b = stack.pop()
        work -= high_a - low_a + high_b - low_b
        while low_a < high_a and low_b < high_b and a[low_a] == b[low_b]:
            low_a, low_b = low_a + 1, low_b + 1
        while low_a < high_a and low_b < high_b and a[high_a - 1] == b[high_b - 1]:
            high_a, high_b = high_a - 1, high_b - 1
        if low_a == high_a and low_b == high_b:
            continue
        if low_a == high_a or low_b == high_b or work < 0:
            yield low_a, high_a, low_b, high_b
            continue
        anchors = _anchors(a, b, (low_a, high_a, low_b, high_b))
        if not anchors:
            yield from _myers(a, b, (low_a, high_a, low_b, high_b))
            continue
        parts = []
        at_a, at_b = low_a, low_b
        for index_a, index_b in anchors:
            parts.append((at_a, index_a, at_b, index_b))
            at_a, at_b = index_a + 1, index_b + 1
        parts.append((at_a, high_a, at_b, high_b))
        stack.extend(reversed(parts))


def _anchors(a: list[int], b: list[int], span: Span) -> list[tuple[int, int]]:
    """Lines unique on both sides, in the longest run that rises on both (by patience sorting)."""
    low_a, high_a, low_b, high_b = span
    count_a, count_b = Counter(a[low_a:high_a]), Counter(b[low_b:high_b])
    where = {b[i]: i for i in range(low_b, high_b) if count_b[b[i]] == 1}
    pairs = [(i, where[a[i]]) for i in range(low_a, high_a) if count_a[a[i]] == 1 and a[i] in where]
    tops: list[int] = []
    last: list[int] = []
    back: list[int] = []
    for index, (_, in_b) in enumerate(pairs):
        pile = bisect_left(tops, in_b)
        back.append(last[pile - 1] if pile else -1)
        if pile == len(tops):
            tops.append(in_b)
            last.append(index)
        else:
            tops[pile], last[pile] = in_b, index
    run: list[tuple[int, int]] = []
    index = last[-1] if last else -1
    while index >= 0:
        run.append(pairs[index])
        index = back[index]
    return run[::-1]


def _myers(a: list[int], b: list[int], span: Span) -> Iterator[Span]:
    low_a, high_a, low_b, high_b = span
    trace = _forward(a[low_a:high_a], b[low_b:high_b])
    if trace is None:
        yield span
        return
    x, y = high_a - low_a, high_b - low_b
    edits: list[Span] = []
    for distance in range(len(trace) - 1, 0, -1):
        before = trace[distance - 1]
        k = x - y
        down = k == -distance or (k != distance and before[k - 1] < before[k + 1])
        from_k = k + 1 if down else k - 1
        from_x = before[from_k]
        from_y = from_x - from_k
        if down:
            edits.append((low_a + from_x, low_a + from_x, low_b + from_y, low_b + from_y + 1))
        else:
            edits.append((low_a + from_x, low_a + from_x + 1, low_b + from_y, low_b + from_y))
        x, y = from_x, from_y
    yield from reversed(edits)


def _forward(a: list[int], b: list[int]) -> list[dict[int, int]] | None:
    """The furthest points per edit distance, until the end is reached; None above the bound."""
    furthest = {1: 0}
    trace: list[dict[int, int]] = []
    for distance in range(min(len(a) + len(b), _MOST_EDITS) + 1):
        now: dict[int, int] = {}
        for k in range(-distance, distance + 1, 2):
            if k == -distance or (k != distance and furthest.get(k - 1, -1) < furthest.get(k + 1, -1)):
                x = furthest[k + 1]
            else:
                x = furthest[k - 1] + 1
            y = x - k
            while x < len(a) and y < len(b) and a[x] == b[y]:
                x, y = x + 1, y + 1
            now[k] = x
            if x >= len(a) and y >= len(b):
                trace.append(now)
                return trace
        trace.append(now)
        furthest = now
    return None
