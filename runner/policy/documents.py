"""Settings files as bytes and as plain values: read with limits, parsed with the line and column of every value.

YAML is a subset: no tags, no merge keys, core scalars of YAML 1.2, aliases and depth bounded. JSON is strict.
Duplicate keys are refused in both. What the values mean belongs to `runner.policy.settings`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import field
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any, TypeAlias

from runner.dataclass import dataclass
from runner.errors import SettingsError

MAX_SIZE = 4 << 20
MAX_DEPTH = 32
MAX_NODES = 500_000
MAX_DIGITS = 18
READ_TRIES = 3

Where: TypeAlias = tuple[str | int, ...]
Mark: TypeAlias = tuple[int, int]

_UNSAFE = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f\x7f\ufeff\ufffe\uffff]")
_INTEGER = re.compile(r"[-+]?\d+")
_FLOAT = re.compile(r"[-+]?(?:\d+\.\d*|\.\d+|\d+(?=[eE]))(?:[eE][-+]?\d+)?")
_WORDS: dict[str, Any] = {
    "": None,
    "~": None,
    "null": None,
    "Null": None,
    "NULL": None,
    "true": True,
    "True": True,
    "TRUE": True,
    "false": False,
    "False": False,
    "FALSE": False,
}
_TEXT = r'"[^"\\\x00-\x1f]*(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})[^"\\\x00-\x1f]*)*"'
_TOKEN = re.compile(
    rf"[ \t\n\r]*(?:(?P<text>{_TEXT})|(?P<mark>[][{{}}:,])"
    r"|(?P<number>-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][-+]?\d+)?)|(?P<word>true|false|null))"
)
_SPACE = re.compile(r"[ \t\n\r]*\Z")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Document:
    """A file's values. `marks`: line and column, from 1, of each key and each element of a list, by what leads to
    it. `digest`: hex sha256 of the bytes.
    """

    name: str
    value: dict[str, Any]
    marks: dict[Where, Mark] = field(default_factory=dict)
    digest: str = ""

    def mark(self, where: Where) -> Mark:
        """Where a value stands, or the nearest thing around it."""
        if (exact := self.marks.get(where)) is not None:
            return exact
        for end in range(len(where) - 1, 0, -1):
            if (found := self.marks.get(where[:end])) is not None:
                return found
        return (1, 1)

    def error(self, problem: str, where: Where = (), *, hint: str = "") -> SettingsError:
        """The error about one value of this file."""
        line, column = self.mark(where)
        return SettingsError(problem, file=self.name, line=line, column=column, hint=hint)


def read_file(path: Path, *, owner: int | None = None, links: bool = True, name: str = "") -> bytes | None:
    """All of a regular file, None where there is none. `owner`: it must belong to this uid and be writable by
    nobody else; `links` False: the path itself is no symbolic link. Raises SettingsError for what is no regular
    file, is too long, keeps changing, or may not be read.
    """
    name = name or str(path)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if links else os.O_NOFOLLOW))
    except FileNotFoundError:
        return None
    except OSError as error:
        if isinstance(error, NotADirectoryError) and owner is None:
            return None
        why = "is a symbolic link" if not links and path.is_symlink() else f"cannot be read: {error.strerror}"
        raise SettingsError(why, file=name) from error
    try:
        return read_open(fd, name, owner=owner)
    finally:
        os.close(fd)


def read_open(fd: int, name: str, *, owner: int | None = None) -> bytes:
    """As `read_file`, of an open descriptor at its beginning, which the caller closes."""
    for _ in range(READ_TRIES):
        before = os.fstat(fd)
        if not stat.S_ISREG(before.st_mode):
            raise SettingsError("is no regular file", file=name)
        if owner is not None:
            check_owner(before, owner, name)
        if before.st_size > MAX_SIZE:
            raise SettingsError(f"is longer than {MAX_SIZE >> 20} MiB", file=name)
        data = b"".join(_pieces(fd))
        if len(data) > MAX_SIZE:
            raise SettingsError(f"is longer than {MAX_SIZE >> 20} MiB", file=name)
        if _stamp(os.fstat(fd)) == _stamp(before) and len(data) == before.st_size:
            return data
    raise SettingsError("changes while it is read", file=name)


def check_owner(found: os.stat_result, owner: int, name: str) -> None:
    """Raises SettingsError unless the thing belongs to `owner` and nobody else may write it."""
    if found.st_uid != owner:
        raise SettingsError(f"belongs to uid {found.st_uid}, not to uid {owner}", file=name)
    if stat.S_IMODE(found.st_mode) & (stat.S_IWGRP | stat.S_IWOTH):
        raise SettingsError(f"may be written by others (mode {stat.S_IMODE(found.st_mode):04o})", file=name)


def _pieces(fd: int) -> Iterator[bytes]:
    at = 0
    while at <= MAX_SIZE and (piece := os.pread(fd, MAX_SIZE + 1 - at, at)):
        at += len(piece)
        yield piece


def _stamp(found: os.stat_result) -> tuple[int, int, int]:
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns


@lru_cache(maxsize=32)
def parse(data: bytes, name: str) -> Document:
    """The document in YAML or JSON (a name that ends in .json, or text that begins with `{` and is JSON); its top is an
    object. The same bytes give the same document, which nobody changes. Raises SettingsError with line and column.
    """
    if len(data) > MAX_SIZE:
        raise SettingsError(f"is longer than {MAX_SIZE >> 20} MiB", file=name)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SettingsError(f"is no UTF-8 text (byte {error.start})", file=name) from error
    if unsafe := _UNSAFE.search(text):
        line, column = position(text, unsafe.start())
        raise SettingsError(f"holds the character U+{ord(unsafe[0]):04X}", file=name, line=line, column=column)
    if not text.strip():
        raise SettingsError("is empty", file=name, hint="write {} for no settings, or remove the file")
    parser: _Json | _Yaml = (
        _Json(text, name) if name.endswith(".json") or text.lstrip().startswith("{") else _Yaml(text, name)
    )
    try:
        value = parser.parse()
    except SettingsError:
        if isinstance(parser, _Yaml) or not name.endswith((".yaml", ".yml")):
            raise
        parser = _Yaml(text, name)  # `{deny: [x]}` is YAML, too
        value = parser.parse()
    if not isinstance(value, dict):
        raise SettingsError("holds no object of keys and values", file=name, line=1, column=1)
    return Document(name=name, value=value, marks=parser.marks, digest=hashlib.sha256(data).hexdigest())


def position(text: str, at: int) -> Mark:
    """Line and column, from 1, of an index."""
    return text.count("\n", 0, at) + 1, at - text.rfind("\n", 0, at)


class _Json:
    """RFC 8259, without duplicate keys, NaN, or anything behind the value."""

    def __init__(self, text: str, name: str) -> None:
        self.marks: dict[Where, Mark] = {}
        self._text, self._name, self._at = text, name, 0
        self._line, self._from = 1, 0

    def parse(self) -> Any:
        kind, token, _ = self._next()
        value = self._value(kind, token, ())
        if not _SPACE.match(self._text, self._at):
            raise self._error("there is something behind the end")
        return value

    def _error(self, problem: str, at: int = -1) -> SettingsError:
        line, column = position(self._text, at if at >= 0 else self._at)
        return SettingsError(problem, file=self._name, line=line, column=column)

    def _next(self) -> tuple[str, str, Mark]:
        found = _TOKEN.match(self._text, self._at)
        if found is None or found.lastgroup is None:
            space = re.compile(r"[ \t\n\r]*").match(self._text, self._at)
            at = space.end() if space else self._at
            what = "the text ends too early" if at >= len(self._text) else "this is no JSON"
            raise self._error(what, at)
        start = found.start(found.lastgroup)
        if lines := self._text.count("\n", self._at, start):
            self._line += lines
            self._from = self._text.rfind("\n", self._at, start) + 1
        self._at = found.end()
        return found.lastgroup, found[found.lastgroup], (self._line, start - self._from + 1)

    def _value(self, kind: str, token: str, where: Where) -> Any:
        if len(where) > MAX_DEPTH:
            raise self._error(f"is nested deeper than {MAX_DEPTH}")
        if kind == "text":
            return self._string(token)
        if kind == "number":
            return self._number(token)
        if kind == "word":
            return _WORDS[token]
        if token == "{":  # noqa: S105 (JSON's)
            return self._object(where)
        if token == "[":  # noqa: S105 (JSON's)
            return self._array(where)
        raise self._error("this is no JSON", self._at - 1)

    def _string(self, token: str) -> str:
        if "\\" not in token:
            return token[1:-1]
        text: str = json.loads(token)
        if re.search("[\ud800-\udfff\0]", text):
            raise self._error("holds half a character or NUL")
        return text

    def _number(self, token: str) -> int | float:
        if len(token) > MAX_DIGITS:
            raise self._error("this number is too long")
        return int(token) if _INTEGER.fullmatch(token) else float(token)

    def _object(self, where: Where) -> dict[str, Any]:
        made: dict[str, Any] = {}
        kind, token, mark = self._next()
        while (kind, token) != ("mark", "}") or made:
            if kind != "text":
                raise self._error("a key is expected here", self._at - len(token))
            key = self._string(token)
            if key in made:
                raise SettingsError(f"the key {key!r} stands here twice", file=self._name, line=mark[0], column=mark[1])
            if self._next()[:2] != ("mark", ":"):
                raise self._error("a colon is expected here", self._at - 1)
            self.marks[*where, key] = mark
            kind, token, _ = self._next()
            made[key] = self._value(kind, token, (*where, key))
            kind, token, mark = self._next()
            if (kind, token) == ("mark", "}"):
                break
            if (kind, token) != ("mark", ","):
                raise self._error("a comma or } is expected here", self._at - len(token))
            kind, token, mark = self._next()
        return made

    def _array(self, where: Where) -> list[Any]:
        made: list[Any] = []
        kind, token, mark = self._next()
        while (kind, token) != ("mark", "]") or made:
            self.marks[*where, len(made)] = mark
            made.append(self._value(kind, token, (*where, len(made))))
            kind, token, _ = self._next()
            if (kind, token) == ("mark", "]"):
                break
            if (kind, token) != ("mark", ","):
                raise self._error("a comma or ] is expected here", self._at - len(token))
            kind, token, mark = self._next()
        return made


@dataclass(slots=True)
class _Open:
    """A collection that is being read. `key`: of the value that comes next, None where a key comes."""

    value: dict[str, Any] | list[Any]
    where: Where
    anchor: str | None
    began: int
    key: str | None = None


class _Yaml:
    """libyaml's events, taken without recursion."""

    def __init__(self, text: str, name: str) -> None:
        self.marks: dict[Where, Mark] = {}
        self._text, self._name = text, name
        self._anchors: dict[str, tuple[Any, int]] = {}
        self._stack: list[_Open] = []
        self._nodes = 0
        self._done: list[Any] = []

    def parse(self) -> Any:
        yaml = import_module("yaml")  # 40 ms, and only where there is such a file
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        try:
            for event in yaml.parse(self._text, Loader=loader):
                self._take(type(event).__name__, event)
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            line, column = (mark.line + 1, mark.column + 1) if mark else (0, 0)
            problem = " ".join(str(getattr(error, "problem", None) or error).split())
            raise SettingsError(f"is no YAML: {problem}", file=self._name, line=line, column=column) from error
        return self._done[0] if self._done else None

    def _take(self, kind: str, event: Any) -> None:
        if kind == "DocumentStartEvent" and self._done:
            raise self._error(event, "there is a second document")
        if kind == "AliasEvent":
            if event.anchor not in self._anchors:
                raise self._error(event, f"*{event.anchor} names nothing that is finished before it")
            value, size = self._anchors[event.anchor]
            self._count(event, size)
            self._put(event, value)
        elif kind == "ScalarEvent":
            self._refuse_tag(event)
            self._count(event, 1)
            value = self._scalar(event)
            if event.anchor:
                self._anchors[event.anchor] = (value, 1)
            self._put(event, value)
        elif kind in ("MappingStartEvent", "SequenceStartEvent"):
            self._refuse_tag(event)
            self._count(event, 1)
            if len(self._stack) >= MAX_DEPTH:
                raise self._error(event, f"is nested deeper than {MAX_DEPTH}")
            where = self._where(event)
            made: dict[str, Any] | list[Any] = {} if kind == "MappingStartEvent" else []
            self._stack.append(_Open(made, where, event.anchor, self._nodes))
        elif kind in ("MappingEndEvent", "SequenceEndEvent"):
            done = self._stack.pop()
            if done.anchor:
                self._anchors[done.anchor] = (done.value, self._nodes - done.began + 1)
            self._put(event, done.value, mark=False)

    def _refuse_tag(self, event: Any) -> None:
        if event.tag is not None and event.tag != "!":
            raise self._error(event, f"tags such as {event.tag} are not allowed")

    def _count(self, event: Any, size: int) -> None:
        self._nodes += size
        if self._nodes > MAX_NODES:
            raise self._error(event, f"holds more than {MAX_NODES} values, aliases counted")

    def _where(self, event: Any) -> Where:
        if not self._stack:
            return ()
        top = self._stack[-1]
        if isinstance(top.value, dict):
            if top.key is None:
                raise self._error(event, "a key is a text")
            return (*top.where, top.key)
        where: Where = (*top.where, len(top.value))
        self.marks[where] = (event.start_mark.line + 1, event.start_mark.column + 1)
        return where

    def _put(self, event: Any, value: Any, *, mark: bool = True) -> None:
        if not self._stack:
            self._done.append(value)
            return
        top = self._stack[-1]
        if isinstance(top.value, list):
            if mark:
                self._where(event)
            top.value.append(value)
        elif top.key is None:
            if not isinstance(value, str):
                raise self._error(event, "a key is a text")
            if value == "<<":
                raise self._error(event, "merge keys are not allowed")
            if value in top.value:
                raise self._error(event, f"the key {value!r} stands here twice")
            top.key = value
            if mark:
                self.marks[*top.where, value] = (event.start_mark.line + 1, event.start_mark.column + 1)
        else:
            top.value[top.key], top.key = value, None

    def _scalar(self, event: Any) -> Any:
        text: str = event.value
        top = self._stack[-1] if self._stack else None
        is_key = top is not None and isinstance(top.value, dict) and top.key is None
        if event.style or is_key:
            return text
        if text in _WORDS:
            return _WORDS[text]
        if _INTEGER.fullmatch(text) and len(text) <= MAX_DIGITS:
            return int(text)
        if _FLOAT.fullmatch(text) and len(text) <= MAX_DIGITS:
            return float(text)
        return text

    def _error(self, event: Any, problem: str) -> SettingsError:
        mark = event.start_mark
        return SettingsError(problem, file=self._name, line=mark.line + 1, column=mark.column + 1)
