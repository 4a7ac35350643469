"""Where a request goes and whom to trust: URLs, proxies and certificate authorities, from the
environment that is handed in. Pure but for reading the certificate files.
"""

from __future__ import annotations

import base64
import importlib
import ipaddress
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A host that is dialled."""

    host: str
    port: int
    secure: bool

    @property
    def authority(self) -> str:
        """host[:port] as a Host header has it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS["https" if self.secure else "http"] else f"{host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """How to reach a URL. `target` is the request target; `headers` go with each request,
    `proxy_headers` with the CONNECT of a tunnel.
    """

    endpoint: Endpoint
    target: str
    proxy: Endpoint | None = None
    headers: dict[str, str] = field(default_factory=dict, repr=False)
    proxy_headers: dict[str, str] = field(default_factory=dict, repr=False)

    @property
    def tunnel(self) -> bool:
        """Whether TLS goes through the proxy, end to end."""
        return self.proxy is not None and self.endpoint.secure

    @property
    def key(self) -> tuple[object, ...]:
        """Connections with an equal key serve each other's requests."""
        return (self.endpoint, self.proxy)

    @property
    def name(self) -> str:
        """For messages: without user name, password, path or query."""
        return self.endpoint.authority + (f" through the proxy {self.proxy.authority}" if self.proxy else "")


def route_to(url: str, environ: Mapping[str, str]) -> Route:
    """Raises ValueError for a URL or a proxy that cannot be used; the message holds no password."""
    parts, endpoint = _split(url, "the address", ("http", "https"))
    path = parts.path or "/"
    target = f"{path}?{parts.query}" if parts.query else path
    proxy_url = _proxy_of(endpoint, environ)
    if not proxy_url:
        return Route(endpoint=endpoint, target=target)
    if "://" not in proxy_url:
        proxy_url = f"http://{proxy_url}"
    proxy_parts, proxy = _split(proxy_url, "the proxy", ("http", "https"))
    credentials: dict[str, str] = {}
    if proxy_parts.username is not None:
        pair = f"{unquote(proxy_parts.username)}:{unquote(proxy_parts.password or '')}"
        credentials["proxy-authorization"] = "Basic " + base64.b64encode(pair.encode()).decode()
    if endpoint.secure:
        return Route(endpoint=endpoint, target=target, proxy=proxy, proxy_headers=credentials)
    whole = f"http://{endpoint.authority}{target}"
    return Route(endpoint=endpoint, target=whole, proxy=proxy, headers=credentials)


def _split(url: str, what: str, schemes: tuple[str, ...]) -> tuple[SplitResult, Endpoint]:
    try:
        parts = urlsplit(url)
        host, port, scheme = parts.hostname or "", parts.port, parts.scheme.lower()
    except ValueError as error:
        raise ValueError(f"{what} of the model provider is no URL") from error
    if scheme not in schemes or not host:
        raise ValueError(f"{what} of the model provider must begin with http:// or https:// and name a host")
    return parts, Endpoint(host=host, port=port or PORTS[scheme], secure=scheme == "https")


def _proxy_of(endpoint: Endpoint, environ: Mapping[str, str]) -> str:
    scheme = "https" if endpoint.secure else "http"
    if _excepted(endpoint, environ.get("no_proxy") or environ.get("NO_PROXY") or ""):
        return ""
    names = (f"{scheme}_proxy", f"{scheme.upper()}_PROXY", "all_proxy", "ALL_PROXY")
    return next((environ[name] for name in names if environ.get(name)), "")


def _excepted(endpoint: Endpoint, rules: str) -> bool:
    """NO_PROXY: `*`, a host, a domain (with or without a leading dot), host:port, an address or a network."""
    for rule in rules.lower().replace(",", " ").split():
        name, _, port = rule.rpartition(":") if rule.count(":") == 1 else (rule, "", "")
        if port and port != str(endpoint.port):
            continue
        name = name.removeprefix("*").removeprefix(".")
        if rule == "*" or (name and (endpoint.host == name or endpoint.host.endswith(f".{name}"))):
            return True
        if _within(endpoint.host, name):
            return True
    return False


def _within(host: str, network: str) -> bool:
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(network.strip("[]"), strict=False)
    except ValueError:
        return False


def tls_context(environ: Mapping[str, str]) -> ssl.SSLContext:
    """The system's authorities, or those of SSL_CERT_FILE and SSL_CERT_DIR instead, and those of
    NODE_EXTRA_CA_CERTS besides; where the system has none, certifi's. Takes 10-20 ms. Raises
    ValueError for certificates that cannot be read.
    """
    file, directory = environ.get("SSL_CERT_FILE") or None, environ.get("SSL_CERT_DIR") or None
    if file is None and directory is None and not _system_has_authorities():
        file = importlib.import_module("certifi").where()  # 17 ms that only such a system pays
    extra = environ.get("NODE_EXTRA_CA_CERTS")
    try:
        context = ssl.create_default_context(cafile=file, capath=directory)
        if extra:
            context.load_verify_locations(cafile=extra)
    except OSError as error:
        raise ValueError(f"certificates in {extra or file or directory}: {error}") from error
    context.set_alpn_protocols(["http/1.1"])
    return context


def _system_has_authorities() -> bool:
    paths = ssl.get_default_verify_paths()
    if paths.cafile:
        return True
    return bool(paths.capath) and any(Path(paths.capath).iterdir())
