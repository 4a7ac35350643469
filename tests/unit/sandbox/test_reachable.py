"""What is special about an address, so that it is reached only where it was named."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.reachable import network_of, resolve, special
from sandbox.rulings import Ruling


@pytest.mark.parametrize(
    "text",
    [
        "127.0.0.1",
        "127.255.255.254",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.1.1",
        "169.254.169.254",
        "100.100.100.200",
        "168.63.129.16",
        "100.64.0.1",
        "0.0.0.0",
        "0.1.2.3",
        "224.0.0.1",
        "239.1.1.1",
        "240.0.0.1",
        "255.255.255.255",
        "192.0.2.1",
        "198.18.0.1",
        "192.88.99.1",
        "192.0.0.8",
        "::",
        "::1",
        "::7f00:1",
        "::ffff:127.0.0.1",
        "::ffff:8.8.8.8",
        "64:ff9b::7f00:1",
        "64:ff9b:1::1",
        "2002:7f00:1::1",
        "2001::1",
        "2001:db8::1",
        "fc00::1",
        "fd00:ec2::254",
        "fe80::1",
        "fec0::1",
        "ff02::1",
    ],
)
def test_what_is_not_out_on_the_internet_is_special(text: str) -> None:
    assert special(ip_address(text))


@pytest.mark.parametrize("text", ["1.1.1.1", "8.8.8.8", "93.184.216.34", "2606:4700::1111", "2a00:1450::1"])
def test_what_is_out_on_the_internet_is_not(text: str) -> None:
    assert not special(ip_address(text))


@given(st.integers(0, 2**32 - 1))
def test_an_address_inside_another_is_never_ordinary(number: int) -> None:
    for form in (f"::ffff:{IPv4Address(number)}", f"64:ff9b::{IPv4Address(number)}"):
        assert special(IPv6Address(form))


def test_a_special_address_is_for_the_rule_that_names_it() -> None:
    address = ip_address("10.1.2.3")
    assert "names" in Ruling(allowed=True).objection(address)
    assert Ruling(allowed=True, named=(network_of("10.0.0.0/8"),)).objection(address) == ""
    assert "names" in Ruling(allowed=True, named=(network_of("::/0"), network_of("11.0.0.0/8"))).objection(address)


def test_a_barred_range_counts_for_named_and_ordinary_addresses() -> None:
    barred = (network_of("8.0.0.0/8"), network_of("10.1.0.0/16"))
    ruling = Ruling(allowed=True, named=(network_of("10.0.0.0/8"),), barred=barred)
    assert "denies" in ruling.objection(ip_address("8.8.8.8"))
    assert "denies" in ruling.objection(ip_address("10.1.2.3"))
    assert ruling.objection(ip_address("10.2.2.3")) == ""


async def test_an_address_resolves_to_itself_without_a_resolver() -> None:
    assert await resolve("10.1.2.3", 80) == (ip_address("10.1.2.3"),)
    assert ip_address("127.0.0.1") in await resolve("localhost", 80)
