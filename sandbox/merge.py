"""Joining two sides' changes to one text, line by line (diff3). What touches on both sides is a conflict,
unless both did the same; nothing is guessed. As `git merge-file --diff3` has it.
"""

from __future__ import annotations

from sandbox.dataclass import dataclass
from sandbox.gitpatch import split_lines
from sandbox.linediff import Span, changed_spans

_SIZE = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class Merged:
    """The joined text; where it has `conflicts`, all three versions stand between markers."""

    text: bytes
    conflicts: int


@dataclass(slots=True)
class _Region:
    """Lines of the base that one side or both replaced, and these lines of each side."""

    base: tuple[int, int]
    spans: tuple[list[Span], list[Span]]


def merge(base: bytes, host: bytes, box: bytes) -> Merged:
    """Three texts as one."""
    if host == box:
        return Merged(text=host, conflicts=0)
    lines, sides = split_lines(base), (split_lines(host), split_lines(box))
    spans = (changed_spans(lines, sides[0]), changed_spans(lines, sides[1]))
    out: list[bytes] = []
    at, conflicts = 0, 0
    for region in _regions(*spans):
        start, end = region.base
        out += lines[at:start]
        at = end
        texts = [_side(lines, sides[n], region.spans[n], start, end) for n in (0, 1)]
        old = lines[start:end]
        if not region.spans[1] or texts[0] == texts[1]:
            out += texts[0]
        elif not region.spans[0]:
            out += texts[1]
        else:
            conflicts += 1
            ending = _ending(*texts, old)
            for mark, text in (
                (b"<" * _SIZE + b" host", texts[0]),
                (b"|" * _SIZE + b" base", old),
                (b"=" * _SIZE, texts[1]),
            ):
                out.append(mark + ending)
                out += _ended(text, ending)
            out.append(b">" * _SIZE + b" box" + ending)
    return Merged(text=b"".join(out + lines[at:]), conflicts=conflicts)


def _regions(host: list[Span], box: list[Span]) -> list[_Region]:
    """Runs of changes that overlap or touch each other, in order."""
    regions: list[_Region] = []
    for start, side, span in sorted([(s[0], 0, s) for s in host] + [(s[0], 1, s) for s in box]):
        if regions and start <= regions[-1].base[1] and _other(regions[-1], side, start):
            last = regions[-1]
            last.base = last.base[0], max(last.base[1], span[1])
            last.spans[side].append(span)
        else:
            regions.append(_Region(base=(span[0], span[1]), spans=([span], []) if side == 0 else ([], [span])))
    return regions


def _other(region: _Region, side: int, start: int) -> bool:
    """Two changes of one side never touch; what starts within the region's other side does."""
    return bool(region.spans[1 - side]) or start < region.base[1]


def _side(base: list[bytes], lines: list[bytes], spans: list[Span], start: int, end: int) -> list[bytes]:
    """What one side has in place of the base's lines from `start` to `end`."""
    if not spans:
        return base[start:end]
    first, last = spans[0], spans[-1]
    return lines[first[2] - (first[0] - start) : last[3] + (end - last[1])]


def _ending(*texts: list[bytes]) -> bytes:
    """How the lines around end: a marker ends the same."""
    return b"\r\n" if any(line.endswith(b"\r\n") for text in texts for line in text[:1]) else b"\n"


def _ended(text: list[bytes], ending: bytes) -> list[bytes]:
    return text if not text or text[-1].endswith(b"\n") else [*text[:-1], text[-1] + ending]
