"""Connections to where requests go: straight, or by way of a company's proxy, which then resolves the names."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Callable
from dataclasses import field
from typing import TypeAlias

from sandbox.dataclass import dataclass
from sandbox.reachable import Address
from sandbox.wire import PAYLOAD

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
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    proxy: ProxyServer | None = None
    forwards: bool = False

    def close(self) -> None:
        """Drop it."""
        self.writer.close()

    def abort(self) -> None:
        """Drop it now, whatever is still to be said."""
        self.writer.transport.abort()


async def directly(host: str, port: int, addresses: tuple[Address, ...], trust: ssl.SSLContext | None) -> Upstream:
    """To the first of the addresses that answers; by TLS for the host where `trust` is given. Raises OSError."""
    problem: OSError = OSError("the name has no address")
    for address in addresses:
        try:
            reader, writer = await asyncio.open_connection(
                str(address), port, limit=4 * PAYLOAD, ssl=trust, server_hostname=host if trust is not None else None
            )
        except OSError as error:
            problem = error
        else:
            return Upstream(address=address, host=host, port=port, reader=reader, writer=writer)
    raise problem


async def by_proxy(
    proxy: ProxyServer, host: str, port: int, *, plain: bool, trust: ssl.SSLContext | None, own: ssl.SSLContext | None
) -> Upstream:
    """By way of a proxy: `plain` requests are forwarded by it, everything else is tunnelled, by TLS for the host where
    `trust` is given. `own`: whom the proxy itself is believed by, where it is spoken to by TLS. Raises OSError.
    """
    reader, writer = await asyncio.open_connection(proxy.host, proxy.port, limit=4 * PAYLOAD, ssl=own)
    made = Upstream(address=None, host=host, port=port, reader=reader, writer=writer, proxy=proxy, forwards=plain)
    try:
        if not plain:
            await _tunnel(made, proxy)
            if trust is not None:
                await writer.start_tls(trust, server_hostname=host)
    except BaseException:
        made.abort()
        raise
    return made


async def _tunnel(made: Upstream, proxy: ProxyServer) -> None:
    where = f"{f'[{made.host}]' if ':' in made.host else made.host}:{made.port}".encode("ascii")
    login = b"Proxy-Authorization: " + proxy.authorization + b"\r\n" if proxy.authorization else b""
    made.writer.write(b"CONNECT " + where + b" HTTP/1.1\r\nHost: " + where + b"\r\n" + login + b"\r\n")
    await made.writer.drain()
    try:
        answer = await made.reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
        raise ProxyRefusesError(f"the proxy {proxy} gave no answer that is clear") from error
    form = _ANSWER.match(answer)
    if form is None or not form[1].startswith(b"2"):
        said = b" ".join(filter(None, form.groups())).decode("ascii") if form else "nothing that is clear"
        raise ProxyRefusesError(f"the proxy {proxy} answered {said}")


def trusted_here() -> ssl.SSLContext:
    """This machine's authorities."""
    made = ssl.create_default_context()
    made.set_alpn_protocols(["http/1.1"])
    return made
