"""What an apply would do to a root of the host: which changes, in which order, and what stands against it."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from sandbox.bases import Bases
from sandbox.changes import Base, Change, Kind
from sandbox.diff import Sides
from sandbox.errors import SandboxError
from sandbox.gitpatch import split_lines
from sandbox.held import HeldBack
from sandbox.linediff import changed_spans
from sandbox.merge import merge
from sandbox.trees import Entry, Tree, content

MERGED_BYTES = 8 << 20


class Action(StrEnum):
    """One step on the host, in the order in which steps are taken."""

    DELETE = "delete"
    RMDIR = "rmdir"
    MKDIR = "mkdir"
    WRITE = "write"
    LINK = "link"
    CHMOD = "chmod"


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What to apply. `paths`: (root, path) pairs, each with all beneath it; None: everything. `held`:
    what is held back too. `hunks`: of these files, only these runs of changed lines (by number, from 0).
    Where host and box both changed a path: `force` takes the box's, `ours` leaves the host's, `merge`
    joins their lines and, with `markers`, writes conflict markers where that is no way; else it is refused.
    """

    paths: tuple[tuple[str, str], ...] | None = None
    held: bool = False
    force: bool = False
    ours: bool = False
    merge: bool = False
    markers: bool = False
    hunks: Mapping[tuple[str, str], frozenset[int]] = field(default_factory=dict)

    def takes(self, change: Change) -> bool:
        """Whether the change is selected."""
        return self.paths is None or any(
            root == change.root and _beneath(change.path, path) for root, path in self.paths
        )

    def names(self, change: Change, held: HeldBack) -> bool:
        """Whether a change that is held back was asked for by name: itself, or a held directory above it."""
        if self.held:
            return True
        return any(
            root == change.root
            and (path == change.path or (_beneath(change.path, path) and any(r.matches(path) for r in held.held)))
            for root, path in self.paths or ()
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Remark:
    """A path and what is to be said of it."""

    root: str
    path: str
    why: str


class ApplyConflictError(SandboxError):
    """An apply would lose what the host changed. Nothing was written."""

    exit_code = 53

    def __init__(
        self,
        conflicts: Sequence[Remark],
        *,
        hint: str = "merge with --3way, take the box's with --theirs, keep the host's with --ours, or name other paths",
    ) -> None:
        first = conflicts[0]
        more = f" (and {len(conflicts) - 1} more)" if len(conflicts) > 1 else ""
        super().__init__(
            f"{os.fsencode(first.path).decode('utf-8', 'backslashreplace')}: {first.why}{more}",
            hint=hint,
        )
        self.conflicts = tuple(conflicts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step. `expect`: the host's entry as it was seen (None: nothing there). `content` and `mode`, where
    they are not the layer's own; `taken`: what of the box is in it, when both sides' changes are.
    """

    action: Action
    change: Change
    expect: Entry | None
    content: bytes | None = None
    mode: int | None = None
    taken: bytes | None = None

    @property
    def path(self) -> bytes:
        """Relative to the root."""
        return os.fsencode(self.change.path)


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
    chosen: list[Change] = []
    held_back, dropped, pointed_out = [], [], []
    in_git: Counter[str] = Counter()
    for change in changes:
        if not selection.takes(change):
            continue
        why = held.why(change, sides.texts) or leaves(change, upper)
        if change.special:
            dropped.append(_remark(change, f"a {change.special} is never applied"))
        elif why and not selection.names(change, held):
            if change.in_git:
                in_git[_git_of(change.path)] += 1
            else:
                held_back.append(_remark(change, why))
        else:
            chosen.append(change)
            if remark := held.remark(change):
                pointed_out.append(_remark(change, remark))
            if change.new and change.new.is_file and change.new.links > 1:
                pointed_out.append(_remark(change, "its hard links become files of their own"))
    root = changes[0].root if changes else ""
    held_back += [Remark(root=root, path=git, why=f"git obeys it ({n} paths)") for git, n in in_git.items()]
    chosen = _with_parents(chosen, changes)
    drifted = [] if selection.force else _drifted(chosen, host, bases)
    kept: list[Remark] = []
    if selection.ours:
        kept, drifted = [Remark(root=r.root, path=r.path, why=f"{r.why}; it stays") for r in drifted], []
        chosen = [change for change in chosen if change.path not in {remark.path for remark in kept}]
    steps = _steps(chosen, host)
    mixed = mix(
        steps, selection, drifted={remark.path: remark for remark in drifted}, sides=sides, host=host, bases=bases
    )
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


@dataclass(slots=True)
class Mixed:
    """Steps whose content is put together from both sides, and what could not be."""

    steps: list[Step]
    merged: list[Remark] = field(default_factory=list)
    conflicts: list[Remark] = field(default_factory=list)


def mix(
    steps: list[Step], selection: Selection, *, drifted: Mapping[str, Remark], sides: Sides, host: Tree, bases: Bases
) -> Mixed:
    """Fill in the content of steps of which only some lines are wanted, or that the host changed too."""
    mixed = Mixed(steps=[])
    seen: set[str] = set()
    for step in steps:
        change, numbers = step.change, selection.hunks.get((step.change.root, step.change.path))
        remark = drifted.get(change.path)
        if numbers is None and remark is None:
            mixed.steps.append(step)
        elif change.path not in seen:
            seen.add(change.path)
            _mix_one(mixed, step, numbers, remark, selection=selection, sides=sides, host=host, bases=bases)
    return mixed


def _mix_one(
    mixed: Mixed,
    step: Step,
    numbers: frozenset[int] | None,
    remark: Remark | None,
    *,
    selection: Selection,
    sides: Sides,
    host: Tree,
    bases: Bases,
) -> None:
    change = step.change
    if remark is not None and not selection.merge:
        mixed.conflicts.append(remark)
        return
    base, box = sides.texts(change)
    simple = step.action is Action.WRITE and change.old is not None and change.old.is_file
    known = change.base is not Base.UNKNOWN and box is not None and (base is not None or change.base is Base.ABSENT)
    if not simple or not known or box is None:
        why = remark.why if remark else "has no lines to choose from"
        mixed.conflicts.append(_remark(change, why if known else f"{why}: cannot be merged"))
        return
    mine = content(host, step.path, MERGED_BYTES + 1)
    if b"\0" in (base or b"") + box + mine or len(mine) > MERGED_BYTES:
        mixed.conflicts.append(_remark(change, "is binary or too large to be merged"))
        return
    taken = box if numbers is None else chosen_lines(base or b"", box, numbers)
    if remark is None:
        mixed.steps.append(replace(step, content=taken))
        return
    found = merge(base or b"", mine, taken)
    if found.conflicts and not selection.markers:
        places = f"{found.conflicts} place{'s' if found.conflicts > 1 else ''}"
        mixed.conflicts.append(_remark(change, f"host and box changed the same lines in {places}"))
        return
    assert change.new is not None
    assert change.old is not None
    was = bases.stored_mode(change.path) if change.base is Base.STORED else change.old.mode
    mode = change.old.mode if change.new.mode == was else change.new.mode
    mixed.steps.append(replace(step, content=found.text, mode=mode, taken=taken))
    marked = f" with {found.conflicts} conflicts marked in it" if found.conflicts else ""
    mixed.merged.append(_remark(change, f"merged with what the host changed{marked}"))


def chosen_lines(old: bytes, new: bytes, numbers: frozenset[int]) -> bytes:
    """The old text with only these of the new one's runs of changed lines. Raises PlanError for a number
    that there is not.
    """
    a, b = split_lines(old), split_lines(new)
    spans = changed_spans(a, b)
    if not numbers <= set(range(len(spans))):
        raise PlanError(f"there are only {len(spans)} runs of changed lines", hint="see them with `fumehood diff`")
    out: list[bytes] = []
    at = 0
    for number, (a0, a1, b0, b1) in enumerate(spans):
        out += a[at:a0] + (b[b0:b1] if number in numbers else a[a0:a1])
        at = a1
    return b"".join(out + a[at:])


class PlanError(SandboxError):
    """What was asked for is not there to be applied."""

    exit_code = 55


def _remark(change: Change, why: str) -> Remark:
    return Remark(root=change.root, path=change.path, why=why)


def _git_of(path: str) -> str:
    """The git directory that a path lies in ("." for a root that is one itself)."""
    parts = path.split("/")
    return "/".join(parts[: parts.index(".git") + 1]) if ".git" in parts else "."


def _beneath(path: str, above: str) -> bool:
    return above in ("", ".") or path == above or path.startswith(above.rstrip("/") + "/")


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
        found.append(_remark(change, why))
    return found


def _blocked(steps: list[Step], host: Tree) -> list[Remark]:
    """Directories that must go but cannot, and parents that are links or files on the host."""
    going = {step.path for step in steps if step.action in (Action.DELETE, Action.RMDIR)}
    coming = {step.path for step in steps if step.action is Action.MKDIR}
    found = []
    for step in steps:
        if step.action is Action.RMDIR and {entry.path for entry in host.scan(step.path)} - going:
            found.append(_remark(step.change, "on the host this directory holds more than what is applied"))
        parent = step.path.rpartition(b"/")[0]
        if not parent or parent in coming or step.action in (Action.DELETE, Action.RMDIR):
            continue
        entry = host.stat(parent)
        if entry is None or not entry.is_directory:
            found.append(_remark(step.change, "its directory is gone, or is something else, on the host"))
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
            found.append(_remark(step.change, f"equals {os.fsdecode(other)!r} but for case or Unicode form"))
    return found


def _folded(path: bytes) -> str:
    return unicodedata.normalize("NFC", os.fsdecode(path).casefold())
