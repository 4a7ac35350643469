"""What an apply would do to a root of the host: which changes, in which order, and what stands against it."""

from __future__ import annotations

import os
import stat
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

from sandbox.bases import Bases
from sandbox.changes import Base, Change, Kind
from sandbox.dataclass import dataclass
from sandbox.diff import Sides
from sandbox.held import HeldBack
from sandbox.mixing import mix
from sandbox.selection import Action, Remark, Selection, Step, remark
from sandbox.trees import Tree

_SPECIAL_BITS = stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The steps for one root, in order, and all that was left out or deserves a word."""

    steps: tuple[Step, ...]
    held_back: tuple[Remark, ...] = ()
    dropped: tuple[Remark, ...] = ()
    pointed_out: tuple[Remark, ...] = ()
    merged: tuple[Remark, ...] = ()
    kept: tuple[Remark, ...] = ()
    conflicts: tuple[Remark, ...] = ()


def make_plan(
    changes: Sequence[Change], selection: Selection, *, upper: Tree, host: Tree, bases: Bases, held: HeldBack
) -> Plan:
    """Plan the selected changes of one root. Reads, never writes."""
    sides = Sides(upper, host, bases)
    chosen, held_back, dropped, pointed_out = _choose(changes, selection, sides, upper, held)
    chosen = _with_parents(chosen, changes)
    drifted = [] if selection.force else _drifted(chosen, host, bases)
    kept: list[Remark] = []
    if selection.ours:
        kept, drifted = [Remark(root=r.root, path=r.path, why=f"{r.why}; it stays") for r in drifted], []
        chosen = [change for change in chosen if change.path not in {each.path for each in kept}]
    steps = _steps(chosen, host)
    mixed = mix(steps, selection, drifted={each.path: each for each in drifted}, sides=sides, host=host, bases=bases)
    steps, conflicts = mixed.steps, mixed.conflicts + _blocked(mixed.steps, host)
    if not selection.force:
        conflicts += _collisions(steps, host)
    return Plan(
        steps=tuple(steps),
        held_back=tuple(held_back),
        dropped=tuple(dropped),
        pointed_out=tuple(pointed_out),
        merged=tuple(mixed.merged),
        kept=tuple(kept),
        conflicts=tuple(conflicts),
    )


def _choose(
    changes: Sequence[Change], selection: Selection, sides: Sides, upper: Tree, held: HeldBack
) -> tuple[list[Change], list[Remark], list[Remark], list[Remark]]:
    """The changes that are wanted; what is held back, dropped, and pointed out."""
    chosen: list[Change] = []
    held_back, dropped, pointed_out = [], [], []
    in_git: Counter[str] = Counter()
    for change in changes:
        if not selection.takes(change):
            continue
        why = held.why(change, sides.texts) or leaves(change, upper)
        if never := _never(change):
            dropped.append(remark(change, never))
        elif not why or selection.names(change, held):
            chosen.append(change)
            pointed_out += [remark(change, word) for word in (held.remark(change), *_left_behind(change)) if word]
        elif change.in_git:
            in_git[_git_of(change.path)] += 1
        else:
            held_back.append(remark(change, why))
    root = changes[0].root if changes else ""
    held_back += [Remark(root=root, path=git, why=f"git obeys it ({n} paths)") for git, n in in_git.items()]
    return chosen, held_back, dropped, pointed_out


def _never(change: Change) -> str:
    """Why a change is applied in no case, or "". What an apply left behind is no step of the next one."""
    if change.special:
        return f"a {change.special} is never applied"
    if change.kind is Kind.MODE and change.old is not None and change.new is not None:
        other = change.old.mode ^ change.new.mode
        return "" if other & ~_SPECIAL_BITS else "setuid, setgid and sticky bits are never applied"
    return ""


def _left_behind(change: Change) -> list[str]:
    """What of a file does not come over."""
    new = change.new
    if new is None or not new.is_file:
        return []
    special = ["its setuid, setgid and sticky bits are left behind"] if new.mode & _SPECIAL_BITS else []
    return special + (["its hard links become files of their own"] if new.links > 1 else [])


def _git_of(path: str) -> str:
    """The git directory that a path lies in ("." for a root that is one itself)."""
    parts = path.split("/")
    return "/".join(parts[: parts.index(".git") + 1]) if ".git" in parts else "."


def leaves(change: Change, upper: Tree) -> str:
    """Why a link is held back: a program that follows it later would leave the root."""
    if change.new is None or not change.new.is_link:
        return ""
    target = os.fsdecode(upper.readlink(os.fsencode(change.path)))
    depth = change.path.count("/")
    for part in target.split("/"):
        depth += -1 if part == ".." else part not in ("", ".")
        if depth < 0 or target.startswith("/"):
            return f"a link that leaves the repository, to {target!r}"
    return ""


def _with_parents(chosen: Iterable[Change], changes: Sequence[Change]) -> list[Change]:
    """With the new directories above what was chosen, and what stands in their place. In path order."""
    by_path = {change.path: change for change in changes}
    wanted = {change.path: change for change in chosen}
    for path in list(wanted):
        above = path.rpartition("/")[0]
        while above:
            parent = by_path.get(above)
            if parent and parent.new and parent.new.is_directory and parent.kind in (Kind.ADDED, Kind.TYPE):
                wanted.setdefault(above, parent)
            above = above.rpartition("/")[0]
    return sorted(wanted.values(), key=lambda change: os.fsencode(change.path))


def _steps(chosen: list[Change], host: Tree) -> list[Step]:
    by_action: dict[Action, list[Step]] = {action: [] for action in Action}

    def add(action: Action, change: Change) -> None:
        by_action[action].append(Step(action=action, change=change, expect=host.stat(os.fsencode(change.path))))

    for change in chosen:
        now = host.stat(os.fsencode(change.path))
        if now is not None and (change.new is None or change.new.is_directory != now.is_directory):
            add(Action.RMDIR if now.is_directory else Action.DELETE, change)
        if change.new is None:
            continue
        if change.new.is_link:
            add(Action.LINK, change)
        elif change.new.is_file:
            same_content = change.kind is Kind.MODE and change.base is Base.HOST
            add(Action.CHMOD if same_content else Action.WRITE, change)
        elif change.new.is_directory:
            add(Action.CHMOD if now is not None and now.is_directory else Action.MKDIR, change)
    for action in (Action.DELETE, Action.RMDIR, Action.CHMOD):
        by_action[action].reverse()
    by_action[Action.RMDIR] = _emptied(by_action[Action.RMDIR], by_action[Action.DELETE], host)
    return [step for action in Action for step in by_action[action]]


def _emptied(rmdirs: list[Step], deletes: list[Step], host: Tree) -> list[Step]:
    """Without the directories that still hold something: what was held back or not chosen. Where a
    file is to take a directory's place the step stays, and fails the plan as blocked.
    """
    going = {step.path for step in deletes}
    kept = []
    for step in rmdirs:
        holds = {entry.path for entry in host.scan(step.path)} - going
        if not holds or step.change.new is not None:
            kept.append(step)
            going.add(step.path)
    return kept


def _drifted(chosen: list[Change], host: Tree, bases: Bases) -> list[Remark]:
    found = []
    for change in chosen:
        if not change.drifted:
            continue
        if change.base is Base.STORED and bases.still_holds(change.path, host):
            continue
        both = change.new is not None and change.new.is_directory and change.old is not None and change.old.is_directory
        if both:
            continue
        why = {
            Base.ABSENT: "made on the host too since the session began",
            Base.UNKNOWN: "changed on the host before its old content was kept",
        }.get(change.base, "changed on the host since the session began")
        found.append(remark(change, why))
    return found


def _blocked(steps: list[Step], host: Tree) -> list[Remark]:
    """Directories that must go but cannot, and parents that are links or files on the host."""
    going = {step.path for step in steps if step.action in (Action.DELETE, Action.RMDIR)}
    coming = {step.path for step in steps if step.action is Action.MKDIR}
    found = []
    for step in steps:
        if step.action is Action.RMDIR and {entry.path for entry in host.scan(step.path)} - going:
            found.append(remark(step.change, "on the host this directory holds more than what is applied"))
        parent = step.path.rpartition(b"/")[0]
        if not parent or parent in coming or step.action in (Action.DELETE, Action.RMDIR):
            continue
        entry = host.stat(parent)
        if entry is None or not entry.is_directory:
            found.append(remark(step.change, "its directory is gone, or is something else, on the host"))
    return found


def _collisions(steps: list[Step], host: Tree) -> list[Remark]:
    """New names that equal another after case folding or Unicode composition: on some file systems
    the one would overwrite the other.
    """
    going = {step.path for step in steps if step.action in (Action.DELETE, Action.RMDIR)}
    names: dict[bytes, dict[str, bytes]] = {}
    found = []
    for step in steps:
        if step.action not in (Action.MKDIR, Action.WRITE, Action.LINK) or step.expect is not None:
            continue
        parent = step.path.rpartition(b"/")[0]
        if parent not in names:
            here = host.stat(parent)
            entries = host.scan(parent) if here is not None and here.is_directory else []
            names[parent] = {_folded(e.path): e.path for e in entries if e.path not in going}
        other = names[parent].setdefault(_folded(step.path), step.path)
        if other != step.path:
            found.append(remark(step.change, f"equals {os.fsdecode(other)!r} but for case or Unicode form"))
    return found


def _folded(path: bytes) -> str:
    return unicodedata.normalize("NFC", os.fsdecode(path).casefold())
