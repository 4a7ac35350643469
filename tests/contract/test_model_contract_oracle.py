"""Every recorded stream decodes to what the provider's own SDK makes of the same bytes."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import pytest

from runner.errors import BrokenStreamError, ModelError, ModelNotFoundError, OverloadedError
from runner.models.anthropic import AnthropicModel, settings_from
from runner.models.base import BlockDone, Delta, Finished, Request, Retrying, Started, TextPart, ThinkingPart
from tests.support.cases import streams
from tests.support.model_server import ModelServer, WireReply, recorded

REQUEST = Request(
    model="claude-sonnet-5",
    system=(),
    messages=({"role": "user", "content": "hello"},),
    tools=(),
    max_output_tokens=1024,
)


async def ours(reply: WireReply) -> tuple[list[Delta], ModelError | None]:
    """What AnthropicModel yields for one reply, and what it raises."""
    deltas: list[Delta] = []
    async with ModelServer([reply]) as server:
        environ = {"ANTHROPIC_API_KEY": "sk-test-0123456789", "ANTHROPIC_BASE_URL": server.url}
        model = AnthropicModel("claude-sonnet-5", settings_from(environ), environ=environ)
        try:
            async for delta in model.stream(REQUEST):
                deltas.append(delta)  # noqa: PERF401 - what came before an error is wanted
        except ModelError as error:
            return deltas, error
        finally:
            await model.close()
    return deltas, None


async def theirs(body: bytes) -> dict[str, Any]:
    """The message that the SDK puts together."""
    transport = httpx2.MockTransport(
        lambda _: httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=body)
    )
    async with httpx2.AsyncClient(transport=transport) as http:
        client = anthropic.AsyncAnthropic(api_key="k", base_url="http://oracle", http_client=http, max_retries=0)
        async with client.beta.messages.stream(
            model="claude-sonnet-5", max_tokens=1024, messages=[{"role": "user", "content": "hello"}]
        ) as stream:
            message = await stream.get_final_message()
    return message.to_dict(mode="json")


def present(value: Any) -> Any:
    """Without null fields, which mean as much as absent ones, and without what the SDK adds."""
    if isinstance(value, dict):
        return {k: present(v) for k, v in value.items() if v is not None and k != "parsed_output"}
    if isinstance(value, list):
        return [present(item) for item in value]
    return value


def replies(body: bytes) -> list[bytes]:
    """Some recordings hold the replies to several requests one after the other."""
    return re.findall(rb'.*?"message_stop".*?\n\n', body, re.DOTALL) or [body]


def recordings(*, spliced: bool) -> list[Any]:
    """The recorded streams: all but the spliced one, or that one. (The SDK mixes both replies of it.)"""
    return [one for one in streams("anthropic", "anthropic") if ("spliced" in str(one.id)) == spliced or one.marks]


@pytest.mark.parametrize("case", recordings(spliced=False))
async def test_a_recorded_stream_is_what_the_sdk_makes_of_it(case: dict[str, Any]) -> None:
    for body in replies(case["file"].read_bytes()):
        deltas, error = await ours(WireReply(body=body))
        message = present(await theirs(body))
        assert error is None
        started, finished = deltas[0], deltas[-1]
        assert isinstance(started, Started)
        assert isinstance(finished, Finished)
        assert (started.message, finished.stop_reason) == (message["id"], message["stop_reason"])
        blocks = [present(delta.block) for delta in deltas if isinstance(delta, BlockDone)]
        assert blocks == message["content"]
        assert present(finished.usage).items() >= message["usage"].items()
        assert "".join(d.text for d in deltas if isinstance(d, TextPart)) == "".join(
            block["text"] for block in message["content"] if block["type"] == "text"
        )
        assert "".join(d.text for d in deltas if isinstance(d, ThinkingPart)) == "".join(
            block["thinking"] for block in message["content"] if block["type"] == "thinking"
        )
        assert all(delta.invalid is None for delta in deltas if isinstance(delta, BlockDone))


@pytest.mark.parametrize("case", recordings(spliced=True))
async def test_a_spliced_stream_voids_the_reply_that_was_begun_first(case: dict[str, Any]) -> None:
    deltas, error = await ours(recorded(case["file"]))
    assert error is None
    at = next(number for number, delta in enumerate(deltas) if isinstance(delta, Retrying))
    assert deltas[at] == Retrying(
        attempt=1,
        attempts=1,
        delay=0.0,
        error="the provider began its reply anew",
        partial=({"type": "thinking", "thinking": "I will call the tool.", "signature": "sig-first"},),
    )
    rest = deltas[at + 1 :]
    assert isinstance(rest[0], Started)
    assert rest[0].message == "msg_second"
    assert [delta.block for delta in rest if isinstance(delta, BlockDone)] == [
        {"type": "thinking", "thinking": "Let me call the tool.", "signature": "sig-second"},
        {"type": "tool_use", "id": "toolu_second", "name": "test-tool", "input": {"value": "Sparkle Day"}},
    ]
    assert rest[-1] == Finished(stop_reason="tool_use", usage={"input_tokens": 17, "output_tokens": 65})


PLAIN = "pydantic-ai__model_thinking_part_stream__0.response.sse"


@pytest.mark.parametrize("case", streams("anthropic", "anthropic-errors-derived"))
async def test_a_derived_stream_ends_as_its_name_says(case: dict[str, Any]) -> None:
    deltas, error = await ours(recorded(case["file"]))
    if case["name"] in ("crlf_framing", "comments_and_unknown_event"):
        assert error is None
        plain: Path = case["file"].parents[1] / "anthropic" / PLAIN
        assert deltas == (await ours(recorded(plain)))[0]
        return
    assert error is not None
    finished = tuple(delta.block for delta in deltas if isinstance(delta, BlockDone))
    assert error.partial == finished
    kinds = {
        "first_event_overloaded": (OverloadedError, 529, 0),
        "midstream_overloaded_in_tool_input": (OverloadedError, 529, 1),
        "midstream_overloaded_in_thinking": (OverloadedError, 529, 0),
        "abrupt_eof_after_message_start": (BrokenStreamError, None, 0),
    }
    assert (type(error), error.status, len(finished)) == kinds[case["name"]]
    assert not any(isinstance(delta, Finished) for delta in deltas)


@pytest.mark.parametrize("case", streams("anthropic", "anthropic-errors"))
async def test_a_recorded_refusal_is_an_error_that_says_what_the_provider_said(case: dict[str, Any]) -> None:
    reply = WireReply(
        status=case["status"],
        headers={"content-type": case["content_type"]},
        body=case["file"].read_bytes(),
        framing="length",
    )
    deltas, error = await ours(reply)
    assert deltas == []
    assert isinstance(error, ModelNotFoundError)
    assert error.status == 404
    assert "model: claude-" in str(error)


@pytest.mark.parametrize("case", streams("anthropic", "anthropic"))
async def test_a_recorded_stream_is_the_same_in_small_pieces_and_compressed(case: dict[str, Any]) -> None:
    whole, in_pieces, compressed = await asyncio.gather(
        ours(recorded(case["file"])),
        ours(recorded(case["file"], chunk=17 if case["bytes"] < 100_000 else 1777)),
        ours(recorded(case["file"], compressed=True, framing="close")),
    )
    assert whole == in_pieces == compressed
