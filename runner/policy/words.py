"""The parts of a shell command: words, and what they are once bash has taken their quotes away, where that can be
told; simple commands, redirections, and all of them together.
"""

from __future__ import annotations

import re
from typing import Any

from runner.dataclass import dataclass


def names(text: str) -> frozenset[str]:
    """The words of a table."""
    return frozenset(text.split())


# Nodes that make up words, and the ones within them that are looked through.
WORDS = names(
    "word string raw_string ansi_c_string number concatenation simple_expansion expansion arithmetic_expansion "
    "command_substitution process_substitution brace_expression"
)
EXPANDED = names("string_content variable_name special_variable_name regex heredoc_content")
# What a leaf of each kind may look like; whatever else the grammar takes it for is not believed.
_BARE = r"""(?:[^\s'"`$\\(){}|&;<>]|[{}]|\\[^\n])"""
_IN_QUOTES = r"""(?:[^"`$\\]|\\.|\$(?![A-Za-z_0-9({@*#?!$\-'"\[]))*"""
_FORMS = {
    "word": rf"(?!#){_BARE}+",
    "number": r"-?[0-9]+|0x[0-9A-Fa-f]+",
    "raw_string": r"'[^']*'",
    "ansi_c_string": r"\$'(?:[^'\\]|\\.)*'",
    "string_content": _IN_QUOTES,
    "heredoc_content": r"""(?:[^`$\\]|\\.|\$(?![A-Za-z_0-9({@*#?!$\-'"\[]))*""",
    "heredoc_start": r"""[A-Za-z_0-9]+|'[A-Za-z_0-9]+'|"[A-Za-z_0-9]+\"""",
    "heredoc_end": r"[ \t\n]*[A-Za-z_0-9]+",
    "comment": r"#[^\n]*",
    "variable_name": r"[A-Za-z_][A-Za-z_0-9]*|[0-9]",
    "special_variable_name": r"[*@?!#$0_-]",
    "file_descriptor": r"[0-9]+",
    "regex": r"""[^$`\\'"(){}|&;<>\n]*""",
    "extglob_pattern": r"""[^$`\\'"(){}|&;<>\s]+""",
    "test_operator": r"-[A-Za-z]+|[=<>!~]+",
}
_LEAVES = {kind: re.compile(form.encode(), re.DOTALL) for kind, form in _FORMS.items()}
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_QUOTED_ESCAPE = re.compile(r"\\([$`\"\\])")
_GLOB = re.compile(r"(?<!\\)(?:\\\\)*[*?\[]")
_BRACES = re.compile(r"\{[^}]*(?:,|\.\.)")
_PLAIN = re.compile(r"[\w./:=@%,+-]+")
_SIMPLE_ESCAPES = {"n": "\n", "t": "\t", "\\": "\\", "'": "'", '"': '"', "?": "?"}
_ANSI = re.compile(r"\\(?:x([0-9A-Fa-f]{1,2})|u([0-9A-Fa-f]{1,4})|U([0-9A-Fa-f]{1,8})|([0-7]{1,3})|(.))", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Word:
    """One word: as written, and as the program gets it (None: only known when it runs). `glob`: it may become
    other words, by the files that are there; then `value` is the pattern.
    """

    source: str
    value: str | None = None
    glob: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Redirect:
    """A file that the shell opens for a command. `moves`: as in Simple."""

    word: Word
    writes: bool
    moves: tuple[Word, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Simple:
    """One simple command: its words and the assignments before it. `moves`: the operands of every `cd` that may
    have run before. `nested`: it stands in a substitution, a function, or anything else than a plain list.
    `appended`: its words are followed by others that nobody can see. `opaque`: why its text does not tell what runs.
    """

    words: tuple[Word, ...]
    assigns: tuple[tuple[str, Word | None], ...] = ()
    moves: tuple[Word, ...] = ()
    nested: bool = False
    appended: bool = False
    opaque: str = ""

    @property
    def text(self) -> str:
        """As written, with one space between words, without assignments and redirections."""
        return " ".join(word.source for word in self.words)


@dataclass(frozen=True, slots=True)
class Assigned:
    """A value, as written, that a variable gets (an array's words with blanks between), or that is put behind what
    it has.
    """

    name: str
    source: str
    appends: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """All that was found. `opaque`: the first reason why more, or something else, might run; "" when none.
    `plain`: nothing but simple commands joined by `;`, `&&`, `||`, `|` and line ends. `assigned`: every assignment,
    in order; `functions`: the names of those it defines; `strings`: its here-strings, as written.
    """

    simples: tuple[Simple, ...] = ()
    redirects: tuple[Redirect, ...] = ()
    opaque: str = ""
    plain: bool = False
    assigned: tuple[Assigned, ...] = ()
    functions: tuple[str, ...] = ()
    strings: tuple[str, ...] = ()


def doubtful(kind: str, text: bytes) -> str:
    """Why a leaf may be something else to bash; "" when it is what it is taken for."""
    form = _LEAVES.get(kind)
    if form is None or form.fullmatch(text):
        return ""
    return f"a part of it may mean something else ({kind.replace('_', ' ')})"


def literal(node: Any) -> Word:
    """The word that a node stands for."""
    source = node.text.decode()
    kind = node.type
    if kind == "word" and _PLAIN.fullmatch(source):  # most are: what follows would say the same of it
        return Word(source=source, value=source)
    parts = node.children if kind == "concatenation" else (node,)
    value, glob, bare = "", False, ""
    for part in parts:
        text = _value(part)
        if text is None:
            return Word(source=source)
        value += text
        if part.type == "word":
            own = part.text.decode()
            glob = glob or _GLOB.search(own) is not None
            bare += own
        else:
            bare += "\0"
    if _BRACES.search(bare) or bare.startswith(("~+", "~-")):
        return Word(source=source)
    return Word(source=source, value=value, glob=glob)


def _value(node: Any) -> str | None:  # noqa: PLR0911 (a table, row by row)
    text: str = node.text.decode()
    match node.type:
        case "word":
            return _ESCAPE.sub(r"\1", text)
        case "number":
            return text
        case "raw_string":
            return text[1:-1]
        case "string":
            inner = text[1:-1]
            if not re.fullmatch(_IN_QUOTES, inner, re.DOTALL):
                return None
            return _QUOTED_ESCAPE.sub(r"\1", inner.replace("\\\n", ""))
        case "ansi_c_string":
            return ansi(text[2:-1])
        case _:
            return None


def ansi(text: str) -> str | None:
    """`$'…'` with the commonest escapes; None for others, and where anything but ASCII comes out."""
    unknown = False

    def plain(found: re.Match[str]) -> str:
        nonlocal unknown
        if number := found[1] or found[2] or found[3]:
            unknown = unknown or int(number, 16) > 0x7F
            return "" if unknown else chr(int(number, 16))
        if found[4]:
            return chr(int(found[4], 8) & 255)
        unknown = unknown or found[5] not in _SIMPLE_ESCAPES
        return _SIMPLE_ESCAPES.get(found[5], "")

    value = _ANSI.sub(plain, text)
    return None if unknown or "\0" in value or not value.isascii() else value
