"""Where the user's own package tools get their packages from, asked from the tools: what `registries:` opens, and what
points the same tools in the box there, without a login.

Each is asked by a fixed argument vector, with a deadline, in an empty directory, with the variables that it reads and
no other; programs and settings that lie in the session's directories are not used. No list of hosts is built in: what
a tool does not name is not opened.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import field
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from runner.dataclass import dataclass
from runner.sessions.programs import printed
from sandbox.hosts import HostError, target_of
from sandbox.reachable import literal

DEADLINE = 15.0
MOST_OUTPUT = 1 << 20
MOST_URLS = 50
PRIVATE = "10.0.0.0/8,172.16.0.0/12,192.168.0.0/16,fc00::/7"
LOOPBACK = "127.0.0.0/8,::1"
_KEPT = re.compile(
    r"(PATH|HOME|USER|LOGNAME|LANG|LC_.*|TMPDIR|XDG_CONFIG_.*|APT_CONFIG|PIP_.*|(?i:npm_config)_.*|NVM_DIR|N_PREFIX"
    r"|CARGO_HOME|RUSTUP_HOME|GO(ENV|PROXY|SUMDB|PRIVATE|NOPROXY|NOSUMDB|ROOT|PATH|TOOLCHAIN)|PYENV_ROOT)"
)
_LINE = re.compile(r"(?P<section>[^.=\s]+)\.(?P<key>[A-Za-z-]+)='(?P<value>[^']*)'")
_DEFAULT = re.compile(r"--index-url.*?\(default\s+(\S+?)\)", re.DOTALL)
_SCOPE = re.compile(r"@[a-z0-9~._-]+:registry")
_INDEX = re.compile(
    r"'(?P<url>https?://[^'\s]+?)(?:/dists/(?P<suite>[\w./~+-]+)/(?P<component>[\w.~+-]+)/binary-[^/']+/Packages[^'/]*|"
    r"/(?:\./)?InRelease)'"
)
Ask: TypeAlias = Callable[..., str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Registry:
    """One tool's. `urls`: of what it names, without logins; `environment` and `files` (by name relative to HOME) for
    the box. `note`: why there is nothing.
    """

    tool: str
    urls: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    files: Mapping[str, bytes] = field(default_factory=lambda: MappingProxyType({}))
    note: str = ""

    @property
    def rules(self) -> tuple[str, ...]:
        """What is allowed: reading, from the hosts that are named, which may be the company's."""
        return tuple(dict.fromkeys(f"GET,HEAD {where}" for url in self.urls for where in _opened(url)))


def _opened(url: str) -> Iterator[str]:
    target = target_of(url)
    shown = f"[{target.host}]" if ":" in target.host else target.host
    where = f"{target.scheme}://{shown}:{target.port}"
    if literal(target.host) is not None:
        yield where  # an address names itself
    else:
        yield f"{where} to {LOOPBACK if target.host == 'localhost' else PRIVATE}"


def registries_of(tools: Iterable[str], environ: Mapping[str, str], roots: Iterable[Path]) -> tuple[Registry, ...]:
    """Asked once in this process for the same environment. Blocks for a second or two."""
    outside = tuple(dict.fromkeys(str(root.resolve()) for root in roots))
    kept = {
        name: value
        for name, value in environ.items()
        if _KEPT.fullmatch(name) and (name == "PATH" or not any(root in value for root in outside))
    }
    return _asked(tuple(dict.fromkeys(tools)), tuple(sorted(kept.items())), outside)


@lru_cache(maxsize=4)
def _asked(
    tools: tuple[str, ...], environ: tuple[tuple[str, str], ...], roots: tuple[str, ...]
) -> tuple[Registry, ...]:
    given = dict(environ)
    given["PATH"] = os.pathsep.join(_safe(given.get("PATH", os.defpath), roots))
    with tempfile.TemporaryDirectory(prefix="fumehood-empty-") as empty, ThreadPoolExecutor() as pool:

        def ask(*argv: str) -> str:
            return _run(argv, given, Path(empty), roots)

        return tuple(pool.map(lambda tool: _read(tool, ask, given), tools))


def _safe(path: str, roots: tuple[str, ...]) -> Iterator[str]:
    for entry in path.split(os.pathsep):
        real = os.path.realpath(entry)
        if entry.startswith("/") and not any(real == root or real.startswith(f"{root}/") for root in roots):
            yield entry


def _run(argv: tuple[str, ...], environ: Mapping[str, str], empty: Path, roots: tuple[str, ...]) -> str:
    """What a tool prints. Raises LookupError where it is not there, or fails; OSError."""
    program = shutil.which(argv[0], path=environ["PATH"])
    if program is None or any(os.path.realpath(program).startswith(f"{root}/") for root in roots):
        raise LookupError(f"{argv[0]} is not installed here")
    text = printed([program, *argv[1:]], environ=environ, cwd=empty, seconds=DEADLINE, most=MOST_OUTPUT)
    return text.decode("utf-8", "replace")


def _read(tool: str, ask: Ask, environ: Mapping[str, str]) -> Registry:
    try:
        found = _READERS[tool](ask, environ)
    except (LookupError, ValueError, OSError) as error:
        return Registry(tool=tool, note=f"registries: {tool}: {error}; nothing is opened for it")
    if not found.urls:
        return Registry(tool=tool, note=f"registries: {tool} names no registry here; nothing is opened for it")
    return found


def _plain(url: str) -> str:
    """A URL without login, query and fragment, in one spelling; "" for what is none of http's."""
    with suppress(ValueError, HostError):
        parts = urlsplit(url.strip())
        if parts.scheme in ("http", "https") and parts.hostname:
            host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
            made = f"{parts.scheme}://{host}{f':{parts.port}' if parts.port else ''}{parts.path}"
            target_of(made)
            return made
    return ""


def _urls(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(filter(None, map(_plain, texts))))[:MOST_URLS]


def _pip(ask: Ask, _: Mapping[str, str]) -> Registry:
    found: dict[str, list[str]] = {}
    for line in ask("pip", "config", "list").splitlines():
        if (form := _LINE.fullmatch(line.strip())) and form["section"] in ("global", "install", ":env:"):
            found[form["key"]] = form["value"].replace("\\n", " ").split()  # what comes later counts
    index = _urls(found.get("index-url", ()))
    if not index and (told := _DEFAULT.search(ask("pip", "install", "--help"))):
        index = _urls([told[1]])
    more = _urls(found.get("extra-index-url", ()))
    made: dict[str, str] = {}
    if index:
        made |= {"PIP_INDEX_URL": index[0], "UV_DEFAULT_INDEX": index[0]}
    if more:
        made |= {"PIP_EXTRA_INDEX_URL": " ".join(more), "UV_INDEX": " ".join(more)}
    return Registry(tool="pip", urls=(*index, *more), environment=made)


def _npm(ask: Ask, _: Mapping[str, str]) -> Registry:
    told: dict[str, Any] = json.loads(ask("npm", "config", "ls", "--json"))
    scoped = {key: _plain(value) for key, value in told.items() if _SCOPE.fullmatch(key) and isinstance(value, str)}
    main = _plain(str(told.get("registry", "")))
    lines = [f"{key}={url}" for key, url in scoped.items() if url]
    return Registry(
        tool="npm",
        urls=_urls((main, *scoped.values())),
        environment={"npm_config_registry": main} if main else {},
        files={".npmrc": ("\n".join(lines) + "\n").encode()} if lines else {},
    )


def _cargo(_: Ask, environ: Mapping[str, str]) -> Registry:
    """Its file is read: cargo has no command that tells it."""
    home = Path(environ.get("CARGO_HOME") or Path(environ.get("HOME", "/nonexistent")) / ".cargo")
    for name in ("config.toml", "config"):
        with suppress(FileNotFoundError):
            told = tomllib.loads((home / name).read_text()[:MOST_OUTPUT])
            break
    else:
        raise LookupError("it has no config.toml")
    urls: list[str] = []
    lines: list[str] = []
    for part, key in (("registries", "index"), ("source", "registry")):
        for name, table in told.get(part, {}).items():
            row = {"replace-with": table.get("replace-with")}
            url = str(table.get(key, ""))
            sparse = "sparse+" if url.startswith("sparse+") else ""
            if plain := _plain(url.removeprefix("sparse+")):
                urls.append(plain)
                row[key] = f"{sparse}{plain}"
            kept = {word: value for word, value in row.items() if isinstance(value, str)}
            if kept:
                lines.append(f"[{part}.{json.dumps(str(name))}]")
                lines += [f"{word} = {json.dumps(value)}" for word, value in kept.items()]
    files = {".cargo/config.toml": ("\n".join(lines) + "\n").encode()} if lines else {}
    return Registry(tool="cargo", urls=_urls(urls), files=files)


def _go(ask: Ask, _: Mapping[str, str]) -> Registry:
    told: dict[str, str] = json.loads(ask("go", "env", "-json", "GOPROXY", "GOSUMDB", "GOPRIVATE", "GONOSUMDB"))
    proxies = re.split(r"([,|])", told.get("GOPROXY", ""))
    kept = [_plain(text) if "://" in text else text for text in proxies]
    database = told.get("GOSUMDB", "")
    name, _space, url = database.partition(" ")
    named = url or f"https://{name.partition('+')[0]}"
    made = {"GOPROXY": "".join(kept), "GOSUMDB": f"{name} {_plain(url)}".strip()}
    made |= {key: told[key] for key in ("GOPRIVATE", "GONOSUMDB") if told.get(key)}
    return Registry(
        tool="go",
        urls=_urls([*proxies, *([named] if database not in ("", "off") else [])]),
        environment={key: value for key, value in made.items() if value},
    )


def _apt(ask: Ask, _: Mapping[str, str]) -> Registry:
    """Its sources, for boxes of our own images: those are of the host's distribution."""
    rows: dict[str, None] = {}
    urls: list[str] = []
    for line in ask("apt-get", "update", "--print-uris").splitlines():
        if (form := _INDEX.match(line)) and (plain := _plain(form["url"])):
            urls.append(plain)
            if form["suite"]:
                rows[f"deb {plain} {form['suite']} {form['component']}"] = None
    if not rows:
        return Registry(tool="apt", urls=_urls(urls))
    files = {
        ".config/apt/apt.conf": b'Dir::Etc::SourceList "/home/box/.config/apt/sources.list";\n'
        b'Dir::Etc::SourceParts "/dev/null";\n'
        b'Acquire::https::CAInfo "/run/fumehood-trusted.pem";\n',
        ".config/apt/sources.list": ("\n".join(rows) + "\n").encode(),
    }
    return Registry(
        tool="apt", urls=_urls(urls), environment={"APT_CONFIG": "/home/box/.config/apt/apt.conf"}, files=files
    )


_READERS: dict[str, Callable[[Ask, Mapping[str, str]], Registry]] = {
    "pip": _pip,
    "npm": _npm,
    "cargo": _cargo,
    "go": _go,
    "apt": _apt,
}
