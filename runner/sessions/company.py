"""A company's own proxy and authorities, as the environment of this process names them; a repository's settings never
do. What is sent to the model goes the same way (`runner.models.route`).
"""

from __future__ import annotations

import ssl
from base64 import b64encode
from collections.abc import Mapping
from urllib.parse import unquote, urlsplit

from runner.models.route import PORTS, proxy_for, tls_context
from sandbox.reachable import literal
from sandbox.upstream import ProxyServer, Route


def route_of(environ: Mapping[str, str]) -> Route:
    """Which proxy a request takes: HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, but for NO_PROXY and this machine's loopback."""

    def route(scheme: str, host: str, port: int) -> ProxyServer | None:
        address = literal(host)
        if host == "localhost" or (address is not None and address.is_loopback):
            return None
        shown = f"[{host}]" if ":" in host else host
        found = proxy_for(f"{'http' if scheme in ('http', 'ws') else 'https'}://{shown}:{port}/", environ)
        return _server(found) if found else None

    return route


def _server(url: str) -> ProxyServer:
    parts = urlsplit(url)
    login = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
    return ProxyServer(
        host=parts.hostname or "",
        port=parts.port or PORTS[parts.scheme],
        secure=parts.scheme == "https",
        authorization=b"Basic " + b64encode(login.encode()) if parts.username else b"",
    )


def secrets_of(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Passwords of proxies, as they are and as they are sent."""
    found: list[str] = []
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        url = environ.get(name) or environ.get(name.upper()) or ""
        try:
            server = _server(url if "://" in url else f"http://{url}")
            password = urlsplit(url).password
        except (ValueError, KeyError):
            continue
        if password:
            found += [password, unquote(password), server.authorization.decode().removeprefix("Basic ")]
    return tuple(dict.fromkeys(found))


def trust_of(environ: Mapping[str, str]) -> ssl.SSLContext:
    """Whom servers are believed by: this machine's authorities, or the environment's. Raises ValueError."""
    made = tls_context(environ)
    made.set_alpn_protocols(["http/1.1"])
    return made
