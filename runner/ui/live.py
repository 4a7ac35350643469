"""Live progress in a terminal: finished lines scroll away above, what runs moves below, permission
questions are asked in between. Folds events and draws; decides nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TextIO

from rich.text import Text

from runner.events import BoxStarted, Event, ModelReplied, TextDelta, TurnEnded, TurnStarted
from runner.ui.ask import ALL, ALWAYS, INSPECT, NO, YES, grant_lines, inspected, keys_line, question, said_line
from runner.ui.choose import choose, hint, is_questions, lines_of
from runner.ui.glyphs import glyphs_for
from runner.ui.keys import Keys
from runner.ui.region import Region
from runner.ui.status import status_lines
from runner.ui.story import header, reply, reply_text, tell
from runner.ui.view import MAIN, AskView, ViewState, fold

TICK = 0.1
HOLD = 0.4  # seconds in which a key was meant for something else, not for the question that just came up
STATUS_ROWS = 14

Answerer = Callable[[str, bool, bool], Awaitable[None]]
Chooser = Callable[[str, dict[str, Any]], Awaitable[None]]


class Live:
    """Shows one session on `out`, a terminal; `keys` is its keyboard.

    `answer(call, allowed, always)` carries the reply to a permission question; None: nobody is asked here.
    `choose(call, input)` carries the input of a call with the user's answers to the model's questions in it.
    `state` is where a resumed session stands. `follow` may be called once per turn.
    """

    def __init__(
        self,
        out: TextIO,
        *,
        keys: TextIO | None = None,
        answer: Answerer | None = None,
        choose: Chooser | None = None,
        state: ViewState | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.state = state or ViewState()
        self._region = Region(out)
        self._glyphs = glyphs_for(out.encoding)
        self._keys = Keys(keys, self._region.close) if keys is not None else None
        self._answer, self._choose = answer, choose
        self._clock = clock
        self._above: list[Text] = []
        self._line = ""
        self._streamed = False
        self._last = ""
        self._asking: Text | None = None
        self._asks = asyncio.Condition()

    async def follow(self, events: AsyncIterator[Event]) -> ViewState:
        """Draw until the events end or the main agent's turn does; returns the last state. Cancelling it
        leaves the terminal as it was.
        """
        try:
            if self._keys is not None:
                self._keys.__enter__()
            async with asyncio.TaskGroup() as group:
                helpers = [group.create_task(self._tick())]
                if self._answer is not None and self._keys is not None and self._keys.usable:
                    helpers.append(group.create_task(self._ask(self._keys, self._answer)))
                async for event in events:
                    self._feed(event)
                    async with self._asks:
                        self._asks.notify_all()
                    if isinstance(event.body, TurnEnded) and event.agent == MAIN:
                        break
                for helper in helpers:
                    helper.cancel()
        finally:
            self._flush_line()
            self._region.draw(self._above, ())
            self._above.clear()
            if self._keys is not None:
                self._keys.__exit__(None, None, None)
        return self.state

    async def _tick(self) -> None:
        while True:
            self._draw()
            await asyncio.sleep(TICK)

    def _draw(self) -> None:
        width, height = self._region.size
        if self._asking is not None:
            lines = [self._asking]
        else:
            rows = min(STATUS_ROWS, height - 2)
            lines = status_lines(self.state, self._clock(), width, rows, self._glyphs, unfinished=self._line)
        above, self._above = self._above, []
        self._region.draw(above, lines)

    def _feed(self, event: Event) -> None:
        self.state = fold(self.state, event)
        match event.body:
            case TurnStarted() | BoxStarted() if event.agent == MAIN and not self._last:
                self._print("head", [header(self.state, self._glyphs)])
            case TextDelta(text=text) if event.agent == MAIN:
                self._stream(text)
            case ModelReplied(content=content) if event.agent == MAIN:
                if self._streamed:
                    self._flush_line()
                else:
                    self._print("text", reply_text(content))
                self._streamed = False
            case _:
                pass
        self._print("tool", tell(self.state, event, self._glyphs, self._region.size[0]))

    def _stream(self, text: str) -> None:
        if not self._streamed:
            text = text.lstrip("\n")
            self._streamed = bool(text)
        *done, self._line = (self._line + text).split("\n")
        self._print("text", [reply(line) for line in done])

    def _flush_line(self) -> None:
        if self._line.strip():
            self._print("text", [reply(self._line)])
        self._line = ""

    def _print(self, kind: str, lines: list[Text]) -> None:
        """Put lines above; a blank one where text and tool lines meet, never two blank ones in a row."""
        if lines and self._last not in ("", kind):
            lines = [Text(), *lines]
        for line in lines:
            blank = not line.plain.strip()
            if not (blank and self._last == "blank"):
                self._above.append(line)
                self._last = "blank" if blank else kind

    async def _ask(self, keys: Keys, answer: Answerer) -> None:
        """Ask one question after the other; one that was answered elsewhere or withdrawn is dropped."""
        while True:
            async with self._asks:
                await self._asks.wait_for(lambda: self.state.asks)
            ask = self.state.asks[0]
            asking = asyncio.create_task(self._reply(ask, keys, answer))
            gone = asyncio.create_task(self._gone(ask))
            try:
                await asyncio.wait({asking, gone}, return_when=asyncio.FIRST_COMPLETED)
                if asking.done():
                    asking.result()
                    await gone
            finally:
                asking.cancel()
                gone.cancel()
                self._asking = None

    async def _reply(self, ask: AskView, keys: Keys, answer: Answerer) -> None:
        """Put one question, and hand the answer on."""
        if self._choose is not None and is_questions(ask.tool, ask.input):
            answers = await self._chosen(ask.input["questions"], keys)
            if answers is None:
                await answer(ask.call, False, False)
            else:
                await self._choose(ask.call, {**ask.input, "answers": answers})
            return
        rule = inspected(ask) if self._choose is not None else None
        said = await self._put(ask, keys, inspect=rule is not None)
        self._print("ask", [said_line(said)])
        if said == INSPECT and rule is not None and self._choose is not None:
            await self._choose(ask.call, rule)
        else:
            await answer(ask.call, said in (YES, ALWAYS), said == ALWAYS)

    async def _chosen(self, questions: list[dict[str, Any]], keys: Keys) -> dict[str, str] | None:
        """The answer to each question; None as soon as the user gives none."""

        def show(line: Text) -> None:
            self._asking = line

        answers: dict[str, str] = {}
        for one in questions:
            self._print("ask", lines_of(one, self._glyphs))
            show(hint(one, []))
            await asyncio.sleep(HOLD)
            said = await choose(one, keys.key, show)
            if said is None:
                return None
            answers[one["question"]] = said
        return answers

    async def _gone(self, ask: AskView) -> None:
        async with self._asks:
            await self._asks.wait_for(lambda: ask not in self.state.asks)

    async def _put(self, ask: AskView, keys: Keys, *, inspect: bool) -> str:
        """The answer: YES, NO, ALWAYS or INSPECT."""
        lines, left = question(ask, self._glyphs)
        self._print("ask", [*lines, *grant_lines(ask)])
        self._asking = keys_line(left, always=bool(ask.always), inspect=inspect)
        offered = {YES, *([ALWAYS] if ask.always else []), *([INSPECT] if inspect else [])}
        await asyncio.sleep(HOLD)
        while True:
            key = (await keys.key()).lower()
            if key in offered and not left:
                return key
            if key in (NO, "\x1b", "\x04"):
                return NO
            if key == ALL and left:
                lines, left = question(ask, self._glyphs, whole=True)
                self._print("ask", lines)
                self._asking = keys_line(left, always=bool(ask.always), inspect=inspect)
