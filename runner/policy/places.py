"""Which paths count: those below a place, protected ones (what programs later execute or obey) and those whose
removal is critical. Paths that a command names become absolute here, for every directory it may run in.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from pathlib import PurePosixPath

from runner.effects import Place, ReadPath, WritePath
from runner.policy.patterns import folded, normal
from runner.policy.runs import base
from runner.policy.words import Simple, Word, names

SCRATCH = (PurePosixPath("/tmp"), PurePosixPath("/var/tmp"))  # noqa: S108 (the box's own)
PROTECTED_DIRECTORIES = names(".git .vscode .idea .husky .cargo .devcontainer .yarn .mvn .claude .github .circleci")
PROTECTED_FILES = names(
    ".gitconfig .gitmodules .bashrc .bash_profile .bash_login .bash_aliases .bash_logout .zshrc .zprofile .zshenv "
    ".zlogin .zlogout .profile .envrc .npmrc .yarnrc .yarnrc.yml .pnp.cjs .pnp.loader.mjs .pnpmfile.cjs bunfig.toml "
    ".bunfig.toml .bazelrc .bazelversion .bazeliskrc .pre-commit-config.yaml lefthook.yml lefthook.yaml .lefthook.yml "
    ".lefthook.yaml gradle-wrapper.properties maven-wrapper.properties .devcontainer.json .ripgreprc "
    "pyrightconfig.json .mcp.json .claude.json fumehood.yaml"
)
MOST_MOVES = 3
_ALL = re.compile(r"[.*?]+")
_BELOW_VARIABLE = re.compile(r"\"?\$(?:\w+|\{\w+\})\"?/+(?:[.*?]*)\"?")


def below(effect: ReadPath | WritePath, places: Iterable[PurePosixPath]) -> bool:
    """Whether link and target both lie in one of the places."""
    known = [str(place).rstrip("/") for place in places]
    for path in {effect.link or effect.path, effect.target or effect.path}:
        text = normal(path)
        if not any(text == place or text.startswith(place + "/") for place in known):
            return False
    return True


def protected(effect: WritePath) -> bool:
    """Whether a program later executes or obeys what is written there. Case does not count."""
    for path in {effect.path, effect.link or effect.path, effect.target or effect.path}:
        parts = folded(normal(path)).split("/")
        if parts[-1] in PROTECTED_FILES:
            return True
        if PROTECTED_DIRECTORIES.isdisjoint(parts) and "git" not in parts:
            continue
        for at, part in enumerate(parts):
            if part == ".claude" and parts[at + 1 : at + 2] == ["worktrees"] and len(parts) > at + 2:
                continue
            if part in PROTECTED_DIRECTORIES or (part == "git" and parts[at - 1] == ".config"):
                return True
    return False


@lru_cache(maxsize=512)
def absolute(text: str, cwd: PurePosixPath, home: PurePosixPath, moves: tuple[Word, ...]) -> tuple[PurePosixPath, ...]:
    """Where a path of a command may lead: from cwd, and from every directory that a `cd` before it may have led to.
    Empty when that cannot be told.
    """
    if "\0" in text or (text.startswith("~") and text != "~" and not text.startswith("~/")):
        return ()
    if text == "~" or text.startswith("~/"):
        return (home / text[2:],)
    if text.startswith("/"):
        return (PurePosixPath(text),)
    if len(moves) > MOST_MOVES or (moves and ".." in text.split("/")):
        return ()
    places = [cwd]
    for move in moves:
        if move.value is None or move.glob or move.value.startswith("-"):
            return ()
        value = move.value if move.source.startswith("~") or not move.value.startswith("~") else f"./{move.value}"
        for place in tuple(places):
            places += absolute(value, place, home, ()) or (PurePosixPath("/"),)
    return tuple(dict.fromkeys(place / text for place in places))


def critical(simples: Iterable[Simple], cwd: PurePosixPath, place: Place) -> str:
    """The operand of an `rm` or `rmdir` whose loss would be the loss of everything; "" when there is none."""
    kept = {cwd, place.home, *place.roots}
    above = kept.union(*(path.parents for path in kept))
    for simple in simples:
        if not simple.words or base(simple.words[0]) not in {"rm", "rmdir"}:
            continue
        for word in simple.words[1:]:
            if word.value is None:
                if _BELOW_VARIABLE.fullmatch(word.source):
                    return word.source
                continue
            if word.value.startswith("-"):
                continue
            where = cwd
            for move in simple.moves:
                where = next(iter(absolute(move.value or ".", where, place.home, ())), where)
            for path in absolute(word.value, where, place.home, ()):
                if _is_critical(PurePosixPath(normal(path)), above):
                    return word.source
    return ""


def _is_critical(path: PurePosixPath, above: set[PurePosixPath]) -> bool:
    if len(path.parts) <= 2 or path in above:
        return True
    return _ALL.fullmatch(path.name) is not None and path.parent in above
