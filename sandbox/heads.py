"""What the head of an HTTP request says: where it goes, which of its headers go on, and what makes it unclear
(RFC 9110, 9112).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

import h11

from sandbox.hosts import PORTS, HostError, Target, authority_of, target_of
from sandbox.refusals import RefusedError
from sandbox.tape import Headers

HOP = frozenset(
    b"connection keep-alive proxy-connection proxy-authorization proxy-authenticate te trailer upgrade expect".split()
)
KEPT = frozenset({b"host", b"content-length", b"transfer-encoding"})


class Raw(Protocol):
    """Headers as h11 has them: pairs with lower-case names, and as they were written."""

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        """Name and value."""
        ...

    def raw_items(self) -> list[tuple[bytes, bytes]]:
        """With names as they were written."""
        ...


def target_in(event: h11.Request, within: tuple[str, int] | None, *, secure: bool) -> Target:
    """What a request is for, by its target or the tunnel that it came through; its Host header has to say the same.
    Raises HostError.
    """
    text, scheme = event.target.decode("ascii"), "https" if secure else "http"
    if within is not None:
        if not text.startswith("/"):
            raise HostError("a target that is no path, in a tunnel")
        host, port = within
        text = f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}{text}"
    target = target_of(text)
    if target.scheme != scheme:
        raise HostError(f"a request for {target.scheme}:// that the proxy is to make; CONNECT is for that")
    named = header(event.headers, b"host")
    if named is None and event.http_version != b"1.0":
        raise HostError("no Host header")
    if named is not None and authority_of(named.decode("latin-1"), PORTS[scheme]) != (target.host, target.port):
        raise HostError(f"a Host header that is not for {target.authority}")
    return target


def checked(event: h11.Request) -> tuple[Headers, bool]:
    """The request's headers as they go on, without its Host, and whether it asks for a WebSocket. Raises RefusedError
    for two ways to tell its length, and TRACE. Other upgrades are not passed on.
    """
    names = [name for name, _ in event.headers]
    if b"content-length" in names and b"transfer-encoding" in names:
        raise RefusedError("two ways to tell how long the request is", status=400)
    if names.count(b"transfer-encoding") > 1:
        raise RefusedError("two ways to tell how long the request is", status=400)
    if event.http_version not in {b"1.0", b"1.1"}:
        raise RefusedError("another version of HTTP", status=505)
    if event.method == b"TRACE":
        raise RefusedError("TRACE", status=405)
    upgrade = (header(event.headers, b"upgrade") or b"").strip().lower()
    wants = upgrade == b"websocket" and b"upgrade" in _listed(event.headers)
    headers = [pair for pair in cleaned(event.headers) if pair[0].lower() != b"host"]
    if wants:
        if event.method != b"GET" or b"content-length" in names or b"transfer-encoding" in names:
            raise RefusedError("a WebSocket that is asked for with a body", status=400)
        headers += [(b"Connection", b"Upgrade"), (b"Upgrade", b"websocket")]
    return headers, wants


def header(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> bytes | None:
    """The first of this name, in lower case."""
    return next((value for key, value in headers if key == name), None)


def length(headers: Iterable[tuple[bytes, bytes]]) -> int:
    """The length that is told, 0 where none is."""
    return int(header(headers, b"content-length") or 0)


def _listed(headers: Iterable[tuple[bytes, bytes]]) -> set[bytes]:
    """What Connection names: fields for the next hop only."""
    values = [value for key, value in headers if key in {b"connection", b"proxy-connection"}]
    return {token.strip().lower() for value in values for token in value.split(b",")}


def cleaned(headers: Raw) -> Headers:
    """Without what is meant for us only; names as they were written."""
    gone = (HOP | _listed(headers)) - KEPT
    return [(name, value) for name, value in headers.raw_items() if name.lower() not in gone]
