"""What an exit code of 1 means for commands that say "no" with it, and are not failing. Pure."""

from __future__ import annotations

import shlex

_NO_MATCH = "No matches found"
_MEANINGS = {
    **dict.fromkeys(("grep", "egrep", "fgrep", "zgrep", "rg", "ag", "pgrep"), _NO_MATCH),
    "find": "Some directories were inaccessible",
    "diff": "Files differ",
    "cmp": "Files differ",
    "test": "Condition is false",
    "[": "Condition is false",
    "[[": "Condition is false",
}
_GIT = {"diff": "Files differ", "grep": _NO_MATCH}
_SEPARATORS = {"&&", "||", ";", "|", "|&", "&", ";;"}
_PREFIXES = {"command", "builtin", "time", "nice", "nohup", "!"}


def interpretation(command: str, code: int) -> str:
    """The sentence for exit code 1 of the line's last command, "" where 1 is an ordinary failure."""
    if code != 1:
        return ""
    words = _last_command(command)
    while words and (words[0] in _PREFIXES or _is_assignment(words[0])):
        words = words[1:]
    if not words:
        return ""
    name = words[0].rsplit("/", 1)[-1]
    if name == "git":
        return _GIT.get(_git_verb(words[1:]), "")
    return _MEANINGS.get(name, "")


def _last_command(command: str) -> list[str]:
    lexer = shlex.shlex(command.strip().replace("\n", " ; "), posix=True, punctuation_chars="();|&")
    lexer.whitespace_split = True
    lexer.commenters = ""
    try:
        tokens = list(lexer)
    except ValueError:
        return []
    while tokens and tokens[-1] in _SEPARATORS:
        tokens.pop()
    words: list[str] = []
    depth = 0
    for token in tokens:
        if set(token) <= set("()"):
            depth += token.count("(") - token.count(")")
        if token in _SEPARATORS and depth == 0:
            words = []
        else:
            words.append(token)
    return words


def _is_assignment(word: str) -> bool:
    name, equals, _ = word.partition("=")
    return bool(equals) and name.isidentifier()


def _git_verb(words: list[str]) -> str:
    """The sub-command after git's own options."""
    rest = iter(words)
    for word in rest:
        if word in {"-C", "-c", "--git-dir", "--work-tree"}:
            next(rest, None)
        elif not word.startswith("-"):
            return word
    return ""
