"""Choosing changes hunk by hunk, as `git add -p` asks; and the same from words (`FILE:1,3`)."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import field
from typing import Any

from runner.dataclass import dataclass
from runner.errors import UsageError
from runner.ui.diff import DiffPainter
from runner.ui.safe import one_line

HELP = """y - take this hunk
n - leave this hunk
q - quit: leave this hunk and all that follow
a - take this hunk and all later ones of the file
d - leave this hunk and all later ones of the file
s - split this hunk into smaller ones
? - this help
"""
_WORD = re.compile(r"(.+):(\d+(?:,\d+)*)", re.DOTALL)


@dataclass(slots=True)
class Picked:
    """Absolute paths to be taken whole; (path, numbers of runs) where only some lines are; and a digest
    of what was shown of each.
    """

    whole: list[str] = field(default_factory=list)
    hunks: list[tuple[str, tuple[int, ...]]] = field(default_factory=list)
    seen: list[tuple[str, str]] = field(default_factory=list)

    def add(self, row: dict[str, Any], numbers: Sequence[int] | None) -> None:
        """`numbers` None: the whole file."""
        every = [run["number"] for hunk in row["hunks"] for run in hunk["runs"]]
        if numbers is None or (every and len(numbers) == len(every)):
            self.whole.append(row["file"])
        elif numbers:
            self.hunks.append((row["file"], tuple(numbers)))
        else:
            return
        self.seen.append((row["file"], seen_digest(row)))


def seen_digest(row: dict[str, Any]) -> str:
    """Of a change as it was shown."""
    return hashlib.sha256(row["text"].encode("utf-8", "surrogateescape")).hexdigest()


def pick(
    rows: Sequence[dict[str, Any]], *, ask: Callable[[str], str], show: Callable[[str], object], colour: bool
) -> Picked:
    """Ask for each hunk. `ask` gives one line, "" at the end of input, which quits."""
    picked = Picked()
    for row in rows:
        painter = DiffPainter(colour=colour)
        show(painter.feed(row["header"]) + painter.close())
        if not row["hunks"]:
            answer = _answer(row, f"Take {one_line(row['path'])} as a whole [y,n,q,?]? ", "ynq", ask, show)
            if answer == "y":
                picked.add(row, None)
            if answer == "q":
                return picked
            continue
        numbers, go_on = _pick_in(row, ask, show, colour=colour)
        picked.add(row, numbers)
        if not go_on:
            return picked
    return picked


def _pick_in(
    row: dict[str, Any], ask: Callable[[str], str], show: Callable[[str], object], *, colour: bool
) -> tuple[list[int], bool]:
    """The chosen runs of one file, and whether to go on with the next."""
    left = [list(hunk["runs"]) for hunk in row["hunks"]]
    texts = [hunk["text"] for hunk in row["hunks"]]
    numbers: list[int] = []
    while left:
        runs, text = left[0], texts[0]
        painter = DiffPainter(colour=colour)
        show(painter.feed(text) + painter.close())
        letters = "ynqad" + ("s" if len(runs) > 1 else "")
        answer = _answer(
            row, f"Take this hunk of {one_line(row['path'])} [{','.join(letters)},?]? ", letters, ask, show
        )
        if answer == "s":
            left[:1], texts[:1] = [[run] for run in runs], [run["text"] for run in runs]
            continue
        if answer == "y":
            numbers += [run["number"] for run in runs]
        if answer == "a":
            numbers += [run["number"] for rest in left for run in rest]
        if answer == "q":
            return numbers, False
        if answer in "ad":
            return numbers, True
        del left[0], texts[0]
    return numbers, True


def _answer(
    row: dict[str, Any], question: str, letters: str, ask: Callable[[str], str], show: Callable[[str], object]
) -> str:
    if row["held"]:
        question = f"(held back: {one_line(row['held'])}) {question}"
    while True:
        line = ask(question)
        if not line:
            return "q"
        answer = line.strip().lower()[:1]
        if answer and answer in letters:
            return answer
        show(HELP)


def from_words(words: Sequence[str], rows: Sequence[dict[str, Any]]) -> Picked:
    """`FILE:1,3`: hunks as `fumehood diff` shows them, counted from 1. Raises UsageError."""
    by_file = {row["file"]: row for row in rows}
    picked = Picked()
    for word, (file, numbers) in zip(words, _parse(words), strict=True):
        row = by_file.get(file)
        if row is None:
            raise UsageError(f"{word}: nothing changed there")
        hunks = row["hunks"] or [{"runs": []}]
        if not set(numbers) <= set(range(1, len(hunks) + 1)):
            raise UsageError(f"{word}: this file has hunks 1 to {len(hunks)}")
        picked.add(
            row, [run["number"] for n in sorted(set(numbers)) for run in hunks[n - 1]["runs"]] if row["hunks"] else None
        )
    return picked


def files_of(words: Sequence[str]) -> tuple[str, ...]:
    """The absolute paths in such words. Raises UsageError."""
    return tuple(file for file, _ in _parse(words))


def _parse(words: Sequence[str]) -> Iterator[tuple[str, list[int]]]:
    for word in words:
        found = _WORD.fullmatch(word)
        if found is None:
            raise UsageError(f"{word!r} is not FILE:NUMBER[,NUMBER...]")
        yield os.path.abspath(found[1]), [int(number) for number in found[2].split(",")]  # noqa: PTH100  # links stay
