"""What can be told about a shell command without running it: a convenience, never the boundary.

Two readings, each strict in its own direction. `parse` gives the simple commands of a line only
when every character of it is understood; all else is opaque (None) and no allow rule takes it.
`fragments` splits without understanding, far too often rather than too seldom: deny rules look at
all of it. A real parser (tree-sitter) replaces both behind the same functions.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

LONGEST = 10_000
PEELED = 16


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_WORD_ENDS = " \t"
_OPAQUE = frozenset("$`\\<>(){}!#")
_KEYWORDS = _names(
    "if then elif else fi for while until do done case esac in function select coproc [[ ]] time . source eval exec "
    "alias unalias trap set shopt export declare typeset local readonly let unset enable"
)
_QUIET = re.compile(r"(?:2>/dev/null|2>&1|>/dev/null)(?=[ \t;|]|$)")
_LINE_ENDS = re.compile(r"\|\||&&|\|&|[;&|\n(){}`]|\$\(|<\(|>\(")
_QUOTES = re.compile(r"['\"]")
_LEADING = re.compile(r"(?:[A-Za-z_]\w*\+?=(?:'[^']*'|\"[^\"]*\"|[^\s'\"]++)*+|[<>]+&?\s*\S+|\d*[<>]+\S*)\s+")
_UNDERSTOOD_OPTION = re.compile(r"-[A-Za-z0-9]+|--[a-z0-9-]+(?:=[^/]*)?|-")
# Words that run what follows them; peeled off one by one so that deny rules see what is run.
_WRAPPERS = _names(
    "time nice nohup stdbuf timeout command builtin noglob nocorrect exec env sudo doas su watch setsid ionice flock "
    "xargs parallel chroot unshare nsenter script strace ltrace gdb busybox toybox then do else if elif while until ! "
    "eval coproc"
)
_INTERPRETERS = re.compile(
    r"(?:^|[\s/;&|(])(?:ba|da|z|k|a|fi)?sh\b|\b(?:eval|ssh|su|python[\d.]*|perl|ruby|node|awk)\b"
)
# Prefix rules never cover these: what they run is in their arguments.
_RUNNERS = _names(
    "watch setsid ionice flock xargs env sudo doas su parallel strace script chroot unshare nsenter busybox "
    "sh bash dash zsh ksh ash fish eval exec"
)
_FIND_ACTIONS = re.compile(r"-(?:exec|execdir|ok|okdir|delete|fls|fprint0?|fprintf)\b")
# Read-only commands: name → letters of short options, and beginnings of long ones, that are refused.
_READ_ONLY: dict[str, tuple[str, tuple[str, ...]]] = {
    "basename": ("", ()),
    "cat": ("", ()),
    "cd": ("", ()),
    "dirname": ("", ()),
    "du": ("X", ("--f", "--exclude-")),
    "echo": ("", ()),
    "egrep": ("f", ("--f",)),
    "false": ("", ()),
    "fgrep": ("f", ("--f",)),
    "grep": ("f", ("--f",)),
    "head": ("", ()),
    "id": ("", ()),
    "ls": ("", ()),
    "pwd": ("", ()),
    "stat": ("", ()),
    "tail": ("", ()),
    "true": ("", ()),
    "uname": ("", ()),
    "wc": ("", ("--f",)),
    "which": ("", ()),
    "whoami": ("", ()),
}
_GLOB = re.compile(r"[^/]*[*?\[]")
_PRINTS = _names("cat head tail")  # what a glob leads them to is shown: a link to anywhere
_NO_PATHS = _names("echo basename dirname id true false uname which whoami pwd")


@dataclass(frozen=True, slots=True, kw_only=True)
class Simple:
    """One simple command: its words without quotes, and its text as written."""

    words: tuple[str, ...]
    text: str


def parse(command: str) -> tuple[Simple, ...] | None:
    """The simple commands of a list (`;`, `&&`, `||`, `|`) when all of it is plain, else None: opaque.
    Never raises.
    """
    command = command.strip(" \t\n")
    if not command or len(command) > LONGEST:
        return None
    found: list[Simple] = []
    at = 0
    while at <= len(command):
        one = _simple(command, at)
        if one is None:
            return None
        simple, at = one
        found.append(simple)
        if at >= len(command):
            return tuple(found)
        at += 2 if command[at : at + 2] in ("&&", "||") else 1
        if at == len(command) and command.endswith(";"):
            return tuple(found)
    return None


def _simple(text: str, start: int) -> tuple[Simple, int] | None:  # noqa: C901 (a scanner reads best in one piece)
    """The simple command at `start` and where its separator stands (or the end)."""
    words: list[str] = []
    word: list[str] | None = None
    at = start
    while at < len(text):
        char = text[at]
        if char in _WORD_ENDS:
            if word is not None:
                words.append("".join(word))
            word = None
        elif word is None and (quiet := _QUIET.match(text, at)):
            at = quiet.end()
            continue
        elif char in {"'", '"'}:
            end = text.find(char, at + 1)
            inner = text[at + 1 : end]
            if end < 0 or (char == '"' and any(c in "$`\\!" for c in inner)) or not inner.isprintable():
                return None
            word = word or []
            word.append(inner)
            at = end
        elif char in {";", "|"} or text.startswith("&&", at):
            if text.startswith(("|&", ";;", ";&", "|||", "&&&"), at):
                return None
            break
        elif char in _OPAQUE or char == "&" or not char.isprintable() or (char == "~" and word is None):
            return None
        else:
            word = word or []
            word.append(char)
        at += 1
    if word is not None:
        words.append("".join(word))
    if not words or "=" in words[0] or words[0] in _KEYWORDS or any(c in "*?[~" for c in words[0]):
        return None
    return Simple(words=tuple(words), text=text[start:at].strip(_WORD_ENDS)), at


def plain(command: str) -> Simple | None:
    """The command when it is one plain simple command; `time`, `nohup` and `command` before it are peeled off."""
    text = command.strip(" \t\n")
    while (peeled := re.match(r"(?:time|nohup|command)[ \t]+(?=[^-\s])", text)) is not None:
        text = text[peeled.end() :]
    simples = parse(text)
    return simples[0] if simples is not None and len(simples) == 1 else None


def runs_others(simple: Simple) -> bool:
    """Whether what it runs, or writes, stands in its arguments: then a rule with a wildcard does not cover it."""
    name = posixpath.basename(simple.words[0])
    return name in _RUNNERS or (name == "find" and any(_FIND_ACTIONS.match(word) for word in simple.words))


def fragments(command: str) -> tuple[str, ...]:
    """Every text that might be run by this command, in every reading: the whole, the pieces between
    operators (and between quotes where an interpreter takes part), each also without leading
    assignments and wrappers, without quotes and backslashes, and by the base name of its command.
    """
    flat = command.replace("\\\n", "")
    pieces = {flat.strip(), *(piece.strip() for piece in _LINE_ENDS.split(flat))}
    if _INTERPRETERS.search(flat):
        pieces |= {piece.strip() for part in _QUOTES.split(flat) for piece in _LINE_ENDS.split(part)}
    found: dict[str, None] = {}
    for piece in pieces:
        for text in (piece, re.sub(r"['\"\\]", "", piece)):
            for form in _peeled(text.strip()):
                found[form] = None
                name, space, tail = form.partition(" ")
                if "/" in name and not name.endswith("/"):
                    found[posixpath.basename(name) + space + tail] = None
    return tuple(found)


def _peeled(text: str) -> Iterator[str]:
    """The text with ever less before its command: the first forms, and of very many only the last."""
    count = 0
    while text:
        rest = _peel(text)
        if count < PEELED or not rest:
            yield text
        text, count = rest, count + 1


def _peel(text: str) -> str:
    """The text without its first assignment, redirection, wrapper, or option of a wrapper."""
    if assignment := _LEADING.match(text):
        return text[assignment.end() :]
    name, _, rest = text.partition(" ")
    if posixpath.basename(name) in _WRAPPERS or name.startswith("-") or re.fullmatch(r"[\d.]+[smhd]?", name):
        return rest.strip()
    return ""


def words(command: str) -> tuple[str, ...]:
    """Every word that might name a path, in the loosest reading: for deny rules on paths."""
    loose = re.split(r"[\s;&|<>(){}`'\"=,:]+", command.replace("\\", ""))
    return tuple(dict.fromkeys(word for word in loose if word))


def reads(command: str, cwd: PurePosixPath) -> tuple[PurePosixPath, ...] | None:
    """The paths that a read-only command reads (not resolved), None when it is not known to be read-only."""
    found: list[PurePosixPath] = []
    moved = False
    for simple in parse(command) or (None,):
        paths = _operands(simple, cwd, moved=moved) if simple is not None else None
        if simple is None or paths is None:
            return None
        found += paths
        if simple.words[0] == "cd":
            if len(simple.words) != 2 or not paths:
                return None
            cwd, moved = paths[0], True
    return tuple(found)


def _operands(simple: Simple, cwd: PurePosixPath, *, moved: bool) -> list[PurePosixPath] | None:
    """What one command of the read-only set reads. `moved`: after a cd that may have failed."""
    name, *operands = simple.words
    refused = _READ_ONLY.get(name)
    if refused is None:
        return None
    found: list[PurePosixPath] = []
    for word in operands if name != "echo" else ():
        if word.startswith("-"):
            if not _UNDERSTOOD_OPTION.fullmatch(word) or _refused(word, refused):
                return None
        elif name not in _NO_PATHS:
            if (moved and ".." in word.split("/")) or (name in _PRINTS and _GLOB.search(word)):
                return None
            # A glob cannot be resolved; the directory in front of it can.
            found.append(cwd / _GLOB.split(word, maxsplit=1)[0])
    return found


def _refused(option: str, refused: tuple[str, tuple[str, ...]]) -> bool:
    letters, beginnings = refused
    if option.startswith("--"):
        return option.startswith(beginnings) if beginnings else False
    return any(letter in option for letter in letters)
