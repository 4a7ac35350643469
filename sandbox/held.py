"""Which changes apply holds back until the user names them: what a program on the host would later
execute or obey. The list is data (`held_back.json`); the reading of a path is deliberately wide.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import field
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from sandbox.changes import Change
from sandbox.dataclass import dataclass

HELD_VERSION = 1
_JSON_BYTES = 4 << 20
_LOOSE = str.maketrans({"\\": "/", "\u0131": "i"})
_SHORT = {"git~1": ".git", "gitmod~1": ".gitmodules"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A pattern and its reason. `keys`: of a JSON file, only a change of these counts."""

    glob: str
    why: str
    keys: tuple[str, ...] = ()

    def matches(self, path: str) -> bool:
        """At any depth, whatever the case, the Unicode form, or invisible characters."""
        return _pattern(self.glob).fullmatch(plain(path)) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldBack:
    """The rules: `held` back, held for their `scripts`, only `pointed_out`. Policy may add to them."""

    held: tuple[Rule, ...]
    scripts: tuple[Rule, ...]
    pointed_out: tuple[Rule, ...]
    # What one of some rules at least matches: most paths are of none, and asked once. Made when first needed.
    _any: dict[str, re.Pattern[str]] = field(default_factory=dict, init=False, repr=False, compare=False)

    @classmethod
    def load(cls, extra: Iterable[Rule] = ()) -> HeldBack:
        """The shipped list, and more to hold."""
        body = json.loads(Path(__file__).with_name("held_back.json").read_bytes())
        if body["version"] != HELD_VERSION:
            raise ValueError(f"held_back.json of version {body['version']}")

        def rules(name: str) -> tuple[Rule, ...]:
            return tuple(Rule(glob=row["glob"], why=row["why"], keys=tuple(row.get("keys", ()))) for row in body[name])

        return cls(held=rules("held") + tuple(extra), scripts=rules("scripts"), pointed_out=rules("pointed_out"))

    def why(self, change: Change, contents: Callable[[Change], Sequence[bytes | None]]) -> str:
        """Why a change is held back, "" when it is not. `contents` gives both sides of a file when
        its text decides.
        """
        if change.in_git:
            return "git obeys it"
        if not self._some("held", self.held + self.scripts, change.path):
            return ""
        for rule in self.held:
            if rule.matches(change.path):
                return rule.why
        for rule in self.scripts:
            if rule.matches(change.path) and _keys_differ(rule.keys, contents(change)):
                return rule.why
        return ""

    def remark(self, change: Change) -> str:
        """Why a change is worth a look, "" when it is not."""
        if not self._some("pointed out", self.pointed_out, change.path):
            return ""
        return next((rule.why for rule in self.pointed_out if rule.matches(change.path)), "")

    def _some(self, name: str, rules: tuple[Rule, ...], path: str) -> bool:
        if name not in self._any:
            text = "|".join(_text(rule.glob) for rule in rules) or r"(?!)"
            self._any[name] = re.compile(text, re.DOTALL)
        return self._any[name].fullmatch(plain(path)) is not None


@lru_cache(maxsize=1024)
def plain(path: str) -> str:
    """A path as the most forgiving file system would take it."""
    composed = unicodedata.normalize("NFKC", "".join(c for c in path if unicodedata.category(c) != "Cf"))
    parts = composed.casefold().translate(_LOOSE).split("/")
    return "/".join(_SHORT.get(name, name) for part in parts for name in [_bare(part)])


def _bare(part: str) -> str:
    """Without what Windows takes for nothing: dots and blanks at the end, the name of a stream."""
    return part.partition(":")[0].rstrip(". ") or part


@cache
def _pattern(glob: str) -> re.Pattern[str]:
    return re.compile(_text(glob), re.DOTALL)


def _text(glob: str) -> str:
    wild = {"**": ".*", "*": "[^/]*"}
    below = glob.endswith("/**")
    tokens = re.split(r"(\*\*|\*)", glob.removesuffix("/**").casefold())
    text = "".join(wild.get(token) or re.escape(token) for token in tokens)
    return rf"(?:.*/)?{text}{'(?:/.*)?' if below else ''}"


def _keys_differ(keys: tuple[str, ...], contents: Sequence[bytes | None]) -> bool:
    """Whether the JSON objects differ in these keys; what is no JSON object differs."""
    before, after = (_object(data) for data in contents)
    return before is None or after is None or any(before.get(key) != after.get(key) for key in keys)


def _object(data: bytes | None) -> dict[str, Any] | None:
    if data is None:
        return {}
    if len(data) > _JSON_BYTES:
        return None
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
