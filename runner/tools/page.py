"""A page of a text file: some of its lines, numbered, within bounds. Large files are paged in the box."""

from __future__ import annotations

from pathlib import PurePosixPath

from pydantic import BaseModel

from runner.dataclass import dataclass
from runner.tools.base import ToolContext
from runner.tools.helpers import Helpers, ask
from runner.tools.text import TextForm, showable

LINE_LIMIT = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """`count` lines from line `start` on, of `total`. `raw`: the lines as they are (long ones cut); `numbered`:
    as the model sees them. `capped`: the size bound ended the page; `shortened`: how many lines were cut.
    """

    start: int
    count: int
    total: int
    raw: str
    numbered: str
    capped: bool = False
    shortened: int = 0


class LinesReply(BaseModel):
    """What the box tells of a large file: the page's lines and the length that each really has."""

    lines: list[str]
    lengths: list[int]
    total: int


def cut_page(text: str, *, start: int, lines: int, characters: int) -> Page:
    """A page of a text that is here as a whole."""
    every = text.split("\n")
    if every and not every[-1]:
        every.pop()
    chosen = every[start - 1 : start - 1 + lines]
    return _page([line[:LINE_LIMIT] for line in chosen], [len(line) for line in chosen], start, len(every), characters)


async def page_in_box(
    path: PurePosixPath,
    target: PurePosixPath,
    form: TextForm,
    ctx: ToolContext,
    helpers: Helpers,
    *,
    start: int,
    lines: int,
    characters: int,
) -> Page:
    """A page of a file that is too large to bring over: the box counts its lines."""
    numbers = (len(form.mark), start, lines, characters, LINE_LIMIT)
    argv = (*helpers.helper, "lines", str(target), form.encoding, *map(str, numbers))
    reply = await ask(LinesReply, argv, ctx, path=path)
    return _page(reply.lines, reply.lengths, start, reply.total, characters)


def _page(lines: list[str], lengths: list[int], start: int, total: int, characters: int) -> Page:
    numbered: list[str] = []
    raw: list[str] = []
    used = shortened = 0
    for number, (line, length) in enumerate(zip(lines, lengths, strict=True), start=start):
        shown = showable(line.removesuffix("\r"))
        note = f"… [{length - len(line)} more characters]" if length > len(line) else ""
        used += len(shown) + len(note) + 8
        if used > characters and numbered:
            break
        shortened += bool(note)
        raw.append(shown + note)
        numbered.append(f"{number:6d}\t{shown}{note}")
    return Page(
        start=start,
        count=len(raw),
        total=total,
        raw="\n".join(raw),
        numbered="\n".join(numbered).replace("\0", "\N{SYMBOL FOR NULL}"),
        capped=len(raw) < len(lines),
        shortened=shortened,
    )
