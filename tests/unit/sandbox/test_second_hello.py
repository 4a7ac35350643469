"""A server may ask a TLS client for a second hello (RFC 8446 4.1.4): in a tunnel that is for the same host, too."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest

from sandbox.authority import Authority
from sandbox.hello import RETRY, Hello, HelloError, SecondHelloReader, asks_again
from tests.support.outlet import TableJudge, client_hello, outlet, over_tls, serving

pytestmark = pytest.mark.network
HOST = "a.example"
CHANGE = b"\x14\x03\x03\x00\x01\x01"
EARLY = b"\x17\x03\x03\x00\x04data"


def server_hello(random: bytes = RETRY) -> bytes:
    body = b"\x03\x03" + random + b"\0" + b"\x13\x01" + b"\0" + b"\0\0"
    message = b"\x02" + len(body).to_bytes(3, "big") + body
    return b"\x16\x03\x03" + len(message).to_bytes(2, "big") + message


def connect(port: int) -> bytes:
    return f"CONNECT {HOST}:{port} HTTP/1.1\r\nHost: {HOST}:{port}\r\n\r\n".encode()


async def test_a_real_client_is_asked_again_and_passes() -> None:
    """The server takes no curve that the client offers a key for at first."""
    world, judge, first = Authority(datetime.now(UTC)), TableJudge(allowed={HOST}), bytearray()
    context = world.context(HOST)
    context.set_ecdh_curve("secp521r1")

    async def site(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nanswer")
        await writer.drain()
        await reader.read()

    async with serving(site, secure=context) as there:

        async def between(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            upstream, onward = await asyncio.open_connection("127.0.0.1", there)

            async def up() -> None:
                while data := await reader.read(1 << 16):
                    onward.write(data)
                onward.close()

            going = asyncio.create_task(up())
            while data := await upstream.read(1 << 16):
                first.extend(data)
                writer.write(data)
            await going

        async with serving(between) as port, outlet(judge, {HOST: "127.0.0.1"}) as out:
            connection = await out.end.open()
            await connection.send(connect(port))
            await connection.until(b"\r\n\r\n")
            asked = b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n"
            answer = await over_tls(connection, HOST, world.certificate, asked, until=b"answer")
            await connection.leave()
    assert answer.endswith(b"answer")
    assert asks_again(bytes(first)) is True


@pytest.mark.parametrize(
    ("second", "why"),
    [
        (client_hello("evil.example"), "TLS for evil.example in a tunnel to a.example"),
        (CHANGE + client_hello("evil.example", records=3), "TLS for evil.example in a tunnel to a.example"),
        (EARLY + CHANGE + client_hello(""), "TLS without a server name"),
        (b"\x15\x03\x03\x00\x02\x02\x28", "neither TLS nor HTTP is spoken"),
        (EARLY * 10_000, "TLS with too much before a second ClientHello"),
        (client_hello(HOST), ""),
    ],
)
async def test_a_second_hello_is_for_the_same_host(second: bytes, why: str) -> None:
    """Sent after it was asked for, or at once with the first."""
    heard = bytearray()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.extend(await reader.readexactly(len(client_hello(HOST))))
        writer.write(server_hello())
        while data := await reader.read(1 << 16):
            heard.extend(data)
            writer.write(b"went on")

    for early in (False, True):
        heard.clear()
        judge = TableJudge(allowed={HOST})
        async with serving(serve) as port, outlet(judge, {HOST: "127.0.0.1"}) as out:
            connection = await out.end.open()
            await connection.send(connect(port) + client_hello(HOST) + (second if early else b""))
            await connection.until(server_hello())
            if not early:
                await connection.send(second)
            await (connection.rest() if why else connection.until(b"went on"))
            await connection.leave()
        if why:
            assert bytes(heard) == client_hello(HOST)
            assert judge.over[0][1].refusal.partition(",")[0].endswith(why)
        else:
            assert bytes(heard) == client_hello(HOST) + second


def test_an_answer_is_read_as_far_as_needed() -> None:
    answer = server_hello()
    at = answer.index(RETRY) + len(RETRY)
    assert [asks_again(answer[:end]) for end in range(at + 2)] == [*[None] * at, True, True]
    assert asks_again(server_hello(bytes(32))) is False
    assert asks_again(b"\x15\x03\x03") is False
    assert asks_again(client_hello(HOST)) is False
    with pytest.raises(HelloError, match="in pieces"):
        asks_again(b"\x16\x03\x03\x00\x04\x02\x00\x00\x50")
    reader, said = SecondHelloReader(), CHANGE + EARLY + client_hello(HOST)
    found = [reader.feed(said[at : at + 1]) for at in range(len(said))]
    assert found == [*[None] * (len(said) - 1), Hello(HOST)]
    assert bytes(reader.passed + reader.data) == said
