"""The permission mode of a session while it runs: changed by a client, or by the tools for mode plan."""

from __future__ import annotations

from collections.abc import Callable

from runner.effects import Mode
from runner.events import ModeChanged
from runner.policy.policy import Policy


class Modes:
    """Holds the policy in force. `before`: the mode to which the end of mode plan leads back."""

    def __init__(self, policy: Policy, record: Callable[[ModeChanged], object]) -> None:
        self.policy = policy
        self.before = Mode.DEFAULT
        self._record = record

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
