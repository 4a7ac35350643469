"""Why a request ends before its time: it is refused, it is over a limit, or its client is gone."""

from __future__ import annotations

FORBIDDEN = 403
GIVEN_UP = "it was given up"


class RefusedError(Exception):
    """A request that does not leave; the sentence is for the client. `status`: of the HTTP answer."""

    def __init__(self, reason: str, *, status: int = FORBIDDEN) -> None:
        super().__init__(reason)
        self.reason = reason
        self.status = status


class LimitError(RefusedError):
    """A limit is reached: `reason` names it. What is on its way ends too."""


class GoneError(Exception):
    """The client of a connection is gone, or the box with it."""


def why_not(refused: RefusedError) -> dict[str, str]:
    """What an Outcome says of it: a no, or a failure."""
    no = refused.status == FORBIDDEN or isinstance(refused, LimitError)
    return {"refusal" if no else "failure": refused.reason}
