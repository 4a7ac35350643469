"""Network rules: `Network([METHODS ][scheme://]host[:port][/path][ to RANGES])`, parsed and matched.

A rule on a host alone allows http on port 80 and https on 443, and denies every port and scheme. An allow rule speaks
of what is known to fit it, a deny or ask rule of what might: the method and path of a tunnel cannot be seen.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import TypeAlias
from urllib.parse import unquote

from runner.dataclass import dataclass
from runner.effects import ConnectHost
from runner.errors import UsageError
from runner.policy.patterns import HostPattern, host_pattern

Range: TypeAlias = IPv4Network | IPv6Network

PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}
SCHEMES = frozenset({"http", "https", "ws", "wss", "tcp"})
PLAIN = frozenset({"http", "https"})
TUNNEL = frozenset({"", "CONNECT"})
GIT = {"git:fetch": "git-upload-pack", "git:push": "git-receive-pack"}
_FORM = re.compile(
    r"(?:(?P<methods>[A-Za-z:]+(?:,[A-Za-z:]+)*)\s+)?"
    r"(?:(?P<scheme>[A-Za-z]+)://)?"
    r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^\s/:\[\]]+)"
    r"(?::(?P<port>\*|[1-9][0-9]{0,4}))?"
    r"(?P<path>/\S*)?"
    r"(?:\s+to\s+(?P<ranges>\S+(?:\s*,\s*\S+)*))?"
)


@dataclass(frozen=True, slots=True)
class NetworkPattern:
    """`schemes`, `methods` and `path` empty: not named; `port` 0: not named, -1: any. `ranges`: special addresses that
    an allow rule names, and those that a deny rule is about; `elsewhere`: they were written with `to`. Paths are
    without their query; `*` stands for anything.
    """

    host: HostPattern
    schemes: frozenset[str] = frozenset()
    port: int = 0
    methods: frozenset[str] = frozenset()
    path: str = ""
    ranges: tuple[Range, ...] = ()
    elsewhere: bool = False

    @property
    def key(self) -> str:
        """What it is found by: the host, `*` where that is a pattern."""
        return "*" if "*" in self.host.host else self.host.host

    def covers(self, effect: ConnectHost) -> bool:
        """Whether a request is known to fit: for allow rules."""
        schemes = self.schemes or PLAIN
        if effect.scheme not in schemes or not self._on(effect.host):
            return False
        if self.port >= 0 and effect.port != (self.port or PORTS.get(effect.scheme)):
            return False
        if self.methods and (effect.method in TUNNEL or not self._method(effect)):
            return False
        return not self.path or (effect.method not in TUNNEL and self._covers_path(effect.path))

    def concerns(self, effect: ConnectHost) -> bool:
        """Whether a request might fit: for deny and ask rules."""
        if not self._on(effect.host) or (self.schemes and effect.scheme not in self.schemes):
            return False
        if self.port > 0 and effect.port != self.port:
            return False
        if effect.method in TUNNEL:
            return True
        if self.methods and not self._method(effect):
            return False
        return not self.path or any(_glob(self.path, path) for path in _readings(effect.path))

    def bars(self, effect: ConnectHost) -> bool:
        """Whether a deny rule's addresses are not to be connected to for a request, whatever name it gives."""
        return self.concerns(effect if self.elsewhere else replace(effect, host=self.host.host))

    @property
    def looks(self) -> bool:
        """Whether a request has to be seen to know if it fits."""
        return bool(self.methods or self.path)

    @property
    def inspects(self) -> bool:
        """Whether requests inside of TLS have to be seen. A WebSocket can only be told from the rest there."""
        return "wss" in self.schemes or (self.looks and (not self.schemes or "https" in self.schemes))

    def touches(self, effect: ConnectHost) -> bool:
        """Whether it allows some request of this scheme there, be it of other methods and paths."""
        return self.looks and replace(self, methods=frozenset(), path="").covers(effect)

    def regards(self, effect: ConnectHost) -> bool:
        """Whether it denies, or has asked about, some request of this scheme there."""
        return self.looks and replace(self, methods=frozenset(), path="").concerns(effect)

    def _on(self, host: str) -> bool:
        return self.host.matches(host.lower().rstrip("."))

    def _method(self, effect: ConnectHost) -> bool:
        return effect.method in self.methods or _git(effect) in self.methods

    def _covers_path(self, path: str) -> bool:
        """Of a path that another reader might take for a different one no allow rule speaks."""
        plain = path.partition("?")[0]
        return set(_readings(path)) == {plain} and _glob(self.path, plain)


def _readings(path: str) -> Iterator[str]:
    """What a path may be taken for: as it stands, decoded once and twice, each with and without `.`, `..`, `//`, `;x`
    and backslashes.
    """
    texts = [path.partition("?")[0]]
    texts += [unquote(texts[0], errors="replace")]
    texts += [unquote(texts[1], errors="replace")]
    for text in texts:
        yield text
        clean = re.sub(r";[^/]*", "", text.replace("\\", "/"))
        end = "/" if clean.endswith("/") and clean.strip("/") else ""
        yield "/" + posixpath.normpath("/" + clean).lstrip("/") + end


def _glob(pattern: str, path: str) -> bool:
    """`*` stands for anything, slashes too. Takes time in proportion to the text."""
    first, *rest = pattern.split("*")
    if not rest:
        return path == first
    if not path.startswith(first):
        return False
    at = len(first)
    for piece in rest[:-1]:
        found = path.find(piece, at)
        if found < 0:
            return False
        at = found + len(piece)
    return len(path) - at >= len(rest[-1]) and path.endswith(rest[-1])


def _git(effect: ConnectHost) -> str:
    """`git:fetch` or `git:push` where the request is one step of that (git's smart HTTP protocol), else ""."""
    path, _, query = effect.path.partition("?")
    for verb, service in GIT.items():
        if effect.method == "POST" and path.endswith(f"/{service}"):
            return verb
        if effect.method == "GET" and path.endswith("/info/refs") and query == f"service={service}":
            return verb
    return ""


def opening(effect: ConnectHost) -> str:
    """The text of a rule that allows a request, and no more than is needed: of what is seen inside of TLS its method
    and path, or its git verb; else the host.
    """
    if effect.scheme != "https" or effect.method in TUNNEL or " " in effect.path:
        return shown(effect)
    verb = _git(effect)
    return f"{verb} {shown(effect)}" if verb else shown(effect, path=True).partition("?")[0]


def network_pattern(text: str) -> NetworkPattern:
    """Raises UsageError for what is no network rule."""
    form = _FORM.fullmatch(text.strip())
    if form is None:
        raise UsageError(f"{text!r} is no network rule: [METHODS ][scheme://]host[:port][/path][ to RANGES]")
    scheme = (form["scheme"] or "").lower()
    if scheme and scheme not in SCHEMES:
        raise UsageError(f"network rule {text!r}: the scheme is one of {', '.join(sorted(SCHEMES))}")
    port = form["port"]
    if port not in (None, "*") and int(port) > 0xFFFF:
        raise UsageError(f"network rule {text!r}: no such port")
    if scheme == "tcp" and (port is None or form["methods"] or form["path"]):
        raise UsageError(f"network rule {text!r}: tcp:// takes a port, no method and no path")
    host = form["host"].strip("[]")
    if ":" in host:
        host = str(ip_address(host))
    try:
        ranges = tuple(ip_network(each.strip().strip("[]")) for each in (form["ranges"] or "").split(",") if each)
        literal: tuple[Range, ...] = (ip_network(host),) if _is_address(host) else ()
    except ValueError as error:
        raise UsageError(f"network rule {text!r}: {error}") from error
    return NetworkPattern(
        host=host_pattern(host),
        schemes=frozenset({scheme} - {""}),
        port=-1 if port == "*" else int(port or 0),
        methods=_methods(form["methods"] or "", text),
        path=form["path"] or "",
        ranges=ranges or literal,
        elsewhere=bool(ranges),
    )


def ranges_of(pattern: HostPattern) -> tuple[Range, ...]:
    """The address that a rule on a domain names, where that is one."""
    host = pattern.host.strip("[]")
    return (ip_network(host),) if _is_address(host) else ()


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _methods(words: str, text: str) -> frozenset[str]:
    found = [word.lower() if word.lower().startswith("git:") else word.upper() for word in words.split(",") if word]
    for word in found:
        if word not in GIT and not word.isalpha():
            raise UsageError(f"network rule {text!r}: {word} is no method, nor one of {', '.join(GIT)}")
    return frozenset(found)


def shown(effect: ConnectHost, *, path: bool = False) -> str:
    """The narrowest text of a rule on the request's host, port and scheme; with its method and path too."""
    host = f"[{effect.host}]" if ":" in effect.host else effect.host
    port = "" if PORTS.get(effect.scheme) == effect.port else f":{effect.port}"
    known = path and effect.method not in TUNNEL
    return f"{effect.method + ' ' if known else ''}{effect.scheme}://{host}{port}{effect.path if known else ''}"
