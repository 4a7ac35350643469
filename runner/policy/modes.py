"""What a mode says about one effect that no rule speaks of. Modes decide inside effects only."""

from __future__ import annotations

from runner.effects import (
    AskUser,
    Decision,
    Effect,
    Mode,
    Place,
    ReadPath,
    Source,
    StopTask,
    Verdict,
    WritePath,
    is_outside,
)
from runner.policy.places import SCRATCH, below, protected

EDITING = frozenset({Mode.ACCEPT_EDITS, Mode.AUTO})
NOT_ASKED = Verdict(
    decision=Decision.DENY,
    source=Source.MODE,
    reason="mode dontAsk: no rule allows it, and nothing is asked in this mode",
)


def by_mode(mode: Mode, effect: Effect | None, place: Place) -> Verdict:  # noqa: PLR0911 (a table, row by row)
    """The mode's own word; `effect` None: a call that does nothing in the box. Of a command only what holds for
    any: whether it is harmless was looked at before.
    """
    if effect is None:
        return verdict(Decision.ALLOW, mode, "no effect")
    if isinstance(effect, AskUser):
        return NOT_ASKED if mode is Mode.DONT_ASK else verdict(Decision.ASK, mode, "only the user can answer it")
    if is_outside(effect):
        if mode is Mode.DONT_ASK:
            return NOT_ASKED
        return verdict(Decision.ASK, mode, "it leaves the box, and no rule allows it")
    if mode is Mode.BYPASS:
        return verdict(Decision.ALLOW, mode, "inside the box")
    if isinstance(effect, StopTask) or (isinstance(effect, ReadPath) and readable(effect, place)):
        return verdict(Decision.ALLOW, mode, "read-only")
    if isinstance(effect, WritePath) and editable(mode, effect, place):
        return verdict(Decision.ALLOW, mode, "an edit below the session's roots")
    return refused(mode, effect, "no rule allows it")


def refused(mode: Mode, effect: Effect, why: str) -> Verdict:
    """What the mode makes of an inside effect that nothing allows: a question, a no, or a case for the classifier."""
    if mode is Mode.DONT_ASK:
        return NOT_ASKED
    if mode is Mode.PLAN and not isinstance(effect, ReadPath):
        return verdict(Decision.DENY, mode, "nothing is changed, and only read-only commands run")
    return verdict(Decision.ASK, mode, why, classify=mode is Mode.AUTO)


def floor(mode: Mode, effect: Effect, why: str, *, bypassed: bool) -> Verdict | None:
    """What no allow rule can lift, for a protected path or a critical removal; None where the mode lets it be."""
    return None if mode is Mode.BYPASS and bypassed else refused(mode, effect, why)


def readable(effect: ReadPath, place: Place) -> bool:
    """Whether every mode reads there unasked."""
    return below(effect, (*place.roots, *SCRATCH))


def editable(mode: Mode, effect: WritePath, place: Place) -> bool:
    """Whether the mode edits there unasked."""
    return mode in EDITING and below(effect, place.roots) and not protected(effect)


def verdict(decision: Decision, mode: Mode, reason: str, *, classify: bool = False) -> Verdict:
    """A verdict of the mode's."""
    return Verdict(decision=decision, source=Source.MODE, reason=f"mode {mode.value}: {reason}", classify=classify)
