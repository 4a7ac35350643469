from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from runner.models.route import proxy_for, tls_context

PROXY = "http://proxy.local:3128"


def test_without_a_proxy_the_address_is_dialled() -> None:
    assert proxy_for("https://api.example.com/v1/messages?a=b", {}) is None


def test_a_proxy_keeps_its_password_and_needs_no_scheme() -> None:
    secure = {"HTTPS_PROXY": "http://me:p%40ss@proxy.local:3128"}
    assert proxy_for("https://api.example.com/v1", secure) == "http://me:p%40ss@proxy.local:3128"
    assert proxy_for("http://10.0.0.5:8080/v1/messages", {"http_proxy": "proxy.local:3128"}) == PROXY


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
    assert proxy_for("https://api.example.com/", environ) == (PROXY if used else None)


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
    proxy = proxy_for(url, {"HTTPS_PROXY": PROXY, "NO_PROXY": rules})
    assert proxy == (None if direct else PROXY)


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
        ("https://me:secret@x/a b", {}),
    ],
)
def test_an_address_that_cannot_be_used_is_refused_without_its_password(url: str, environ: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"must begin with|holds a character") as raised:
        proxy_for(url, environ)
    assert "secret" not in str(raised.value)


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
