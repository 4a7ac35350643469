"""Matchers of hooks: exact names, lists, patterns, and `Tool(args)`, which is a permission rule.

A pattern is searched as JavaScript's would be, but by all its branches at once: the time grows with text and
pattern, never by what the pattern repeats in what it repeats.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from re import _constants as op  # type: ignore[attr-defined]
from re import _parser as grammar  # type: ignore[attr-defined]
from typing import Any

from runner.dataclass import dataclass
from runner.policy.rules import EDITORS, NAMED, READERS, SHELLS

LONGEST_PATTERN = 1000
LONGEST_TEXT = 256
MOST_REPEATS = 1000
_PLAIN = re.compile(r"[A-Za-z0-9_ ,|-]*")
_CALL = re.compile(r"([A-Za-z]\w*)\((.+)\)", re.DOTALL)
TOOLS = READERS | EDITORS | SHELLS | NAMED.keys() | {"WebFetch", "WebSearch", "Task"}
_WORD = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")
_CATEGORIES: dict[Any, Callable[[str], bool]] = {
    op.CATEGORY_DIGIT: lambda c: "0" <= c <= "9",
    op.CATEGORY_NOT_DIGIT: lambda c: not "0" <= c <= "9",
    op.CATEGORY_WORD: lambda c: c in _WORD,
    op.CATEGORY_NOT_WORD: lambda c: c not in _WORD,
    op.CATEGORY_SPACE: str.isspace,
    op.CATEGORY_NOT_SPACE: lambda c: not c.isspace(),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Matcher:
    """`names` None: everything, or what `pattern` finds. `rule`: a permission rule that must speak of the call.
    `problem`: what is wrong with it; then it matches everything, since the hook may be one that denies.
    """

    text: str = ""
    names: frozenset[str] | None = None
    pattern: tuple[Any, ...] | None = None
    rule: str = ""
    problem: str = ""

    def matches(self, value: str) -> bool:
        """Whether it speaks of this name."""
        if self.names is not None:
            return value in self.names
        return self.pattern is None or search(self.pattern, value[:LONGEST_TEXT])


def matcher_of(text: str) -> Matcher:
    """Never raises."""
    if text in ("", "*"):
        return Matcher(text=text)
    if _PLAIN.fullmatch(text):
        return Matcher(text=text, names=frozenset(name.strip() for name in re.split(r"[|,]", text)))
    call = _CALL.fullmatch(text)
    if call is not None and call[1] in TOOLS:
        return Matcher(text=text, names=frozenset({call[1]}), rule=text)
    try:
        return Matcher(text=text, pattern=parse(text))
    except ValueError as error:
        return Matcher(text=text, problem=str(error))


def parse(text: str) -> tuple[Any, ...]:
    """A pattern made ready for `search`. Raises ValueError for what is none, or is not understood here."""
    if len(text) > LONGEST_PATTERN:
        raise ValueError(f"longer than {LONGEST_PATTERN} characters")
    try:
        parsed = grammar.parse(text)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(str(error)) from error
    if parsed.state.flags & (re.VERBOSE | re.IGNORECASE):
        raise ValueError("flags in a pattern are not understood here")
    return _made(parsed)


def _made(parsed: Any) -> tuple[Any, ...]:
    return tuple(_node(code, value) for code, value in parsed)


def _node(code: Any, value: Any) -> tuple[Any, ...]:
    made: tuple[Any, ...] | None = None
    if code is op.LITERAL or code is op.NOT_LITERAL:
        made = ("one", _is(value, no=code is op.NOT_LITERAL))
    elif code is op.ANY:
        made = ("one", lambda c: c not in "\n\r\u2028\u2029")
    elif code is op.IN:
        made = ("one", _class(value))
    elif code is op.BRANCH:
        made = ("any", tuple(_made(branch) for branch in value[1]))
    elif code is op.SUBPATTERN and not value[1] and not value[2]:
        made = ("all", _made(value[3]))
    elif code is op.MAX_REPEAT or code is op.MIN_REPEAT:
        least, most, inner = value
        if least > MOST_REPEATS or (most is not op.MAXREPEAT and most > MOST_REPEATS):
            raise ValueError(f"repeats something more than {MOST_REPEATS} times")
        made = ("repeat", least, None if most is op.MAXREPEAT else int(most), _made(inner))
    elif code is op.AT and value in _PLACES:
        made = ("at", _PLACES[value])
    if made is None:
        raise ValueError(f"{str(code).lower()} is not understood here")
    return made


def _is(number: int, *, no: bool = False) -> Callable[[str], bool]:
    char = chr(number)
    return lambda c: (c == char) is not no


def _between(low: int, high: int) -> Callable[[str], bool]:
    return lambda c: low <= ord(c) <= high


def _class(items: Any) -> Callable[[str], bool]:
    tests: list[Callable[[str], bool]] = []
    negated = False
    for code, value in items:
        if code is op.NEGATE:
            negated = True
        elif code is op.LITERAL:
            tests.append(_is(value))
        elif code is op.RANGE:
            tests.append(_between(*value))
        elif code is op.CATEGORY and value in _CATEGORIES:
            tests.append(_CATEGORIES[value])
        else:
            raise ValueError(f"{str(code).lower()} is not understood here")
    return lambda c: any(test(c) for test in tests) is not negated


def _boundary(text: str, at: int) -> bool:
    before, after = text[at - 1 : at] in _WORD and at > 0, text[at : at + 1] in _WORD and at < len(text)
    return before is not after


_PLACES: dict[Any, Callable[[str, int], bool]] = {
    op.AT_BEGINNING: lambda _, at: at == 0,
    op.AT_BEGINNING_STRING: lambda _, at: at == 0,
    op.AT_END: lambda text, at: at == len(text),
    op.AT_END_STRING: lambda text, at: at == len(text),
    op.AT_BOUNDARY: _boundary,
    op.AT_NON_BOUNDARY: lambda text, at: not _boundary(text, at),
}


def search(pattern: tuple[Any, ...], text: str) -> bool:
    """Whether it is found anywhere in the text."""
    return bool(_run(pattern, text, frozenset(range(len(text) + 1))))


def _run(nodes: tuple[Any, ...], text: str, at: frozenset[int]) -> frozenset[int]:
    """Where the nodes may end that begin at one of these places."""
    for node in nodes:
        if not at:
            break
        match node:
            case ("one", test):
                at = frozenset(i + 1 for i in at if i < len(text) and test(text[i]))
            case ("at", test):
                at = frozenset(i for i in at if test(text, i))
            case ("all", inner):
                at = _run(inner, text, at)
            case ("any", branches):
                at = frozenset().union(*(_run(branch, text, at) for branch in branches))
            case ("repeat", least, most, inner):
                at = _repeated(inner, text, at, least, most)
    return at


def _repeated(inner: tuple[Any, ...], text: str, at: frozenset[int], least: int, most: int | None) -> frozenset[int]:
    for _ in range(least):
        after = _run(inner, text, at)
        if after == at:
            break
        at = after
    found, fresh, count = at, at, least
    while fresh and (most is None or count < most):
        fresh = _run(inner, text, fresh) - found
        found |= fresh
        count += 1
    return found
