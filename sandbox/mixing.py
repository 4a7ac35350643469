"""The content of a step that is put together from both sides: chosen runs of lines, and three-way merges."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, replace

from sandbox.bases import Bases
from sandbox.changes import Base
from sandbox.dataclass import dataclass
from sandbox.diff import Sides
from sandbox.gitpatch import split_lines
from sandbox.linediff import changed_spans
from sandbox.merge import merge
from sandbox.selection import Action, PlanError, Remark, Selection, Step, remark
from sandbox.trees import Tree, content

MERGED_BYTES = 8 << 20


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
        against = drifted.get(change.path)
        if numbers is None and against is None:
            mixed.steps.append(step)
        elif change.path not in seen:
            seen.add(change.path)
            _mix_one(mixed, step, numbers, against, selection=selection, sides=sides, host=host, bases=bases)
    return mixed


def _mix_one(
    mixed: Mixed,
    step: Step,
    numbers: frozenset[int] | None,
    against: Remark | None,
    *,
    selection: Selection,
    sides: Sides,
    host: Tree,
    bases: Bases,
) -> None:
    change = step.change
    if against is not None and not selection.merge:
        mixed.conflicts.append(against)
        return
    base, box = sides.texts(change)
    simple = step.action is Action.WRITE and change.old is not None and change.old.is_file
    known = change.base is not Base.UNKNOWN and box is not None and (base is not None or change.base is Base.ABSENT)
    if not simple or not known or box is None:
        why = against.why if against else "has no lines to choose from"
        mixed.conflicts.append(remark(change, why if known else f"{why}: cannot be merged"))
        return
    mine = content(host, step.path, MERGED_BYTES + 1)
    if b"\0" in (base or b"") + box + mine or len(mine) > MERGED_BYTES:
        mixed.conflicts.append(remark(change, "is binary or too large to be merged"))
        return
    taken = box if numbers is None else chosen_lines(base or b"", box, numbers)
    if against is None:
        mixed.steps.append(replace(step, content=taken))
        return
    found = merge(base or b"", mine, taken)
    if found.conflicts and not selection.markers:
        places = f"{found.conflicts} place{'s' if found.conflicts > 1 else ''}"
        mixed.conflicts.append(remark(change, f"host and box changed the same lines in {places}"))
        return
    assert change.new is not None
    assert change.old is not None
    was = bases.stored_mode(change.path) if change.base is Base.STORED else change.old.mode
    mode = change.old.mode if change.new.mode == was else change.new.mode
    mixed.steps.append(replace(step, content=found.text, mode=mode, taken=taken))
    marked = f" with {found.conflicts} conflict{'s' * (found.conflicts > 1)} marked in it" if found.conflicts else ""
    mixed.merged.append(remark(change, f"merged with what the host changed{marked}"))


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
