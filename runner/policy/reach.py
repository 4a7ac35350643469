"""All that a command may reach in the widest reading: what deny and ask rules look at, found once per command."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache

from runner.dataclass import dataclass
from runner.policy import loose
from runner.policy.commands import only_reads
from runner.policy.patterns import by_key, folded, keys_of
from runner.policy.runs import Reading, base, readings

MOST_PLACES = 16
_GLOB = re.compile(r"\[[^\]/]+\]")
_NORMAL = re.compile(r"(?:/(?!\.)[^/]+|/\.[^/.][^/]*)+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """`by_key`: texts for rules on commands, by what the rules may be found by; `globs`: commands whose name is a
    pattern, and the rest of their words. `paths`: every path that a word might name, and `path_globs` those that end
    in a pattern, absolute and folded; `keys`: what rules on `paths` may be found by.
    """

    by_key: Mapping[str, Sequence[str]]
    globs: tuple[tuple[str, str], ...]
    paths: tuple[str, ...]
    path_globs: tuple[str, ...]
    keys: frozenset[str]
    only_reads: bool

    @property
    def texts(self) -> tuple[str, ...]:
        """All of them."""
        return tuple(self.by_key[""])


@lru_cache(maxsize=256)
def reach_of(command: str, cwd: str, home: str) -> Reach:
    """Never raises."""
    reading = readings(command)
    texts = dict.fromkeys((" ".join(command.split()), *reading.texts))
    if not reading.whole:
        texts |= dict.fromkeys(loose.fragments(command))
    globs = [
        (base(simple.words[0]), " ".join(word.value or word.source for word in simple.words[1:]))
        for simple in reading.simples
        if simple.words[0].glob
    ]
    if not reading.whole:
        globs += [(name, rest) for name, _, rest in (text.partition(" ") for text in texts) if _GLOB.search(name)]
    patterns = dict.fromkeys(
        word.value for simple in reading.simples for word in simple.words[1:] if word.glob and word.value
    )
    places = _places(cwd, home, reading)
    paths = _absolute(_words(command, reading), home, places)
    return Reach(
        by_key=by_key(texts),
        globs=tuple(globs),
        paths=paths,
        keys=keys_of(paths),
        path_globs=_absolute(patterns, home, places),
        only_reads=only_reads(command),
    )


def _words(command: str, reading: Reading) -> dict[str, None]:
    """Every word that might name a path, in any reading."""
    found = dict.fromkeys(loose.words(command))
    for simple in reading.simples:
        for word in simple.words:
            if word.value:
                found[word.value] = None
                if "=" in word.value:
                    found[word.value.partition("=")[2]] = None
    found |= dict.fromkeys(redirect.word.value for redirect in reading.redirects if redirect.word.value)
    return found


def _places(cwd: str, home: str, reading: Reading) -> tuple[str, ...]:
    """cwd, and every directory that a `cd` anywhere in the command may lead to."""
    places = {cwd: None}
    for move in dict.fromkeys(move.value for simple in reading.simples for move in simple.moves[-MOST_PLACES:]):
        if move and "\0" not in move and len(places) < MOST_PLACES:
            places |= dict.fromkeys(_absolute({move: None}, home, tuple(places), fold=False))
    return tuple(places)


def _absolute(words: dict[str, None], home: str, places: tuple[str, ...], *, fold: bool = True) -> tuple[str, ...]:
    found: dict[str, None] = {}
    clean = tuple(place if _NORMAL.fullmatch(place) else "" for place in places)
    for word in words:
        if not word or "\0" in word:
            continue
        if "/" not in word and word[0] not in ".~" and "" not in clean:  # most are
            for where in clean:
                path = f"{where}/{word}"
                found[folded(path) if fold else path] = None
            continue
        if word == "~" or word.startswith("~/"):
            text, below = word[2:], True
        else:
            text, below = word, False
        for where in (home,) if below else places:
            path = text if text.startswith("/") else f"{where}/{text}"
            if not _NORMAL.fullmatch(path):
                path = "/" + posixpath.normpath(path).lstrip("/")
            found[folded(path) if fold else path] = None
    return tuple(found)
