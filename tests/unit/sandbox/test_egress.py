"""The way out: what is let through, and every way around a decision that others had to fix."""

from __future__ import annotations

import asyncio
import ssl
import struct
from ipaddress import ip_address

import pytest

from sandbox.leaving import Bounds
from sandbox.reachable import network_of
from tests.support.outlet import Heard, Outlet, TableJudge, client_hello, extension, outlet, serving

NO_RULE = b"no rule allows evil.example:80"


def get(host: str, path: str = "/", *, header: str = "", method: str = "GET") -> bytes:
    return f"{method} http://{host}{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{header}\r\n".encode()


def connect(where: str, *, header: str = "") -> bytes:
    return f"CONNECT {where} HTTP/1.1\r\nHost: {where}\r\n{header}\r\n".encode()


def socks(host: bytes, port: int, *, command: int = 1, kind: int = 3) -> bytes:
    address = bytes([len(host)]) + host if kind == 3 else host
    return b"\x05\x01\x00" + b"\x05" + bytes([command]) + b"\x00" + bytes([kind]) + address + struct.pack(">H", port)


async def refused_unresolved(out: Outlet, data: bytes) -> bytes:
    """The answer to what must not get out, and must not have been resolved either."""
    answer = await out.say(data, end=True)
    assert out.resolved == []
    return answer


# What passes


async def test_a_request_passes_and_its_answer_comes_back() -> None:
    heard, judge = Heard(), TableJudge(allowed={"a.example"})
    async with serving(heard.answer) as port, outlet(judge, {"a.example": "127.0.0.1"}) as out:
        answer = await out.say(
            get(f"a.example:{port}", "/x?q=1", header="X-Own: 1\r\nProxy-Authorization: Basic eA==\r\n")
        )
    assert answer.endswith(b"answer 1")
    assert answer.startswith(b"HTTP/1.1 200")
    assert heard.requests == [f"GET /x?q=1 HTTP/1.1\r\nHost: a.example:{port}\r\nX-Own: 1\r\n\r\n".encode()]
    assert judge.asked == [f"GET http://a.example:{port}/x?q=1"]
    [(request, outcome)] = judge.over
    assert (request, outcome.refusal, outcome.received) == (judge.asked[0], "", len(answer))
    assert outcome.sent > len(heard.requests[0])


async def test_each_request_of_a_connection_is_judged_by_itself() -> None:
    heard, judge = Heard(), TableJudge(allowed={"a.example"})
    async with serving(heard.answer) as port, outlet(judge, {"a.example": "127.0.0.1"}) as out:
        first = f"GET http://a.example:{port}/1 HTTP/1.1\r\nHost: a.example:{port}\r\n\r\n".encode()
        answer = await out.say(first + first + get("evil.example") + first)
    assert answer.count(b"HTTP/1.1 200") == 2
    assert NO_RULE in answer
    assert len(heard.requests) == 2
    assert len(judge.asked) == len(judge.over) == 3
    assert out.resolved == ["a.example"]  # one connection for both


async def test_bodies_pass_in_both_directions() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        size, digest = 0, 0
        while size < 3_000_000:
            data = await reader.read(1 << 16)
            size += len(data)
            digest += sum(data)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(30):
            writer.write(b"186a0;ext=1\r\n" + b"y" * 100_000 + b"\r\n")
        writer.write(b"0\r\n\r\n")
        await writer.drain()

    judge = TableJudge(allowed={"127.0.0.1"})
    async with serving(serve) as port, outlet(judge) as out:
        head = f"POST http://127.0.0.1:{port}/ HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n"
        answer = await out.say(
            head.encode() + b"Content-Length: 3000000\r\nExpect: 100-continue\r\n\r\n" + b"x" * 3_000_000
        )
    assert answer.startswith(b"HTTP/1.1 100")
    assert answer.count(b"y") == 3_000_000
    assert 3_000_000 < judge.over[0][1].sent < 3_001_000


async def test_a_tunnel_passes_tls_for_the_host_that_was_asked_for() -> None:
    heard, judge = Heard(), TableJudge(allowed={"a.example"})
    hello = client_hello("A.example")
    async with serving(heard.echo) as port, outlet(judge, {"a.example": "127.0.0.1"}) as out:
        connection = await out.end.open()
        await connection.send(connect(f"a.example:{port}"))
        assert (await connection.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
        await connection.send(hello[:5])
        await connection.send(hello[5:])
        assert (await connection.until(hello[-9:])) == hello
        await connection.end()
        assert await connection.rest() == b""
    assert judge.asked == [f"CONNECT https://a.example:{port}"]
    assert judge.over[0][1].refusal == ""


async def test_a_real_handshake_passes_through_a_tunnel() -> None:
    """As any program does it, with early words after CONNECT in one piece."""
    judge, heard = TableJudge(allowed={"a.example"}), Heard()
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname="a.example").do_handshake()
    hello = outgoing.read()
    async with serving(heard.echo) as port, outlet(judge, {"a.example": "127.0.0.1"}) as out:
        assert (await out.say(connect(f"a.example:{port}") + hello, end=True)).endswith(hello)


async def test_socks_passes_by_name_and_the_name_is_resolved_here() -> None:
    heard, judge = Heard(), TableJudge(allowed={"a.example"})
    hello = client_hello("a.example")
    async with serving(heard.echo) as port, outlet(judge, {"a.example": "127.0.0.1"}) as out:
        answer = await out.say(socks(b"a.example", port) + hello, end=True)
    assert answer == b"\x05\x00" + b"\x05\x00\x00\x01" + bytes(6) + hello
    assert out.resolved == ["a.example"]


async def test_plain_http_in_a_tunnel_is_judged_request_by_request() -> None:
    heard, judge = Heard(), TableJudge(allowed={"a.example"}, scheme="http")
    async with serving(heard.answer) as port, outlet(judge, {"a.example": "127.0.0.1"}) as out:
        head = f"GET /x HTTP/1.1\r\nHost: a.example:{port}\r\nConnection: close\r\n\r\n".encode()
        answer = await out.say(socks(b"a.example", port) + head)
    assert answer.endswith(b"answer 1")
    assert judge.asked == [f"GET http://a.example:{port}/x"]


async def test_other_protocols_pass_where_a_rule_is_on_tcp() -> None:
    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 speak\r\n")
        await writer.drain()

    judge = TableJudge(allowed={"a.example"}, scheme="tcp")
    async with serving(greet) as port, outlet(judge, {"a.example": "127.0.0.1"}) as out:
        assert (await out.say(connect(f"a.example:{port}"), end=True)).endswith(b"220 speak\r\n")
    assert judge.asked == [f"CONNECT tcp://a.example:{port}"]


async def test_a_websocket_is_a_decision_of_its_own() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"Upgrade: websocket" in head
        writer.write(b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nhello")
        writer.write(await reader.readexactly(4))
        await writer.drain()

    wanted = "Upgrade: websocket\r\nSec-WebSocket-Key: x\r\n"
    async with serving(serve) as port:
        where = f"127.0.0.1:{port}"
        data = get(where, header=wanted).replace(b"Connection: close", b"Connection: Upgrade")
        async with outlet(TableJudge(allowed={f"{where} http"})) as out:
            assert b"403" in await out.say(data + b"ping", end=True)
        judge = TableJudge(allowed={f"{where} ws"})
        async with outlet(judge) as out:
            assert (await out.say(data + b"ping", end=True)).endswith(b"helloping")
    assert judge.asked == [f"GET ws://{where}/"]


# What does not


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


# Addresses


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


# Clients and servers that misbehave


async def test_a_slow_head_is_not_waited_for() -> None:
    async with outlet(TableJudge(allowed={"a.example"}), bounds=Bounds(head=0.05)) as out:
        assert await out.say(b"GET http://a.exa") == b""
        assert await out.say(b"") == b""
        assert await out.say(b"\x05\x01") == b""


@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 200_000,
        b"not HTTP at all\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\nhello",
        b"",
    ],
)
async def test_an_answer_that_is_not_clear_is_not_passed_on(reply: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(reply)
        await writer.drain()

    judge = TableJudge(allowed={"127.0.0.1"})
    async with serving(serve) as port, outlet(judge) as out:
        answer = await out.say(get(f"127.0.0.1:{port}"))
    assert b"hello" not in answer
    assert answer[9:12] in {b"502", b"200"}
    assert judge.over[0][1].failure


async def test_a_client_that_leaves_takes_its_request_along() -> None:
    gone = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nx")
        await writer.drain()
        await reader.read()
        gone.set()

    judge = TableJudge(allowed={"127.0.0.1"})
    async with serving(serve) as port, outlet(judge) as out:
        connection = await out.end.open()
        await connection.send(get(f"127.0.0.1:{port}"))
        await connection.until(b"\r\n\r\nx")
        await connection.leave()
        async with asyncio.timeout(20):
            await gone.wait()
            await connection.rest()
    assert len(judge.over) == 1


async def test_what_cannot_be_reached_is_said() -> None:
    judge = TableJudge(allowed={"a.example", "b.example"})
    async with serving(Heard().answer) as port:
        pass
    async with outlet(judge, {"a.example": "127.0.0.1", "b.example": "nothing"}) as out:
        assert (await out.say(get(f"a.example:{port}")))[9:12] == b"502"
        line, _, _ = (await out.say(connect("b.example:443"))).partition(b"\r\n")
        assert line.startswith(b"HTTP/1.1 502 fumehood: b.example:443 cannot be reached")
    assert all("cannot be reached" in outcome.failure for _, outcome in judge.over)


async def test_two_hundred_connections_at_once_pass() -> None:
    """None is answered before all of them are there."""
    judge, there = TableJudge(allowed={"127.0.0.1"}), asyncio.Barrier(200)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await there.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nanswer")
        await writer.drain()

    async with serving(serve) as port, outlet(judge) as out:
        answers = await asyncio.gather(*(out.say(get(f"127.0.0.1:{port}")) for _ in range(200)))
    assert {answer.endswith(b"answer") for answer in answers} == {True}
    assert [outcome.failure for _, outcome in judge.over] == [""] * 200
