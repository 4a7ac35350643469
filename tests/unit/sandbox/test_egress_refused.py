"""What does not leave: by name, by address, by a text that two readers could take for different ones."""

from __future__ import annotations

import asyncio
from ipaddress import ip_address

import pytest

from sandbox.leaving import Bounds
from sandbox.reachable import network_of
from tests.support.outlet import (
    NO_RULE,
    Heard,
    TableJudge,
    client_hello,
    connect,
    extension,
    get,
    outlet,
    refused_unresolved,
    serving,
    socks,
)


async def test_what_no_rule_allows_is_neither_resolved_nor_connected_to() -> None:
    async with outlet(TableJudge(allowed=set())) as out:
        assert NO_RULE in await refused_unresolved(out, get("evil.example"))
        answer = await refused_unresolved(out, connect("evil.example:443"))
        assert answer.startswith(b"HTTP/1.1 403 fumehood: no rule allows evil.example:443\r\n")
        assert await refused_unresolved(out, socks(b"evil.example", 443)) == b"\x05\x00\x05\x02\x00\x01" + bytes(6)
    assert [outcome.refusal for _, outcome in out.judge.over] == ["", "", ""]


@pytest.mark.parametrize(
    "host",
    [
        b"evil.example\0.a.example",
        b"evil.example\r\n",
        "a.ex\u0430mple".encode(),
        b"2130706433",
        b"0x7f.1",
        b"a b",
        b"",
    ],
)
async def test_odd_names_are_refused_before_anything(host: bytes) -> None:
    async with outlet(TableJudge(allowed={"a.example"})) as out:
        assert (await refused_unresolved(out, socks(host, 443)))[:4] == b"\x05\x00\x05\x08"
        assert (await refused_unresolved(out, b"CONNECT " + host + b":443 HTTP/1.1\r\nHost: a.example\r\n\r\n"))[
            9:12
        ] == b"400"
        head = b"GET http://" + host + b"/ HTTP/1.1\r\nHost: a.example\r\n\r\n"
        assert (await refused_unresolved(out, head))[9:12] == b"400"
    assert out.judge.asked == []


@pytest.mark.parametrize(
    "data",
    [
        b"GET http://a.example/ HTTP/1.1\r\nHost: evil.example\r\n\r\n",
        b"GET http://evil.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n",
        b"GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\nHost: evil.example\r\n\r\n",
        b"GET http://a.example/ HTTP/1.1\r\nHost: a.example:81\r\n\r\n",
        b"GET http://a.example/ HTTP/1.1\r\n\r\n",
        b"GET http://u:p@a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n",
        b"GET http://a.example@evil.example/ HTTP/1.1\r\nHost: evil.example\r\n\r\n",
        b"GET https://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n",
        b"GET ftp://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n",
        b"GET a.example:80 HTTP/1.1\r\nHost: a.example\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: a.example\r\n\r\n",
        b"GET //a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n",
        b"CONNECT a.example:443 HTTP/1.1\r\nHost: evil.example:443\r\n\r\n",
        b"CONNECT a.example HTTP/1.1\r\nHost: a.example\r\n\r\n",
        b"CONNECT http://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n",
        b"CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\nContent-Length: 3\r\n\r\nabc",
        b"GET http://a.example/ HTTP/1.1\r\nHost : a.example\r\n\r\n",
        b"GET  http://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n",
        b"GET http://a.example/ HTTP/2.0\r\nHost: a.example\r\n\r\n",
        b"TRACE http://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n",
        b"PUT http://a.example/ HTTP/1.1\r\nHost: a.example\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST http://a.example/ HTTP/1.1\r\nHost: a.example\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        b"POST http://a.example/ HTTP/1.1\r\nHost: a.example\r\nContent-Length: +3\r\n\r\nabc",
        b"POST http://a.example/ HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked, identity\r\n\r\n",
        b"POST http://a.example/ HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: \x0bchunked\r\n\r\n",
        b"GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\nX: a\0b\r\n\r\n",
        b"GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\n" + b"X: " + b"a" * 200_000 + b"\r\n\r\n",
        b"GET http://a.example/" + b"a" * 200_000 + b" HTTP/1.1\r\nHost: a.example\r\n\r\n",
        b"\x04\x01\x00\x50\x00\x00\x00\x01x\0a.example\0",
        b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\n",
    ],
)
async def test_a_request_that_can_be_read_in_two_ways_goes_nowhere(data: bytes) -> None:
    async with outlet(TableJudge(allowed={"a.example", "evil.example"})) as out:
        answer = await refused_unresolved(out, data)
    assert answer[9:12] in {b"400", b"403", b"405", b"431", b"501", b"505"}
    assert all("evil.example" not in asked for asked in out.judge.asked)


@pytest.mark.parametrize(
    "hello",
    [
        client_hello("evil.example"),
        client_hello("a.example\0.evil.example"),
        client_hello("a.example.evil.example"),
        client_hello(""),
        client_hello("127.0.0.1"),
        client_hello("a.example", more=extension(0xFE0D, bytes(20))),
        client_hello("a.example", more=extension(0, b"\0\x05\0\0\x02ab")),
        b"SSH-2.0-OpenSSH_9\r\n",
        b"\0\0\0\x08\x04\xd2\x16\x2f",
        b"\x16\x03\x01\xff\xff" + bytes(100),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example:443\r\n\r\n",
        b"GET http://evil.example/ HTTP/1.1\r\nHost: evil.example\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n",
    ],
)
async def test_a_tunnel_carries_nothing_for_another_host(hello: bytes) -> None:
    heard, judge = Heard(), TableJudge(allowed={"a.example", "evil.example"})
    async with (
        serving(heard.echo) as port,
        outlet(judge, {"a.example": "127.0.0.1", "evil.example": "127.0.0.1"}) as out,
    ):
        await out.say(connect(f"a.example:{port}") + hello, end=True)
    assert heard.requests == []
    assert out.resolved == ["a.example"]
    assert len(judge.over) == 1
    assert judge.over[0][1].refusal


async def test_a_client_that_waits_to_be_spoken_to_is_cut_off() -> None:
    heard, judge = Heard(), TableJudge(allowed={"a.example"})
    bounds = Bounds(first=0.05)
    async with serving(heard.echo) as port, outlet(judge, {"a.example": "127.0.0.1"}, bounds=bounds) as out:
        await out.say(connect(f"a.example:{port}"))
    assert "a rule on tcp://" in judge.over[0][1].refusal


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.0.0.1",
        "169.254.169.254",
        "::1",
        "::ffff:127.0.0.1",
        "224.0.0.1",
        "0.0.0.0",
        "fe80::1",
        "172.17.0.1",
    ],
)
async def test_a_name_that_resolves_to_a_special_address_is_not_connected_to(address: str) -> None:
    heard, judge = Heard(), TableJudge(allowed={"a.example"}, named=())
    async with serving(heard.answer) as port, outlet(judge, {"a.example": address}) as out:
        for data in (get(f"a.example:{port}"), connect(f"a.example:{port}")):
            assert f"is {ip_address(address)} (".encode() in await out.say(data)
        assert (await out.say(socks(b"a.example", port)))[:4] == b"\x05\x00\x05\x02"
    assert heard.requests == []
    assert len(judge.over) == 3
    assert all(outcome.refusal for _, outcome in judge.over)


async def test_an_address_among_ordinary_ones_condemns_the_name() -> None:
    judge = TableJudge(allowed={"a.example"}, named=())
    async with outlet(judge, {"a.example": "127.0.0.1 8.8.8.8"}) as out:
        assert b"loopback" in await out.say(get("a.example"))


async def test_an_address_that_a_rule_denies_is_not_connected_to() -> None:
    judge = TableJudge(allowed={"a.example"}, barred=(network_of("127.0.0.0/8"),))
    async with outlet(judge, {"a.example": "127.0.0.1"}) as out:
        assert b"a rule denies" in await out.say(get("a.example"))


async def test_the_address_that_was_judged_is_the_one_connected_to() -> None:
    """A name that resolves to something else the next time: it is resolved once for each connection."""
    heard, judge = Heard(), TableJudge(allowed={"a.example"}, named=(network_of("127.0.0.1"),))
    async with serving(heard.answer) as port, outlet(judge, {"a.example": ["127.0.0.1", "127.0.0.2"]}) as out:
        answer = await out.say(get(f"a.example:{port}"))
        assert answer.endswith(b"answer 1")
        assert out.resolved == ["a.example"]
        assert b"127.0.0.2 (loopback)" in await out.say(get(f"a.example:{port}"))
    assert len(heard.requests) == 1


async def test_a_redirect_to_elsewhere_is_another_request() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/latest\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()

    judge = TableJudge(allowed={"127.0.0.1"})
    async with serving(serve) as port, outlet(judge) as out:
        assert b"Location: http://169.254" in await out.say(get(f"127.0.0.1:{port}"))
        assert b"no rule allows 169.254.169.254:80" in await out.say(get("169.254.169.254"))
