"""Names of hosts as the proxy reads them: one spelling for each host, and no text that two readers could take for
different ones. What is not clear is refused, never repaired (RFC 3986, 5890, 6874; WHATWG URL's odd IPv4 forms).
"""

from __future__ import annotations

import re
from ipaddress import AddressValueError, IPv4Address, IPv6Address

from sandbox.dataclass import dataclass

LONGEST_HOST = 253
LONGEST_URL = 32 << 10
PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_PORT = re.compile(r"[1-9][0-9]{0,4}")
_URL = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]{0,15})://(?P<authority>[^/?#\\@]*)(?P<path>[/?][\x21\x22\x24-\x7e]*)?"
)


class HostError(ValueError):
    """A text that names no host, or not clearly one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a URL names. `path` begins with a slash and keeps the query."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        """Host and port as a Host header has them."""
        shown = f"[{self.host}]" if ":" in self.host else self.host
        return shown if PORTS.get(self.scheme) == self.port else f"{shown}:{self.port}"


def host_of(text: str) -> str:
    """The one spelling of a host: a name in lower case without its final dot, or an IP address (IPv6 without
    brackets). Raises HostError for anything else: other letters than ASCII's (a name in another script is written
    `xn--…`), IPv4 in any form but four decimal numbers, zone ids, escapes, control characters.
    """
    if not text or len(text) > LONGEST_HOST + 1:
        raise HostError("no host, or one that is too long")
    if text[0] == "[" or ":" in text:
        return _ipv6(text)
    lower = text.lower()
    if not lower.isascii():
        raise HostError("a host in letters other than ASCII's; write it as xn--…")
    labels = lower.removesuffix(".").split(".")
    if not all(_LABEL.fullmatch(label) for label in labels) or len(lower.removesuffix(".")) > LONGEST_HOST:
        raise HostError("no host name")
    if _NUMBER.fullmatch(labels[-1]):  # the resolver would take it for an address
        if lower.endswith("."):
            raise HostError("an address with a final dot")
        try:
            return str(IPv4Address(lower))
        except AddressValueError:
            raise HostError("an address that is not written as four decimal numbers") from None
    return ".".join(labels)


def _ipv6(text: str) -> str:
    inner = text
    if text[0] == "[":
        if text[-1] != "]":
            raise HostError("a bracket that is not closed")
        inner = text[1:-1]
    if "%" in inner:
        raise HostError("an address with a zone")
    try:
        return str(IPv6Address(inner))
    except AddressValueError:
        raise HostError("no IPv6 address") from None


def authority_of(text: str, port: int | None) -> tuple[str, int]:
    """Host and port of `host`, `host:port` or `[address]:port`; `port` where none is written (None: one is needed).
    Raises HostError, for user information too.
    """
    if "@" in text:
        raise HostError("user information before the host")
    if text.startswith("["):
        host, bracket, rest = text.partition("]")
        name, after = host + bracket, rest
    else:
        name, colon, number = text.partition(":")
        after = colon + number
    if not after:
        if port is None:
            raise HostError("no port")
        return host_of(name), port
    if after[0] != ":" or not _PORT.fullmatch(after[1:]) or int(after[1:]) > 0xFFFF:
        raise HostError("no port number")
    return host_of(name), int(after[1:])


def target_of(url: str) -> Target:
    """What an absolute URL names. Raises HostError: for user information, a fragment, a backslash, control
    characters and spaces, and a scheme without a known port and without a written one.
    """
    if len(url) > LONGEST_URL:
        raise HostError("a URL that is too long")
    form = _URL.fullmatch(url)
    if form is None:
        raise HostError("no URL of the form scheme://host:port/path")
    scheme = form["scheme"].lower()
    host, port = authority_of(form["authority"], PORTS.get(scheme))
    path = form["path"] or "/"
    return Target(scheme=scheme, host=host, port=port, path=path if path[0] == "/" else f"/{path}")
