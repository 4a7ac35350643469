from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from runner.models.route import Endpoint, Route, route_to, tls_context

API = Endpoint(host="api.example.com", port=443, secure=True)
PROXY = Endpoint(host="proxy.local", port=3128, secure=False)


def test_without_a_proxy_the_address_is_dialled() -> None:
    assert route_to("https://api.example.com/v1/messages?a=b", {}) == Route(endpoint=API, target="/v1/messages?a=b")


def test_https_goes_through_a_tunnel_whose_connect_carries_the_password() -> None:
    route = route_to("https://api.example.com/v1", {"HTTPS_PROXY": "http://me:p%40ss@proxy.local:3128"})
    assert route == Route(
        endpoint=API, target="/v1", proxy=PROXY, proxy_headers={"proxy-authorization": "Basic bWU6cEBzcw=="}
    )
    assert route.tunnel
    assert "bWU6" not in repr(route)
    assert route.name == "api.example.com through the proxy proxy.local:3128"


def test_plain_http_names_the_whole_address_to_the_proxy() -> None:
    route = route_to("http://10.0.0.5:8080/v1/messages", {"http_proxy": "proxy.local:3128"})
    assert (route.target, route.proxy, route.tunnel) == ("http://10.0.0.5:8080/v1/messages", PROXY, False)


@pytest.mark.parametrize(
    ("environ", "used"),
    [
        ({"https_proxy": "http://proxy.local:3128", "HTTPS_PROXY": "http://other"}, True),
        ({"ALL_PROXY": "http://proxy.local:3128"}, True),
        ({"HTTP_PROXY": "http://proxy.local:3128"}, False),
        ({"HTTPS_PROXY": ""}, False),
    ],
)
def test_the_proxy_is_that_of_the_scheme(environ: dict[str, str], used: bool) -> None:
    assert route_to("https://api.example.com/", environ).proxy == (PROXY if used else None)


@pytest.mark.parametrize(
    ("url", "rules", "direct"),
    [
        ("https://api.example.com", "*", True),
        ("https://api.example.com", "example.com", True),
        ("https://api.example.com", ".example.com", True),
        ("https://api.example.com", "*.example.com", True),
        ("https://api.example.com", "local, API.EXAMPLE.COM:443", True),
        ("https://api.example.com", "api.example.com:8443", False),
        ("https://api.example.com", "ample.com,com.", False),
        ("https://api.example.com.evil.org", "example.com", False),
        ("https://10.1.2.3:8443", "10.0.0.0/8", True),
        ("https://11.1.2.3", "10.0.0.0/8", False),
        ("https://[::1]:9", "::1", True),
        ("https://[fe80::1]", "[fe80::]/10 x", False),
        ("https://127.0.0.1", "127.0.0.1", True),
        ("https://localhost", " ", False),
    ],
)
def test_no_proxy_excepts_hosts_domains_ports_and_networks(url: str, rules: str, direct: bool) -> None:
    route = route_to(url, {"HTTPS_PROXY": "http://proxy.local:3128", "NO_PROXY": rules})
    assert (route.proxy is None) == direct


@pytest.mark.parametrize(
    ("url", "environ"),
    [
        ("ftp://x", {}),
        ("api.example.com", {}),
        ("https://", {}),
        ("https://x:port/", {}),
        ("https://[::1", {}),
        ("https://x", {"HTTPS_PROXY": "socks5://me:secret@proxy"}),
        ("https://x", {"HTTPS_PROXY": "http://me:secret@proxy:port"}),
    ],
)
def test_an_address_that_cannot_be_used_is_refused_without_its_password(url: str, environ: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="of the model provider") as raised:
        route_to(url, environ)
    assert "secret" not in str(raised.value)


def test_an_address_with_a_password_keeps_it_to_itself() -> None:
    route = route_to("https://me:secret@api.example.com/v1", {})
    assert "secret" not in repr(route) + route.name + route.endpoint.authority


def test_the_host_header_names_the_port_only_where_it_is_unusual() -> None:
    assert Endpoint(host="::1", port=8080, secure=False).authority == "[::1]:8080"
    assert Endpoint(host="a", port=80, secure=False).authority == "a"
    assert Endpoint(host="a", port=80, secure=True).authority == "a:80"


def test_certificates_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nowhere"):
        tls_context({"NODE_EXTRA_CA_CERTS": str(tmp_path / "nowhere.pem")})
    (tmp_path / "junk.pem").write_text("junk")
    with pytest.raises(ValueError, match="junk"):
        tls_context({"SSL_CERT_FILE": str(tmp_path / "junk.pem")})


def test_peers_are_verified() -> None:
    context = tls_context({})
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
