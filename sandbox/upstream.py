"""Connections to where requests go: straight, or by way of a company's proxy, which then resolves the names."""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable
from dataclasses import field
from typing import TypeAlias

from sandbox.dataclass import dataclass
from sandbox.lines import Line
from sandbox.reachable import Address

_LONGEST = 256 << 10
_ANSWER = re.compile(rb"HTTP/1\.[01] (\d{3})(?: ([\x20-\x7e]{0,100}))?")


class ProxyRefusesError(OSError):
    """The company's proxy lets nobody through to there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyServer:
    """A company's proxy; `secure`: by TLS. `authorization`: the value of Proxy-Authorization, b"" for none."""

    host: str
    port: int
    secure: bool = False
    authorization: bytes = field(default=b"", repr=False)

    def __str__(self) -> str:
        return f"{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"


# Scheme, host and port of a request: which proxy it takes, None for none. Raises ValueError where that is not clear.
Route: TypeAlias = Callable[[str, str, int], ProxyServer | None]


def straight(_scheme: str, _host: str, _port: int) -> ProxyServer | None:
    """A Route without proxies."""
    return None


@dataclass(slots=True, kw_only=True)
class Upstream:
    """A connection to where a request goes. `address`: None where a proxy resolved the name. `forwards`: the proxy to
    which requests are written whole, target and all, where it is one that does not tunnel.
    """

    address: Address | None
    host: str
    port: int
    line: Line
    proxy: ProxyServer | None = None
    forwards: bool = False

    def close(self) -> None:
        """Drop it."""
        self.line.close()

    def abort(self) -> None:
        """Drop it now, whatever is still to be said."""
        self.line.abort()


async def directly(host: str, port: int, addresses: tuple[Address, ...], trust: ssl.SSLContext | None) -> Upstream:
    """To the first of the addresses that answers; by TLS for the host where `trust` is given. Raises OSError."""
    problem: OSError = OSError("the name has no address")
    for address in addresses:
        try:
            line = await Line.open(str(address), port, trust=trust, name=host if trust is not None else None)
        except OSError as error:
            problem = error
        else:
            return Upstream(address=address, host=host, port=port, line=line)
    raise problem


async def by_proxy(
    proxy: ProxyServer, host: str, port: int, *, plain: bool, trust: ssl.SSLContext | None, own: ssl.SSLContext | None
) -> Upstream:
    """By way of a proxy: `plain` requests are forwarded by it, everything else is tunnelled, by TLS for the host where
    `trust` is given. `own`: whom the proxy itself is believed by, where it is spoken to by TLS. Raises OSError.
    """
    line = await Line.open(proxy.host, proxy.port, trust=own)
    made = Upstream(address=None, host=host, port=port, line=line, proxy=proxy, forwards=plain)
    try:
        if not plain:
            await _tunnel(made, proxy)
            if trust is not None:
                await line.secure(trust, host)
    except BaseException:
        made.abort()
        raise
    return made


async def _tunnel(made: Upstream, proxy: ProxyServer) -> None:
    where = f"{f'[{made.host}]' if ':' in made.host else made.host}:{made.port}".encode("ascii")
    login = b"Proxy-Authorization: " + proxy.authorization + b"\r\n" if proxy.authorization else b""
    made.line.write(b"CONNECT " + where + b" HTTP/1.1\r\nHost: " + where + b"\r\n" + login + b"\r\n")
    await made.line.drain()
    answer = b""
    while b"\r\n\r\n" not in answer and len(answer) <= _LONGEST and (data := await made.line.read()):
        answer += data
    answer, end, rest = answer.partition(b"\r\n\r\n")
    if not end:
        raise ProxyRefusesError(f"the proxy {proxy} gave no answer that is clear")
    made.line.unread(rest)
    form = _ANSWER.match(answer)
    if form is None or not form[1].startswith(b"2"):
        said = b" ".join(filter(None, form.groups())).decode("ascii") if form else "nothing that is clear"
        raise ProxyRefusesError(f"the proxy {proxy} answered {said}")


def trusted_here() -> ssl.SSLContext:
    """This machine's authorities."""
    made = ssl.create_default_context()
    made.set_alpn_protocols(["http/1.1"])
    return made
