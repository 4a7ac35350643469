"""The loose reading of a shell command: every text that it might run in any reading, far too many rather than
too few. Deny and ask rules look at all of it where `runner.policy.shell` does not understand the whole.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from functools import lru_cache

from runner.policy.words import names

PEELED = 16
MOST = 20_000
_LINE_ENDS = re.compile(r"\|\||&&|\|&|[;&|\n(){}`]|\$\(|<\(|>\(")
_QUOTES = re.compile(r"['\"]")
_QUOTING = re.compile(r"['\"\\]")
_LEADING = re.compile(r"(?:[A-Za-z_]\w*\+?=(?:'[^']*'|\"[^\"]*\"|[^\s'\"]++)*+|[<>]+&?\s*\S+|\d*[<>]+\S*)\s+")
_ANSI = re.compile(r"\$(['\"])")
_BRACES = re.compile(r"\{([^{}\s]*,[^{}\s]*)\}")
_BLANKS = re.compile(r"\s+")
_SEPARATORS = re.compile(r"[\s;&|<>(){}`'\"=,:]+")
# Words that run what follows them; peeled off one by one so that deny rules see what is run.
_WRAPPERS = names(
    "time nice nohup stdbuf timeout command builtin noglob nocorrect exec env sudo doas su watch setsid ionice flock "
    "xargs parallel chroot unshare nsenter script strace ltrace gdb busybox toybox then do else if elif while until ! "
    "eval coproc chrt taskset runuser pkexec systemd-run"
)
_INTERPRETERS = re.compile(
    r"(?:^|[\s/;&|(])(?:ba|da|z|k|a|fi)?sh\b|\b(?:eval|ssh|su|python[\d.]*|perl|ruby|node|awk|xargs|parallel|watch|emacs\w*|julia|guile|tclsh|pwsh|php|lua|psql|mysql|sqlite3|fzf)\b"
)


@lru_cache(maxsize=64)
def fragments(command: str) -> tuple[str, ...]:
    """The whole, the pieces between operators (and between quotes where an interpreter takes part), each also
    without leading assignments and wrappers, without quotes and backslashes, and by the base name of its
    command. Runs of white space are one space.
    """
    flat = command.replace("\\\n", "").replace("${IFS}", " ").replace("$IFS", " ")
    flat = _ANSI.sub(r"\1", flat)
    spread = _BRACES.sub(lambda found: found[1].replace(",", " "), flat)
    pieces = dict.fromkeys((flat, spread, *_LINE_ENDS.split(flat)))
    if _INTERPRETERS.search(flat):
        pieces |= dict.fromkeys(piece for part in _QUOTES.split(flat) for piece in _LINE_ENDS.split(part))
    found: dict[str, None] = {}
    for piece in pieces:
        for text in dict.fromkeys((piece, _QUOTING.sub("", piece))):
            for form in _peeled(_BLANKS.sub(" ", text).strip()):
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


@lru_cache(maxsize=64)
def words(command: str) -> tuple[str, ...]:
    """Every word that might name a path."""
    found = dict.fromkeys(_SEPARATORS.split(command.replace("\\", "")))
    if _QUOTING.search(command) is not None:
        found |= dict.fromkeys(_SEPARATORS.split(_QUOTING.sub("", command)))
    return tuple(word for word in found if word)
