"""Names of hosts: one spelling for each, and no text that two readers could take for different hosts."""

from __future__ import annotations

import socket
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.hosts import HostError, authority_of, host_of, target_of

URLS = st.text(alphabet=st.sampled_from(list("hHtTpPsS:/?#@[]%.\\ \t\r\n\0aZ019-_xX\u0430\u2024é")), max_size=40)


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("Example.COM", "example.com"),
        ("example.com.", "example.com"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("10.0.0.1", "10.0.0.1"),
        ("[::1]", "::1"),
        ("2001:DB8::0:1", "2001:db8::1"),
        ("_srv.a-b.c0", "_srv.a-b.c0"),
        ("localhost", "localhost"),
    ],
)
def test_a_host_has_one_spelling(text: str, host: str) -> None:
    assert host_of(text) == host


@pytest.mark.parametrize(
    "text",
    [
        "attacker.example\0.google.com",
        "google.com\r\nX: y",
        "a b.example",
        "2130706433",
        "0x7f000001",
        "0x7f.0.0.1",
        "0177.0.0.1",
        "127.1",
        "127.0.0.1.",
        "1.2.3.256",
        "[fe80::1%eth0]",
        "fe80::1%25eth0",
        "[::1",
        "::1]",
        "[127.0.0.1]",
        "g\u043e\u043egle.com",
        "exa\u2024mple.com",
        "ex%61mple.com",
        "user@example.com",
        "a..b",
        ".example.com",
        "example.com..",
        "-a.example",
        "a-.example",
        "a" * 64,
        ".".join(["a" * 63] * 5),
        "",
        ".",
        "exam\\ple.com",
        "example.com/x",
        "*",
    ],
)
def test_what_is_not_clearly_a_host_is_none(text: str) -> None:
    with pytest.raises(HostError):
        host_of(text)


@pytest.mark.parametrize(
    ("text", "found"),
    [("a.b:8080", ("a.b", 8080)), ("[::1]:443", ("::1", 443)), ("A.B.:1", ("a.b", 1)), ("1.2.3.4:5", ("1.2.3.4", 5))],
)
def test_an_authority_is_host_and_port(text: str, found: tuple[str, int]) -> None:
    assert authority_of(text, None) == found


@pytest.mark.parametrize(
    "text", ["a.b", "a.b:", "a.b:0", "a.b:65536", "a.b:080", "a.b:+80", "a.b:8\u0660", "u:p@a.b:80", "a.b:80:80", "::1"]
)
def test_what_is_not_clearly_an_authority_is_none(text: str) -> None:
    with pytest.raises(HostError):
        authority_of(text, None)


@pytest.mark.parametrize(
    "url",
    [
        "http://allowed.example@evil.example/",
        "http://allowed.example\\@evil.example/",
        "http:///x",
        "http:/a.b/",
        "//a.b/",
        "http://a.b#@evil.example/",
        "http://a.b/#x",
        "http://a.b/a b",
        "http://a.b/\r\nX: y",
        "http://a.b:80:81/",
        "ftp://a.b/",
        "http://a.b/" + "x" * 40_000,
        "http://[::ffff:127.0.0.1%lo]/",
    ],
)
def test_what_is_not_clearly_a_url_is_none(url: str) -> None:
    with pytest.raises(HostError):
        target_of(url)


def test_a_url_names_scheme_host_port_and_path() -> None:
    target = target_of("HTTP://Example.com.?q=1")
    assert (target.scheme, target.host, target.port, target.path) == ("http", "example.com", 80, "/?q=1")
    assert target.authority == "example.com"
    assert target_of("http://[::1]:81/").authority == "[::1]:81"


@given(st.text(max_size=80))
def test_a_host_that_is_taken_is_taken_again_as_itself(text: str) -> None:
    try:
        host = host_of(text)
    except HostError:
        return
    assert host_of(host) == host
    assert host.isascii()
    assert not set(host) & set(" \t\r\n\0/\\@%#?[]")
    assert host == host.lower()


@given(URLS)
def test_a_url_that_is_taken_has_one_host_in_every_reading(text: str) -> None:
    """The last `@`, the first `/`, the first `\\`: wherever another reader ends the authority, it finds this host."""
    try:
        target = target_of(text)
    except HostError:
        return
    rest = text.partition("://")[2]
    for mark in "/?#\\":
        rest = rest.partition(mark)[0]
    assert "@" not in rest
    assert authority_of(rest, target.port) == (target.host, target.port)


@given(st.integers(0, 2**32 - 1), st.sampled_from(["{}", "0x{:x}", "0{:o}"]))
def test_no_number_is_an_address(number: int, form: str) -> None:
    """What the C library takes for an address, and we would take for a name."""
    text = form.format(number)
    socket.inet_aton(text)
    with pytest.raises(HostError):
        host_of(text)


@given(st.lists(st.sampled_from(["0", "1", "127", "0x7f", "0177", "00", "256", "a"]), min_size=1, max_size=5))
def test_what_the_c_library_takes_for_an_address_is_that_address_or_none(parts: list[str]) -> None:
    text = ".".join(parts)
    try:
        packed = socket.inet_aton(text)
    except OSError:
        return
    try:
        host = host_of(text)
    except HostError:
        return
    assert ip_address(host).packed == packed
