"""Finds files by pattern, and pages of lines in large files, where the files are: verbs of helper.py.

    glob DIRECTORY PATTERN LIMIT SECONDS HIDDEN RG… · lines PATH ENCODING SKIP START COUNT CHARACTERS LINE ·
    newest RG…

No link is ever followed. glob with RG: its list of files (which minds .gitignore) is filtered instead of walking.
"""

from __future__ import annotations

import os
import re
import sys
from heapq import nsmallest
from time import monotonic

from sandbox.server.regular import RefusedError, open_regular

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any, BinaryIO, NoReturn, TypeAlias

    Answer: TypeAlias = dict[str, Any]

BLOCK = 1 << 20
UNSEEN = {".git", ".svn", ".hg", ".bzr", ".jj", ".sl"}


def translate(pattern: str) -> re.Pattern[str]:
    """A regular expression for a path relative to the directory. `**` crosses directories, `*` and `?` do not;
    [..] and {a,b} as in shells; without a slash the pattern is for names at any depth.
    """
    if "/" not in pattern.rstrip("/"):
        pattern = "**/" + pattern
    source, at = alternatives(pattern.strip("/"), 0, 0)
    if at < len(pattern.strip("/")):
        source += re.escape(pattern.strip("/")[at:])
    return re.compile(rf"(?s:{source})\Z")


def alternatives(pattern: str, at: int, depth: int) -> tuple[str, int]:
    """The expression from `at` on, up to a `,` or `}` of this depth; and where that is."""
    if depth > 8:
        raise RefusedError("the pattern nests braces too deeply.")
    out = []
    while at < len(pattern):
        letter = pattern[at]
        if depth and letter in ",}":
            break
        if letter == "*":
            piece, at = stars(pattern, at)
        elif letter == "?":
            piece, at = "[^/]", at + 1
        elif letter == "[":
            piece, at = bracket(pattern, at)
        elif letter == "{":
            piece, at = braces(pattern, at, depth)
        elif letter == "\\" and at + 1 < len(pattern):
            piece, at = re.escape(pattern[at + 1]), at + 2
        else:
            piece, at = re.escape(letter), at + 1
        out.append(piece)
    return "".join(out), at


def stars(pattern: str, at: int) -> tuple[str, int]:
    """`**/` is any number of directories, `**` at the end anything; every other run of stars stays in one name."""
    end = at
    while end < len(pattern) and pattern[end] == "*":
        end += 1
    alone = end - at >= 2 and (at == 0 or pattern[at - 1] in "/{,")
    if alone and end < len(pattern) and pattern[end] == "/":
        return "(?:[^/]+/)*", end + 1
    if alone and (end == len(pattern) or pattern[end] in ",}"):
        return ".+", end
    return "[^/]*", end


def bracket(pattern: str, at: int) -> tuple[str, int]:
    """A set of characters; a bracket that never closes is itself."""
    start = at + 1
    end = start + (pattern[start : start + 1] in {"!", "^"})
    end = pattern.find("]", end + 1)
    if end < 0:
        return re.escape("["), at + 1
    body = pattern[start:end]
    negated = body[0] in "!^"
    body = body[1:] if negated else body
    safe = re.sub(r"([\\\[\]^&~|]|-(?=-))", r"\\\1", body)
    try:
        re.compile(f"[{safe}]")
    except re.error:
        raise RefusedError(f"the pattern's [{body}] is not a set of characters.") from None
    return (f"(?!/)[^{safe}]" if negated else f"(?!/)[{safe}]"), end + 1


def braces(pattern: str, at: int, depth: int) -> tuple[str, int]:
    """{a,b,c}; a brace that never closes is itself."""
    choices, end = [], at + 1
    while True:
        source, end = alternatives(pattern, end, depth + 1)
        choices.append(source)
        if end >= len(pattern):
            return re.escape("{"), at + 1
        end += 1
        if pattern[end - 1] == "}":
            break
    return f"(?:{'|'.join(choices)})", end


def walk(root: str, deadline: float, *, hidden: bool) -> Iterator[tuple[os.DirEntry[str] | None, str]]:
    """Relative paths with their scandir entries, links as entries only; None first when time ran out."""
    stack = [(root, "")]
    while stack:
        folder, prefix = stack.pop()
        if monotonic() > deadline:
            yield None, ""
            return
        try:
            entries = os.scandir(folder)
        except OSError:
            continue
        with entries:
            for entry in entries:
                name = entry.name
                if name.startswith(".") and not hidden:
                    continue
                try:
                    is_folder = entry.is_dir(follow_symlinks=False)
                except OSError:
                    continue
                if not is_folder:
                    yield entry, prefix + name
                elif name not in UNSEEN:
                    stack.append((entry.path, f"{prefix}{name}/"))


def listed(root: str, rg: tuple[str, ...], *, hidden: bool) -> list[str]:
    """Relative paths as rg lists them."""
    import subprocess  # noqa: PLC0415  only here

    argv = [*rg, "--no-config", "--files", "--null", *(["--hidden"] if hidden else []), "--glob", "!.git", "./"]
    done = subprocess.run(argv, cwd=root, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    names = done.stdout.split(b"\0")
    return [os.fsdecode(name).removeprefix("./") for name in names if name]


def glob(root: str, pattern: str, limit: str, seconds: str, with_hidden: str, *rg: str) -> Answer:
    """The newest files that match, newest first, and how many there are in all."""
    hidden = with_hidden == "1"
    matches = translate(pattern).match
    if not os.path.isdir(root):
        raise RefusedError("this is not a directory." if os.path.lexists(root) else "the directory does not exist.")
    timed_out = False
    found: list[tuple[int, str]] = []
    if rg:
        found = [(stamp(f"{root}/{name}"), name) for name in listed(root, rg, hidden=hidden) if matches(name)]
    else:
        for entry, name in walk(root, monotonic() + float(seconds), hidden=hidden or explicit_dot(pattern)):
            if entry is None:
                timed_out = True
            elif matches(name):
                found.append((stamp(entry.path), name))
    newest = nsmallest(int(limit), found, key=lambda item: (-item[0], item[1]))
    return {"files": [os.fsencode(name).hex() for _, name in newest], "total": len(found), "timed_out": timed_out}


def explicit_dot(pattern: str) -> bool:
    """Whether the pattern itself names something hidden."""
    return pattern.startswith(".") or "/." in pattern


def stamp(path: str) -> int:
    """When it was changed; 0 when it is gone again."""
    try:
        return os.lstat(path).st_mtime_ns
    except OSError:
        return 0


def newest(*rg: str) -> NoReturn:
    """Run rg, which lists files with NULs between: the same list newest first, and the same exit code. rg 13
    itself sorts by time within each directory only.
    """
    import subprocess  # noqa: PLC0415  only here

    done = subprocess.run(rg, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=False)
    names = [os.fsdecode(name) for name in done.stdout.split(b"\0")[:-1]]
    names.sort(key=lambda name: (-stamp(name), name))
    sys.stdout.buffer.write(b"".join(os.fsencode(name) + b"\0" for name in names))
    sys.stdout.buffer.flush()
    sys.exit(done.returncode)


def lines(path: str, encoding: str, *numbers: str) -> Answer:
    """Some lines of a large file: each cut to `most` characters, with the length that it has (in characters up to
    the cut, in bytes after it); and how many lines there are in all.
    """
    skip, start, count, characters, most = map(int, numbers)
    with os.fdopen(open_regular(path)[0], "rb") as stream:
        stream.seek(skip)
        reader = ByteLines(stream) if encoding in {"utf-8", "latin-1"} else TextLines(stream, encoding)
        before = reader.pass_by(start - 1)
        shown, lengths = page(reader, encoding, count, characters, most)
        total = before + len(shown) + reader.pass_by(-1)
        reader.detach()
    return {"lines": shown, "lengths": lengths, "total": total}


def page(reader: ByteLines, encoding: str, count: int, characters: int, most: int) -> tuple[list[str], list[int]]:
    """The next lines, and their lengths, while there is room."""
    shown: list[str] = []
    lengths: list[int] = []
    used = 0
    while len(shown) < count and used <= characters:
        line = reader.line(most * 4)
        if line is None:
            break
        text, rest = line
        if isinstance(text, bytes):
            text = text.decode(encoding, "surrogateescape")
        lengths.append(len(text) + rest)
        text = text[:most].encode("utf-8", "replace").decode()
        shown.append(text)
        used += len(text) + 8
    return shown, lengths


class ByteLines:
    """Lines of a file in which a newline is one byte."""

    newline: Any = b"\n"

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def pass_by(self, number: int) -> int:
        """Go over so many lines (-1: all that are left); how many there were."""
        passed, last = 0, b"\n"
        while number < 0 or passed < number:
            block = self.stream.read(BLOCK)
            if not block:
                return passed + (last != b"\n")
            last = block[-1:]
            there = block.count(b"\n")
            if number < 0 or passed + there < number:
                passed += there
                continue
            at = -1
            for _ in range(number - passed):
                at = block.find(b"\n", at + 1)
            self.stream.seek(at + 1 - len(block), os.SEEK_CUR)
            return number
        return passed

    def detach(self) -> None:
        """The file is to be closed by who opened it."""

    def line(self, most: int) -> tuple[Any, int] | None:
        """The first `most` units of the next line without its end, and how many follow; None at the end."""
        first = self.stream.readline(most)
        if not first:
            return None
        rest, piece = 0, first
        while piece and not piece.endswith(self.newline):
            piece = self.stream.readline(BLOCK)
            rest += len(piece) - piece.endswith(self.newline)
        return first.removesuffix(self.newline), rest


class TextLines(ByteLines):
    """Lines of a file in UTF-16 or UTF-32."""

    newline = "\n"

    def __init__(self, stream: BinaryIO, encoding: str) -> None:
        from io import TextIOWrapper  # noqa: PLC0415  only here

        super().__init__(TextIOWrapper(stream, encoding, "replace", newline="\n"))

    def detach(self) -> None:
        """Let go of the file beneath."""
        self.stream.detach()

    def pass_by(self, number: int) -> int:
        """Line by line."""
        passed = 0
        while passed != number and self.line(BLOCK) is not None:
            passed += 1
        return passed


VERBS: Mapping[str, Callable[..., Answer]] = {"glob": glob, "lines": lines, "newest": newest}
