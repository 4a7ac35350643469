"""All that takes a call apart to judge it, most of it for the sake of commands: imported when the first call is judged,
or while the model is asked for it.
"""

from runner.policy.allowing import Allowing
from runner.policy.commands import named
from runner.policy.modes import NOT_ASKED, by_mode, floor
from runner.policy.places import absolute, critical, protected
from runner.policy.reach import reach_of
from runner.policy.runs import readings

__all__ = [
    "NOT_ASKED",
    "Allowing",
    "absolute",
    "by_mode",
    "critical",
    "floor",
    "named",
    "protected",
    "reach_of",
    "readings",
]
