"""Requests inside of TLS where rules speak of them: TLS ends here, for the host that was asked for and nobody else."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from sandbox.authority import Authority
from sandbox.reading import LARGEST
from sandbox.rulings import Outcome, Request, Ruling
from tests.support.outlet import Heard, Outlet, TableJudge, client_hello, outlet, over_tls, serving

NOW = datetime.now(UTC)
SESSION, WORLD = Authority(NOW), Authority(NOW)
TRUST = ssl.create_default_context(cadata=WORLD.certificate.decode())
NAMES: dict[str, str | list[str]] = {"a.example": "127.0.0.1", "evil.example": "127.0.0.1"}


async def asked(out: Outlet, port: int, data: bytes, *, host: str = "a.example", trusts: bytes = b"") -> bytes:
    connection = await out.end.open()
    await connection.send(f"CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
    assert (await connection.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
    async with asyncio.timeout(20):
        return await over_tls(connection, host, trusts or SESSION.certificate, data)


def get(port: int, host: str = "a.example", method: str = "GET", more: str = "") -> bytes:
    return f"{method} /x?q HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n{more}\r\n".encode()


async def test_requests_inside_are_judged_and_passed_on_by_tls() -> None:
    heard, judge = Heard(), TableJudge(allowed={"a.example"}, scheme="inspected")
    async with (
        serving(heard.answer, secure=WORLD.context("a.example")) as port,
        outlet(judge, NAMES, authority=SESSION, trust=TRUST) as out,
    ):
        assert (await asked(out, port, get(port))).endswith(b"answer 1")
    assert judge.asked == [f"GET https://a.example:{port}/x?q"]
    assert heard.requests[0].startswith(b"GET /x?q HTTP/1.1\r\nHost: a.example:")
    assert judge.over[0][1].refusal == judge.over[0][1].failure == ""


class Answered(TableJudge):
    """Whose first answer is that what is inside has to be judged."""

    async def judge(self, request: Request) -> Ruling:
        self.scheme = "inspected"
        return await super().judge(request)


async def test_a_tunnel_that_is_allowed_for_a_look_inside_is_never_passed_through() -> None:
    heard, judge, blind = Heard(), Answered(allowed={"a.example"}), Answered(allowed={"a.example"})
    async with serving(heard.answer, secure=WORLD.context("a.example")) as port:
        async with outlet(blind, NAMES, trust=TRUST) as out:  # without an authority of its own
            connection = await out.end.open()
            await connection.send(f"CONNECT a.example:{port} HTTP/1.1\r\nHost: a.example:{port}\r\n\r\n".encode())
            assert (await connection.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 403")
        assert heard.requests == []
        async with outlet(judge, NAMES, authority=SESSION, trust=TRUST) as out:
            assert (await asked(out, port, get(port))).endswith(b"answer 1")
    assert judge.asked == [f"CONNECT https://a.example:{port}", f"GET https://a.example:{port}/x?q"]
    assert judge.over[0][1].refusal == ""
    assert "cannot be looked into" in blind.over[0][1].refusal


async def test_an_answer_that_is_a_rule_opens_the_tunnel_for_what_is_judged_inside() -> None:
    heard, judge = Heard(), Answered(allowed={"a.example:0 none"})
    async with serving(heard.answer, secure=WORLD.context("a.example")) as port:
        judge.allowed = set()
        async with outlet(judge, NAMES, authority=SESSION, trust=TRUST) as out:
            assert b"403" in (await asked(out, port, get(port)))[:12]
            judge.allowed = {"a.example"}
            assert (await asked(out, port, get(port))).endswith(b"answer 1")
    assert judge.asked[0] == f"CONNECT https://a.example:{port}"
    assert judge.asked[1:] == [f"GET https://a.example:{port}/x?q"] * 2


async def test_what_is_refused_inside_is_answered_inside() -> None:
    heard, judge = Heard(), TableJudge(allowed=set(), scheme="inspected")
    async with (
        serving(heard.answer, secure=WORLD.context("a.example")) as port,
        outlet(judge, NAMES, authority=SESSION, trust=TRUST) as out,
    ):
        answer = await asked(out, port, get(port, method="POST", more="Content-Length: 0\r\n"))
        assert answer.startswith(b"HTTP/1.1 403 fumehood: no rule allows a.example")
        assert out.resolved == []
    assert heard.requests == []


async def test_a_websocket_inside_is_a_decision_of_its_own() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nhello")
        await writer.drain()

    async with serving(serve, secure=WORLD.context("a.example")) as port:
        data = get(port, more="Upgrade: websocket\r\n").replace(b"Connection: close", b"Connection: Upgrade")
        for scheme, wanted in (("https", b"HTTP/1.1 403"), ("wss", b"HTTP/1.1 101")):
            judge = TableJudge(allowed={f"a.example:{port} {scheme}"}, scheme="inspected")
            async with outlet(judge, NAMES, authority=SESSION, trust=TRUST) as out:
                connection = await out.end.open()
                await connection.send(f"CONNECT a.example:{port} HTTP/1.1\r\nHost: a.example:{port}\r\n\r\n".encode())
                await connection.until(b"\r\n\r\n")
                async with asyncio.timeout(20):
                    answer = await over_tls(connection, "a.example", SESSION.certificate, data, until=b"\r\n\r\n")
            assert answer.startswith(wanted)
            assert judge.asked == [f"GET wss://a.example:{port}/x?q"]


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n",
        b"GET https://evil.example/ HTTP/1.1\r\nHost: evil.example\r\n\r\n",
        b"CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example:443\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a.example\r\nHost: evil.example\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
async def test_the_host_inside_is_the_one_outside(data: bytes) -> None:
    heard, judge = Heard(), TableJudge(allowed={"a.example", "evil.example"}, scheme="inspected")
    async with (
        serving(heard.answer, secure=WORLD.context("a.example")) as port,
        outlet(judge, NAMES, authority=SESSION, trust=TRUST) as out,
    ):
        assert (await asked(out, port, data))[9:10] in (b"4", b"5")
    assert (heard.requests, judge.asked) == ([], [])


async def test_a_hello_for_another_host_gets_no_certificate() -> None:
    judge = TableJudge(allowed={"a.example", "evil.example"}, scheme="inspected")
    async with outlet(judge, NAMES, authority=SESSION, trust=TRUST) as out:
        hello = client_hello("evil.example")
        answer = await out.say(b"CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n" + hello)
    assert b"\x16\x03" not in answer
    assert "TLS for evil.example in a tunnel to a.example" in judge.over[0][1].refusal


async def test_a_server_that_nobody_vouches_for_is_not_believed() -> None:
    heard, judge = Heard(), TableJudge(allowed={"a.example"}, scheme="inspected")
    for secure in (SESSION.context("a.example"), WORLD.context("other.example")):
        async with (
            serving(heard.answer, secure=secure) as port,
            outlet(judge, NAMES, authority=SESSION, trust=TRUST) as out,
        ):
            assert (await asked(out, port, get(port)))[9:12] == b"502"
    assert heard.requests == []
    assert all("certificate" in outcome.failure.lower() for _, outcome in judge.over)


async def test_a_client_that_does_not_trust_the_session_is_told_of_in_the_log() -> None:
    judge = TableJudge(allowed={"a.example"}, scheme="inspected")
    async with outlet(judge, NAMES, authority=SESSION, trust=TRUST) as out:
        with pytest.raises(ssl.SSLError):
            await asked(out, 443, get(443), trusts=WORLD.certificate)
        async with asyncio.timeout(10):
            while not judge.over:  # noqa: ASYNC110 (what is waited for knows nothing of tests)
                await asyncio.sleep(0.01)
    assert judge.asked == []


async def test_without_an_authority_tls_is_passed_on_as_a_whole() -> None:
    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nanswer 1")
        await writer.drain()

    judge = TableJudge(allowed={"a.example"}, scheme="inspected")
    async with serving(once, secure=WORLD.context("a.example")) as port, outlet(judge, NAMES) as out:
        assert (await asked(out, port, get(port), trusts=WORLD.certificate)).endswith(b"answer 1")
    assert judge.asked == [f"CONNECT https://a.example:{port}"]


def test_an_authority_is_of_its_session_and_lasts_a_day() -> None:
    certificate = x509.load_pem_x509_certificate(SESSION.certificate)
    assert certificate.not_valid_after_utc - NOW.replace(microsecond=0) == timedelta(days=1)
    assert SESSION.certificate != WORLD.certificate
    assert b"PRIVATE" not in SESSION.certificate
    assert certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == 0


def test_its_key_is_in_no_file() -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    Authority(NOW).context("b.example")
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_contexts_are_kept_for_the_hosts_that_are_asked_for_again() -> None:
    assert SESSION.context("a.example") is SESSION.context("a.example")
    first = SESSION.context("10.0.0.1")
    for number in range(300):
        SESSION.context(f"h{number}.example")
    assert SESSION.context("10.0.0.1") is not first


class Reads(TableJudge):
    """Notes answers."""

    def notes(self, kind: str, body: bytes) -> None:
        self.over.append((f"{kind} {body!r}", Outcome()))

    async def judge(self, request: Request) -> Ruling:
        return replace(await super().judge(request), reader=self.notes)


@pytest.mark.parametrize(
    ("answer", "read"),
    [
        (b"200 OK\r\ncontent-type: text/html\r\nContent-Length: 4\r\n\r\npage", ["text/html b'page'"]),
        (b"200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\npa\r\n2\r\nge\r\n0\r\n\r\n", [" b'page'"]),
        (b"404 Not Found\r\nContent-Length: 4\r\n\r\npage", []),
        (b"200 OK\r\nCONTENT-Encoding: gzip\r\nContent-Length: 4\r\n\r\npage", []),
        (b"200 OK\r\nContent-Length: 5\r\n\r\npage", []),
        (b"200 OK\r\nContent-Length: %d\r\n\r\n%s" % (LARGEST + 1, bytes(LARGEST + 1)), []),
    ],
)
async def test_an_answer_is_read_whole_and_unpacked_or_not_at_all(answer: bytes, read: list[str]) -> None:
    heads = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 " + answer)
        await writer.drain()

    judge = Reads(allowed={"a.example"}, scheme="inspected")
    async with (
        serving(serve, secure=WORLD.context("a.example")) as port,
        outlet(judge, NAMES, authority=SESSION, trust=TRUST) as out,
    ):
        await asked(out, port, get(port, more="Accept-Encoding: gzip\r\nIf-None-Match: x\r\nX-Other: y\r\n"))
    assert [text for text, _ in judge.over if "https://" not in text] == read
    assert b"Accept-Encoding: identity\r\n" in heads[0]
    assert b"If-None-Match" not in heads[0]
    assert b"X-Other: y" in heads[0]
