"""A model that plays a script: for demos, tests and replay, through the real loop, policy and box.

`runner.models.script` has the format. What a reply consists of goes through the same code
that puts a real provider's events together.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from typing import Any, Literal

from runner.errors import ModelError, ScriptEndedError, ScriptMismatchError
from runner.models.base import Delta, Request
from runner.models.messages_reply import Reply, error_of
from runner.models.messages_request import encode
from runner.models.script import OURS, Expectation, Script, content_of, events_of, usage_of

_VARIABLE = re.compile(r"\$\{(\w+)\}")


class ScriptedModel:
    """A ModelClient that plays a Script from its beginning, a reply per request."""

    def __init__(self, script: Script, *, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        self.name = script.model
        self._replies = script.played()
        self._played = 0
        self._values: dict[str, str] = {}
        self._sleep = sleep

    async def warm(self) -> None:
        """There is nothing to connect to."""

    async def close(self) -> None:
        """There is nothing to close."""

    async def stream(self, request: Request) -> AsyncGenerator[Delta]:
        """Raises ScriptEndedError, ScriptMismatchError, or what the script says."""
        if self._played >= len(self._replies):
            raise ScriptEndedError(f"the script has {len(self._replies)} replies, and one more was asked for")
        scripted = self._replies[self._played]
        self._played += 1
        self._check(scripted.expect, request)
        await self._sleep(scripted.delay)
        error = scripted.error
        if error is not None and error.after is None and error.type not in OURS:
            raise error_of(None, error.type, error.message or "scripted", retry_after=error.retry_after)
        blocks = self._filled(content_of(scripted, self._played))
        size = sum(len(encode(message)) for message in request.messages)
        reply = Reply()
        events = events_of(
            scripted, blocks, number=self._played, model=self.name, usage=usage_of(scripted, blocks, size)
        )
        try:
            for event in events:
                for delta in reply.feed(json.dumps(event)):
                    yield delta
                await self._sleep(scripted.pace)
            if error is not None and error.type == "hang":
                await asyncio.Event().wait()
            if error is not None and error.type == "malformed":
                reply.feed("{")
            reply.end()
        except ModelError as failure:
            failure.partial = reply.partial
            raise

    def _check(self, expect: Sequence[Expectation], request: Request) -> None:
        for one in expect:
            text = _seen(request.messages, one.of)
            found = re.search(one.matches, text) if one.matches else None
            if (one.matches and not found) or one.contains not in text:
                wanted = f"to match {one.matches!r}" if one.matches else f"to hold {one.contains!r}"
                raise ScriptMismatchError(
                    f"reply {self._played} of the script expects the {one.of} message {wanted}; it is: {text[-2000:]!r}"
                )
            self._values |= {k: v for k, v in (found.groupdict() if found else {}).items() if v is not None}

    def _filled(self, value: Any) -> Any:
        match value:
            case str():
                return _VARIABLE.sub(lambda m: self._values.get(m[1], m[0]), value)
            case list():
                return [self._filled(item) for item in value]
            case dict():
                return {key: self._filled(item) for key, item in value.items()}
            case _:
                return value


def _seen(messages: Sequence[dict[str, Any]], which: Literal["last", "prompt"]) -> str:
    """All text of the last or the first user message, tool results included."""
    theirs = [message for message in messages if message.get("role") == "user"]
    if not theirs:
        return ""
    return "\n".join(_texts(theirs[-1 if which == "last" else 0].get("content")))


def _texts(content: Any) -> Iterator[str]:
    match content:
        case str():
            yield content
        case list():
            for block in content:
                yield from _texts(block)
        case {"type": "text", "text": str(text)}:
            yield text
        case {"type": "tool_result", "content": inner}:
            yield from _texts(inner)
