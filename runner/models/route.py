"""Where a request goes and whom to trust: the proxy and the certificate authorities, from the
environment that is handed in (libraries would read the process's own, and know no NODE_EXTRA_CA_CERTS).
"""

from __future__ import annotations

import importlib
import ipaddress
import ssl
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

PORTS = {"http": 80, "https": 443}


def check_url(url: str) -> SplitResult:
    """The parts of a provider's URL. Raises ValueError, which names no password."""
    return _split(url, "the address of the model provider")


def proxy_for(url: str, environ: Mapping[str, str]) -> str | None:
    """The URL of the proxy that `url` is reached through. Raises ValueError, which names no password."""
    parts = check_url(url)
    names = (f"{parts.scheme}_proxy", f"{parts.scheme.upper()}_PROXY", "all_proxy", "ALL_PROXY")
    proxy = next((environ[name] for name in names if environ.get(name)), "")
    if not proxy or _excepted(parts, environ.get("no_proxy") or environ.get("NO_PROXY") or ""):
        return None
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    _split(proxy, "the proxy")
    return proxy


def _split(url: str, what: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in PORTS and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ValueError(f"{what} must begin with http:// or https:// and name a host")
    if not url.isprintable() or " " in url or not url.isascii():
        raise ValueError(f"{what} holds a character that no URL has")
    return parts


def _excepted(parts: SplitResult, rules: str) -> bool:
    """NO_PROXY: `*`, a host, a domain (with or without a leading dot), host:port, an address or a network."""
    host = parts.hostname or ""
    for rule in rules.lower().replace(",", " ").split():
        name, _, port = rule.rpartition(":") if rule.count(":") == 1 else (rule, "", "")
        if port and port != str(parts.port or PORTS[parts.scheme]):
            continue
        name = name.removeprefix("*").removeprefix(".")
        if rule == "*" or (name and (host == name or host.endswith(f".{name}"))) or _within(host, name):
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
    return context


def _system_has_authorities() -> bool:
    paths = ssl.get_default_verify_paths()
    if paths.cafile:
        return True
    return bool(paths.capath) and any(Path(paths.capath).iterdir())
