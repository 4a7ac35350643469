"""The walk over a command's tree: its simple commands, wherever they stand, and what is redirected; and what it
cannot make sense of.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from runner.policy.signs import RESERVED
from runner.policy.words import EXPANDED, WORDS, Assigned, Redirect, Simple, Word, literal, names

DEEPEST = 60
_BETWEEN = re.compile(rb"(?:[ \t]|\\\n)*")
# Nodes that hold statements (and words, and signs between them).
_PLAIN = names("program list pipeline redirected_statement")
_HOLDERS = names(
    "subshell if_statement elif_clause else_clause while_statement do_group negated_command for_statement "
    "case_statement case_item heredoc_redirect command_substitution process_substitution"
)
_ASSIGNING = names("variable_assignment variable_assignments declaration_command")
_QUIET_LEAVES = frozenset({"comment", "heredoc_start", "heredoc_end", "heredoc_content", "extglob_pattern"})
_TESTS = frozenset({"unary_expression", "binary_expression", "parenthesized_expression", "negated_command"})
_COUNTING = re.compile(r"-(?:eq|ne|lt|le|gt|ge|v|R)|=~")
_BLANKS = (b" ", b"\t", b"\n")
_NAME = re.compile(r"[A-Za-z_][A-Za-z_0-9]*")
_SAFE_NAME = re.compile(r"[a-z][a-z0-9]{0,20}")
_SAFE_EXPANSIONS = frozenset({":-", "-", ":+", "+", ":?", "?", "#", "##", "%", "%%", "^", "^^", ",", ",,", "/", "//"})
# Variables that change what programs print or how they sort, never what they run.
SAFE_VARIABLES = names(
    "LANG LANGUAGE LC_ALL LC_COLLATE LC_CTYPE LC_MESSAGES LC_NUMERIC LC_TIME TZ TERM COLUMNS LINES NO_COLOR "
    "FORCE_COLOR CLICOLOR CLICOLOR_FORCE COLORTERM CI NODE_ENV RAILS_ENV RACK_ENV APP_ENV RUST_BACKTRACE RUST_LOG "
    "GOOS GOARCH GO111MODULE CGO_ENABLED PYTHONUNBUFFERED PYTHONDONTWRITEBYTECODE PYTHONHASHSEED DEBIAN_FRONTEND"
)


class Reader:
    """One walk over one tree. Statements are taken from a stack, so that lists of any length are read."""

    def __init__(self, source: bytes) -> None:
        self.source = source
        self.simples: list[Simple] = []
        self.redirects: list[Redirect] = []
        self.assigned: list[Assigned] = []
        self.functions: list[str] = []
        self.strings: list[str] = []
        self.opaque = ""
        self.plain = True
        self._moves: tuple[Word, ...] = ()
        self._special: dict[str, Callable[[Any], list[tuple[Any, bool]]]] = {
            "file_redirect": self._redirect,
            "herestring_redirect": self._here,
            "heredoc_body": self._here,
            "function_definition": self._function,
            "test_command": self._test,
        }

    def doubt(self, reason: str) -> None:
        """Keep the first reason."""
        self.opaque = self.opaque or reason

    def read(self, root: Any) -> None:
        """Take in every statement below, in the order in which they are written."""
        stack = [(root, False, 0)]
        while stack:
            node, nested, depth = stack.pop()
            if depth > DEEPEST and node.type not in _PLAIN:
                self.doubt("it is nested too deeply")
                continue
            stack.extend(reversed([(child, inside, depth + 1) for child, inside in self._statement(node, nested)]))

    def _statement(self, node: Any, nested: bool) -> list[tuple[Any, bool]]:
        """Deal with one node; the nodes below it that are to be dealt with next."""
        kind = node.type
        if kind in WORDS:
            return self._inside(node)
        if kind == "command":
            return self._command(node, nested)
        if kind in _ASSIGNING:
            return self._assignments(node)
        if (special := self._special.get(kind)) is not None:
            return special(node)
        if kind in _PLAIN or kind in _HOLDERS or (kind == "compound_statement" and node.children[0].type == "{"):
            return self._holder(node, nested)
        if node.is_named and kind not in _QUIET_LEAVES:
            self.doubt(f"a part of it is not understood ({kind.replace('_', ' ')})")
        elif kind == "&":
            self.plain = False
        return [(child, True) for child in node.named_children]

    def _holder(self, node: Any, nested: bool) -> list[tuple[Any, bool]]:
        """What holds statements, and words and signs between them."""
        kind = node.type
        if kind == "heredoc_redirect" and any(child.type in WORDS for child in node.named_children):
            self.doubt("a command goes on behind a here-document")
        if kind not in _PLAIN:
            self.plain, nested = False, True
        if kind == "for_statement" and not _SAFE_NAME.fullmatch(node.named_children[0].text.decode()):
            self.doubt("it sets a variable that programs may obey")
        if kind == "for_statement":
            name = node.named_children[0].text.decode()
            self.assigned += [Assigned(name, c.text.decode()) for c in node.named_children[1:] if c.type in WORDS]
        return [(child, nested) for child in node.children if child.type != "variable_name"]

    def _here(self, node: Any) -> list[tuple[Any, bool]]:
        """A here-string, or the text of a here-document."""
        if node.type == "herestring_redirect":
            self.strings += [child.text.decode() for child in node.named_children]
        return [(child, True) for child in node.named_children]

    def _function(self, node: Any) -> list[tuple[Any, bool]]:
        self.plain = False
        self.functions.append(node.named_children[0].text.decode())
        return [(child, True) for child in node.named_children[1:]]

    def _inside(self, node: Any) -> list[tuple[Any, bool]]:
        """The statements that stand in a word: substitutions."""
        kind = node.type
        if kind in {"command_substitution", "process_substitution"}:
            self.plain = False
            if b"\\" in node.text and node.text[:1] == b"`":
                self.doubt("a backslash stands between backticks")
            return [(child, True) for child in node.children]
        if kind == "expansion":
            self._expansion(node)
        elif kind == "arithmetic_expansion":
            if re.search(rb"[^\s\d()+*/%$<>=-]", node.text):
                self.doubt("arithmetic may run commands")
        elif kind not in WORDS and kind not in EXPANDED and node.is_named:
            self.doubt(f"a part of it is not understood ({kind.replace('_', ' ')})")
        if kind == "simple_expansion" or not node.child_count:
            return []
        # A word within a word within a word … comes back here through the stack.
        return [(child, True) for child in node.children if child.type in WORDS] + [
            pair for child in node.named_children if child.type not in WORDS for pair in self._inside(child)
        ]

    def _expansion(self, node: Any) -> None:
        """`${name}`, and with a word for when it is empty, or cut off or replaced by a pattern."""
        signs = [child.type for child in node.children if not child.is_named]
        if signs[1:2] in (["="], [":="]):
            self.assigned.append(Assigned(node.named_children[0].text.decode(), node.named_children[-1].text.decode()))
        if not set(signs[1:-1]) <= _SAFE_EXPANSIONS or any(c.type == "subscript" for c in node.named_children):
            self.doubt("an expansion that may do more than expand")
        if any(child.type in {"raw_string", "ansi_c_string"} for child in node.named_children):
            self.doubt("quotes stand within an expansion")

    def _command(self, node: Any, nested: bool) -> list[tuple[Any, bool]]:
        words: list[Word] = []
        assigns: list[tuple[str, Word | None]] = []
        below: list[tuple[Any, bool]] = []
        end = node.start_byte
        for child in node.children:
            kind = child.type
            gap, end = self.source[end : child.start_byte], child.end_byte
            self._apart(gap, joined=bool(words) and kind in WORDS)
            if kind == "command_name":
                child, kind = child.children[0], child.children[0].type  # noqa: PLW2901
            if kind in WORDS:
                before = words.pop().source if words and not gap else ""
                words.append(Word(source=before + child.text.decode()) if before else literal(child))
                below += self._inside(child) if kind != "word" or child.child_count else ()
            elif kind == "variable_assignment":
                assigns.append(_assigned(child))
                self.assigned.append(_kept(child))
                if not _NAME.fullmatch(assigns[-1][0]):
                    self.doubt("an assignment is not understood")
                below += self._within(child)
            elif kind in {"file_redirect", "herestring_redirect", "heredoc_redirect"}:
                below.append((child, nested))
            else:
                self.doubt(f"a part of it is not understood ({kind.replace('_', ' ')})")
                below.append((child, True))
        self.simples.append(
            Simple(words=tuple(words), assigns=tuple(assigns), moves=self._moves, nested=nested, opaque=_unclear(words))
        )
        if words and words[0].value == "cd":
            self._moves = (*self._moves, words[1] if len(words) == 2 else Word(source="cd"))
        elif words and words[0].value in {"pushd", "popd"}:
            self._moves = (*self._moves, Word(source="pushd"))
        return below

    def _apart(self, gap: bytes, *, joined: bool) -> None:
        if gap == b" ":
            return
        if not _BETWEEN.fullmatch(gap) or (joined and not gap):
            self.doubt("words are not told apart")

    def _within(self, node: Any) -> list[tuple[Any, bool]]:
        """The substitutions within an assignment."""
        found: list[tuple[Any, bool]] = []
        for child in node.named_children:
            if child.type in WORDS:
                found += self._inside(child)
            elif child.type == "array":
                found += self._within(child)
            elif child.type != "variable_name":
                self.doubt("an assignment to a part of a variable")
                found.append((child, True))
        return found

    def _assignments(self, node: Any) -> list[tuple[Any, bool]]:
        """Assignments that stay for what comes after, and `export` and its like."""
        found: list[tuple[Any, bool]] = []
        whole = node.type != "variable_assignment"
        for part in node.named_children if whole else (node,):
            if part.type == "variable_assignment":
                name, _ = _assigned(part)
                self.assigned.append(_kept(part))
                if not (_SAFE_NAME.fullmatch(name) or name in SAFE_VARIABLES):
                    self.doubt("it sets a variable that programs may obey")
                found += self._within(part)
            else:
                self.doubt("it changes a variable")
                found += self._inside(part) if part.type in WORDS else [(part, True)]
        self.plain = False
        return found

    def _redirect(self, node: Any) -> list[tuple[Any, bool]]:
        sign, words, below = "", [], []
        for child in node.children:
            if child.type in WORDS:
                words.append(literal(child))
                below += self._inside(child)
            elif child.type != "file_descriptor":
                sign += child.type
        if sign in {">&-", "<&-"} and not words:
            return below
        if len(words) != 1:
            self.doubt("a redirection is not understood")
        for word in words:
            if sign in {">&", "<&"} and re.fullmatch(r"\d+-?|-", word.value or ""):
                continue
            if sign not in {"<", ">", ">>", ">|", "&>", "&>>", ">&"}:
                self.doubt("a redirection is not understood")
            self.redirects.append(Redirect(word=word, writes=sign != "<", moves=self._moves))
        return below

    def _test(self, node: Any) -> list[tuple[Any, bool]]:
        """`[[ … ]]` and `[ … ]`: they run nothing, but for arithmetic and subscripts."""
        self.plain = False
        self._brackets(node.children[0], node.children[-1])
        found: list[tuple[Any, bool]] = []
        stack = list(node.children)
        while stack:
            child = stack.pop()
            if child.type in WORDS:
                found += self._inside(child)
            elif child.type in _TESTS:
                stack += child.children
            elif child.is_named and child.type not in {"test_operator", "extglob_pattern", "regex"}:
                self.doubt("a test is not understood")
                found.append((child, True))
            if child.child_count == 0 and _COUNTING.fullmatch(child.text.decode().strip()):
                self.doubt("a test may run commands")
        return found

    def _brackets(self, first: Any, last: Any) -> None:
        """`[` and `]` are words to bash: without blanks beside them they are parts of another command's name."""
        if first.type == "[":
            after = first.end_byte
            before = last.end_byte - len(last.text.strip())
            if self.source[after : after + 1] not in _BLANKS or self.source[before - 1 : before] not in _BLANKS:
                self.doubt("a test may be another command")


def _unclear(words: list[Word]) -> str:
    """Why the first word does not tell what runs."""
    if not words:
        return ""
    name = words[0]
    if name.value is None or name.glob or not name.value:
        return "what it runs is only known when it runs"
    if name.source.startswith("~") or name.value in RESERVED:
        return "what it runs is not understood"
    return ""


def _assigned(node: Any) -> tuple[str, Word | None]:
    """The name and the value of an assignment; an array or a part of one has a name that no table knows."""
    name, *value = node.named_children
    text = name.text.decode()
    if name.type != "variable_name" or (value and value[0].type == "array"):
        text += "[]"
    return text, literal(value[0]) if value and value[0].type in WORDS else None


def _kept(node: Any) -> Assigned:
    """An assignment as it is written; of an array, or a part of one, by the array's name."""
    name, *value = node.named_children
    words = value[0].named_children if value and value[0].type == "array" else value
    source = " ".join(word.text.decode() for word in words)
    appends = any(child.type == "+=" for child in node.children)
    return Assigned(name.text.decode().partition("[")[0], source, appends)
