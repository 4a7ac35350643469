"""The files that well-known commands touch: which are read by the read-only set, which are edited or removed, and
which a command names at all.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise

from runner.dataclass import dataclass
from runner.policy.readonly import Spec, is_clear, operands_of, paths_of, prints, reads
from runner.policy.runs import base, readings
from runner.policy.shell import parse
from runner.policy.tree import SAFE_VARIABLES
from runner.policy.words import Simple, Word, names

# Files that are none: what is written there is gone, or is shown.
NOWHERE = names("/dev/null /dev/stdin /dev/stdout /dev/stderr")
_EDITS = names("mkdir touch rm rmdir mv cp sed")
# Operands of these are written, changed or removed (and some only read), whatever their options.
WRITERS = _EDITS | names("tee ln install truncate chmod chown unlink shred rsync dd patch")
# Options of others behind which a file or a directory to write to stands.
_INTO = {
    "sort": re.compile(r"-\w*o|--o\w*"),
    "tree": re.compile(r"-\w*o"),
    "curl": re.compile(r"-\w*o|--output(?:-dir)?"),
    "wget": re.compile(r"-\w*[OP]|--output-d\w*|--directory-p\w*"),
    "tar": re.compile(r"-\w*C|--dir\w*|--cd"),
    "unzip": re.compile(r"-\w*d"),
}
_IN_PLACE = re.compile(r"-[^-]*i|--i")
_SED_WRITES = re.compile(r"w\s*([^;}\n]+)")


def edits(simple: Simple) -> tuple[str, ...] | None:
    """The paths that a command of the editing set (mkdir touch rm rmdir mv cp sed) touches; None for any other, and
    where an option, a glob or a variable makes it unclear.
    """
    name, words = (simple.words[0].value or "") if simple.words else "", list(simple.words[1:])
    if name not in _EDITS or simple.words[0].source != name:
        return None
    if not is_clear(simple) or not all(variable in SAFE_VARIABLES for variable, _ in simple.assigns):
        return None
    if name == "sed":
        scripts = [word for word in words if not (word.value or "").startswith("-")]
        if _only_filters(simple) or not scripts or scripts[0].glob or not prints(scripts[0].value or ""):
            return None
        words.remove(scripts[0])
        spec = Spec(only="nErsi")
    else:
        spec = Spec(only={"mkdir": "pv", "touch": "acm", "rm": "rRfvid", "rmdir": "pv"}.get(name, "afnprRuvT"))
    operands = operands_of(tuple(words), spec)
    if not operands or any(word.glob for word in operands):
        return None
    return paths_of(operands)


def _only_filters(simple: Simple) -> bool:
    """Whether this is a sed that changes none of its operands: every word is known, and none can be `-i`."""
    return (
        base(simple.words[0]) == "sed"
        and not simple.appended
        and not any(word.value is None or _IN_PLACE.match(word.value) for word in simple.words[1:])
        and not any(word.glob and word.source[0] in "*?[-" for word in simple.words[1:])
    )


def written(simple: Simple) -> tuple[str, ...]:
    """Every operand, as written, of a command that writes files: a loose reading, to look for protected paths."""
    if not simple.words:
        return ()
    name = base(simple.words[0])
    values = [word.value for word in simple.words[1:] if word.value]
    if name in _INTO:
        known = list(_behind_options(_INTO[name], values))
    elif name == "uniq":
        known = [value for value in values if not value.startswith("-")][1:]
    elif name in WRITERS:
        known = [] if _only_filters(simple) else [v.partition("=")[2] if v.startswith("-") else v for v in values]
        known += [file.strip() for value in values for file in _SED_WRITES.findall(value)] if name == "sed" else []
    else:
        return ()
    return tuple(filter(_is_path, known))


def filtered(simple: Simple) -> tuple[str, ...]:
    """Every operand, as written, of a sed that edits nothing in place: what it reads, its script among them."""
    if not simple.words or not _only_filters(simple):
        return ()
    values = (word.value for word in simple.words[1:] if word.value)
    return tuple(value for value in values if not value.startswith("-") and _is_path(value))


def _is_path(text: str) -> bool:
    return bool(text) and len(text) < 4096 and "\0" not in text


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One command of a line: as it is written, without its wrappers, and the paths that it only reads, or edits, where
    it is known to do nothing else.
    """

    simple: Simple
    clear: Simple
    reads: tuple[str, ...] | None
    edits: tuple[str, ...] | None


@lru_cache(maxsize=256)
def seen(command: str) -> tuple[Seen, ...]:
    """Each simple command that `parse` finds, looked at once for all that ask."""
    pairs = zip(parse(command).simples, readings(command).clear, strict=True)
    return tuple(Seen(simple=one, clear=clear, reads=reads(clear), edits=edits(clear)) for one, clear in pairs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """A path as a command names it, and the directories that it may stand in (`moves`, as in Simple)."""

    path: str
    moves: tuple[Word, ...]
    writes: bool


@lru_cache(maxsize=256)
def named(command: str) -> tuple[Named, ...]:
    """Every path that the command is known to read or write: to be resolved before it is judged."""
    reading = readings(command)
    found: dict[Named, None] = {}
    for redirect in reading.redirects:
        if redirect.word.value and redirect.word.value not in NOWHERE:
            path = paths_of([redirect.word])[0]
            found[Named(path=path, moves=redirect.moves, writes=redirect.writes)] = None
    for one in seen(command):
        for path in one.reads or ():
            found[Named(path=path, moves=one.simple.moves, writes=False)] = None
        for path in one.edits or ():
            found[Named(path=path, moves=one.simple.moves, writes=True)] = None
    for simple in reading.simples:
        for path in written(simple):
            found[Named(path=path, moves=simple.moves, writes=True)] = None
        for path in filtered(simple):
            found[Named(path=path, moves=simple.moves, writes=False)] = None
    return tuple(found)


@lru_cache(maxsize=256)
def only_reads(command: str) -> bool:
    """Whether every command of a plain list is of the read-only set; where they read is not looked at."""
    script = parse(command)
    return (
        script.plain
        and all(one.reads is not None for one in seen(command))
        and not any(redirect.writes and redirect.word.value not in NOWHERE for redirect in script.redirects)
    )


def _behind_options(option: re.Pattern[str], values: list[str]) -> Iterator[str]:
    """What stands behind an option: as the next word, after `=`, or in the same word."""
    for value, following in pairwise((*values, "")):
        name, is_set, text = value.partition("=")
        if is_set and option.fullmatch(name):
            yield text
        elif option.fullmatch(value):
            yield following
        elif not value.startswith("--") and (found := option.match(value)) is not None:
            yield value[found.end() :]
