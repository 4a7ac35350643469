"""Further ways around a decision, by the names under which SECURITY.md lists them: DNS by other means, requests that are
smuggled in others, and answers that are to exhaust whoever reads them.
"""

from __future__ import annotations

import asyncio
import gzip
import struct

import pytest

from sandbox.leaving import Bounds
from tests.support.outlet import Outlet, TableJudge, client_hello, outlet, serving

NAMES: dict[str, str | list[str]] = {"a.example": "127.0.0.1"}
QUERY = b"AAABAAABAAAAAAAAA3d3dwdleGFtcGxlA2NvbQAAAQAB"


def socks(host: bytes, port: int, command: int = 1) -> bytes:
    return b"\x05\x01\x00\x05" + bytes([command, 0, 3, len(host)]) + host + struct.pack(">H", port)


def connect(where: bytes) -> bytes:
    return b"CONNECT " + where + b" HTTP/1.1\r\nHost: " + where + b"\r\n\r\n"


@pytest.mark.parametrize(
    "data",
    [
        connect(b"dns.example:443") + client_hello("dns.example"),
        connect(b"1.1.1.1:443") + client_hello(""),
        connect(b"8.8.8.8:853") + client_hello("dns.google"),
        connect(b"[2606:4700:4700::1111]:443") + client_hello(""),
        b"GET http://1.1.1.1/dns-query?dns=" + QUERY + b" HTTP/1.1\r\nHost: 1.1.1.1\r\n\r\n",
        b"POST http://dns.example/dns-query HTTP/1.1\r\nHost: dns.example\r\nContent-Length: 2\r\n\r\nab",
        socks(b"8.8.8.8", 53),
        socks(b"dns.example", 853),
        socks(b"secret-words-in-a-name.evil.example", 80),
        socks(b"8.8.8.8", 53, 3),  # UDP ASSOCIATE
        socks(b"0.0.0.0", 53, 2),  # BIND
        socks(b"a.example", 53, 0xF0),  # Tor's RESOLVE
        b"GET http://0.0.0.0/ HTTP/1.1\r\nHost: 0.0.0.0\r\n\r\n",
        b"GET http://host.docker.internal/ HTTP/1.1\r\nHost: host.docker.internal\r\n\r\n",
        connect(b"gateway.docker.internal:443"),
    ],
    ids=lambda data: data[:40].decode("latin-1").partition(" HTTP")[0],
)
async def test_names_are_asked_of_nobody_by_other_means(data: bytes) -> None:
    """DNS over HTTPS, TLS, TCP and SOCKS' UDP; names of the host as engines give them."""
    async with outlet(TableJudge(allowed={"a.example"}), NAMES) as out:
        answer = await out.say(data, end=True)
        assert out.resolved == []
    if data[:1] == b"\x05":
        assert answer[:3] == b"\x05\x00\x05"
        assert answer[3] in {2, 7}  # not allowed, no such command
    else:
        assert answer[9:12] == b"403"


@pytest.mark.parametrize(
    ("header", "body"),
    [
        (b"Transfer-Encoding: chunked", b"3;x=GET /evil HTTP/1.1\r\nabc\r\n0\r\n\r\n"),
        (b"Transfer-Encoding: chunked", b"0000000003\r\nabc\r\n0\r\nX: GET /evil HTTP/1.1\r\n\r\n"),
        (b"X: 1\r\n GET /evil HTTP/1.1\r\nContent-Length: 3", b"abc"),
        (b"Transfer-Encoding:\r\n chunked", b"3\r\nabc\r\n0\r\n\r\n"),
        (b"Content-Length: 3\r\nContent-Length: 3", b"abc"),
        (b"Content-Length: 3", b"abc" + b"GET /evil HTTP/1.1\r\nHost: a.example\r\n\r\n"),
        (b"Transfer-Encoding: chunked", b"2\nabc\r\n0\r\n\r\nGET /evil HTTP/1.1\r\nHost: a.example\r\n\r\n"),
        (b"Transfer-Encoding: chunked", b"-1\r\nGET /evil HTTP/1.1\r\n\r\n"),
        (b"Transfer-Encoding: chunked", b"10000000000000003\r\nabc\r\n0\r\n\r\n"),
        (b"Connection: Content-Length\r\nContent-Length: 3", b"abc"),
        (b"Connection: close, Host\r\nContent-Length: 3", b"abc"),
        (b"Expect: 100-continue\r\nContent-Length: 3", b"abc"),
        (b"Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMA\r\nContent-Length: 3", b"abc"),
    ],
)
async def test_no_request_is_smuggled_in_another(header: bytes, body: bytes) -> None:
    """The server hears the one request that was judged, written anew, or nothing."""
    heard: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            heard.append(data)
            if b"abc" in b"".join(heard):
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    judge = TableJudge(allowed={"a.example"})
    async with serving(serve) as port, outlet(judge, NAMES, bounds=Bounds(idle=0.5)) as out:
        where = b"a.example:%d" % port
        head = b"POST http://" + where + b"/good HTTP/1.1\r\nHost: " + where + b"\r\n" + header + b"\r\n\r\n"
        await out.say(head + body, end=True)
    said = b"".join(heard)
    assert said.count(b" HTTP/1.1\r\nHost: ") <= 1
    assert said == b"" or said.startswith(b"POST /good HTTP/1.1\r\nHost: a.example:")
    assert b"\nGET /evil" not in said
    lengths = said.lower().count(b"content-length:") + said.lower().count(b"transfer-encoding:")
    assert lengths == (1 if said else 0)
    assert b"h2c" not in said
    assert all("/evil" not in asked or "GET http://" not in asked for asked in judge.asked)


async def fetched(out: Outlet, port: int) -> bytes:
    head = f"GET http://a.example:{port}/ HTTP/1.1\r\nHost: a.example:{port}\r\nConnection: close\r\n\r\n"
    return await out.say(head.encode())


@pytest.mark.parametrize("piece", [b"X: " + b"a" * 60_000 + b"\r\n", b"a" * 60_000])
async def test_a_head_without_end_is_given_up(piece: bytes) -> None:
    sent = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n")
        while True:
            writer.write(piece)
            await writer.drain()
            sent += len(piece)

    judge = TableJudge(allowed={"a.example"})
    async with serving(serve) as port, outlet(judge, NAMES) as out:
        answer = await fetched(out, port)
    assert answer.startswith(b"HTTP/1.1 502")
    assert len(answer) < 1000
    assert sent < 16 << 20


@pytest.mark.parametrize("coding", ["gzip", "br"])
async def test_what_is_packed_passes_as_it_is(coding: str) -> None:
    """A bomb is never unpacked here: as many bytes reach the box as left the server."""
    body = gzip.compress(bytes(32 << 20)) if coding == "gzip" else b"\x5b\xff\xff\xff\x03\x00" * 1000

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = f"HTTP/1.1 200 OK\r\nContent-Encoding: {coding}\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        await writer.drain()

    judge = TableJudge(allowed={"a.example"})
    async with serving(serve) as port, outlet(judge, NAMES) as out:
        assert (await fetched(out, port)).endswith(b"\r\n\r\n" + body)
    assert judge.over[0][1].received < len(body) + 200


async def test_a_body_that_trickles_in_is_given_up() -> None:
    """A slow-loris of the box's: the server is let go of, too."""
    ended = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()
        ended.set()

    judge = TableJudge(allowed={"a.example"})
    async with serving(serve) as port, outlet(judge, NAMES, bounds=Bounds(idle=0.2)) as out:
        head = f"POST http://a.example:{port}/ HTTP/1.1\r\nHost: a.example:{port}\r\nContent-Length: 1000\r\n\r\nx"
        await out.say(head.encode())
        async with asyncio.timeout(10):
            await ended.wait()
    assert judge.over[0][1].failure
