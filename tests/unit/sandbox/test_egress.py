"""The way out: what is let through, and every way around a decision that others had to fix."""

from __future__ import annotations

import asyncio
import ssl

import pytest

from sandbox.leaving import Bounds
from tests.support.outlet import (
    NO_RULE,
    Heard,
    TableJudge,
    client_hello,
    connect,
    get,
    outlet,
    serving,
    socks,
)

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


# Addresses


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
