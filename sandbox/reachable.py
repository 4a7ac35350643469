"""Addresses that names resolve to, and what is special about each: what is not out on the internet is reached only
where it was named (RFC 6890 and IANA's special-purpose registries; cloud metadata; addresses that hold another).
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TypeAlias

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network
Resolve: TypeAlias = Callable[[str, int], Awaitable[tuple[Address, ...]]]

METADATA = frozenset(
    map(ip_address, ("169.254.169.254", "169.254.170.2", "100.100.100.200", "168.63.129.16", "fd00:ec2::254"))
)
_HOLDING = (  # addresses that hold an IPv4 address, which some gateway would take out
    IPv6Network("::/96"),
    IPv6Network("::ffff:0:0/96"),
    IPv6Network("64:ff9b::/96"),
    IPv6Network("64:ff9b:1::/48"),
    IPv6Network("2002::/16"),
    IPv6Network("2001::/32"),
)
_OTHERS = (
    IPv4Network("100.64.0.0/10"),
    IPv4Network("192.0.0.0/24"),
    IPv4Network("192.88.99.0/24"),
    IPv6Network("fec0::/10"),
)
MOST = 16


def special(address: Address) -> str:
    """What is special about an address, in a word or two; "" for one that is out on the internet."""
    told = (
        (address in METADATA, "cloud metadata"),
        (address.is_unspecified, "unspecified"),
        (address.is_loopback, "loopback"),
        (address.is_link_local, "link-local"),
        (address.is_multicast, "multicast"),
        (any(_within(address, network) for network in _HOLDING), "an IPv4 address in an IPv6 one"),
        (any(_within(address, network) for network in _OTHERS), "private or reserved"),
        (address.is_reserved or not address.is_global, "private or reserved"),
    )
    return next((what for holds, what in told if holds), "")


def _within(address: Address, network: Network) -> bool:
    return address.version == network.version and address in network


def literal(host: str) -> Address | None:
    """The address that a host is, None for a name."""
    try:
        return ip_address(host)
    except ValueError:
        return None


def network_of(text: str) -> Network:
    """An address or a range `10.0.0.0/8`. Raises ValueError."""
    return ip_network(text.strip("[]"))


async def resolve(host: str, port: int) -> tuple[Address, ...]:
    """The addresses of a host as this machine's resolver has them, in its order, at most MOST. OSError."""
    found = literal(host)
    if found is not None:
        return (found,)
    rows = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = dict.fromkeys(ip_address(row[4][0].partition("%")[0]) for row in rows if isinstance(row[4][0], str))
    return tuple(addresses)[:MOST]
