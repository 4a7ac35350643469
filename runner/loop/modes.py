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


@dataclass(frozen=True, slots=True, kw_only=True)
class Changed:
    """A settings file that is another one by now. `source`: as ConfigChange hooks are told; `file`: its absolute path
    on the host.
    """

    source: str
    file: str


class Change(Protocol):
    """Another policy from here on. `problem`: why nothing goes on. `event`: None where nothing of it is another.
    `files`: what the hooks are told, where there are any; `settle` takes their answer, the paths of the files that
    are not to count, with the mode and the model, and gives the policy after it.
    """

    @property
    def policy(self) -> Policy:
        """In force from here on."""
        ...

    @property
    def event(self) -> PolicyLoaded | None:
        """What is recorded of it."""
        ...

    @property
    def files(self) -> tuple[Changed, ...]:
        """Those that hooks are told of."""
        ...

    @property
    def settle(self) -> Callable[[frozenset[str], Mode, str], Change | None] | None:
        """None where nobody's answer counts."""
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
        self._settle: Callable[[frozenset[str], Mode, str], Change | None] | None = None

    def look(self, model: str, *, ends: bool = True) -> tuple[Changed, ...]:
        """Before each request to the model and (`ends` False) each round of calls. Raises what makes the turn the
        last one for now; without `ends` the calls are judged by it first, and all are denied. What hooks are to be
        told, before `settle`.
        """
        change = self._look(self.policy.mode, model) if self._look is not None else None
        self._settle = change.settle if change is not None else None
        return self._take(change, ends=ends)

    def settle(self, declined: frozenset[str], model: str, *, ends: bool = True) -> None:
        """What hooks said to the files that `look` gave: the paths of those that they declined. Raises as `look`."""
        settle, self._settle = self._settle, None
        if settle is not None:
            self._take(settle(declined, self.policy.mode, model), ends=ends)

    def _take(self, change: Change | None, *, ends: bool) -> tuple[Changed, ...]:
        if change is None:
            return ()
        self.enforce(change)
        if change.problem is not None and ends:
            raise change.problem
        return change.files

    def enforce(self, change: Change) -> None:
        """Another policy from the next decision on, told once."""
        if change.event is not None and (change.policy.digest != self.policy.digest or change.problem is None):
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
