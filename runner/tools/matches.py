"""What ripgrep printed with `--null`, parsed. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable

from runner.dataclass import dataclass
from runner.tools.output import clean


@dataclass(frozen=True, slots=True, kw_only=True)
class Entries:
    """Lines to page through, the files they are from, and the matches counted."""

    lines: list[str]
    files: list[str]
    matches: int = 0


_BINARY = b": binary file matches"
_NUMBER = re.compile(rb"\d+([:-])")
Naming = Callable[[bytes], str]


def listed(out: bytes, naming: Naming) -> Entries:
    """`path NUL path NUL`."""
    files = [naming(name) for name in out.split(b"\0")[:-1]]
    return Entries(lines=files, files=files)


def counted(out: bytes, naming: Naming) -> Entries:
    """`path NUL number newline`."""
    lines, files, matches = [], [], 0
    while out:
        name, _, out = out.partition(b"\0")
        number, newline, out = out.partition(b"\n")
        if not newline or not number.isdigit():
            break
        files.append(naming(name))
        lines.append(f"{files[-1]}:{int(number)}")
        matches += int(number)
    return Entries(lines=lines, files=files, matches=matches)


def matched(out: bytes, naming: Naming) -> Entries:
    """`path NUL [number (: or -)] text newline`, and `--` between groups, which is no file's."""
    lines: list[str] = []
    files: dict[bytes, str] = {}
    begun = b""
    for raw in out.removesuffix(b"\n").split(b"\n") if out else []:
        name, null, text = (begun + raw).partition(b"\0")
        if not null and name.startswith((b"./", b"/")) and _BINARY not in name:
            begun = name + b"\n"  # a file name that goes on after its newline
            continue
        begun = b""
        if not null:
            lines.append(clean(name))
            continue
        shown = files.get(name) or files.setdefault(name, naming(name))
        numbered = _NUMBER.match(text)
        lines.append(f"{shown}{numbered[1].decode() if numbered else ':'}{clean(text)}")
    return Entries(lines=lines, files=list(files.values()))
