"""A company's proxy on the way out: the name is judged here and resolved there, TLS is still for the host itself."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime
from typing import Any

import pytest

from runner.sessions.company import route_of, secrets_of
from sandbox.authority import Authority
from sandbox.reachable import network_of
from sandbox.upstream import ProxyServer, Route
from tests.support.company_proxy import CompanyProxy, company_proxy
from tests.support.outlet import Heard, Outlet, TableJudge, outlet, over_tls, serving

NOW = datetime.now(UTC)
SESSION, WORLD = Authority(NOW), Authority(NOW)
TRUST = ssl.create_default_context(cadata=WORLD.certificate.decode())
LOGIN = "Basic dXNlcjpzM2NyZXQh"  # user:s3cret!


def through(proxy: CompanyProxy, *, login: bool = True, scheme: str = "http") -> Route:
    user = "user:s3cret%21@" if login else ""
    where = f"{scheme}://{user}127.0.0.1:{proxy.port}"
    return route_of({"HTTP_PROXY": where, "https_proxy": where, "NO_PROXY": "direct.example"})


def judging(**more: Any) -> TableJudge:
    return TableJudge(allowed={"a.example", "b.example", "10.0.0.1"}, **more)


def plain(host: str) -> bytes:
    return f"GET http://{host}/x?q HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()


async def inside(out: Outlet, host: str) -> bytes:
    """A request by TLS, through a tunnel that the box asked for."""
    connection = await out.end.open()
    await connection.send(f"CONNECT {host}:443 HTTP/1.1\r\nHost: {host}:443\r\n\r\n".encode())
    assert (await connection.until(b"\r\n\r\n"))[9:12] == b"200"
    data = f"GET /x HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
    trusted = SESSION.certificate + WORLD.certificate
    return await over_tls(connection, host, trusted, data, until=b"answer 1")


async def test_plain_requests_go_whole_to_the_proxy_and_nothing_is_resolved_here() -> None:
    heard, judge = Heard(), judging()
    async with serving(heard.answer) as port, company_proxy({"a.example": port}, login=LOGIN) as proxy:
        async with outlet(judge, route=through(proxy)) as out:
            assert (await out.say(plain("a.example"))).endswith(b"answer 1")
            assert b"403" in (await out.say(plain("evil.example")))[:12]
            assert out.resolved == []
        assert proxy.heard == ["GET http://a.example/x?q HTTP/1.1"]
        assert (b"s3cret" in heard.requests[0], b"Proxy-" in heard.requests[0]) == (False, False)
        assert [outcome.via for _, outcome in judge.over] == [f"127.0.0.1:{proxy.port}", ""]
        async with outlet(judge, route=through(proxy, login=False)) as out:
            assert b"407" in (await out.say(plain("a.example")))[:12]


@pytest.mark.parametrize("scheme", ["https", "inspected"])
@pytest.mark.parametrize("secure", [False, True], ids=["proxy by HTTP", "proxy by TLS"])
async def test_tls_goes_through_a_tunnel_of_the_proxys_inspected_or_not(scheme: str, secure: bool) -> None:
    heard, judge = Heard(), judging(scheme=scheme)
    proxied = company_proxy
    async with (
        serving(heard.answer, secure=WORLD.context("a.example")) as port,
        proxied({"a.example": port}, login=LOGIN, secure=WORLD.context("127.0.0.1") if secure else None) as proxy,
        outlet(
            judge,
            authority=SESSION,
            trust=TRUST,
            route=through(proxy, scheme="https" if secure else "http"),
        ) as out,
    ):
        assert (await inside(out, "a.example")).endswith(b"answer 1")
        assert out.resolved == []
    assert proxy.heard == ["CONNECT a.example:443 HTTP/1.1"]
    assert heard.requests[0].startswith(b"GET /x HTTP/1.1\r\nHost: a.example\r\n")


async def test_a_server_behind_the_proxy_has_to_be_the_one_that_was_asked_for() -> None:
    heard, judge = Heard(), judging(scheme="inspected")
    async with (
        serving(heard.answer, secure=WORLD.context("b.example")) as port,
        company_proxy({"a.example": port}) as proxy,
        outlet(judge, authority=SESSION, trust=TRUST, route=through(proxy)) as out,
    ):
        connection = await out.end.open()
        await connection.send(b"CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n")
        await connection.until(b"\r\n\r\n")
        data = b"GET / HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n"
        assert (await over_tls(connection, "a.example", SESSION.certificate, data))[9:12] == b"502"
    assert heard.requests == []


async def test_what_cannot_be_known_behind_a_proxy_is_refused() -> None:
    """An address that is special, and rules that deny addresses: only the proxy knows which one a name has."""
    judge = judging(barred=(network_of("10.0.0.0/8"),))
    async with company_proxy({}) as proxy, outlet(judge, route=through(proxy)) as out:
        assert b"a rule denies addresses" in await out.say(plain("a.example"))
        assert b"is in a range that a rule denies" in await out.say(plain("10.0.0.1"))
        judge.barred = ()
        assert b"10.0.0.1 (private or reserved)" in await out.say(plain("10.0.0.1"))
        connection = await out.say(b"CONNECT b.example:443 HTTP/1.1\r\nHost: b.example:443\r\n\r\n")
        assert connection.startswith(b"HTTP/1.1 502")
        assert b"answered 502 No Such Name" in connection
    assert proxy.heard == ["CONNECT b.example:443 HTTP/1.1"]


def test_the_environment_says_which_proxy_and_the_loopback_takes_none() -> None:
    route = route_of({"HTTPS_PROXY": "https://u:p%20w@proxy.example", "NO_PROXY": ".corp.example,10.0.0.0/8"})
    wanted = ProxyServer(host="proxy.example", port=443, secure=True, authorization=b"Basic dTpwIHc=")
    assert route("https", "a.example", 443) == route("tcp", "a.example", 22) == wanted
    for scheme, host in (
        ("http", "a.example"),
        ("https", "x.corp.example"),
        ("https", "10.1.1.1"),
        ("https", "localhost"),
        ("https", "127.0.0.1"),
        ("https", "::1"),
    ):
        assert route(scheme, host, 443) is None
    assert "dTpwIHc" not in repr(wanted)
    with pytest.raises(ValueError, match="must begin with http"):
        route_of({"ALL_PROXY": "socks5h://127.0.0.1:1"})("https", "a.example", 443)
    assert secrets_of({"HTTPS_PROXY": "http://u:p%20w@proxy.example"}) == ("p%20w", "p w", "dTpwIHc=")
