"""What the words of a command may become when it runs: literals that the same text assigns to variables, arguments of
its own functions, what braces and quotes stand for, what an `echo` between them prints. For deny and ask rules only:
rather too much than too little, and nothing of it ever allows anything.
"""

from __future__ import annotations

import base64
import posixpath
import re
from collections.abc import Iterable, Iterator
from dataclasses import field, replace
from itertools import islice, product

from runner.dataclass import dataclass
from runner.policy.copying import copied
from runner.policy.shell import parse
from runner.policy.words import Script, Simple, Word, ansi, names

_MOST_VALUES = 16
_MOST_WAYS = 16
_LONGEST = 4_000
_LONGEST_SAID = 500
_DEEPEST = 4
_BRACES = re.compile(r"(?<!\$)\{([^{}\s'\"`\\]*(?:,[^{}\s'\"`\\]*)+|(\w)\.\.(\w))\}")
_NAME = re.compile(r"[A-Za-z_]\w*|[0-9@*]")
_CUT = re.compile(r"(!?)([A-Za-z_]\w*|[0-9@*])(?:\[[^\]]*\])?(.*)", re.DOTALL)
_FALLBACK = re.compile(r":?[-=+](.*)", re.DOTALL)
_SLICE = re.compile(r":\s*(\d+)(?::\s*(\d+))?")
_MOVES = re.compile(r"shift|.*[@*]:", re.DOTALL)
_SETTERS = names("export declare typeset local readonly env")
_READERS = names("read mapfile readarray")
_FINDERS = names("which whence command type readlink realpath")
_DECODERS = names("base64 base32 xxd rev")
_PRINTERS = _DECODERS | names("echo printf")
_LEARNT = _SETTERS | _READERS | names("alias hash printf set")


def _of_the_shell() -> dict[str, dict[str, None]]:
    """Variables that a shell sets itself, or is given: directories as a path is written that means them."""
    return {"BASH": {"/bin/bash": None}, "SHELL": {"/bin/bash": None}, "HOME": {"~": None}, "PWD": {".": None}}


@dataclass(slots=True)
class Values:
    """What is known of the variables, aliases and functions of a text, and of all text within it that is run."""

    _variables: dict[str, dict[str, None]] = field(default_factory=_of_the_shell)
    _aliases: dict[str, dict[str, None]] = field(default_factory=dict)
    _functions: set[str] = field(default_factory=set)
    _copies: dict[str, dict[Word, None]] = field(default_factory=dict)
    _written: set[str] = field(default_factory=set)

    def learn(self, script: Script) -> None:
        """Take in what a script assigns and defines."""
        moves = 0
        self._functions.update(script.functions)
        for assigned in script.assigned:
            values = list(self.texts(assigned.source))
            if assigned.appends:
                values = [old + new for old in [*self._variables.get(assigned.name, ()), ""] for new in values]
            self._assign(assigned.name, values)
        for simple in script.simples:
            name = simple.words[0].value or "" if simple.words else ""
            if name not in _LEARNT and name not in self._functions:
                continue
            rest = [word.value if word.value is not None else word.source for word in simple.words[1:]]
            if name == "set" or name in self._functions:
                if not moves:
                    moves = 4 if any(_MOVES.match(word.source) for one in script.simples for word in one.words) else 1
                self._arguments(rest, moves)
            else:
                self._by_command(name, rest, script)
        written = (_base(redirect.word) for redirect in script.redirects if redirect.writes)
        self._written.update(name for name in written if name)
        for new, old in copied(script, self.texts):
            known_as = self._copies.setdefault(new, {})
            if len(known_as) < _MOST_VALUES:
                known_as[old] = None

    def renamed(self, simple: Simple) -> bool:
        """Whether a word may name a program that the text copies or links under this name."""
        return bool(self._copies) and any(_base(word) in self._copies for word in simple.words)

    def made(self, simple: Simple) -> bool:
        """Whether the program may be a file that the text itself writes."""
        return (bool(simple.words) and _base(simple.words[0]) in self._written) or self.renamed(simple)

    def _assign(self, name: str, values: Iterable[str]) -> None:
        known = self._variables.setdefault(name, {})
        for value in values:
            if len(known) < _MOST_VALUES and len(value) < _LONGEST:
                known[value] = None

    def _by_command(self, name: str, rest: list[str], script: Script) -> None:
        """Commands that set variables and aliases."""
        pairs = [word.partition("=") for word in rest if "=" in word] if name in _SETTERS or name == "alias" else []
        for left, _, right in pairs:
            if name == "alias":
                self._aliases.setdefault(left, {})[right] = None
            else:
                self._assign(left, [right])
        if name == "hash" and "-p" in rest[:-2]:
            self._aliases.setdefault(rest[-1], {})[rest[rest.index("-p") + 1]] = None
        elif name == "printf" and rest[:1] == ["-v"]:
            self._assign("".join(rest[1:2]), [_printed(rest[2:])])
        elif name in _READERS:
            for word in rest:
                self._assign(word, (text for string in script.strings for text in self.texts(string)))

    def _arguments(self, words: list[str], moves: int) -> None:
        """What `$1` and `$@` stand for in a function, or after `set`; `moves`: the places that `$@` may begin at."""
        words = words[words.index("--") + 1 :] if "--" in words else words
        self._assign("@", (" ".join(words[at:]) for at in range(min(len(words), moves))))
        for number, word in enumerate(words[:9], start=1):
            self._assign(str(number), [word])

    def become(self, simple: Simple) -> Iterator[Simple]:
        """The ways in which the command may read when it runs, but for the one that is written."""
        if all(word.value is not None for word in simple.words) and not self._aliases and not self.renamed(simple):
            return
        ways = [self._ways(word, first=number == 0) for number, word in enumerate(simple.words)]
        if aliased := self._aliases.get(simple.words[0].value or ""):
            ways[0] = [tuple(map(_word, text.split())) for text in aliased]
        if self._copies:
            for at, word in enumerate(simple.words):
                if olds := self._copies.get(_base(word)):
                    ways[at] = [*((old,) for old in olds), *(ways[at] if at else ())]
        if all(way == [(word,)] for way, word in zip(ways, simple.words, strict=True)):
            return
        # The first word changes fastest: what is run matters more than on what.
        for way in islice(product(*reversed(ways)), _MOST_WAYS):
            words = tuple(word for part in reversed(way) for word in part)
            if words and words != simple.words:
                yield replace(simple, words=words)

    def fed(self, script: Script) -> Iterator[str]:
        """What the script says that a program of its may read: here-strings, and what `echo` and `printf` print."""
        for string in script.strings:
            yield from self.texts(string)
        decoders = [simple for simple in script.simples if simple.words and _base(simple.words[0]) in _DECODERS]
        for simple in script.simples:
            if simple.words and simple.words[0].value in {"echo", "printf"}:
                told = self._told(simple, 0)
                yield told
                yield from (_decoded(_base(one.words[0]), told) for one in decoders)

    def opened(self, word: Word) -> tuple[Word, ...]:
        """What the name of a file that is opened may become."""
        return tuple(part[0] for part in self._ways(word, first=False) if part and part[0] != word)

    def _ways(self, word: Word, *, first: bool) -> list[tuple[Word, ...]]:
        """What one word may become: each way is any number of words. Of a word that is no command, only what it is
        known to become.
        """
        if word.value is not None or len(word.source) > _LONGEST:
            return [(word,)]
        if not first and not self._speaks(word.source):
            return [(word,)]
        whole = word.source.startswith('"') and "@" not in word.source and not first
        blanks = "".join(self._variables.get("IFS", ()))
        found: dict[tuple[Word, ...], None] = {}
        for text in self.texts(word.source):
            split = (text,) if whole else re.split(f"[{re.escape(blanks)} \\t\\n]+", text.strip())
            found[tuple(_word(part) for part in split if part)] = None
        return list(found) or [(word,)]

    def _speaks(self, source: str) -> bool:
        """Whether anything is known of what stands in a word."""
        used = _NAME.findall(source)
        return (
            any(name in self._variables for name in used)
            or bool(_BRACES.search(source))
            or not _PRINTERS.isdisjoint(used)
            or "pwd" in used
        )

    def texts(self, source: str, depth: int = 0) -> tuple[str, ...]:
        """What a word, as written, may expand to. What nothing is known of is taken for empty."""
        if depth > _DEEPEST or len(source) > _LONGEST:
            return ("",)
        spread = _spread(source)
        found = {"": None}
        for number, word in enumerate(spread):
            parts = dict.fromkeys(self._expanded(word, depth))
            joint = " " if number else ""
            found = {a + joint + b: None for a in found for b in islice(parts, _MOST_VALUES)}
            found = dict.fromkeys(islice(found, _MOST_VALUES))
        return tuple(found)

    def _expanded(self, source: str, depth: int) -> list[str]:
        found, at = [""], 0
        while at < len(source):
            values, at = self._piece(source, at, depth)
            found = [a + b for a in found for b in values][:_MOST_VALUES]
        return found

    def _piece(self, source: str, at: int, depth: int) -> tuple[list[str], int]:  # noqa: PLR0911 (a table, row by row)
        """The values of what begins at a place of a word, and where the next piece begins."""
        char, rest = source[at], source[at + 1 :]
        if char == "\\":
            return [rest[:1].replace("\n", "")], at + 2
        if char == "'":
            inner = rest.partition("'")[0]
            return [inner], at + len(inner) + 2
        if char == '"':
            return [""], at + 1
        if char == "`":
            inner = rest.partition("`")[0]
            return self._said(inner, depth), at + len(inner) + 2
        if char != "$" or not rest:
            return [char], at + 1
        if rest[0] == "'" and (quoted := re.match(r"'((?:[^'\\]|\\.)*)'", rest, re.DOTALL)):
            return [ansi(quoted[1]) or quoted[1]], at + 1 + quoted.end()
        if rest[0] in "({":
            end = _closing(rest)
            inner = rest[1:end]
            return (self._said if rest[0] == "(" else self._braced)(inner, depth), at + 2 + end
        if name := _NAME.match(rest):
            return self._of(name[0]), at + 1 + name.end()
        return [""], at + (1 if rest[0] == '"' else 2)

    def _of(self, name: str) -> list[str]:
        values = list(self._variables.get("@" if name == "*" else name, ()))
        return values if values and name in self._variables else [*values, ""]

    def _braced(self, inner: str, depth: int) -> list[str]:
        """`${…}`."""
        cut = _CUT.fullmatch(inner)
        if cut is None:
            return [""]
        bang, name, rest = cut.groups()
        values = self._of(name)
        if bang:
            values = [text for value in values for text in self._of(value)]
        if not rest:
            return values
        if fallback := _FALLBACK.fullmatch(rest):
            return [*(value for value in values if value), *self.texts(fallback[1], depth + 1)]
        changed = [_changed(value, rest) for value in values]
        return list(dict.fromkeys((*changed, *values)))

    def _said(self, code: str, depth: int) -> list[str]:
        """What a substitution prints, where it is an `echo` or a `printf` of something known, or asks where a program,
        a file or the shell itself is.
        """
        script = parse(code) if len(code) < _LONGEST_SAID else Script()
        simples = script.simples
        found = [self._told(s, depth) for s in simples if s.words and s.words[0].value in {"echo", "printf"}]
        decoders = [_base(s.words[0]) for s in simples if s.words and _base(s.words[0]) in _DECODERS]
        strings = [text for string in script.strings for text in self.texts(string, depth + 1)] if decoders else []
        found = [_decoded(one, text) for one in decoders for text in (*found, *strings)] + found
        found += [s.words[-1].value or "" for s in simples if s.words and s.words[0].value in _FINDERS]
        found += ["." for s in simples if s.words and s.words[0].value == "pwd"]
        return found or [""]

    def _told(self, simple: Simple, depth: int) -> str:
        """What an `echo` or a `printf` prints."""
        words = [word for word in simple.words[1:] if not re.fullmatch(r"-[neE]+", word.value or "")]
        told = [word.value if word.value is not None else self.texts(word.source, depth + 1)[0] for word in words]
        if simple.words[0].value == "printf":
            return _printed(told)
        return _escaped(" ".join(told)) if len(words) < len(simple.words) - 1 else " ".join(told)


def _base(word: Word) -> str:
    return posixpath.basename(word.value or "")


def _decoded(program: str, text: str) -> str:
    """What a program that turns letters into others makes of a text; "" where it is none of its."""
    try:
        match program:
            case "base64":
                return base64.b64decode(text, validate=False).decode()
            case "base32":
                return base64.b32decode(text.strip()).decode()
            case "xxd":
                return bytes.fromhex(text).decode()
            case _:
                return text.strip()[::-1]
    except ValueError:
        return ""


def _word(text: str) -> Word:
    return Word(source=text, value=text)


def _printed(words: list[str]) -> str:
    """What printf makes of a format and its arguments: `%s` alone is understood."""
    if not words:
        return ""
    text = _escaped(words[0])
    for word in words[1:]:
        text = text.replace("%s", word, 1)
    return text


def _escaped(text: str) -> str:
    """What backslashes in a text stand for, as `printf` and `echo -e` print it."""
    return (ansi(text) or text.replace("\\n", "\n")) if "\\" in text else text


def _changed(value: str, change: str) -> str:
    """A value cut, replaced in, or in other letters, where the pattern is literal."""
    if found := _SLICE.fullmatch(change):
        start = int(found[1][:6])
        return value[start : start + int(found[2][:6])] if found[2] else value[start:]
    sign, pattern = change[0], change[1:].lstrip(change[0])
    match sign:
        case ",":
            value = value.lower()
        case "^":
            value = value.upper() if change == "^^" else value[:1].upper() + value[1:]
        case "#":
            value = value.removeprefix(pattern)
        case "%":
            value = value.removesuffix(pattern)
        case "/":
            old, _, new = pattern.partition("/")
            value = value.replace(old, new) if old else value
        case _:
            pass
    return value


def _closing(text: str) -> int:
    """Where the bracket that a text begins with is closed; the end of the text where it is not."""
    opening, closing = text[0], {"(": ")", "{": "}"}[text[0]]
    depth = 0
    for at, char in enumerate(text):
        depth += (char == opening) - (char == closing)
        if depth == 0:
            return at
    return len(text)


def _spread(source: str) -> list[str]:
    """The words that braces make of one."""
    words = [source]
    while len(words) < _MOST_VALUES:
        at = next((number for number, word in enumerate(words) if _BRACES.search(word)), None)
        if at is None:
            break
        found = _BRACES.search(words[at])
        assert found is not None
        head, tail = words[at][: found.start()], words[at][found.end() :]
        if found[2]:
            first, last = sorted((ord(found[2]), ord(found[3])))
            parts = [chr(code) for code in range(first, min(last, first + 26) + 1)]
        else:
            parts = found[1].split(",")
        words[at : at + 1] = [head + part + tail for part in parts]
    return words[: _MOST_VALUES * 2]
