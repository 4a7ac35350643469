"""Limits on what a session takes, of each host and in all: what is over them ends, and both sides are told which."""

from __future__ import annotations

import asyncio
import ssl
from datetime import UTC, datetime
from typing import Any

import pytest

from sandbox.authority import Authority
from sandbox.metering import Meter, Quota, Quotas
from sandbox.refusals import LimitError
from tests.support.outlet import Heard, TableJudge, client_hello, outlet, over_tls, serving

NOW = datetime.now(UTC)
SESSION, WORLD = Authority(NOW), Authority(NOW)
TRUST = ssl.create_default_context(cadata=WORLD.certificate.decode())
NAMES: dict[str, str | list[str]] = {"a.example": "127.0.0.1", "b.example": "127.0.0.1"}


def judging(**more: Any) -> TableJudge:
    return TableJudge(allowed={"a.example", "b.example"}, **more)


def meter(**quotas: Any) -> Meter:
    return Meter(lambda: Quotas(**quotas))


def request(port: int, host: str = "a.example", *, method: str = "GET", more: str = "", form: str = "http") -> bytes:
    target = f"http://{host}:{port}/" if form == "http" else "/"
    return f"{method} {target} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n{more}\r\n".encode()


async def large(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A long answer; how long is told where the request has a query."""
    head = await reader.readuntil(b"\r\n\r\n")
    told = b"Content-Length: 100000" if b"X-Told" in head else b"Transfer-Encoding: chunked"
    body = b"x" * 100_000 if b"X-Told" in head else b"186a0\r\n" + b"x" * 100_000 + b"\r\n0\r\n\r\n"
    writer.write(b"HTTP/1.1 200 OK\r\n" + told + b"\r\n\r\n" + body)
    await writer.drain()


async def test_requests_in_a_minute_are_counted_by_host_and_in_all() -> None:
    heard, judge = Heard(), judging()
    limits = meter(whole=Quota(requests=3), host=Quota(requests=2))
    async with serving(heard.answer) as port, outlet(judge, NAMES, meter=limits) as out:
        answers = [await out.say(request(port, host)) for host in ("a.example",) * 3 + ("b.example",) * 2]
    assert [answer[9:12] for answer in answers] == [b"200", b"200", b"429", b"200", b"429"]
    assert b"the limit network.limits.perHost.requestsPerMinute of 2 is reached" in answers[2]
    assert b"the limit network.limits.requestsPerMinute of 3 is reached" in answers[4]
    assert [bool(outcome.refusal) for _, outcome in judge.over] == [False, False, True, False, True]
    assert len(heard.requests) == 3


def test_a_minute_passes_and_what_was_taken_before_counts() -> None:
    clock = [0.0]
    counted = Meter(lambda: Quotas(host=Quota(requests=1)), monotonic=lambda: clock[0])
    counted.admit("a.example")
    with pytest.raises(LimitError):
        counted.admit("a.example")
    clock[0] = 60.0
    counted.admit("a.example")
    again = Meter(lambda: Quotas(whole=Quota(down=100), host=Quota(up=9)), before={"a.example": (9, 50)})
    with pytest.raises(LimitError, match=r"perHost\.up of 9"):
        again.admit("a.example")
    with pytest.raises(LimitError, match=r"limits\.down of 100"):
        again.admit("b.example").down(51)


@pytest.mark.parametrize(
    ("more", "body"),
    [("Content-Length: 2000\r\n", b""), ("Transfer-Encoding: chunked\r\n", b"7d0\r\n" + b"x" * 2000 + b"\r\n")],
)
async def test_a_body_that_is_too_long_is_refused_told_before_or_not(more: str, body: bytes) -> None:
    heard, judge = Heard(), judging()
    async with serving(heard.echo) as port, outlet(judge, NAMES, meter=meter(body=1000)) as out:
        answer = await out.say(request(port, method="POST", more=more) + body)
        assert answer.startswith(b"HTTP/1.1 413 fumehood: the limit network.limits.body of 1000 is reached")
        await out.say(request(port, method="POST", more="Content-Length: 1000\r\n") + b"y" * 1000)
    assert b"x" * 100 not in b"".join(heard.requests)
    assert judge.over[0][1].refusal == "the limit network.limits.body of 1000 is reached"
    assert b"y" * 1000 in b"".join(heard.requests)


async def test_bytes_up_are_counted_over_requests() -> None:
    heard, judge = Heard(), judging()
    async with serving(heard.echo) as port, outlet(judge, NAMES, meter=meter(host=Quota(up=3000))) as out:
        sent = request(port, method="POST", more="Content-Length: 2000\r\n") + b"x" * 2000
        first, second = [await out.say(sent) for _ in range(2)]
        assert b"502" in first[:12]  # an echo is no answer
        assert second.startswith(b"HTTP/1.1 413 fumehood: the limit network.limits.perHost.up of 3000")
        third = await out.say(request(port, "b.example"))
    assert b"413" not in third[:12]


async def test_a_download_over_the_limit_is_refused_or_ends() -> None:
    judge = judging()
    async with serving(large) as port, outlet(judge, NAMES, meter=meter(whole=Quota(down=50_000))) as out:
        told = await out.say(request(port, more="X-Told: 1\r\n"))
        assert told.startswith(b"HTTP/1.1 403 fumehood: the limit network.limits.down of 50000 is reached")
        cut = await out.say(request(port))
        assert cut.startswith(b"HTTP/1.1 200")
        assert not cut.endswith(b"0\r\n\r\n")
        assert len(cut) <= 50_000
        head = await out.say(request(port, method="HEAD", more="X-Told: 1\r\n"))
        assert head.startswith(b"HTTP/1.1 200")
    assert ["limits.down" in outcome.refusal for _, outcome in judge.over] == [True, True, False]


async def test_tunnels_are_under_the_same_limits() -> None:
    heard, judge = Heard(), judging()
    hello = client_hello("a.example")
    limits = meter(whole=Quota(up=1000, requests=1))
    async with serving(heard.echo) as port, outlet(judge, NAMES, meter=limits) as out:
        head = f"CONNECT a.example:{port} HTTP/1.1\r\nHost: a.example:{port}\r\n\r\n".encode()
        through = await out.say(head + hello + b"x" * 60_000)
        assert through.count(b"x") < 1000
        assert b" 429 fumehood: the limit" in await out.say(head)
    assert "limits.up of 1000" in judge.over[0][1].refusal


async def test_a_request_takes_no_longer_than_it_may_inspected_too() -> None:
    async def slow(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    async def trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while not writer.is_closing():
            writer.write(b"1\r\nx\r\n")
            await writer.drain()
            await asyncio.sleep(0.01)

    judge = judging(scheme="inspected")
    options = {"meter": meter(seconds=0.3), "authority": SESSION, "trust": TRUST}
    async with outlet(judge, NAMES, **options) as out:
        async with serving(slow, secure=WORLD.context("a.example")) as port:
            connection = await out.end.open()
            await connection.send(f"CONNECT a.example:{port} HTTP/1.1\r\nHost: a.example:{port}\r\n\r\n".encode())
            await connection.until(b"\r\n\r\n")
            answer = await over_tls(connection, "a.example", SESSION.certificate, request(port, form="path"))
            assert answer.startswith(b"HTTP/1.1 504 fumehood: the limit network.limits.seconds of 0.3 is reached")
        async with serving(trickle) as port:
            assert not (await out.say(request(port))).endswith(b"0\r\n\r\n")
    assert all("limits.seconds" in outcome.refusal for _, outcome in judge.over)
