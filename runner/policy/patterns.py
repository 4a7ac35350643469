"""Patterns of rules: commands with `*`, gitignore-style paths, host names. None of them can take more time
than in proportion to the text: all but the last `*` match as little as they can and are never tried again,
which finds every match of such a pattern.
"""

from __future__ import annotations

import posixpath
import re
import unicodedata
from collections.abc import Iterable
from functools import cached_property
from pathlib import PurePosixPath

from runner.dataclass import dataclass
from runner.effects import Place
from runner.errors import UsageError

MOST_DEEP = 3
_ROOT = PurePosixPath("/")
KEY_WORDS = 3
_REPEATED = re.compile(r"/(?:\.?/)+")
_SPECIAL = re.compile(r"[*?\[\\]")


@dataclass(frozen=True, slots=True)
class CommandPattern:
    """Literal pieces between `*`. `boundary`: a final ` *`, which the bare command matches too. Texts have single
    spaces between words.
    """

    pieces: tuple[str, ...]
    boundary: bool

    def matches(self, text: str) -> bool:
        """Whether the whole text is matched."""
        if not self.boundary:
            return _glob(self.pieces, text)
        *first, last = self.pieces
        return _glob(self.pieces, text) or _glob((*first, last + " ", ""), text)

    @property
    def wild(self) -> bool:
        """Whether more than one text is matched."""
        return self.boundary or len(self.pieces) > 1

    @property
    def key(self) -> str:
        """The first words, at most KEY_WORDS, that every text it matches begins with."""
        head = self.pieces[0]
        whole = len(self.pieces) == 1
        return " ".join((head if whole else head.rpartition(" ")[0]).split(" ")[:KEY_WORDS])


def by_key(texts: Iterable[str]) -> dict[str, list[str]]:
    """Commands' texts by every key that a pattern which matches one of them may have."""
    every = [*texts]
    found: dict[str, list[str]] = {}
    for text in every:
        end = -1
        for _ in range(KEY_WORDS if text else 0):
            end = text.find(" ", end + 1)
            found.setdefault(text if end < 0 else text[:end], []).append(text)
            if end < 0:
                break
    return found | {"": every}


def _glob(pieces: tuple[str, ...], text: str) -> bool:
    first = pieces[0]
    if len(pieces) == 1:
        return text == first
    if not text.startswith(first):
        return False
    at = len(first)
    for piece in pieces[1:-1]:
        found = text.find(piece, at)
        if found < 0:
            return False
        at = found + len(piece)
    return len(text) - len(pieces[-1]) >= at and text.endswith(pieces[-1])


def command_pattern(pattern: str) -> CommandPattern:
    """A command: exact, or with `*` for any characters. A final ` *` (also written `:*`) is a prefix
    with a word's end: `ls *` matches `ls` and `ls -l`, not `lsof`. Raises UsageError when empty.
    """
    text = " ".join(pattern.split())
    if text.endswith(":*"):
        text = text[:-2].rstrip() + " *"
    boundary = text.endswith(" *")
    text = text[:-2].rstrip() if boundary else text
    if not text or "\0" in text:
        raise UsageError(f"command pattern {pattern!r} is empty")
    pieces = re.split(r"\*+", text) if "**" in text else text.split("*")
    return CommandPattern(tuple(pieces), boundary)


@dataclass(frozen=True)
class PathPattern:
    """A gitignore-style pattern below `base`. `deep`: at any depth. `fold`: case and the form of accents do not
    count. What it matches it covers with everything below.
    """

    base: str
    segments: tuple[str, ...]
    deep: bool
    fold: bool

    def matches(self, path: str) -> bool:
        """Whether an absolute path without `.` and `..` (folded, when `fold`) is matched."""
        return self.regex.match(path) is not None

    @cached_property
    def regex(self) -> re.Pattern[str]:
        """Compiled when first needed: of thousands of rules few ever are."""
        return re.compile(self.source, re.DOTALL)

    @property
    def source(self) -> str:
        """The text of the regular expression."""
        start = re.escape(self.base.rstrip("/")) + "/" + ("(?:.*/)?" if self.deep else "")
        body = ""
        for number, segment in enumerate(self.segments, start=1):
            last = number == len(self.segments)
            if segment == "**":
                body += ".*" if last else "(?:.*/)?"
            else:
                body += _segment(segment) + ("" if last else "/")
        return start + body + r"(?:/.*)?\Z"

    def may_lie_in(self, directory: str) -> bool:
        """Whether it may match something in a directory, or all of it; False only where it surely does not."""
        place = (folded(directory) if self.fold else directory).rstrip("/") + "/"
        head = self.base.rstrip("/") + "/"
        for segment in () if self.deep else self.segments:
            if _SPECIAL.search(segment):
                break
            head += segment + "/"
        return head.startswith(place) or place.startswith(head)

    @property
    def key(self) -> str:
        """A segment that every path it matches has, or (`.ext`) the end of one; "" when there is none such."""
        for segment in reversed(self.segments):
            if not _SPECIAL.search(segment):
                return segment
        last = self.segments[-1]
        if last.startswith("*") and "." in last and not _SPECIAL.search(last[1:]):
            return last[last.rindex(".") :]
        return self.base.rpartition("/")[2]


def keys_of(paths: Iterable[str]) -> frozenset[str]:
    """Every key that a pattern which matches one of these paths may have."""
    segments = {"", *"/".join(paths).split("/")}
    return frozenset((*segments, *(segment[segment.rindex(".") :] for segment in segments if "." in segment)))


def path_pattern(pattern: str, place: Place, *, anywhere: bool, anchor: PurePosixPath | None = None) -> PathPattern:
    """A pattern against absolute paths in the box. `//p` starts at the file system's root, `~/p` at home, `/p` at
    `anchor` (None: cwd), the rest at cwd. A bare name matches at any depth below cwd; `dir/**` too when `anywhere`
    (deny and ask rules, which also do not care for case). Raises UsageError.
    """
    base, rest, anchored = place.cwd, pattern, True
    if pattern.startswith("//"):
        base, rest = _ROOT, pattern[2:]
    elif pattern.startswith("~/") or pattern == "~":
        base, rest = place.home, pattern[2:] or "**"
    elif pattern.startswith("/"):
        base, rest = anchor or place.cwd, pattern[1:]
    elif pattern.startswith("./"):
        rest = pattern[2:]
    else:
        anchored = False
    rest = (_REPEATED.sub("/", rest) if "//" in rest or "/./" in rest else rest).strip("/")
    segments = rest.split("/")
    if not rest or pattern.startswith("!") or ".." in segments or "\0" in rest or segments.count("**") > MOST_DEEP:
        raise UsageError(f"path pattern {pattern!r}: empty, negated, with `..` or with more than {MOST_DEEP} `**`")
    covers_all = segments[-1] == "**" and len(segments) > 1
    if covers_all:
        segments = segments[:-1]
    deep = not anchored and len(segments) == 1 and segments != ["**"] and (anywhere or not covers_all)
    where, parts = str(base), tuple(segments)
    if anywhere:
        where, parts = folded(where), tuple(map(folded, parts))
    return PathPattern(where, parts, deep, anywhere)


def folded(text: str) -> str:
    """The text as a file system that ignores case and the form of accents would compare it."""
    return text.lower() if text.isascii() else unicodedata.normalize("NFC", text).casefold()


def _segment(segment: str) -> str:
    """One path segment: `*`, `?`, `[...]`; a backslash takes the next character literally."""
    pieces, at = [""], 0
    while at < len(segment):
        char = segment[at]
        if char == "*":
            if pieces[-1] or len(pieces) == 1:
                pieces.append("")
        elif char == "?":
            pieces[-1] += "[^/]"
        elif char == "[" and (end := segment.find("]", at + 2)) > 0:
            pieces[-1] += _class(segment[at + 1 : end])
            at = end
        elif char == "\\" and at + 1 < len(segment):
            at += 1
            pieces[-1] += re.escape(segment[at])
        else:
            pieces[-1] += re.escape(char)
        at += 1
    first, *rest = pieces
    return first + "".join(
        f"[^/]*{piece}" if number == len(rest) else f"(?>[^/]*?{piece})" for number, piece in enumerate(rest, start=1)
    )


def _class(inner: str) -> str:
    """A class of characters; a range that runs backwards matches nothing."""
    negated, inner = inner[:1] in {"!", "^"}, inner.lstrip("!^") if inner[:1] in {"!", "^"} else inner
    text = re.sub(r"([\\\[\]^&~|])", r"\\\1", inner)
    try:
        re.compile(f"[{text}]")
    except re.error:
        return "(?!)"
    return f"[^/{text}]" if negated else f"(?!/)[{text}]"


@dataclass(frozen=True)
class HostPattern:
    """A host name in lower case; `regex` None: exact."""

    host: str

    def matches(self, host: str) -> bool:
        """Whether it is the host's name (lower case, without a final dot)."""
        return self.regex.match(host) is not None

    @cached_property
    def regex(self) -> re.Pattern[str]:
        """Compiled when first needed."""
        if self.host == "*":
            return re.compile(r".+\Z")
        start, rest = (r"(?:[^.]+\.)+", self.host[2:]) if self.host.startswith("*.") else ("", self.host)
        return re.compile(start + "[^.]+".join(map(re.escape, rest.split("*"))) + r"\Z")


def host_pattern(pattern: str) -> HostPattern:
    """A host name, case ignored: exact; `*.x` any sub-domain but not x; `*` alone all; any other `*`
    stays within a label. Raises UsageError for what is no host name.
    """
    text = pattern.strip().lower().rstrip(".")
    if text != "*" and not re.fullmatch(r"[a-z0-9*_:\[\]-]+(?:\.[a-z0-9*_-]+)*", text):
        raise UsageError(f"domain {pattern!r} is no host name")
    return HostPattern(text)


def normal(path: PurePosixPath) -> str:
    """An absolute path without `.` and `..`, by its text only."""
    text = posixpath.normpath(str(path))
    return "/" + text.lstrip("/")
