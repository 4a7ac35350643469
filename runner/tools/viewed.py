"""Which file a command line shows: looking at one file by cat, head, sed -n … is as good as Read. Pure."""

from __future__ import annotations

import re
import shlex

from runner.dataclass import dataclass

_SYNTAX = re.compile(r"[|&;<>()$`\\*?\[\]{}!\n~#]")
_RANGE = re.compile(r"\d+(,\d+)?p")
_VALUED = {"-n", "-c", "-A", "-B", "-C", "-m"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Viewed:
    """The one file, as it was named, and whether all of it was shown."""

    path: str
    whole: bool


def viewed_file(command: str) -> Viewed | None:
    """None for anything but one plain command on one file: pipes, redirects and patterns are not looked into."""
    name, *words = _words(command) or [""]
    match name, words:
        case (("cat" | "nl" | "bat"), _):
            return _only(words, whole=True)
        case (("head" | "tail"), _):
            return _only(_operands(words), whole=False)
        case (("grep" | "egrep" | "fgrep" | "rg"), _) if not {"-e", "-f"} & set(words):
            return _only(_operands(words)[1:], whole=False)
        case "sed", ["-n", lines, path] if _RANGE.fullmatch(lines):
            return _only([path], whole=False)
        case _:
            return None


def _words(command: str) -> list[str]:
    try:
        return [] if _SYNTAX.search(command) else shlex.split(command)
    except ValueError:
        return []


def _operands(words: list[str]) -> list[str]:
    """Without options and the numbers that some of them take (grep's -n takes none: no number follows it)."""
    kept: list[str] = []
    valued = False
    for word in words:
        if not (word.startswith("-") or (valued and word.lstrip("+-").isdigit())):
            kept.append(word)
        valued = word in _VALUED
    return kept


def _only(words: list[str], *, whole: bool) -> Viewed | None:
    files = [word for word in words if not word.startswith("-")]
    return Viewed(path=files[0], whole=whole) if len(files) == 1 else None
