"""Mode auto's classifier: a request to a model that says whether one call may run without asking the user.

What the model is given is data: the user's words and the calls, never a tool's result. No verdict
means no; after three blocks in a row, or twenty in all, the user is asked again.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from runner.effects import Decision, Source, Verdict
from runner.errors import ModelError
from runner.events import Body, Event, ModelReplied
from runner.loop.calls import Call
from runner.models.base import BlockDone, Finished, Model, Request, Started

INSTRUCTIONS = Path(__file__).with_suffix(".md").read_text(encoding="utf-8").strip()
CLASSIFIER = "classifier"
DEADLINE = 30.0
IN_A_ROW, IN_ALL = 3, 20
TOKENS = 500
MOST = 60_000
_LOOKING = frozenset({"Read", "Grep", "Glob", "TodoWrite"})


class Append(Protocol):
    """Journals what the classifier's model said, as an agent of its own."""

    def __call__(self, body: Body, *, cause: str = "") -> Event:
        """The record."""
        ...


class Classifier:
    """One per session: it counts its blocks. `deadline` in seconds."""

    def __init__(
        self,
        *,
        model: Callable[[], Model],
        messages: Callable[[], Sequence[Mapping[str, Any]]],
        record: Append,
        cost_of: Callable[[str, Mapping[str, Any]], float | None],
        deadline: float = DEADLINE,
    ) -> None:
        self._model, self._messages, self._record, self._cost_of = model, messages, record, cost_of
        self._deadline = deadline
        self._row = self._all = 0

    def forget(self) -> None:
        """The user allowed something: the row of blocks is over."""
        self._row = 0

    async def __call__(self, call: Call, verdict: Verdict) -> Verdict:
        """Allow or deny in place of the ask; after too many blocks the ask as it is."""
        if self._row >= IN_A_ROW or self._all >= IN_ALL:
            return replace(verdict, classify=False, reason=f"{verdict.reason}; its classifier blocked too often")
        try:
            async with asyncio.timeout(self._deadline):
                allowed, reason = _read(await self._ask(call))
        except (TimeoutError, ModelError) as error:
            allowed, reason = False, f"no verdict of the classifier ({type(error).__name__})"
        if allowed:
            self._row = 0
            return self._ruling(verdict, Decision.ALLOW, f"mode auto: allowed by the classifier: {reason}")
        self._row += 1
        self._all += 1
        return self._ruling(verdict, Decision.DENY, f"Blocked by classifier: {reason}")

    def _ruling(self, verdict: Verdict, decision: Decision, reason: str) -> Verdict:
        return Verdict(decision=decision, source=Source.MODE, reason=reason, matches=verdict.matches)

    async def _ask(self, call: Call) -> str:
        model = self._model()
        data = json.dumps(material(self._messages(), call), ensure_ascii=False)
        request = Request(
            model=model.name,
            system=(INSTRUCTIONS,),
            messages=({"role": "user", "content": [{"type": "text", "text": data}]},),
            tools=(),
            max_output_tokens=TOKENS,
        )
        name, message, usage, stop = model.name, "", {}, None
        blocks: list[dict[str, Any]] = []
        try:
            async for delta in model.stream(request):
                match delta:
                    case Started():
                        name, message, usage = delta.model, delta.message, delta.usage
                    case BlockDone(block=block):
                        blocks.append(block)
                    case Finished():
                        stop, usage = delta.stop_reason, delta.usage
        finally:
            self._record(
                ModelReplied(
                    model=name,
                    message=message,
                    content=blocks,
                    stop_reason=stop,
                    usage=usage,
                    partial=stop is None,
                    cost=self._cost_of(name, usage),
                ),
                cause=call.id,
            )
        return "".join(str(block.get("text", "")) for block in blocks if block.get("type") == "text")


def material(messages: Sequence[Mapping[str, Any]], call: Call) -> dict[str, Any]:
    """What the model is given: words of the user's, and calls but for those that only look; no results."""
    said: list[dict[str, Any]] = []
    for message in messages:
        content = message.get("content")
        for block in content if isinstance(content, list) else [{"type": "text", "text": content}]:
            if message.get("role") == "user" and block.get("type") == "text":
                said.append({"user": block.get("text")})
            elif block.get("type") == "tool_use" and block.get("name") not in _LOOKING and block.get("id") != call.id:
                said.append({"call": block.get("name"), "input": block.get("input")})
    kept: list[dict[str, Any]] = []
    left = MOST
    for one in reversed(said):
        left -= len(json.dumps(one, ensure_ascii=False))
        if left < 0:
            break
        kept.append(one)
    return {"conversation": kept[::-1], "decide": {"call": call.name, "input": call.input}}


def _read(text: str) -> tuple[bool, str]:
    """The verdict; anything but exactly one is none, and none is no."""
    try:
        said = json.loads(text.strip().removeprefix("```json").removeprefix("```").removesuffix("```"))
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, dict) or said.get("verdict") not in ("allow", "block"):
        return False, "no verdict of the classifier (its answer is none)"
    return said["verdict"] == "allow", str(said.get("reason") or "no reason given")[:500]
