"""A turn: the prompt taken in, the model asked, its calls run, until the agent rests or a limit is reached."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from runner.dataclass import dataclass
from runner.errors import JournalError
from runner.events import PromptGiven, TurnStarted
from runner.loop.context import Context
from runner.loop.gate import Gate, Recorder
from runner.loop.gitstate import GitState
from runner.loop.history import History
from runner.loop.hooked import Hooked
from runner.loop.modes import Modes
from runner.loop.operations import Prompt
from runner.loop.orchestrate import REFUSED, Calls
from runner.loop.reply import Asker
from runner.loop.turn import Turn, ending, failed
from runner.loop.usage import Usage
from runner.models.base import Model
from runner.spec import TurnLimits


@dataclass(slots=True, kw_only=True)
class Rounds:
    """Runs turns, one at a time; `turn` is the one that runs; `over`: nothing of the last one runs in the box any more.
    `model` gives the model in force. `before_turn` is awaited before each but the first, `after_turn` after each;
    `between` hears that calls have ended and the model is asked next.
    """

    record: Recorder
    gate: Gate
    calls: Calls
    asker: Asker
    model: Callable[[], Model]
    history: History
    usage: Usage
    modes: Modes
    context: Context
    git: GitState
    hooks: Hooked | None
    limits: TurnLimits
    before_turn: Callable[[bool], Awaitable[None]] | None
    after_turn: Callable[[], Awaitable[None]] | None
    between: Callable[[], None] | None
    monotonic: Callable[[], float]
    turn: Turn | None = None
    over: bool = False

    async def run(self, prompt: Prompt, number: int) -> None:
        """Turn `number`, to its end whatever happens. Raises JournalError: nothing is shown unrecorded."""
        self.turn = turn = Turn(number=number, began=self.monotonic())
        self.gate.renew()
        try:
            async with asyncio.timeout(self.limits.max_seconds) as deadline:
                turn.result = await self._open(prompt, number)
                reason = "hook" if turn.result else await self._rounds(turn)
        except asyncio.CancelledError:
            reason = "interrupted"
        except JournalError:
            raise
        except Exception as error:  # noqa: BLE001 (whatever it is, the turn ends well-formed and the user is told)
            reason = "max_time" if isinstance(error, TimeoutError) and deadline.expired() else "failed"
            if reason == "failed":
                self.record(failed(error))
                if self.hooks is not None:
                    await self.hooks.failed(type(error).__name__, str(error))
        self.turn, self.over = None, True
        await self._rest()
        self.record(self.usage.report())
        self.record(turn.end(reason, self.monotonic()))

    async def _rest(self) -> None:
        """What belongs to the end of a turn (a checkpoint); an interrupt comes too late for it."""
        if self.after_turn is not None:
            ending = asyncio.ensure_future(self.after_turn())
            while not ending.done():
                with suppress(asyncio.CancelledError):
                    await asyncio.wait({ending})
            if error := ending.exception():
                self.record(failed(error))

    async def _open(self, prompt: Prompt, number: int) -> str:
        """Record the prompt, the very first one after what the model should know about the place. Why it is not
        taken, "" where it is: then the model never sees it.
        """
        context: list[dict[str, Any]] = []
        refused = ""
        try:
            refused = await self._look()
            if first := self.history.empty:
                context = self.context.opening(self.model().name)
                if self.context.git:
                    await self.git.begin(box_ready=self.gate.box.ready)
                context += self.git.news()
            if self.before_turn is not None:
                await self.before_turn(first)
            if self.hooks is not None and not refused:
                resumed = not self.history.empty or number > 1
                told, refused = await self.hooks.prompt(prompt.said, resumed=resumed, model=self.model().name)
                context += told
        finally:  # interrupted here or not, the user's words are kept
            if refused:
                self.git.cancel()
            else:
                self.record(PromptGiven(content=prompt.content, context=context))
            self.record(TurnStarted(number=number))
        return refused

    async def _rounds(self, turn: Turn) -> str:
        """Ask, run what is asked for, ask again: the reason why the agent rests."""
        while (limit := turn.limit(self.limits, self.monotonic(), self.model().name)) is None:
            if turn.rounds and (stopped := await self._look()):
                turn.result = stopped
                return "hook"
            self._tell_news()
            began = self.monotonic()
            turn.rounds += 1
            try:
                reply, calls = await self.asker.ask(self.model(), self.history)
            finally:
                turn.api_seconds += self.monotonic() - began
            if reply.stop_reason == "refusal":
                await self.calls.abandon(calls, REFUSED)
            elif calls:
                await self._look(ends=False)
                await self.calls.run(calls)
                if self.gate.failure is not None:
                    raise self.gate.failure
                if self.between is not None:
                    self.between()
                if self.hooks is not None and (stopped := await self.hooks.batch(calls)):
                    turn.result = stopped
                    return "hook"
                continue
            if reply.stop_reason != "pause_turn":
                reason = ending(reply)
                if reason != "completed" or self.hooks is None or not await self.hooks.goes_on(turn.result):
                    return reason
        return limit

    async def _look(self, *, ends: bool = True) -> str:
        """Settings as they are by now, and what hooks say to files that changed. Why the turn ends here, "" where it
        goes on: without `ends` that is told to the calls.
        """
        changed = self.modes.look(self.model().name, ends=ends)
        if not changed or self.hooks is None:
            return ""
        declined, stopped = await self.hooks.changed(changed)
        self.modes.settle(declined, self.model().name, ends=ends)
        return stopped

    def _tell_news(self) -> None:
        """What came up meanwhile, for the next request."""
        if news := self.git.news():
            self.record(PromptGiven(content=[], context=news, source="fumehood"))
        if self.gate.background is not None and (news := self.gate.background.news()):
            self.record(PromptGiven(content=[], context=news, source="fumehood"))
        if self.hooks is not None and (news := self.hooks.news()):
            self.record(PromptGiven(content=[], context=news, source="hook"))
