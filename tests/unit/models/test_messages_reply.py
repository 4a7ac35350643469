from __future__ import annotations

import json
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
from runner.models.base import BlockDone, Delta, Finished, Started, TextPart
from runner.models.messages_reply import Reply, error_of, parse_json

START = {
    "type": "message_start",
    "message": {"id": "msg_1", "model": "m", "usage": {"input_tokens": 5, "output_tokens": 1}},
}
STOP = {"type": "message_stop"}


def end(reason: str = "end_turn", **usage: Any) -> dict[str, Any]:
    return {"type": "message_delta", "delta": {"stop_reason": reason}, "usage": {"output_tokens": 9} | usage}


def block(block: dict[str, Any], *deltas: dict[str, Any], index: int = 0) -> list[dict[str, Any]]:
    return [
        {"type": "content_block_start", "index": index, "content_block": block},
        *({"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": index},
    ]


def feed(*events: dict[str, Any] | str, reply: Reply | None = None) -> list[Delta]:
    reply = reply or Reply(request="req_1")
    deltas: list[Delta] = []
    for event in events:
        deltas += reply.feed(event if isinstance(event, str) else json.dumps(event))
    return deltas + reply.end()


def json_of(*parts: str) -> list[dict[str, Any]]:
    return [{"type": "input_json_delta", "partial_json": part} for part in parts]


TOOL = {"type": "tool_use", "id": "toolu_1", "name": "Bash", "input": {}}


def test_a_reply_is_put_together_block_by_block() -> None:
    deltas = feed(
        START,
        {"type": "ping"},
        *block({"type": "text", "text": ""}, {"type": "text_delta", "text": "he"}, {"type": "text_delta", "text": "y"}),
        *block(TOOL, *json_of("", '{"comm', 'and": "ls"}'), index=1),
        end("tool_use"),
        STOP,
    )
    assert deltas == [
        Started(message="msg_1", model="m", usage={"input_tokens": 5, "output_tokens": 1}, request="req_1"),
        TextPart(text="he"),
        TextPart(text="y"),
        BlockDone(index=0, block={"type": "text", "text": "hey"}),
        BlockDone(index=1, block=TOOL | {"input": {"command": "ls"}}),
        Finished(stop_reason="tool_use", usage={"input_tokens": 5, "output_tokens": 9}),
    ]


@pytest.mark.parametrize("raw", ['{"a": 1', "[1]", '"text"', "{'a': 1}", '{"a": NaN}', "null", "[" * 100_000])
def test_input_that_is_no_json_object_is_kept_raw(raw: str) -> None:
    done = feed(START, *block(TOOL, *json_of(raw)), end("tool_use"), STOP)[1]
    assert done == BlockDone(index=0, block=TOOL, invalid=raw)


def test_a_tool_call_without_input_has_an_empty_one() -> None:
    assert feed(START, *block(TOOL, *json_of("")), end(), STOP)[1] == BlockDone(index=0, block=TOOL)


def test_an_input_given_at_the_start_stays_when_no_delta_comes() -> None:
    whole = TOOL | {"input": {"player": "one"}}
    assert feed(START, *block(whole), end(), STOP)[1] == BlockDone(index=0, block=whole)


def test_half_a_surrogate_pair_in_a_tool_call_becomes_a_replacement_character() -> None:
    done = feed(START, *block(TOOL, *json_of(r'{"a": "\ud800x", "b": "\ud83d\ude00"}')), end(), STOP)[1]
    assert isinstance(done, BlockDone)
    assert done.block["input"] == {"a": "\ufffdx", "b": "😀"}
    json.dumps(done.block, ensure_ascii=False).encode()


def test_blocks_and_deltas_of_unknown_kinds_are_kept_as_they_came() -> None:
    odd = {"type": "hologram", "beam": "a", "list": [1], "deep": {"x": None}}
    more = {"type": "beam_delta", "beam": "b", "list": [2], "angle": 3}
    done = feed(START, *block(odd, more, {"type": "text_delta", "text": 5}), end(), STOP)[1]
    kept = {"type": "hologram", "beam": "ab", "list": [1, 2], "deep": {"x": None}, "angle": 3, "text": 5}
    assert done == BlockDone(index=0, block=kept)


def test_usage_counts_are_totals_and_null_leaves_what_was_there() -> None:
    finished = feed(
        START, end(input_tokens=None, server_tool_use={"web_search_requests": 1}), end(output_tokens=30), STOP
    )[-1]
    usage = {"input_tokens": 5, "output_tokens": 30, "server_tool_use": {"web_search_requests": 1}}
    assert finished == Finished(stop_reason="end_turn", usage=usage)


def test_what_else_the_provider_says_at_the_end_is_kept() -> None:
    delta = {"stop_reason": "refusal", "stop_sequence": None, "stop_details": {"why": "x"}, "container": {"id": "c"}}
    finished = feed(START, {"type": "message_delta", "delta": delta}, STOP)[-1]
    assert isinstance(finished, Finished)
    assert finished.details == {"stop_details": {"why": "x"}, "container": {"id": "c"}}


def test_pause_turn_is_a_stop_reason_like_any_other() -> None:
    assert feed(START, end("pause_turn"), STOP)[-1] == Finished(
        stop_reason="pause_turn", usage={"input_tokens": 5, "output_tokens": 9}
    )


def test_a_gateway_that_leaves_message_stop_out_is_understood() -> None:
    assert isinstance(feed(START, *block({"type": "text", "text": "x"}), end())[-1], Finished)


@pytest.mark.parametrize(
    "events",
    [
        [],
        [START],
        [START, *block({"type": "text", "text": ""})],
        [START, *block({"type": "text", "text": ""})[:1], end()],
        [START, *block({"type": "text", "text": ""})[:1], end(), STOP],
        [STOP],
        ["{"],
        ["[]"],
        ["7"],
        ['{"no": "type"}'],
        [{"type": "message_start"}],
        [START, {"type": "content_block_delta", "index": 4, "delta": {"type": "text_delta", "text": "x"}}],
        [START, {"type": "content_block_stop", "index": 0}],
        [START, {"type": "content_block_start", "index": 0, "content_block": "text"}],
        [START, {"type": "content_block_start", "index": [], "content_block": {}}],
        [START, {"type": "message_delta", "delta": None}],
    ],
)
def test_what_is_no_reply_is_a_broken_stream(events: list[Any]) -> None:
    with pytest.raises(BrokenStreamError, match="broke off"):
        feed(*events)


def test_a_reply_over_the_limit_is_a_broken_stream() -> None:
    grow = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "x" * 500}}
    with pytest.raises(BrokenStreamError, match="too large"):
        feed(START, block({"type": "text", "text": ""})[0], *[grow] * 10, reply=Reply(limit=2000))


def test_an_error_in_mid_stream_leaves_the_finished_blocks() -> None:
    reply = Reply()
    error = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    with pytest.raises(OverloadedError, match=r"Overloaded \(overloaded_error 529\)") as raised:
        feed(START, *block({"type": "text", "text": "x"}), block(TOOL, index=1)[0], error, reply=reply)
    assert raised.value.status == 529
    assert reply.partial == ({"type": "text", "text": "x"},)


@pytest.mark.parametrize(
    ("status", "kind", "message", "error", "code"),
    [
        (401, "authentication_error", "invalid x-api-key", AuthenticationError, 401),
        (403, "permission_error", "no", AuthenticationError, 403),
        (404, "not_found_error", "model: x", ModelNotFoundError, 404),
        (400, "invalid_request_error", "prompt is too long: 205351 tokens > 200000 maximum", PromptTooLongError, 400),
        (400, "invalid_request_error", "input length and `max_tokens` exceed context limit", PromptTooLongError, 400),
        (413, "request_too_large", "Request exceeds the maximum size", PromptTooLongError, 413),
        (400, "invalid_request_error", "messages: roles must alternate", InvalidRequestError, 400),
        (402, "billing_error", "credit", InvalidRequestError, 402),
        (422, "", "odd", InvalidRequestError, 422),
        (408, "", "slow", OverloadedError, 408),
        (409, "", "conflict", OverloadedError, 409),
        (429, "rate_limit_error", "slow down", OverloadedError, 429),
        (500, "api_error", "oops", OverloadedError, 500),
        (502, "", "Bad gateway", OverloadedError, 502),
        (529, "overloaded_error", "Overloaded", OverloadedError, 529),
        (200, "overloaded_error", "Overloaded", OverloadedError, 529),
        (None, "rate_limit_error", "slow down", OverloadedError, 429),
        (None, "invented_error", "?", OverloadedError, None),
        (None, "authentication_error", "key", AuthenticationError, 401),
    ],
)
def test_each_refusal_of_the_provider_has_its_error(
    status: int | None, kind: str, message: str, error: type[ModelError], code: int | None
) -> None:
    made = error_of(status, kind, message, request="req_9")
    assert type(made) is error
    assert (made.status, made.request) == (code, "req_9")
    assert message in str(made)


@pytest.mark.parametrize("text", ["NaN", "-Infinity", "{", "", "1 2", "[" * 100_000])
def test_parse_json_takes_strict_json_only(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_json(text)
