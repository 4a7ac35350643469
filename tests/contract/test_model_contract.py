"""The Model protocol, over every model: the scripted one, Claude's adapter before a local server, and both retried."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest

from runner.errors import (
    AuthenticationError,
    BrokenStreamError,
    InvalidRequestError,
    ModelError,
    ModelNotFoundError,
    OverloadedError,
    PromptTooLongError,
)
from runner.models.anthropic import AnthropicModel, settings_from
from runner.models.base import (
    BlockDone,
    Delta,
    Finished,
    ModelClient,
    Request,
    Retrying,
    Started,
    TextPart,
    ThinkingPart,
)
from runner.models.retry import RetryingModel
from runner.models.script import Script
from runner.models.scripted import ScriptedModel
from tests.support.model_server import ModelServer, replies_of

REQUEST = Request(
    model="",
    system=("be kind",),
    messages=({"role": "user", "content": [{"type": "text", "text": "hello"}]},),
    tools=(),
    max_output_tokens=1000,
)
Make = Callable[..., Awaitable[ModelClient]]


@dataclass(slots=True)
class Maker:
    """Makes one model that plays these replies."""

    kind: str
    server: ModelServer | None = None
    model: ModelClient | None = None

    async def __call__(self, *replies: dict[str, Any]) -> ModelClient:
        script = Script.model_validate({"replies": list(replies)})
        if "scripted" in self.kind:
            self.model = ScriptedModel(script)
        else:
            self.server = ModelServer(replies_of(script, model="scripted"))
            await self.server.__aenter__()
            environ = {"ANTHROPIC_API_KEY": "sk-test-0123456789", "ANTHROPIC_BASE_URL": self.server.url}
            self.model = AnthropicModel("scripted", settings_from(environ), environ=environ)
        if "retrying" in self.kind:
            self.model = RetryingModel(self.model, retries=0)
        return self.model

    async def close(self) -> None:
        if self.model is not None:
            await self.model.close()
        if self.server is not None:
            await self.server.__aexit__(None, None, None)


@pytest.fixture(params=["scripted", "anthropic", "retrying scripted", "retrying anthropic"])
async def make(request: pytest.FixtureRequest) -> AsyncGenerator[Make]:
    maker = Maker(request.param)
    yield maker
    await maker.close()


async def play(model: ModelClient) -> list[Delta]:
    return [delta async for delta in model.stream(REQUEST)]


async def drain(model: ModelClient, into: list[Delta]) -> None:
    """Keeps what came before an error."""
    async for delta in model.stream(REQUEST):
        into.append(delta)  # noqa: PERF401 - a comprehension would lose it


WHOLE = {
    "thinking": "I should look at it first.",
    "text": "Let me look at the test. ä€😀",
    "tools": [{"name": "Bash", "input": {"command": "ls 'ä b'"}}, {"name": "Read", "input": {}}],
    "blocks": [{"type": "redacted_thinking", "data": "xyz"}],
    "usage": {"input_tokens": 10, "output_tokens": 20, "cache_read_input_tokens": 5},
}


async def test_started_comes_first_then_parts_and_blocks_then_finished_once(make: Make) -> None:
    model = await make(WHOLE)
    deltas = await play(model)
    usage = {"input_tokens": 10, "output_tokens": 20, "cache_read_input_tokens": 5}
    assert isinstance(deltas[0], Started)
    assert (deltas[0].message, deltas[0].model, deltas[0].usage) == (
        "msg_script_0001",
        "scripted",
        usage | {"output_tokens": 1},
    )
    assert [delta for delta in deltas if isinstance(delta, BlockDone)] == [
        BlockDone(
            index=0,
            block={"type": "thinking", "thinking": "I should look at it first.", "signature": "scripted-1"},
        ),
        BlockDone(index=1, block={"type": "text", "text": "Let me look at the test. ä€😀"}),
        BlockDone(
            index=2,
            block={
                "type": "tool_use",
                "id": "toolu_script_0001_1",
                "name": "Bash",
                "input": {"command": "ls 'ä b'"},
            },
        ),
        BlockDone(index=3, block={"type": "tool_use", "id": "toolu_script_0001_2", "name": "Read", "input": {}}),
        BlockDone(index=4, block={"type": "redacted_thinking", "data": "xyz"}),
    ]
    assert deltas[-1] == Finished(stop_reason="tool_use", usage=usage)
    assert sum(isinstance(delta, Finished) for delta in deltas) == 1


async def test_the_parts_make_up_the_blocks_that_they_come_before(make: Make) -> None:
    deltas = await play(await make(WHOLE))
    assert "".join(d.text for d in deltas if isinstance(d, TextPart)) == WHOLE["text"]
    assert "".join(d.text for d in deltas if isinstance(d, ThinkingPart)) == WHOLE["thinking"]
    assert sum(isinstance(d, TextPart) for d in deltas) > 1
    text_done = next(n for n, d in enumerate(deltas) if isinstance(d, BlockDone) and d.block["type"] == "text")
    assert all(n < text_done for n, d in enumerate(deltas) if isinstance(d, TextPart))


async def test_one_model_answers_request_after_request(make: Make) -> None:
    model = await make({"text": "one"}, {"text": "two"}, {"text": "three"})
    said = [[d.text for d in await play(model) if isinstance(d, TextPart)] for _ in range(3)]
    assert said == [["one"], ["two"], ["three"]]


async def test_a_reply_of_nothing_is_a_reply(make: Make) -> None:
    deltas = await play(await make({"usage": {"input_tokens": 1, "output_tokens": 0}}))
    assert isinstance(deltas[0], Started)
    assert deltas[1:] == [Finished(stop_reason="end_turn", usage={"input_tokens": 1, "output_tokens": 0})]


async def test_input_that_is_no_json_is_kept_raw(make: Make) -> None:
    deltas = await play(await make({"tools": [{"name": "Bash", "id": "t", "raw": '{"command": "ls'}]}))
    assert deltas[1] == BlockDone(
        index=0, block={"type": "tool_use", "id": "t", "name": "Bash", "input": {}}, invalid='{"command": "ls'
    )


@pytest.mark.parametrize(
    ("kind", "raised", "status"),
    [
        ("authentication_error", AuthenticationError, 401),
        ("permission_error", AuthenticationError, 403),
        ("not_found_error", ModelNotFoundError, 404),
        ("request_too_large", PromptTooLongError, 413),
        ("invalid_request_error", InvalidRequestError, 400),
        ("rate_limit_error", OverloadedError, 429),
        ("api_error", OverloadedError, 500),
        ("overloaded_error", OverloadedError, 529),
    ],
)
@pytest.mark.parametrize("after", [None, 1])
async def test_a_refusal_is_the_same_error_before_and_in_mid_stream(
    make: Make, kind: str, raised: type[ModelError], status: int, after: int | None
) -> None:
    model = await make({"text": "a", "thinking": "b", "error": {"type": kind, "message": "no", "after": after}})
    with pytest.raises(raised, match=f"no \\({kind} {status}\\)") as caught:
        await play(model)
    assert type(caught.value) is raised
    assert caught.value.status == status
    assert [block["type"] for block in caught.value.partial] == ([] if after is None else ["thinking"])


async def test_the_wait_that_is_asked_for_reaches_the_caller(make: Make) -> None:
    model = await make({"error": {"type": "rate_limit_error", "retry_after": 1.5}})
    with pytest.raises(OverloadedError) as caught:
        await play(model)
    assert caught.value.retry_after == 1.5


@pytest.mark.parametrize("how", ["cut", "malformed"])
@pytest.mark.parametrize("after", [0, 1, 2])
async def test_a_stream_that_breaks_keeps_what_was_finished(make: Make, how: str, after: int) -> None:
    model = await make({"thinking": "a", "text": "b", "error": {"type": how, "after": after}}, {"text": "next"})
    deltas: list[Delta] = []
    with pytest.raises(BrokenStreamError) as caught:
        await drain(model, deltas)
    assert isinstance(deltas[0], Started)
    assert caught.value.partial == tuple(delta.block for delta in deltas if isinstance(delta, BlockDone))
    assert len(caught.value.partial) == after
    assert isinstance((await play(model))[-1], Finished)


async def test_a_stream_that_is_left_can_be_followed_by_another(make: Make) -> None:
    model = await make({"text": "x" * 5000}, {"text": "after"})
    stream = model.stream(REQUEST)
    async for delta in stream:
        if isinstance(delta, TextPart):
            break
    assert isinstance(stream, AsyncGenerator)
    await stream.aclose()
    assert [d.text for d in await play(model) if isinstance(d, TextPart)] == ["after"]


async def test_warming_and_closing_may_be_done_twice_and_never_raise(make: Make) -> None:
    model = await make({"text": "x"})
    await model.warm()
    await model.warm()
    assert isinstance((await play(model))[-1], Finished)
    await model.close()
    await model.close()


@pytest.mark.parametrize("kind", ["scripted", "anthropic"])
async def test_what_passes_is_tried_again_to_the_end(kind: str) -> None:
    async def sleep(_: float) -> None: ...

    maker = Maker(kind)
    faults: list[dict[str, Any]] = [
        {"error": {"type": "overloaded_error", "message": "busy"}},
        {"text": "a", "error": {"type": "cut", "after": 1}},
        {"text": "a", "error": {"type": "overloaded_error", "after": 0}},
    ]
    try:
        model = RetryingModel(await maker(*faults, {"text": "at last"}), sleep=sleep)
        deltas = await play(model)
    finally:
        await maker.close()
    retries = [delta for delta in deltas if isinstance(delta, Retrying)]
    assert [(r.attempt, r.status, len(r.partial)) for r in retries] == [(2, 529, 0), (3, None, 1), (4, 529, 0)]
    assert deltas[-3] == TextPart(text="at last")
