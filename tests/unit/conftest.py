"""A session told by hand: `scene` makes records with ids and times that repeat."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import Any

import pytest

from runner.events import (
    Body,
    Event,
    ModelAsked,
    ModelReplied,
    PromptGiven,
    SessionStarted,
    TextDelta,
    ThinkingDelta,
    ToolFinished,
    ToolRequested,
    TurnEnded,
    TurnStarted,
)

SESSION = "4f2a91c0-1111-4222-8333-444455556666"


@dataclass(slots=True)
class Scene:
    """Every `say` is one second after the one before."""

    at: float = 1_700_000_000.0
    events: list[Event] = field(default_factory=list)

    def say(self, body: Body, *, agent: str = "main", cause: str = "") -> Event:
        self.at += 1.0
        seq = len(self.events)
        event = Event(
            v=1,
            seq=seq,
            id=str(uuid.UUID(int=seq + 1)),
            at=self.at,
            session=SESSION,
            agent=agent,
            turn=1,
            parent="",
            cause=cause,
            body=body,
        )
        self.events.append(event)
        return event

    def start(self) -> None:
        spec = {"cwd": "/work/demo", "model": "anthropic:claude-sonnet-5", "mode": "bypassPermissions"}
        self.say(SessionStarted(spec=spec, version="0.1.0"))
        self.say(PromptGiven(content=[{"type": "text", "text": "fix the test"}]))
        self.say(TurnStarted(number=1))

    def ask(self, messages: int = 1) -> None:
        self.say(ModelAsked(model="claude-sonnet-5", digest="d", parameters={}, messages=messages))

    def stream(self, *, text: str = "", thinking: str = "") -> None:
        for word in thinking.split(" ") if thinking else ():
            self.say(ThinkingDelta(text=word + " "))
        for word in text.split(" ") if text else ():
            self.say(TextDelta(text=word + " "))

    def reply(self, content: list[dict[str, Any]], *, message: str = "msg_1", stop: str = "end_turn") -> Event:
        usage = {"input_tokens": 100, "output_tokens": 20, "cache_read_input_tokens": 300}
        return self.say(
            ModelReplied(
                message=message,
                model="claude-sonnet-5",
                content=content,
                stop_reason=stop,
                usage=usage,
                cost=0.01,
                request="req_1",
            )
        )

    def call(
        self,
        call: str,
        name: str,
        args: dict[str, Any],
        content: str = "ok",
        *,
        result: Any = None,
        error: bool = False,
    ) -> None:
        self.say(ToolRequested(call=call, name=name, input=args))
        self.say(ToolFinished(call=call, name=name, content=content, result=result, is_error=error, seconds=0.25))

    def end(self, reason: str = "completed", result: str = "Done.", rounds: int = 2) -> Event:
        return self.say(
            TurnEnded(
                number=1,
                reason=reason,
                result=result,
                rounds=rounds,
                seconds=12.5,
                api_seconds=7.25,
                usage={"input_tokens": 200},
                cost=0.02,
            )
        )

    def usual(self) -> None:
        """A whole turn: think, speak, call a tool, speak, end."""
        self.start()
        self.ask()
        self.stream(thinking="I should look.", text="Looking.")
        self.reply(
            [
                {"type": "thinking", "thinking": "I should look.", "signature": "sig"},
                {"type": "text", "text": "Looking."},
                {"type": "tool_use", "id": "toolu_1", "name": "Bash", "input": {"command": "pytest -q"}},
            ],
            stop="tool_use",
        )
        self.call("toolu_1", "Bash", {"command": "pytest -q"}, "3 passed", result={"stdout": "3 passed"})
        self.ask(3)
        self.reply([{"type": "text", "text": "Done."}], message="msg_2")
        self.end()


@pytest.fixture
def scene() -> Scene:
    return Scene()
