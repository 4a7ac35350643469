"""Whom a TLS client asks for: read from its first words, refused where they hide it."""

from __future__ import annotations

import contextlib
import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.hello import Hello, HelloError, HelloReader
from tests.support.outlet import client_hello, extension


def read(data: bytes) -> Hello | None:
    return HelloReader().feed(data)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_the_hello_of_a_real_client_is_read(version: ssl.TLSVersion) -> None:
    context = ssl.create_default_context()
    context.minimum_version = context.maximum_version = version
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname="Example.com").do_handshake()
    data = outgoing.read()
    assert read(data) == Hello("Example.com")
    reader = HelloReader()
    found = [reader.feed(data[at : at + 1]) for at in range(len(data))]
    assert found == [*[None] * (len(data) - 1), Hello("Example.com")]
    assert bytes(reader.data) == data


def test_a_hello_in_many_records_is_read() -> None:
    assert read(client_hello("a.example", records=7)) == Hello("a.example")


def test_a_hello_without_a_name_says_so() -> None:
    assert read(client_hello("")) == Hello("")


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n",
        b"SSH-2.0-x\r\n",
        b"\x16\x02\x00\x00\x01\x01",
        b"\x16\x03\x01\xff\xff\x01",
        b"\x16\x03\x01\x00\x00",
        b"\x16\x03\x01\x00\x04\x02\0\0\0",
        b"\x16\x03\x01\x00\x04\x01\xff\xff\xff",
        b"\x80\x2e\x01\x00\x02",
        client_hello("a.example", more=extension(0xFE0D, b"\0" * 9)),
        client_hello("a.example", more=extension(0xFFCE, b"\0" * 9)),
        client_hello("a.example", more=extension(0, b"\0\x05\0\0\x02ab")),
        client_hello("", more=extension(0, b"\0\x0a\0\0\x02ab\0\0\x02cd")),
        client_hello("", more=extension(0, b"\0\x05\x01\0\x02ab")),
        client_hello("", more=extension(0, b"\0\x03\0\0\0")),
        client_hello("", more=extension(0, b"\0\x05\0\0\x02\xff\xff")),
        client_hello("", more=b"\0\0\xff\xff"),
    ],
)
def test_what_is_no_plain_hello_is_refused(data: bytes) -> None:
    with pytest.raises(HelloError):
        read(data)


def test_a_hello_without_end_is_refused() -> None:
    piece = b"\x16\x03\x01\x10\x00" + b"\x01\x00\x7f\xff" + bytes(0x1000 - 4)
    with pytest.raises(HelloError):
        read(piece * 100)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_hello_or_refused_or_too_few(data: bytes) -> None:
    for bytes_ in (data, b"\x16\x03\x01" + len(data).to_bytes(2, "big") + data):
        with contextlib.suppress(HelloError):
            read(bytes_)


@given(st.data())
def test_a_hello_with_a_changed_byte_is_a_hello_or_refused(data: st.DataObject) -> None:
    hello = bytearray(client_hello("a.example", more=extension(43, b"\x02\x03\x04")))
    hello[data.draw(st.integers(0, len(hello) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(HelloError):
        read(bytes(hello))
