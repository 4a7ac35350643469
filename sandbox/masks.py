"""What of its roots a box must not see, or not change: patterns, the one walk that finds what they name now, and
git configurations without their logins. What becomes of it in a layer is `sandbox.covers`'s.
"""

from __future__ import annotations

import os
import re
import stat
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from sandbox.confined import open_file_beneath
from sandbox.dataclass import dataclass
from sandbox.walk import MAX_DEPTH

CONFIGS = frozenset({"config", "config.worktree"})
CONFIG_LIMIT = 1 << 20
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LINKED = 2


@dataclass(frozen=True)
class PathRule:
    """A regular expression for absolute paths in the box, in lower case and NFC; what it matches it covers with all
    beneath. `key`: a segment that every such path has, or (`.ext`) the end of one; "" for none.
    """

    key: str
    text: str

    @cached_property
    def regex(self) -> re.Pattern[str]:
        """Compiled when first needed."""
        return re.compile(self.text, re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Masks:
    """`hide`: what a box does not get to see. `keep`: what it must not change. `logins`: git configurations are
    seen without their logins.
    """

    hide: tuple[PathRule, ...] = ()
    keep: tuple[PathRule, ...] = ()
    logins: bool = False

    def __bool__(self) -> bool:
        return bool(self.hide or self.keep or self.logins)

    def hides(self, path: PurePosixPath | str) -> bool:
        """Whether an absolute path of the box is named by a pattern to hide."""
        return self._hide.names(folded(str(path)))

    def keeps(self, path: PurePosixPath | str) -> bool:
        """Whether it is named by one to keep."""
        return self._keep.names(folded(str(path)))

    @cached_property
    def _hide(self) -> Index:
        return Index(self.hide)

    @cached_property
    def _keep(self) -> Index:
        return Index(self.keep)

    def to_json(self) -> dict[str, Any]:
        """A JSON object that `from_json` turns back."""
        lists = {name: [[rule.key, rule.text] for rule in getattr(self, name)] for name in ("hide", "keep")}
        return {**lists, "logins": self.logins}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Masks:
        """Raises KeyError, TypeError, ValueError."""
        hide, keep = (tuple(PathRule(str(key), str(text)) for key, text in data[name]) for name in ("hide", "keep"))
        return cls(hide=hide, keep=keep, logins=bool(data["logins"]))


NO_MASKS = Masks()


class Index:
    """Which of many patterns may name a path, found by its segments."""

    def __init__(self, rules: Iterable[PathRule]) -> None:
        self._rules: dict[str, list[PathRule]] = {}
        self._joined: dict[tuple[int, ...], re.Pattern[str]] = {}
        for rule in rules:
            self._rules.setdefault(rule.key, []).append(rule)

    def names(self, path: str) -> bool:
        """Whether one of them names a folded path."""
        return any(rule.regex.match(path) for rule in self.below(path))

    def below(self, directory: str) -> list[PathRule]:
        """Those that a segment of a folded path speaks for."""
        keys = {"", *(key for segment in directory.split("/") for key in _keys(segment))}
        return [rule for key in keys & self._rules.keys() for rule in self._rules[key]]

    def matcher(self, directory: str) -> Callable[[str, str], bool]:
        """Whether one of them names an entry of a folded directory, told by its folded name and whole path: for walks,
        in which a directory that is named itself is not entered.
        """
        below = self.joined(self.below(directory))
        match = None if below is None else below.match
        rules = {key: found for key, found in self._rules.items() if key}
        if not rules:
            return lambda _name, full: match is not None and match(full) is not None

        def names(name: str, full: str) -> bool:
            if match is not None and match(full) is not None:
                return True
            if name in rules or ((dot := name.rfind(".")) >= 0 and name[dot:] in rules):
                return any(rule.regex.match(full) for key in _keys(name) for rule in rules.get(key, ()))
            return False

        return names

    def joined(self, rules: list[PathRule]) -> re.Pattern[str] | None:
        """Several as one expression; None for none."""
        if not rules:
            return None
        key = tuple(map(id, rules))
        found = self._joined.get(key)
        if found is None:
            found = self._joined[key] = re.compile("|".join(f"(?:{rule.text})" for rule in rules), re.DOTALL)
        return found


def _keys(segment: str) -> tuple[str, ...]:
    dot = segment.rfind(".")
    return (segment,) if dot < 0 else (segment, segment[dot:])


def folded(text: str) -> str:
    """As a file system that ignores case and the form of accents would compare it."""
    return text.lower() if text.isascii() else unicodedata.normalize("NFC", text).casefold()


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What one directory holds of it, by relative path. `hidden`: whether each is a directory; nothing beneath one is
    listed. `kept`: the topmost only. `replaced`: what a file shows instead. `unread`: directories that could not
    be looked through (they are hidden). `entries`: how many were looked at.
    """

    hidden: Mapping[str, bool] = field(default_factory=dict)
    kept: tuple[str, ...] = ()
    replaced: Mapping[str, bytes] = field(default_factory=dict)
    unread: tuple[str, ...] = ()
    entries: int = 0


def find(top: Path, at: PurePosixPath, masks: Masks, *, skip: Iterable[bytes] = (), git: bool = False) -> Found:
    """Walk `top`, seen in the box at `at`. Nothing is followed; what a hidden link leads to, and every other name of a
    hidden file, is hidden too where it lies beneath `top`. `skip`: relative directories that are left out.
    `git`: it is a git directory. Raises OSError for `top` itself.
    """
    return _Walk(top, at, masks, frozenset(os.fsdecode(each) for each in skip), git=git).run()


class _Walk:
    def __init__(self, top: Path, at: PurePosixPath, masks: Masks, skip: frozenset[str], *, git: bool) -> None:
        self._top = top
        self._at = folded(str(at))
        self._skip = skip
        self._logins = masks.logins
        self._hides = bool(masks.hide or masks.logins)
        self._hide, self._keep = masks._hide, masks._keep  # noqa: SLF001 (one module)
        self._git = git
        self._hidden: dict[str, bool] = {}
        self._kept: list[str] = []
        self._replaced: dict[str, bytes] = {}
        self._unread: list[str] = []
        self._inodes: set[tuple[int, int]] = set()
        self._targets: list[str] = []
        self._entries = 0

    def run(self) -> Found:
        top = os.open(self._top, _DIRECTORY & ~os.O_NOFOLLOW)
        try:
            self._visit(top, "", self._at, depth=0, kept=False, git=self._git)
            if self._inodes:
                self._seek(top, "", frozenset(inode for _, inode in self._inodes))
        finally:
            os.close(top)
        for target in self._targets:
            self._hide_target(target)
        above = {path: kind for path, kind in self._hidden.items() if not _beneath(path, self._hidden)}
        return Found(
            hidden=above,
            kept=tuple(path for path in self._kept if path not in above and not _beneath(path, above)),
            replaced={path: data for path, data in self._replaced.items() if not _beneath(path, above)},
            unread=tuple(self._unread),
            entries=self._entries,
        )

    def _visit(self, directory: int, prefix: str, at: str, *, depth: int, kept: bool, git: bool) -> None:
        hides, keeps = self._hide.matcher(at), self._keep.matcher(at)
        below: list[tuple[str, str, bool, bool]] = []
        with os.scandir(directory) as entries:
            for entry in entries:
                self._entries += 1
                path = prefix + entry.name
                name = folded(entry.name)
                full = f"{at}/{name}"
                if self._hides and hides(name, full):
                    self._hide_entry(path, entry)
                    continue
                held = kept or keeps(name, full)
                if entry.is_dir(follow_symlinks=False):
                    if path not in self._skip:
                        below.append((entry.name, full, held, git or entry.name == ".git"))
                elif git and self._logins and entry.name in CONFIGS:
                    self._replace(path, directory, entry.name)
                if held and not kept:
                    self._kept.append(path)
        for name, full, held, in_git in below:
            self._enter(directory, prefix + name, name, full, depth=depth + 1, kept=held, git=in_git)

    def _seek(self, directory: int, prefix: str, inodes: frozenset[int]) -> None:
        """Once more, where a hidden file has several names: those that no pattern knows."""
        below = []
        with os.scandir(directory) as entries:
            for entry in entries:
                path = prefix + entry.name
                if entry.is_dir(follow_symlinks=False):
                    if path not in self._hidden and path not in self._skip:
                        below.append(entry.name)
                elif entry.inode() in inodes and path not in self._hidden:
                    with suppress(OSError):
                        seen = entry.stat(follow_symlinks=False)
                        if (seen.st_dev, seen.st_ino) in self._inodes:
                            self._hidden[path] = False
        for name in below:
            with suppress(OSError):
                child = os.open(name, _DIRECTORY, dir_fd=directory)
                try:
                    self._seek(child, prefix + name + "/", inodes)
                finally:
                    os.close(child)

    def _enter(self, directory: int, path: str, name: str, full: str, *, depth: int, kept: bool, git: bool) -> None:
        try:
            child = os.open(name, _DIRECTORY, dir_fd=directory) if depth <= MAX_DEPTH else -1
        except FileNotFoundError:
            return
        except OSError:
            child = -1
        if child < 0:  # what cannot be looked through may hold anything
            if self._hides:
                self._hidden[path] = True
                self._unread.append(path)
            return
        try:
            self._visit(child, path + "/", full, depth=depth, kept=kept, git=git)
        finally:
            os.close(child)

    def _hide_entry(self, path: str, entry: os.DirEntry[str]) -> None:
        try:
            seen = entry.stat(follow_symlinks=False)
        except OSError:
            return
        self._hidden[path] = stat.S_ISDIR(seen.st_mode)
        if stat.S_ISLNK(seen.st_mode):
            self._targets.append(path)
        elif stat.S_ISREG(seen.st_mode) and seen.st_nlink >= _LINKED:
            self._inodes.add((seen.st_dev, seen.st_ino))

    def _hide_target(self, path: str) -> None:
        """What a hidden link leads to, where that lies beneath the top and is not above the link."""
        real, top = os.path.realpath(self._top / path), os.path.realpath(self._top)
        if not real.startswith(top + "/") or not os.path.lexists(real):
            return
        target = real[len(top) + 1 :]
        if not _beneath(path, {target: True}):
            self._hidden[target] = os.path.isdir(real)  # noqa: PTH112 (text all along)

    def _replace(self, path: str, directory: int, name: str) -> None:
        try:
            opened = open_file_beneath(directory, name)
        except OSError:
            self._hidden[path] = False
            return
        with os.fdopen(opened, "rb") as file:
            data = file.read(CONFIG_LIMIT + 1)
        if len(data) > CONFIG_LIMIT:
            self._hidden[path] = False
        elif (clean := without_logins(data)) != data:
            self._replaced[path] = clean


def _beneath(path: str, places: Mapping[str, object]) -> bool:
    """Whether one of the places lies above a path."""
    head = path.rpartition("/")[0]
    while head:
        if head in places:
            return True
        head = head.rpartition("/")[0]
    return False


_URL = re.compile(rb"(?i)\b(https?|ftps?)://[^/\s]*@")
_PASSWORD = re.compile(rb"(?i)\b([a-z][a-z0-9+.-]*)://([^/\s:@\"]*):[^/\s]*@")
_SECTION = re.compile(rb"\s*\[\s*([^\]\s\"]+)")
_KEY = re.compile(rb"\s*(?:\[[^\]]*\]\s*)?([A-Za-z][A-Za-z0-9-]*)")
_SECRET_KEYS = re.compile(rb"(?i)extraheader|cookiefile|.*(pass(word|wd|phrase)?|token|secret)")


def without_logins(data: bytes) -> bytes:
    """A git configuration without user names and passwords in addresses, headers, helpers and stored passwords."""
    lines: list[bytes] = []
    section = b""
    for line in _unfolded(data):
        header = _SECTION.match(line)
        section = header[1].lower() if header else section
        key = _KEY.fullmatch(line.partition(b"=")[0].rstrip()) if not line.lstrip().startswith((b"#", b";")) else None
        if key is not None and b"=" in line and _is_secret(section, key[1]):
            lines.append(b"[" + line.partition(b"[")[2].partition(b"]")[0] + b"]\n" if header else b"")
            continue
        lines.append(_PASSWORD.sub(rb"\1://\2@", _URL.sub(_bare, line)))
    return b"".join(lines)


def _is_secret(section: bytes, key: bytes) -> bool:
    helper = section.split(b".")[0] == b"credential" and key.lower() == b"helper"
    return helper or _SECRET_KEYS.fullmatch(key) is not None


def _bare(match: re.Match[bytes]) -> bytes:
    """An address without its user; an opening quote in it stays one."""
    return match[1] + b"://" + (b'"' if match[0].count(b'"') % 2 else b"")


def _unfolded(data: bytes) -> Iterator[bytes]:
    """Lines, those that go on in the next joined with it."""
    held = b""
    for line in data.splitlines(keepends=True):
        whole = held + line
        body = whole.rstrip(b"\r\n")
        goes_on = (len(body) - len(body.rstrip(b"\\"))) % 2 == 1 and not whole.lstrip().startswith((b"#", b";"))
        if goes_on:
            held = body[:-1]
            continue
        held = b""
        yield whole
    if held:
        yield held
