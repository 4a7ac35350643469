from __future__ import annotations

import copy
import json
from dataclasses import replace
from typing import Any

import pytest

from runner.models.base import Request, ToolSpec
from runner.models.messages_request import Options, encode, request_body, version_of, without_thinking

MARK = {"cache_control": {"type": "ephemeral"}}
BASH = ToolSpec(name="Bash", description="runs", schema={"type": "object"})
READ = ToolSpec(name="Read", description="reads", schema={"type": "object", "properties": {}})
REQUEST = Request(
    model="claude-sonnet-5-5",
    system=("who you are", "where you are"),
    messages=(
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "Bash", "input": {}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "out"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "done"}]},
        {
            "role": "user",
            "content": [
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA=="}},
                {"type": "text", "text": "again"},
            ],
        },
    ),
    tools=(BASH, READ),
    max_output_tokens=4096,
    metadata={"user_id": "u"},
)


def test_the_whole_request_is_as_the_messages_api_wants_it() -> None:
    before = copy.deepcopy(REQUEST)
    body, betas = request_body(REQUEST, Options())
    assert json.loads(encode(body)) == {
        "model": "claude-sonnet-5-5",
        "max_tokens": 4096,
        "stream": True,
        "system": [{"type": "text", "text": "who you are"} | MARK, {"type": "text", "text": "where you are"}],
        "tools": [
            {"name": "Bash", "description": "runs", "input_schema": {"type": "object"}},
            {"name": "Read", "description": "reads", "input_schema": {"type": "object", "properties": {}}} | MARK,
        ],
        "metadata": {"user_id": "u"},
        "messages": [
            {"role": "user", "content": "first"},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "Bash", "input": {}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "out"} | MARK]},
            {"role": "assistant", "content": [{"type": "text", "text": "done"}]},
            {
                "role": "user",
                "content": [
                    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA=="}},
                    {"type": "text", "text": "again"} | MARK,
                ],
            },
        ],
    }
    assert betas == ()
    assert before == REQUEST


def test_nothing_is_marked_for_the_cache_where_it_is_off() -> None:
    body, _ = request_body(REQUEST, Options(cache=""))
    assert b"cache_control" not in encode(body)


def test_an_hour_in_the_cache_is_said_at_every_breakpoint() -> None:
    body, _ = request_body(REQUEST, Options(cache="1h"))
    assert encode(body).count(b'{"type":"ephemeral","ttl":"1h"}') == encode(body).count(b"cache_control") == 4


def test_a_block_that_cannot_carry_a_breakpoint_gets_none() -> None:
    messages = ({"role": "user", "content": ""}, {"role": "user", "content": []}, {"role": "user", "content": "x"})
    body, _ = request_body(replace(REQUEST, messages=messages), Options())
    assert body["messages"][:2] == list(messages[:2])
    assert body["messages"][2]["content"] == [{"type": "text", "text": "x"} | MARK]


@pytest.mark.parametrize(
    ("model", "tokens", "thinking", "betas"),
    [
        ("claude-sonnet-5-5", None, None, ()),
        ("claude-sonnet-5-5", 2000, {"type": "adaptive", "display": "summarized"}, ()),
        ("claude-opus-4-6", 2000, {"type": "adaptive", "display": "summarized"}, ()),
        ("claude-haiku-4-5", 2000, {"type": "enabled", "budget_tokens": 2000}, ("interleaved-thinking-2025-05-14",)),
        ("claude-haiku-4-5", 99_000, {"type": "enabled", "budget_tokens": 4095}, ("interleaved-thinking-2025-05-14",)),
        ("claude-haiku-4-5", 5, {"type": "enabled", "budget_tokens": 1024}, ("interleaved-thinking-2025-05-14",)),
        (
            "somebody-elses-model",
            2000,
            {"type": "enabled", "budget_tokens": 2000},
            ("interleaved-thinking-2025-05-14",),
        ),
    ],
)
def test_thinking_is_asked_for_in_the_way_that_the_model_takes(
    model: str, tokens: int | None, thinking: dict[str, Any] | None, betas: tuple[str, ...]
) -> None:
    body, needed = request_body(replace(REQUEST, model=model, thinking_tokens=tokens), Options())
    assert body.get("thinking") == thinking
    assert needed == betas


def test_thinking_is_left_out_where_the_reply_has_no_room_for_it() -> None:
    body, _ = request_body(
        replace(REQUEST, model="claude-haiku-4-5", thinking_tokens=2000, max_output_tokens=1000), Options()
    )
    assert "thinking" not in body


@pytest.mark.parametrize(
    ("model", "tokens", "sent"),
    [
        ("claude-haiku-4-5", None, 0.5),
        ("claude-haiku-4-5", 2000, None),
        ("claude-opus-4-7", None, None),
        ("other", None, 0.5),
    ],
)
def test_a_temperature_is_sent_only_where_it_is_taken(model: str, tokens: int | None, sent: float | None) -> None:
    asked = replace(REQUEST, model=model, thinking_tokens=tokens, temperature=0.5)
    assert request_body(asked, Options())[0].get("temperature") == sent


@pytest.mark.parametrize(
    ("model", "name", "betas"),
    [
        ("claude-sonnet-4-5[1m]", "claude-sonnet-4-5", ("mine", "context-1m-2025-08-07")),
        ("claude-sonnet-5-5[1m]", "claude-sonnet-5-5", ("mine",)),
    ],
)
def test_a_long_window_is_a_beta_where_the_model_has_none_of_itself(
    model: str, name: str, betas: tuple[str, ...]
) -> None:
    body, needed = request_body(replace(REQUEST, model=model), Options(betas=("mine",)))
    assert (body["model"], needed) == (name, betas)


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("claude-sonnet-5-5", (5, 5)),
        ("claude-sonnet-5", (5, 0)),
        ("claude-opus-4-20250514", (4, 0)),
        ("claude-opus-4-5-20251101", (4, 5)),
        ("claude-3-7-sonnet-latest", (3, 7)),
        ("eu.anthropic.claude-haiku-4-5-20251001-v1:0", (4, 5)),
        ("claude-opus-4.8", (4, 8)),
        ("gpt-9", None),
        ("claude-next", None),
    ],
)
def test_a_claude_models_version_is_read_from_its_id(name: str, version: tuple[int, int] | None) -> None:
    assert version_of(name) == version


def test_half_a_surrogate_pair_does_not_keep_a_request_from_being_sent() -> None:
    assert (
        encode({"a\udc80": ["x\udcffy", 1, None], "b": ("\ud800",)})
        == '{"a\ufffd":["x\ufffdy",1,null],"b":["\ufffd"]}'.encode()
    )


def test_without_thinking_leaves_the_rest_and_drops_messages_that_were_nothing_else() -> None:
    think = {"type": "thinking", "thinking": "x", "signature": "s"}
    text = {"type": "text", "text": "t"}
    messages = (
        {"role": "user", "content": [text]},
        {"role": "assistant", "content": [think, text]},
        {"role": "assistant", "content": [think, {"type": "redacted_thinking", "data": "d"}]},
        {"role": "assistant", "content": "plain"},
    )
    assert without_thinking(messages) == (
        {"role": "user", "content": [text]},
        {"role": "assistant", "content": [text]},
        {"role": "assistant", "content": "plain"},
    )


def test_further_fields_go_along_and_replace_what_is_no_matter_of_ours() -> None:
    options = Options(extra={"service_tier": "auto", "metadata": {"user_id": "team"}})
    plain, _ = request_body(REQUEST, Options())
    body, _ = request_body(REQUEST, options)
    assert body == {**plain, **options.extra}
