"""Keys that enter requests outside of the box, and leave no answer."""

from __future__ import annotations

import asyncio
import ssl
from base64 import b64encode
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.authority import Authority
from sandbox.injection import PLACEHOLDER, Injection, Mask
from sandbox.rulings import Request, Ruling
from tests.support.outlet import Heard, TableJudge, outlet, over_tls, serving

KEY = b"s3cret-key-of-ours"
NOW = datetime.now(UTC)
SESSION, WORLD = Authority(NOW), Authority(NOW)
TRUST = ssl.create_default_context(cadata=WORLD.certificate.decode())
NAMES: dict[str, str | list[str]] = {"a.example": "127.0.0.1", "b.example": "127.0.0.1"}


@dataclass(kw_only=True)
class Keeper(TableJudge):
    """Has a key for a.example."""

    injection: Injection
    scheme: str = "inspected"

    async def judge(self, request: Request) -> Ruling:
        ruling = await super().judge(request)
        fits = request.host == "a.example"
        return replace(ruling, injection=self.injection) if fits else ruling


def keeper(*, header: bytes = b"authorization", pin: bool = False) -> Keeper:
    value = b"Bearer " + KEY if header == b"authorization" else KEY
    injection = Injection(header=header, value=value, secrets=(KEY,), pin=pin)
    return Keeper(allowed={"a.example", "b.example"}, injection=injection)


async def fetched(judge: Keeper, headers: str, *, host: str = "a.example", answer: bytes = b"") -> tuple[bytes, bytes]:
    """What the client got, and what the server heard."""
    heard = Heard()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        heard.requests.append(head)
        if answer:
            for at in range(len(answer)):
                writer.write(answer[at : at + 1])
                await writer.drain()
            return
        writer.write(b"HTTP/1.1 200 OK\r\nX-Echo: %s\r\nContent-Length: %d\r\n\r\n%s" % (KEY, len(head), head))
        await writer.drain()

    async with (
        serving(serve, secure=WORLD.context(host)) as port,
        outlet(judge, NAMES, authority=SESSION, trust=TRUST) as out,
    ):
        connection = await out.end.open()
        await connection.send(f"CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
        await connection.until(b"\r\n\r\n")
        data = f"GET /x HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n{headers}\r\n".encode()
        async with asyncio.timeout(20):
            got = await over_tls(connection, host, SESSION.certificate, data)
    return got, b"".join(heard.requests)


@pytest.mark.parametrize("header", [b"authorization", b"x-api-key"])
async def test_the_key_goes_to_its_host_and_an_echo_of_it_does_not_come_back(header: bytes) -> None:
    got, heard = await fetched(keeper(header=header), f"X-API-Key: {PLACEHOLDER}\r\nAuthorization: {PLACEHOLDER}\r\n")
    assert heard.count(KEY) == 1
    assert header + b": " in heard
    assert b"Accept-Encoding: identity" in heard
    assert KEY not in got
    assert got.count(b"*" * len(KEY)) == 2
    assert got.startswith(b"HTTP/1.1 200")


async def test_the_key_goes_to_no_other_host() -> None:
    _, heard = await fetched(keeper(), "", host="b.example")
    assert heard
    assert KEY not in heard


async def test_the_key_never_goes_over_plain_http() -> None:
    heard, judge = Heard(), keeper()
    judge.scheme = "http"
    async with serving(heard.answer) as port, outlet(judge, NAMES) as out:
        head = f"GET http://a.example:{port}/ HTTP/1.1\r\nHost: a.example:{port}\r\nConnection: close\r\n\r\n"
        assert b"200" in await out.say(head.encode())
    assert KEY not in heard.requests[0]


@pytest.mark.parametrize(
    "headers",
    [
        "Authorization: Bearer theirs\r\n",
        "X-Api-Key: theirs\r\n",
        "Cookie: session=theirs\r\n",
        f"Cookie: session=theirs; x={PLACEHOLDER}\r\n",
        "api-key: theirs\r\n",
        f"Authorization: Basic {b64encode(b'user:theirs').decode()}\r\n",
    ],
)
async def test_a_pinned_host_takes_no_other_key(headers: str) -> None:
    judge = keeper(pin=True)
    got, heard = await fetched(judge, headers)
    assert got.startswith(b"HTTP/1.1 403 fumehood: this host takes its own key only")
    assert heard == b""
    assert judge.over[0][1].refusal
    packed = b64encode(f"user:{PLACEHOLDER}".encode()).decode()
    for own in (f"Bearer {PLACEHOLDER}", f"Basic {packed}", PLACEHOLDER):
        got, heard = await fetched(keeper(pin=True), f"Authorization: {own}\r\n")
        assert heard.count(KEY) == 1


async def test_an_echo_in_pieces_does_not_come_back_either() -> None:
    body = b"x" + KEY + b"y" + KEY
    chunks = b"".join(b"1\r\n" + body[at : at + 1] + b"\r\n" for at in range(len(body)))
    answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"
    got, _ = await fetched(keeper(), "", answer=answer)
    assert KEY not in got.replace(b"\r\n", b"")
    assert got.count(b"*") == 2 * len(KEY)


async def test_a_websocket_is_asked_for_with_the_key_and_no_echo_of_it_comes_back() -> None:
    """What is not the key's beginning is passed on at once: a socket's other end may say no more for now."""
    heard = Heard()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.requests.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nX-Echo: %s\r\n\r\n" % KEY)
        writer.write(b"now " + KEY[:5])
        await writer.drain()
        writer.write(await reader.readexactly(4) + KEY[5:] + b" end")
        await writer.drain()

    judge = keeper(pin=True)
    async with (
        serving(serve, secure=WORLD.context("a.example")) as port,
        outlet(judge, NAMES, authority=SESSION, trust=TRUST) as out,
    ):
        connection = await out.end.open()
        await connection.send(f"CONNECT a.example:{port} HTTP/1.1\r\nHost: a.example:{port}\r\n\r\n".encode())
        await connection.until(b"\r\n\r\n")
        data = (
            f"GET /x HTTP/1.1\r\nHost: a.example:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Authorization: {PLACEHOLDER}\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\nping"
        )
        async with asyncio.timeout(20):
            got = await over_tls(connection, "a.example", SESSION.certificate, data.encode(), until=b" end")
    assert judge.asked == [f"GET wss://a.example:{port}/x"]
    assert heard.requests[0].count(KEY) == 1
    assert b"deflate" not in heard.requests[0]
    assert KEY not in got
    assert b"X-Echo: " + b"*" * len(KEY) in got
    assert got.endswith(b"now " + KEY[:5] + b"ping" + KEY[5:] + b" end")


def test_a_key_is_in_no_representation() -> None:
    assert KEY.decode() not in repr(keeper().injection)
    assert KEY.decode() not in repr(Ruling(allowed=True, injection=keeper().injection))


@given(st.lists(st.sampled_from([b"", b"s", b"s3", KEY, KEY[:9], KEY[9:], b"abc", KEY + KEY]), max_size=12))
def test_a_mask_leaves_length_and_everything_else(parts: list[bytes]) -> None:
    mask = Mask((KEY,))
    got = b"".join(map(mask.feed, parts)) + mask.rest()
    whole = b"".join(parts)
    assert got == whole.replace(KEY, b"*" * len(KEY))


def test_a_mask_keeps_back_only_what_may_be_a_keys_beginning() -> None:
    mask = Mask((KEY,))
    assert mask.feed(b"hello s3") == b"hello "
    assert mask.feed(b"ction") == b"s3ction"
    assert mask.rest() == b""


def test_nothing_to_mask_passes_at_once() -> None:
    assert Mask(()).feed(b"abc") == b"abc"
