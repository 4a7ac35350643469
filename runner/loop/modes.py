"""The policy of a session while it runs: its mode is changed by a client or by the tools for mode plan, its rules by
an "always" of the user's, all of it by settings that changed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from runner.dataclass import dataclass
from runner.effects import Mode
from runner.errors import FumehoodError
from runner.events import ModeChanged, PolicyLoaded
from runner.policy.policy import Policy


class Change(Protocol):
    """Another policy from here on. `problem`: why nothing goes on."""

    @property
    def policy(self) -> Policy:
        """In force from here on."""
        ...

    @property
    def event(self) -> PolicyLoaded:
        """What is recorded of it."""
        ...

    @property
    def problem(self) -> FumehoodError | None:
        """None where everything goes on."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Remember:
    """Where an "always" goes: `keep(policy, rule)` gives the policy with it; `file` is shown to the user."""

    keep: Callable[[Policy, str], Policy]
    file: str


class Modes:
    """Holds the policy in force. `before`: the mode to which the end of mode plan leads back. `look` tells
    by mode and model what changed of the policy.
    """

    def __init__(
        self,
        policy: Policy,
        record: Callable[[ModeChanged | PolicyLoaded], object],
        *,
        look: Callable[[Mode, str], Change | None] | None = None,
        remember: Remember | None = None,
    ) -> None:
        self.policy = policy
        self.before = Mode.DEFAULT
        self._record, self._look, self._remember = record, look, remember

    def look(self, model: str, *, ends: bool = True) -> None:
        """Before each request to the model and (`ends` False) each round of calls. Raises what makes the turn the
        last one for now; without `ends` the calls are judged by it first, and all are denied.
        """
        change = self._look(self.policy.mode, model) if self._look is not None else None
        if change is None:
            return
        self.enforce(change)
        if change.problem is not None and ends:
            raise change.problem

    def enforce(self, change: Change) -> None:
        """Another policy from the next decision on, told once."""
        if change.policy.digest != self.policy.digest or change.problem is None:
            self._record(change.event)
        self.policy = change.policy

    @property
    def kept(self) -> str:
        """The file that an "always" is written to."""
        return self._remember.file if self._remember is not None else ""

    def keep(self, rule: str) -> None:
        """Allow a rule for always, at the user's word. Raises LockedError."""
        if self._remember is not None:
            self.policy = self._remember.keep(self.policy, rule)

    def change(self, mode: Mode, source: str) -> None:
        """From the next decision on. Raises UsageError for a mode that is locked."""
        if mode is Mode.PLAN and self.policy.mode is not Mode.PLAN:
            self.before = self.policy.mode
        self.policy = self.policy.with_mode(mode)
        self._record(ModeChanged(mode=mode.value, source=source))

    def enter(self) -> bool:
        """Mode plan; False when it is in force already."""
        if self.policy.mode is Mode.PLAN:
            return False
        self.change(Mode.PLAN, "EnterPlanMode")
        return True

    def leave(self) -> str:
        """The user approved a plan: the mode before, by its name; "" when mode plan is not in force."""
        if self.policy.mode is not Mode.PLAN:
            return ""
        self.change(self.before, "ExitPlanMode")
        return self.before.value
