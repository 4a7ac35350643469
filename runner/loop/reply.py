"""One model request: the stream is shown as it comes and recorded before the turn goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import aclosing
from dataclasses import field
from typing import Any, Protocol, cast

from runner.dataclass import dataclass
from runner.errors import BrokenStreamError
from runner.events import Event, Failed, Live, ModelAsked, ModelReplied, TextDelta, ThinkingDelta
from runner.journal import digest
from runner.loop.calls import Call
from runner.loop.context import prompt_text
from runner.loop.gate import Recorder
from runner.loop.history import History, RequestFrame, request_json
from runner.loop.orchestrate import Calls
from runner.models.base import (
    BlockDone,
    Delta,
    Finished,
    Model,
    Request,
    Retrying,
    Started,
    TextPart,
    ThinkingPart,
    ToolSpec,
)

ASIDE_AGENT = "hook"
ASIDE_TOKENS = 1000
BROKEN = "The reply that held this call broke off; the call was not run."
CostOf = Callable[[str, Mapping[str, Any]], float | None]


class Show(Protocol):
    """Shows a live event, numbered within the record that it grows into."""

    def __call__(self, body: Live, parent: str, number: int) -> None:
        """Never waits."""
        ...


@dataclass(slots=True)
class _Partial:
    """What has come of one attempt so far."""

    id: str
    model: str
    began: float
    message: str = ""
    request: str = ""
    usage: dict[str, Any] = field(default_factory=dict)
    blocks: list[dict[str, Any]] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    open_text: list[str] = field(default_factory=list)
    open_thinking: list[str] = field(default_factory=list)
    shown: int = 0
    first_token: float | None = None

    @property
    def anything(self) -> bool:
        return bool(self.blocks or self.open_text or self.open_thinking)


class Asker:
    """Sends the requests of one session; system prompt and tools stay the same over all of them.
    Raises ModelError's classes; whatever came before is recorded.
    """

    def __init__(
        self,
        *,
        record: Recorder,
        show: Show,
        calls: Calls,
        cost_of: CostOf,
        system: tuple[str, ...],
        tools: tuple[ToolSpec, ...],
        max_output_tokens: int,
        thinking_tokens: int | None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._record = record
        self._show = show
        self._calls = calls
        self._cost_of = cost_of
        self._system = system
        self._tools = tools
        self._max_output_tokens = max_output_tokens
        self._thinking_tokens = thinking_tokens
        self._monotonic = monotonic
        self._frames: dict[str, RequestFrame] = {}

    async def ask(self, model: Model, history: History) -> tuple[ModelReplied, list[Call]]:
        """The reply, recorded, and its tool calls, of which those that only read may run already. When this
        is cancelled or fails, a partial reply is recorded and its calls are ended.
        """
        history.flush()
        request = Request(
            model=model.name,
            system=self._system,
            messages=tuple(history.messages),
            tools=self._tools,
            max_output_tokens=self._max_output_tokens,
            thinking_tokens=self._thinking_tokens,
        )
        frame = self._frames.get(model.name)
        if frame is None:
            frame = self._frames[model.name] = RequestFrame(request)
        asked = ModelAsked(
            model=request.model,
            digest=history.digest(frame),
            parameters=_parameters(request),
            messages=len(request.messages),
            system=frame.fixed,
        )
        self._record(asked)
        so_far = self._begin(request)
        try:
            async with aclosing(cast("Any", model.stream(request))) as deltas:
                async for delta in deltas:
                    if isinstance(delta, Retrying):
                        await self._retry(delta, so_far, asked)
                        so_far = self._begin(request)
                    elif isinstance(delta, Finished):
                        return self._complete(so_far, delta), so_far.calls
                    else:
                        self._take(delta, so_far)
            raise BrokenStreamError("The reply ended before it was complete.")  # noqa: TRY301 (one way out for all)
        except BaseException:
            await self._break(so_far)
            raise

    async def aside(self, model: Model, prompt: str, *, agent: str = ASIDE_AGENT, tokens: int = ASIDE_TOKENS) -> str:
        """The text of a reply to a prompt of its own, outside the conversation: recorded as that agent's, whose prompt
        is its system's.
        """
        request = Request(
            model=model.name,
            system=(prompt_text(agent),),
            messages=({"role": "user", "content": [{"type": "text", "text": prompt}]},),
            tools=(),
            max_output_tokens=tokens,
        )
        whole = request_json(request)
        system = digest({"system": whole["system"], "tools": whole["tools"]})
        self._record(
            ModelAsked(
                model=request.model, digest=digest(whole), parameters=_parameters(request), messages=1, system=system
            ),
            agent=agent,
        )
        so_far = self._begin(request)
        async with aclosing(cast("Any", model.stream(request))) as deltas:
            async for delta in deltas:
                match delta:
                    case Started():
                        so_far.message, so_far.model = delta.message, delta.model or so_far.model
                        so_far.usage, so_far.request = dict(delta.usage), delta.request
                    case BlockDone():
                        so_far.blocks.append(delta.block)
                    case Retrying():
                        so_far = self._begin(request)
                    case Finished():
                        usage = so_far.usage | delta.usage
                        self._replied(so_far, so_far.blocks, usage, delta.stop_reason, partial=False, agent=agent)
                        break
        return "".join(str(block.get("text", "")) for block in so_far.blocks if block.get("type") == "text")

    def _begin(self, request: Request) -> _Partial:
        return _Partial(id=self._calls.gate.new_id(), model=request.model, began=self._monotonic())

    def _take(self, delta: Delta, so_far: _Partial) -> None:
        match delta:
            case Started():
                so_far.message, so_far.model = delta.message, delta.model or so_far.model
                so_far.usage, so_far.request = dict(delta.usage), delta.request
            case TextPart(text=text):
                so_far.open_text.append(text)
                self._live(TextDelta(text=text), so_far)
            case ThinkingPart(text=text):
                so_far.open_thinking.append(text)
                self._live(ThinkingDelta(text=text), so_far)
            case BlockDone():
                so_far.blocks.append(delta.block)
                so_far.open_text.clear()
                so_far.open_thinking.clear()
                if delta.block.get("type") == "tool_use":
                    so_far.calls.append(self._calls.request(delta.block, delta.invalid))
                    self._calls.begin(so_far.calls)
            case _:
                pass

    def _live(self, body: Live, so_far: _Partial) -> None:
        if so_far.first_token is None:
            so_far.first_token = self._monotonic() - so_far.began
        self._show(body, so_far.id, so_far.shown)
        so_far.shown += 1

    def _complete(self, so_far: _Partial, end: Finished) -> ModelReplied:
        usage = so_far.usage | end.usage
        return self._replied(so_far, so_far.blocks, usage, end.stop_reason, partial=False)

    async def _break(self, so_far: _Partial) -> None:
        """Record what came of an attempt that will not be completed."""
        if so_far.anything or so_far.usage:
            blocks = list(so_far.blocks)
            if so_far.open_thinking:
                blocks.append({"type": "thinking", "thinking": "".join(so_far.open_thinking)})
            if so_far.open_text:
                blocks.append({"type": "text", "text": "".join(so_far.open_text)})
            self._replied(so_far, blocks, so_far.usage, None, partial=True)
        await self._calls.abandon(so_far.calls, BROKEN)

    def _replied(
        self,
        so_far: _Partial,
        blocks: list[dict[str, Any]],
        usage: dict[str, Any],
        stop_reason: str | None,
        *,
        partial: bool,
        agent: str = "main",
    ) -> ModelReplied:
        first = so_far.first_token
        body = ModelReplied(
            message=so_far.message,
            model=so_far.model,
            content=blocks,
            stop_reason=stop_reason,
            usage=usage,
            cost=self._cost_of(so_far.model, usage),
            partial=partial,
            request=so_far.request,
            seconds=round(self._monotonic() - so_far.began, 6),
            first_token=None if first is None else round(first, 6),
        )
        event: Event = self._record(body, id=so_far.id, agent=agent)
        assert isinstance(event.body, ModelReplied)
        return event.body

    async def _retry(self, delta: Retrying, so_far: _Partial, asked: ModelAsked) -> None:
        await self._break(so_far)
        detail = {"attempt": delta.attempt, "attempts": delta.attempts, "delay": delta.delay, "status": delta.status}
        self._record(Failed(error="Retrying", message=delta.error, exit_code=0, retrying=True, detail=detail))
        if delta.delay or delta.attempt != asked.attempt:
            self._record(
                ModelAsked(
                    model=asked.model,
                    digest=asked.digest,
                    parameters=asked.parameters,
                    messages=asked.messages,
                    system=asked.system,
                    attempt=delta.attempt,
                )
            )


def _parameters(request: Request) -> dict[str, Any]:
    given = {
        "max_output_tokens": request.max_output_tokens,
        "thinking_tokens": request.thinking_tokens,
        "temperature": request.temperature,
        "metadata": request.metadata,
    }
    return {name: value for name, value in given.items() if value not in (None, {})}
