"""Patterns of rules as regular expressions: gitignore-style paths, commands with `*`, host names.

All but the last `*` of a text match as little as they can and are never tried again (atomic groups),
which finds every match of such a pattern and takes time in proportion to the text.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import PurePosixPath

from runner.effects import Place
from runner.errors import UsageError

MOST_DEEP = 3


def path_pattern(pattern: str, place: Place, *, anywhere: bool, anchor: PurePosixPath | None = None) -> re.Pattern[str]:
    """A gitignore-style pattern against absolute paths in the box. `//p` starts at the file system's
    root, `~/p` at home, `/p` at `anchor` (None: cwd), the rest at cwd. A bare
    name matches at any depth below cwd; `dir/**` too when `anywhere` (deny and ask rules).
    What a pattern matches it covers with everything below. Raises UsageError.
    """
    base, rest, anchored = place.cwd, pattern, True
    if pattern.startswith("//"):
        base, rest = PurePosixPath("/"), pattern[2:]
    elif pattern.startswith("~/"):
        base, rest = place.home, pattern[2:]
    elif pattern.startswith("/"):
        base, rest = anchor or place.cwd, pattern[1:]
    elif pattern.startswith("./"):
        rest = pattern[2:]
    else:
        anchored = False
    rest = re.sub(r"/+", "/", rest).strip("/")
    segments = rest.split("/")
    if not rest or pattern.startswith("!") or ".." in segments or "\0" in rest or segments.count("**") > MOST_DEEP:
        raise UsageError(f"path pattern {pattern!r}: empty, negated, with `..` or with more than {MOST_DEEP} `**`")
    covers_all = segments[-1] == "**" and len(segments) > 1
    if covers_all:
        segments = segments[:-1]
    deep = not anchored and len(segments) == 1 and (anywhere or not covers_all)
    start = re.escape(str(base).rstrip("/")) + "/" + ("(?:.*/)?" if deep and segments != ["**"] else "")
    body = ""
    for number, segment in enumerate(segments):
        last = number == len(segments) - 1
        if segment == "**":
            body += ".*" if last else "(?:.*/)?"
        else:
            body += _segment(segment) + ("" if last else "/")
    return re.compile(start + body + r"(?:/.*)?\Z", re.DOTALL)


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
            inner = segment[at + 1 : end].replace("\\", "\\\\").replace("[", "\\[")
            pieces[-1] += "[" + ("^" + inner[1:] if inner[:1] in "!^" else inner) + "]"
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


def command_pattern(pattern: str) -> re.Pattern[str]:
    """A command: exact, or with `*` for any characters. A final ` *` (also written `:*`) is a prefix
    with a word's end: `ls *` matches `ls` and `ls -l`, not `lsof`. Raises UsageError when empty.
    """
    text = pattern.strip()
    if text.endswith(":*"):
        text = text[:-2].rstrip() + " *"
    if not text or text == " *":
        raise UsageError(f"command pattern {pattern!r} is empty")
    tail = ""
    if text.endswith(" *"):
        text, tail = text[:-2].rstrip(), r"(?:\s.*)?"
    first, *rest = re.split(r"\*+", text)
    body = _words(first, open_end=bool(rest))
    for number, part in enumerate(rest, start=1):
        last = number == len(rest)
        piece = _words(part, open_start=True, open_end=not last)
        body += f".*{piece}" if last else f"(?>.*?{piece})"
    return re.compile(body + tail + r"\Z", re.DOTALL)


def _words(text: str, *, open_start: bool = False, open_end: bool = False) -> str:
    """Literal text in which a space stands for any white space; beside a `*` for one character of it."""
    start = r"\s" if open_start and text.startswith(" ") else ""
    end = r"\s" if open_end and text.endswith(" ") and text.strip(" ") else ""
    inner = text.lstrip(" ") if start else text
    inner = inner.rstrip(" ") if end else inner
    return start + r"\s+".join(map(re.escape, re.split(" +", inner))) + end


def host_pattern(pattern: str) -> re.Pattern[str]:
    """A host name, case ignored: exact; `*.x` any sub-domain but not x; `*` alone all; any other `*`
    stays within a label. Raises UsageError for what is no host name.
    """
    text = pattern.strip().lower().rstrip(".")
    if text == "*":
        return re.compile(r".+\Z")
    if not re.fullmatch(r"[a-z0-9*_:\[\]-]+(?:\.[a-z0-9*_-]+)*", text):
        raise UsageError(f"domain {pattern!r} is no host name")
    if text.startswith("*."):
        return re.compile(r"(?:[^.]+\.)+" + _labels(text[2:]) + r"\Z")
    return re.compile(_labels(text) + r"\Z")


def _labels(text: str) -> str:
    return "[^.]+".join(map(re.escape, text.split("*")))


def normal(path: PurePosixPath) -> str:
    """An absolute path without `.` and `..`, by its text only."""
    text = posixpath.normpath(str(path))
    return "/" + text.lstrip("/")
