"""What goes over HTTP to a provider, and what a bad provider, network or night may do."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import socket
import ssl
import sys
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
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
from runner.models.anthropic import AnthropicModel, settings_from
from runner.models.base import BlockDone, Delta, Finished, Request, Started, TextPart, ToolSpec
from runner.models.deadlines import boot_clock
from runner.models.script import ScriptedReply
from tests.support import model_server
from tests.support.model_server import JSON, SSE, ModelServer, WireReply, error, wire_reply

KEY = "sk-ant-secret-0123456789"
REQUEST = Request(
    model="",
    system=("be kind",),
    messages=({"role": "user", "content": "hello"},),
    tools=(),
    max_output_tokens=1000,
)
HTML = {"content-type": "text/html"}
OVERLOADED = b'{"type":"error","error":{"type":"overloaded_error","message":"no"}}'
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


async def until(condition: Callable[[], object]) -> None:
    """Waits for what another task does."""
    while not condition():  # noqa: ASYNC110 - there is no event to wait for
        await asyncio.sleep(0.005)


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


async def test_a_provider_that_hangs_before_it_answers_is_given_up() -> None:
    caught = await failure(said(delay=30), API_TIMEOUT_MS="50")
    assert isinstance(caught, BrokenStreamError)
    assert "the provider's answer" in str(caught)


async def test_a_provider_that_hangs_in_mid_stream_is_given_up_with_what_came() -> None:
    at = REPLY.body.index(b"event: content_block_start", 600)
    caught = await failure(said(stop_at=at, then="hang"), CLAUDE_STREAM_IDLE_TIMEOUT_MS="300")
    assert isinstance(caught, BrokenStreamError)
    assert "while waiting for the reply" in str(caught)
    assert [block["type"] for block in caught.partial] == ["thinking"]


async def test_a_reply_that_trickles_on_for_ever_is_given_up_at_the_total() -> None:
    caught = await failure(said(chunk=1, pace=0.01), API_TIMEOUT_MS="100")
    assert isinstance(caught, BrokenStreamError)


async def test_a_machine_that_slept_for_an_hour_gives_the_stream_up_at_its_next_tick() -> None:
    asleep = 0.0
    server = ModelServer([said(stop_at=700, then="hang"), REPLY])
    async with server, claude_at(server, lambda: boot_clock() + asleep, tick=0.02) as model:
        deltas: list[Delta] = []
        task = asyncio.ensure_future(drain(model, deltas))
        await until(lambda: len(deltas) > 1 or task.done())
        assert isinstance(deltas[0], Started)
        asleep = 1800.0
        with pytest.raises(BrokenStreamError, match=r"nothing came for 18\d\d s while waiting for the reply"):
            await task
        asleep = 1801.0
        assert isinstance((await play(model))[-1], Finished)


async def test_a_machine_that_slept_before_the_next_event_was_asked_for_gives_up_too() -> None:
    asleep = 0.0
    server = ModelServer([said(stop_at=700, then="hang")])
    async with server, claude_at(server, lambda: boot_clock() + asleep, tick=0.02) as model:
        stream = model.stream(REQUEST)
        await anext(stream)
        asleep = 7200.0
        with pytest.raises(BrokenStreamError, match="took longer than it may"):
            _ = [delta async for delta in stream]


async def test_a_connection_that_was_kept_over_a_long_sleep_is_not_used_again() -> None:
    asleep = 0.0
    server = ModelServer([REPLY, REPLY])
    async with server, claude_at(server, lambda: boot_clock() + asleep) as model:
        await play(model)
        asleep = 3600.0
        await play(model)
        assert server.connections == 2


async def test_a_slow_reader_is_not_taken_for_a_slow_provider() -> None:
    body = wire_reply(ScriptedReply(text="x" * 200_000)).body
    async with (
        ModelServer([WireReply(body=body)]) as server,
        claude(server, CLAUDE_STREAM_IDLE_TIMEOUT_MS="60") as model,
    ):
        size = 0
        async for delta in model.stream(REQUEST):
            if isinstance(delta, Started):
                await asyncio.sleep(0.15)
            size += len(delta.text) if isinstance(delta, TextPart) else 0
    assert size == 200_000


async def test_a_stream_that_is_left_closes_its_connection() -> None:
    async with ModelServer([said(stop_at=500, then="hang"), REPLY]) as server, claude(server) as model:
        stream = model.stream(REQUEST)
        await anext(stream)
        await stream.aclose()
        await play(model)
        assert server.connections == 2


async def test_a_cancelled_request_closes_its_connection() -> None:
    async with ModelServer([said(delay=30), REPLY]) as server, claude(server) as model:
        task = asyncio.ensure_future(play(model))
        await until(lambda: server.requests)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert isinstance((await play(model))[-1], Finished)


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


async def test_plain_http_goes_through_a_proxy_that_is_told_the_password() -> None:
    async with ModelServer([REPLY]) as proxy:
        through = proxy.url.replace("http://", "http://me:pass@")
        async with claude("http://api.example.com", HTTP_PROXY=through) as model:
            await play(model)
        (received,) = proxy.requests
    assert received.target == "http://api.example.com/v1/messages"
    assert received.headers["host"] == "api.example.com"
    assert received.headers["proxy-authorization"] == "Basic bWU6cGFzcw=="


class Tunnel:
    """A proxy that knows CONNECT only; what it was asked is kept."""

    def __init__(self, *, refuse: bool = False) -> None:
        self.asked: list[str] = []
        self.writers: list[asyncio.StreamWriter] = []
        self.port = 0
        self.spoils: Callable[[], object] = bool
        self._refuse = refuse

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        self.asked.append((await reader.readuntil(b"\r\n\r\n")).decode())
        if self._refuse:
            writer.write(b"HTTP/1.1 407 Who are you\r\ncontent-length: 0\r\n\r\n")
            return
        port = int(self.asked[-1].split()[1].rpartition(":")[2])
        up, down = await asyncio.open_connection("127.0.0.1", port)
        self.writers.append(down)
        writer.write(b"HTTP/1.1 200 Go\r\n\r\n")
        await asyncio.gather(self.carry(reader, down), self.carry(up, writer), return_exceptions=True)

    async def carry(self, source: asyncio.StreamReader, to: asyncio.StreamWriter) -> None:
        while data := await source.read(4096):
            to.write(b"\x17\x03\x03\x00\x20" + b"?" * 32 if self.spoils() else data)
        to.close()


@asynccontextmanager
async def tunnel(*, refuse: bool = False) -> AsyncGenerator[Tunnel]:
    made = Tunnel(refuse=refuse)
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    async with server:
        yield made
        for writer in made.writers:
            writer.close()
        await asyncio.gather(*(writer.wait_closed() for writer in made.writers), return_exceptions=True)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, Path]:
    """A server's TLS context for localhost, and the certificate that vouches for it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    directory = tmp_path_factory.mktemp("tls")
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    (directory / "cert.pem").write_bytes(pem)
    (directory / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "cert.pem", directory / "key.pem")
    return context, directory / "cert.pem"


@pytest.mark.parametrize("name", ["NODE_EXTRA_CA_CERTS", "SSL_CERT_FILE"])
async def test_tls_trusts_the_authorities_that_the_environment_names(
    authority: tuple[ssl.SSLContext, Path], name: str
) -> None:
    async with ModelServer([REPLY, REPLY], tls=authority[0]) as server:
        async with claude(server, **{name: str(authority[1])}) as model:
            await model.warm()
            assert isinstance((await play(model))[-1], Finished)
            await play(model)
        assert server.connections == 1


async def test_a_certificate_that_nobody_vouches_for_is_no_overload(authority: tuple[ssl.SSLContext, Path]) -> None:
    async with ModelServer([REPLY], tls=authority[0]) as server, claude(server) as model:
        await model.warm()
        with pytest.raises(ModelError, match=r"certificate of localhost: .*NODE_EXTRA_CA_CERTS") as caught:
            await play(model)
        assert type(caught.value) is ModelError
        assert server.requests == []


async def test_https_goes_through_a_proxys_tunnel_end_to_end(authority: tuple[ssl.SSLContext, Path]) -> None:
    async with ModelServer([REPLY, REPLY], tls=authority[0]) as server, tunnel() as proxy:
        through = {"HTTPS_PROXY": f"http://me:pass@127.0.0.1:{proxy.port}", "NODE_EXTRA_CA_CERTS": str(authority[1])}
        async with claude(server, **through) as model:
            await play(model)
            assert isinstance((await play(model))[-1], Finished)
        assert server.connections == 1
        assert "proxy-authorization" not in server.requests[0].headers
    (asked,) = proxy.asked
    assert asked.startswith(f"CONNECT localhost:{server_port(server)} HTTP/1.1\r\n")
    assert "proxy-authorization: basic bwu6cgfzcw==\r\n" in asked.lower()
    assert KEY not in asked


async def test_a_tls_record_that_was_damaged_on_its_way_is_a_broken_stream(
    authority: tuple[ssl.SSLContext, Path],
) -> None:
    async with ModelServer([REPLY, REPLY], tls=authority[0]) as server, tunnel() as proxy:
        proxy.spoils = lambda: server.requests
        through = {"HTTPS_PROXY": f"http://127.0.0.1:{proxy.port}", "NODE_EXTRA_CA_CERTS": str(authority[1])}
        async with claude(server, **through) as model:
            with pytest.raises(BrokenStreamError, match="the connection broke"):
                await play(model)


def server_port(server: ModelServer) -> int:
    return int(server.requests[0].headers["host"].rpartition(":")[2])


async def test_a_proxy_that_refuses_is_named_without_its_password() -> None:
    async with tunnel(refuse=True) as proxy:
        environ = {"HTTPS_PROXY": f"http://me:secret@127.0.0.1:{proxy.port}"}
        async with claude("https://localhost:1", **environ) as model:
            with pytest.raises(OverloadedError, match="407 Who are you") as caught:
                await play(model)
    assert "secret" not in str(caught.value)


async def test_the_key_is_in_nothing_that_a_session_keeps() -> None:
    async with ModelServer([error(500, "api_error", f"{KEY} was sent"), REPLY]) as server, claude(server) as model:
        with pytest.raises(OverloadedError) as caught:
            await play(model)
        deltas = await play(model)
    kept = f"{model!r} {caught.value} {caught.value.args} {deltas} {vars(model)['_settings']}"
    assert KEY not in kept
    assert json.dumps(str(caught.value))
