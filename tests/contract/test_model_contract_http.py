"""What goes over HTTP to a provider, and what a bad provider, network or night may do."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runner.errors import (
    AuthenticationError,
    BrokenStreamError,
    InvalidRequestError,
    ModelError,
    ModelNotFoundError,
    OverloadedError,
    PromptTooLongError,
)
from runner.models.base import BlockDone, Delta, Request, TextPart, ToolSpec
from tests.support import model_server
from tests.support.claude import KEY, REPLY, claude, drain, failure, play, said
from tests.support.model_server import JSON, SSE, ModelServer, WireReply, error

HTML = {"content-type": "text/html"}
OVERLOADED = b'{"type":"error","error":{"type":"overloaded_error","message":"no"}}'


async def test_the_request_is_as_the_provider_wants_it() -> None:
    request = Request(
        model="claude-haiku-4-5",
        system=("stable", "moving"),
        messages=({"role": "user", "content": [{"type": "text", "text": "grüße"}]},),
        tools=(ToolSpec(name="Bash", description="runs", schema={"type": "object"}),),
        max_output_tokens=4000,
        thinking_tokens=2000,
    )
    async with (
        ModelServer([REPLY]) as server,
        claude(server, ANTHROPIC_BETAS="one", ANTHROPIC_CUSTOM_HEADERS="X-Team: blue") as model,
    ):
        await play(model, request)
        (received,) = server.requests
    mark = {"cache_control": {"type": "ephemeral"}}
    assert (received.method, received.target) == ("POST", "/v1/messages")
    assert received.headers == {
        "host": server_host(received.headers),
        "user-agent": "fumehood",
        "accept": "text/event-stream",
        "accept-encoding": "identity",
        "content-type": "application/json",
        "anthropic-version": "2023-06-01",
        "anthropic-beta": "one,interleaved-thinking-2025-05-14",
        "x-api-key": KEY,
        "x-team": "blue",
        "content-length": str(len(received.body)),
    }
    assert received.json == {
        "model": "claude-haiku-4-5",
        "max_tokens": 4000,
        "stream": True,
        "system": [{"type": "text", "text": "stable"} | mark, {"type": "text", "text": "moving"}],
        "tools": [{"name": "Bash", "description": "runs", "input_schema": {"type": "object"}} | mark],
        "thinking": {"type": "enabled", "budget_tokens": 2000},
        "messages": [{"role": "user", "content": [{"type": "text", "text": "grüße"} | mark]}],
    }
    assert "grüße".encode() in received.body


def server_host(headers: dict[str, str]) -> str:
    host, _, port = headers["host"].partition(":")
    assert host == "127.0.0.1"
    assert port.isdecimal()
    return headers["host"]


async def test_a_gateway_is_given_its_token_and_its_path() -> None:
    async with ModelServer([REPLY]) as server:
        token = {"ANTHROPIC_API_KEY": "", "ANTHROPIC_AUTH_TOKEN": "tok"}
        async with claude(f"{server.url}/claude/", **token) as model:
            await play(model)
        (received,) = server.requests
    assert received.target == "/claude/v1/messages"
    assert received.headers["authorization"] == "Bearer tok"
    assert "x-api-key" not in received.headers


async def test_a_gateways_own_header_will_do_as_a_key() -> None:
    async with ModelServer([REPLY]) as server:
        own = {"ANTHROPIC_API_KEY": "", "ANTHROPIC_CUSTOM_HEADERS": "Authorization: Basic abc"}
        async with claude(server, **own) as model:
            await play(model)
        assert server.requests[0].headers["authorization"] == "Basic abc"


async def test_the_model_is_the_requests_own_or_the_clients() -> None:
    async with ModelServer([REPLY, REPLY]) as server, claude(server) as model:
        await play(model)
        await play(model, Request(model="other", system=(), messages=(), tools=(), max_output_tokens=1))
        assert [received.json["model"] for received in server.requests] == ["claude-sonnet-5", "other"]


async def test_one_connection_serves_a_whole_session() -> None:
    replies = [said(), said(chunk=7), said(framing="length"), said(compressed=True), said(interim=True)]
    async with ModelServer(replies) as server, claude(server) as model:
        results = [await play(model) for _ in replies]
        assert server.connections == 1
    assert all(result == results[0] for result in results)


async def test_nothing_is_sent_before_the_first_request() -> None:
    async with ModelServer([REPLY]) as server, claude(server) as model:
        await model.warm()
        assert server.connections == 0


async def test_a_cookie_is_not_kept() -> None:
    async with ModelServer([said(headers=SSE | {"set-cookie": "a=b"}), REPLY]) as server, claude(server) as model:
        await play(model)
        await play(model)
        assert "cookie" not in server.requests[1].headers


async def test_requests_side_by_side_have_a_connection_each() -> None:
    async with ModelServer([said(delay=0.05), said(delay=0.05)]) as server, claude(server) as model:
        await asyncio.gather(play(model), play(model))
        assert server.connections == 2


async def test_a_connection_that_the_provider_closed_meanwhile_is_made_anew_without_a_word() -> None:
    async with ModelServer([said(close_after=True), REPLY, said(framing="close"), REPLY]) as server:
        async with claude(server) as model:
            results = [await play(model) for _ in range(4)]
        assert all(result == results[0] for result in results)
        assert [received.connection for received in server.requests] == [1, 2, 2, 3]


async def test_a_kept_connection_that_dies_without_a_byte_is_made_anew_once() -> None:
    dies = WireReply(silent=True)
    async with ModelServer([REPLY, dies, REPLY, dies, dies]) as server, claude(server) as model:
        assert await play(model) == await play(model)
        assert [received.connection for received in server.requests] == [1, 1, 2]
        with pytest.raises(BrokenStreamError, match="the connection broke"):
            await play(model)
        assert [received.connection for received in server.requests] == [1, 1, 2, 2, 3]


async def test_the_server_serves_from_a_process_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "turns.yaml").write_text("- text: hello\n- text: there\n")
    arguments = ["--script", str(tmp_path / "turns.yaml"), "--loop", "--requests", str(tmp_path / "asked")]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(Path(model_server.__file__)),
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        async with claude((await process.stdout.readline()).decode().strip()) as model:
            said_ = [delta.text for _ in range(3) for delta in await play(model) if isinstance(delta, TextPart)]
    finally:
        process.stdin.close()
        assert await process.wait() == 0
    assert said_ == ["hello", "there", "hello"]
    lines = (tmp_path / "asked").read_text().splitlines()
    assert [json.loads(line)["body"]["model"] for line in lines] == ["claude-sonnet-5"] * 3


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pieces=st.lists(st.integers(1, 60), max_size=60), compressed=st.booleans())
def test_any_chunking_gives_the_same_deltas(pieces: list[int], compressed: bool) -> None:
    async def both() -> tuple[list[Delta], list[Delta]]:
        async with ModelServer([REPLY, said(pieces=pieces, compressed=compressed)]) as server, claude(server) as model:
            return await play(model), await play(model)

    whole, cut = asyncio.run(both())
    assert whole == cut


@pytest.mark.parametrize(
    ("reply", "raised", "says"),
    [
        (error(401, "authentication_error", f"invalid x-api-key {KEY}"), AuthenticationError, r"x-api-key \[key\]"),
        (error(403, "permission_error", "not yours"), AuthenticationError, "not yours"),
        (error(404, "not_found_error", "model: claude-x"), ModelNotFoundError, "model: claude-x"),
        (error(400, "invalid_request_error", "prompt is too long: 9 > 8"), PromptTooLongError, "too long"),
        (error(413, "request_too_large", "too big"), PromptTooLongError, "too big"),
        (error(400, "invalid_request_error", "roles must alternate"), InvalidRequestError, "alternate"),
        (error(429, "rate_limit_error", "slow", retry_after="7"), OverloadedError, "slow"),
        (error(529, "overloaded_error", "Overloaded"), OverloadedError, "Overloaded"),
        (
            WireReply(status=500, headers=HTML, body=b"<style>x</style><h1>Bad\x1b[31m day</h1>"),
            OverloadedError,
            r"^Bad \[31m day \(HTTP 500\)$",
        ),
        (WireReply(status=502, headers={}, body=b""), OverloadedError, "no explanation"),
        (WireReply(status=503, headers=JSON, body=b'{"error": "text"}'), OverloadedError, "503"),
        (WireReply(status=503, headers=JSON, body=b"[" * 100_000, framing="length"), OverloadedError, "503"),
        (WireReply(status=500, headers=JSON, body=b"x" * 1_000_000), OverloadedError, "^x{300} "),
        (WireReply(status=307, headers={"location": "http://evil"}), InvalidRequestError, "redirects elsewhere"),
        (WireReply(status=204, framing="length"), InvalidRequestError, "204"),
        (
            WireReply(headers=JSON, body=OVERLOADED),
            OverloadedError,
            "no",
        ),
        (
            WireReply(headers=HTML, body=b"<p>Sign in"),
            BrokenStreamError,
            "no event stream but text/html: Sign",
        ),
        (WireReply(body=b""), BrokenStreamError, "empty"),
        (WireReply(body=b"data: {\n\n"), BrokenStreamError, "not JSON"),
        (WireReply(body=b"data: \xff\n\n"), BrokenStreamError, "UTF-8"),
        (WireReply(headers=SSE | {"content-encoding": "br"}, body=b"x"), BrokenStreamError, "not asked for: br"),
        (WireReply(headers=SSE | {"content-encoding": "gzip"}, body=b"plain"), BrokenStreamError, "damaged"),
    ],
)
async def test_a_bad_answer_is_a_clear_error(reply: WireReply, raised: type[ModelError], says: str) -> None:
    caught = await failure(reply)
    assert type(caught) is raised, caught
    with pytest.raises(raised, match=says):
        raise caught


async def test_the_wait_and_the_request_id_are_read_from_the_headers() -> None:
    caught = await failure(error(429, "rate_limit_error", "slow", retry_after="7", retry_after_ms="1500"))
    assert isinstance(caught, OverloadedError)
    assert (caught.status, caught.retry_after, caught.request) == (429, 1.5, "req_local")


@pytest.mark.parametrize("then", ["close", "reset"])
@pytest.mark.parametrize("framing", ["chunked", "length", "close"])
@pytest.mark.parametrize("part", [0.0, 0.3, 0.7, 0.95])
async def test_a_stream_that_is_cut_keeps_the_finished_blocks(then: Any, framing: Any, part: float) -> None:
    at = int(len(REPLY.body) * part)
    async with ModelServer([said(stop_at=at, then=then, framing=framing)]) as server, claude(server) as model:
        deltas: list[Delta] = []
        with pytest.raises(BrokenStreamError, match="broke off") as caught:
            await drain(model, deltas)
    finished = tuple(delta.block for delta in deltas if isinstance(delta, BlockDone))
    assert caught.value.partial == finished
    assert len(finished) == sum(
        REPLY.body[:at].count(b'"type": "content_block_stop", "index": %d}\n\n' % n) for n in range(2)
    )


async def test_a_provider_that_is_not_there_is_an_overload_that_may_pass() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: nothing can answer there
        async with claude(f"http://127.0.0.1:{taken.getsockname()[1]}") as model:
            await model.warm()
            with pytest.raises(OverloadedError, match=r"127\.0\.0\.1"):
                await play(model)


async def test_an_address_with_a_password_keeps_it_to_itself() -> None:
    async with claude("http://me:secret@no-such-host.invalid") as model:
        with pytest.raises(OverloadedError) as caught:
            await play(model)
    assert "secret" not in f"{caught.value} {caught.value!r} {caught.value.__cause__!r} {model!r}"


async def test_a_host_without_a_name_is_an_overload_that_may_pass() -> None:
    async with claude("http://no-such-host.invalid") as model:
        with pytest.raises(OverloadedError, match=r"no-such-host\.invalid"):
            await play(model)


async def test_a_compressed_bomb_is_stopped_at_the_limit_of_an_event() -> None:
    caught = await failure(WireReply(body=b"data: " + b"x" * (40 << 20), compressed=True))
    assert isinstance(caught, BrokenStreamError)
    assert "an event of more than" in str(caught)


async def test_a_long_request_arrives_whole() -> None:
    request = Request(model="", system=("x" * (5 << 20),), messages=(), tools=(), max_output_tokens=1)
    async with ModelServer([REPLY, REPLY]) as server, claude(server) as model:
        assert await play(model, request) == await play(model, request)
        assert [len(received.json["system"][0]["text"]) for received in server.requests] == [5 << 20] * 2
        assert server.connections == 1


async def test_a_request_over_the_apis_limit_is_not_sent() -> None:
    async with ModelServer([REPLY]) as server, claude(server) as model:
        request = Request(model="", system=("x" * (33 << 20),), messages=(), tools=(), max_output_tokens=1)
        with pytest.raises(PromptTooLongError, match="33 MiB"):
            await play(model, request)
        assert server.requests == []


@pytest.mark.parametrize("url", ["ftp://x", "127.0.0.1:1", "http://x:port", "http://127.0.0.1:1/a b", "http://ä b"])
async def test_an_address_that_cannot_be_used_is_refused(url: str) -> None:
    async with claude(url) as model:
        with pytest.raises(InvalidRequestError, match="of the model provider"):
            await play(model)


async def test_the_key_is_in_nothing_that_a_session_keeps() -> None:
    async with ModelServer([error(500, "api_error", f"{KEY} was sent"), REPLY]) as server, claude(server) as model:
        with pytest.raises(OverloadedError) as caught:
            await play(model)
        deltas = await play(model)
    kept = f"{model!r} {caught.value} {caught.value.args} {deltas} {vars(model)['_settings']}"
    assert KEY not in kept
    assert json.dumps(str(caught.value))
