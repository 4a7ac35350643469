"""What the indexes of package registries name: their pages list files that lie on other hosts, which nobody wrote rules
for. Exactly these files may be fetched, for as long as the session runs.

A page counts where it is below the address that the user's own tool is set to, by a path that no reader takes for
another one: a registry's other pages may hold what anybody wrote.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from html import unescape
from typing import Any, Protocol
from urllib.parse import urldefrag, urljoin

from runner.effects import ConnectHost
from runner.policy.network import network_pattern, shown
from sandbox.hosts import HostError, target_of

MOST = 200_000
_LINK = re.compile(r"""<a\s[^>]{0,2000}?\bhref\s*=\s*(?:"([^"]*)"|'([^']*)')""", re.IGNORECASE)
_MARK = re.compile(r"\{(crate|version|prefix|lowerprefix|sha256-checksum)\}")
_MARKED = {"prefix": r"[\w/-]+", "lowerprefix": r"[\w/-]+", "version": r"[\w.+-]+"}
Place = tuple[str, str, int]


class Registry(Protocol):
    """One tool's: `pip`, `npm` or `cargo`; those of others hold their files themselves."""

    @property
    def tool(self) -> str:
        """Which one."""
        ...

    @property
    def urls(self) -> tuple[str, ...]:
        """What it is set to."""
        ...


class Indexes:
    """`registries`: those that are open now."""

    def __init__(self, registries: Callable[[], Iterable[Registry]] = tuple) -> None:
        self._registries = registries
        self._files: dict[Place, dict[str, str]] = {}
        self._forms: dict[Place, dict[str, str]] = {}
        self._count = 0

    def reader(self, effect: ConnectHost) -> Callable[[str, bytes], None] | None:
        """What is to be told of the answer to a request that may leave, None where that is no index."""
        if effect.method != "GET" or "?" in effect.path:
            return None
        for registry in self._registries():
            for url in registry.urls:
                if registry.tool in _NAMED and _is_page(registry.tool, url, effect):
                    return partial(self._read, registry.tool, effect)
        return None

    def named(self, effect: ConnectHost) -> str:
        """The page that names exactly what is asked for, "" where none does."""
        if effect.method not in ("GET", "HEAD"):
            return ""
        place = (effect.scheme, effect.host, effect.port)
        page = self._files.get(place, {}).get(effect.path, "")
        forms = self._forms.get(place, {})
        return page or next((page for form, page in forms.items() if re.fullmatch(form, effect.path)), "")

    def concerns(self, host: str, port: int) -> bool:
        """Whether some file is there, so that requests have to be seen."""
        place = ("https", host, port)
        return place in self._files or place in self._forms

    def _read(self, tool: str, effect: ConnectHost, kind: str, body: bytes) -> None:
        page = f"{shown(effect)}{effect.path}"
        try:
            found = list(_NAMED[tool](page, kind, body.decode("utf-8", "replace")))
        except (ValueError, LookupError, RecursionError, AttributeError, TypeError):
            return  # no index after all
        for url in found[: max(0, MOST - self._count)]:
            try:
                target = target_of(_MARK.sub("x", url))
            except HostError:
                continue
            place = (target.scheme, target.host, target.port)
            if target.scheme not in ("http", "https") or (effect.scheme == "https" and target.scheme == "http"):
                continue
            self._count += 1
            if not _MARK.search(url):
                self._files.setdefault(place, {})[target.path] = page
            elif not _MARK.search(url.partition("://")[2].partition("/")[0]):
                self._forms.setdefault(place, {})[_form("/" + url.split("/", 3)[3])] = page


def _is_page(tool: str, url: str, effect: ConnectHost) -> bool:
    below = "/config.json" if tool == "cargo" else "/*"
    try:
        target = target_of(url)
        if "*" in target.path:
            return False
        shown_host = f"[{target.host}]" if ":" in target.host else target.host
        text = f"{target.scheme}://{shown_host}:{target.port}{target.path.rstrip('/')}{below}"
        return network_pattern(f"GET {text}").covers(effect)
    except ValueError:  # HostError too
        return False


def _form(path: str) -> str:
    parts = _MARK.split(path)
    return "".join(_MARKED.get(part, r"[\w-]+") if at % 2 else re.escape(part) for at, part in enumerate(parts))


def _of_pip(page: str, kind: str, text: str) -> Iterator[str]:
    """PEP 503 and 691, with the metadata of PEP 658."""
    if kind.partition(";")[0].strip().endswith("json"):
        links = [str(each["url"]) for each in json.loads(text)["files"]]
    else:
        links = [unescape(double or single) for double, single in _LINK.findall(text)]
    for link in links:
        url = urldefrag(urljoin(page, link.strip())).url
        yield url
        yield f"{url}.metadata"


def _of_npm(_page: str, kind: str, text: str) -> Iterator[str]:
    """Of a package's document only what its versions consist of."""
    if "json" not in kind:
        return
    told: Mapping[str, Any] = json.loads(text)
    for version in told["versions"].values():
        yield str(version["dist"]["tarball"])


def _of_cargo(_page: str, _kind: str, text: str) -> Iterator[str]:
    """Where a registry's crates are: the book of Cargo, chapter Registry Index."""
    url = str(json.loads(text)["dl"])
    yield url if _MARK.search(url) else f"{url.rstrip('/')}/{{crate}}/{{version}}/download"


_NAMED: Mapping[str, Callable[[str, str, str], Iterator[str]]] = {"pip": _of_pip, "npm": _of_npm, "cargo": _of_cargo}
