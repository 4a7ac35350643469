"""Approvers: who answers when the verdict is ask. Nobody (deny), or a client of the session."""

from __future__ import annotations

import asyncio
from typing import Protocol

from runner.events import ApprovalAsked, ApprovalGiven


class Approver(Protocol):
    """`can_ask` False: nobody will answer, so nothing is asked. `ask` waits for as long as it takes and
    may be cancelled; `answer` brings the reply of a client and says whether somebody waited for it.
    """

    can_ask: bool

    async def ask(self, asked: ApprovalAsked) -> ApprovalGiven:
        """The answer to one call. Several may be open at once."""
        ...

    def answer(self, given: ApprovalGiven) -> bool:
        """False when no such question is open (answered already, cancelled, never asked)."""
        ...


class DenyApprover:
    """Nobody can be asked (`-p`, scripts): the answer is no, with the reason."""

    can_ask = False

    async def ask(self, asked: ApprovalAsked) -> ApprovalGiven:
        """No, at once."""
        return ApprovalGiven(call=asked.call, allowed=False, by="nobody", reason="nobody can be asked in this session")

    def answer(self, given: ApprovalGiven) -> bool:  # noqa: ARG002 (the protocol's)
        """Nothing is ever open."""
        return False


class ClientApprover:
    """A client answers through `Session.submit(Answer(...))`. `deadline` in seconds, None for none: then
    the answer is no.
    """

    can_ask = True

    def __init__(self, *, deadline: float | None = None) -> None:
        self._deadline = deadline
        self._open: dict[str, asyncio.Future[ApprovalGiven]] = {}

    async def ask(self, asked: ApprovalAsked) -> ApprovalGiven:
        """Wait for the client."""
        future: asyncio.Future[ApprovalGiven] = asyncio.get_running_loop().create_future()
        self._open[asked.call] = future
        try:
            async with asyncio.timeout(self._deadline):
                return await future
        except TimeoutError:
            return ApprovalGiven(call=asked.call, allowed=False, by="nobody", reason="no answer in time")
        finally:
            self._open.pop(asked.call, None)

    def answer(self, given: ApprovalGiven) -> bool:
        """The first answer counts."""
        future = self._open.get(given.call)
        if future is None or future.done():
            return False
        future.set_result(given)
        return True
