"""What a mode says about one effect that no rule speaks of. Modes decide inside effects only."""

from __future__ import annotations

from pathlib import PurePosixPath

from runner.effects import (
    Decision,
    Effect,
    Mode,
    Place,
    ReadPath,
    RunCommand,
    Source,
    StopTask,
    Verdict,
    WritePath,
    is_outside,
)
from runner.policy import shell
from runner.policy.patterns import normal


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


SCRATCH = (PurePosixPath("/tmp"), PurePosixPath("/var/tmp"))  # noqa: S108 (the box's own)
PROTECTED_DIRECTORIES = _names(".git .vscode .idea .husky .cargo .devcontainer .yarn .mvn .claude .github .circleci")
PROTECTED_FILES = _names(
    ".gitconfig .gitmodules .bashrc .bash_profile .bash_login .bash_aliases .bash_logout .zshrc .zprofile .zshenv "
    ".zlogin .zlogout .profile .envrc .npmrc .yarnrc .yarnrc.yml .pnp.cjs .pnp.loader.mjs .pnpmfile.cjs bunfig.toml "
    ".bunfig.toml .bazelrc .bazelversion .bazeliskrc .pre-commit-config.yaml lefthook.yml lefthook.yaml .lefthook.yml "
    ".lefthook.yaml gradle-wrapper.properties maven-wrapper.properties .devcontainer.json .ripgreprc "
    "pyrightconfig.json .mcp.json .claude.json"
)


NOT_ASKED = Verdict(
    decision=Decision.DENY,
    source=Source.MODE,
    reason="mode dontAsk: no rule allows it, and nothing is asked in this mode",
)


def by_mode(mode: Mode, effect: Effect | None, place: Place) -> Verdict:  # noqa: PLR0911 (a table, row by row)
    """The mode's own word; `effect` None: a call that does nothing in the box."""
    if effect is None:
        return _verdict(Decision.ALLOW, mode, "no effect")
    if is_outside(effect):
        if mode is Mode.DONT_ASK:
            return NOT_ASKED
        return _verdict(Decision.ASK, mode, "it leaves the box, and no rule allows it")
    if mode is Mode.BYPASS:
        return _verdict(Decision.ALLOW, mode, "inside the box")
    if _only_reads(effect, place):
        return _verdict(Decision.ALLOW, mode, "read-only")
    if mode is Mode.ACCEPT_EDITS and isinstance(effect, WritePath) and _ordinary(effect, place):
        return _verdict(Decision.ALLOW, mode, "an edit below the session's roots")
    if mode is Mode.DONT_ASK:
        return NOT_ASKED
    if mode is Mode.PLAN and not isinstance(effect, ReadPath):
        return _verdict(Decision.DENY, mode, "nothing is changed, and only read-only commands run")
    return _verdict(Decision.ASK, mode, "no rule allows it")


def _verdict(decision: Decision, mode: Mode, reason: str) -> Verdict:
    return Verdict(decision=decision, source=Source.MODE, reason=f"mode {mode.value}: {reason}")


def _only_reads(effect: Effect, place: Place) -> bool:
    match effect:
        case ReadPath():
            return _below(effect, (*place.roots, *SCRATCH))
        case RunCommand(command=command, cwd=cwd, background=background):
            return not background and shell.reads(command, cwd) is not None
        case StopTask():
            return True
        case _:
            return False


def _below(effect: ReadPath | WritePath, places: tuple[PurePosixPath, ...]) -> bool:
    """Whether link and target both lie in one of the places."""
    paths = (PurePosixPath(normal(path or effect.path)) for path in (effect.link, effect.target))
    return all(any(path.is_relative_to(place) for place in places) for path in paths)


def _ordinary(effect: WritePath, place: Place) -> bool:
    """Below the roots, and nothing that a program later executes or obeys."""
    if not _below(effect, place.roots):
        return False
    for path in (effect.link or effect.path, effect.target or effect.path):
        if path.name in PROTECTED_FILES or not PROTECTED_DIRECTORIES.isdisjoint(path.parts):
            return False
    return True
