"""The client of Anthropic's API against a server of the tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from runner.errors import (
    ModelError,
)
from runner.models.anthropic import AnthropicModel, settings_from
from runner.models.base import Delta, Request
from runner.models.deadlines import boot_clock
from runner.models.script import ScriptedReply
from tests.support.model_server import ModelServer, WireReply, wire_reply

KEY = "sk-ant-secret-0123456789"


REQUEST = Request(
    model="",
    system=("be kind",),
    messages=({"role": "user", "content": "hello"},),
    tools=(),
    max_output_tokens=1000,
)


REPLY = wire_reply(
    ScriptedReply(thinking="hm ä€😀", text="hello there", tools=[], usage={"input_tokens": 3, "output_tokens": 4})
)


def said(**changes: Any) -> WireReply:
    """The usual reply, sent in another way."""
    return WireReply(**({"body": REPLY.body} | changes))


@asynccontextmanager
async def claude(server: ModelServer | str, **environ: str) -> AsyncGenerator[AnthropicModel]:
    async with claude_at(server, boot_clock, environ=environ) as model:
        yield model


@asynccontextmanager
async def claude_at(
    server: ModelServer | str,
    clock: Callable[[], float],
    *,
    tick: float = 5.0,
    environ: Mapping[str, str] | None = None,
) -> AsyncGenerator[AnthropicModel]:
    url = server if isinstance(server, str) else server.url
    values = {"ANTHROPIC_API_KEY": KEY, "ANTHROPIC_BASE_URL": url, **(environ or {})}
    model = AnthropicModel("claude-sonnet-5", settings_from(values), environ=values, clock=clock, tick=tick)
    try:
        yield model
    finally:
        await model.close()


async def drain(model: AnthropicModel, into: list[Delta]) -> None:
    """Keeps what came before an error."""
    async for delta in model.stream(REQUEST):
        into.append(delta)  # noqa: PERF401 - a comprehension would lose it


async def play(model: AnthropicModel, request: Request = REQUEST) -> list[Delta]:
    return [delta async for delta in model.stream(request)]


async def failure(reply: WireReply, **environ: str) -> ModelError:
    """The error that a reply gives rise to; the key is in none."""
    async with ModelServer([reply]) as server, claude(server, **environ) as model:
        with pytest.raises(ModelError) as caught:
            await play(model)
    assert KEY not in f"{caught.value!r} {caught.value} {caught.value.__cause__!r}"
    return caught.value


async def until(condition: Callable[[], object]) -> None:
    """Waits for what another task does."""
    while not condition():  # noqa: ASYNC110 - there is no event to wait for
        await asyncio.sleep(0.005)
