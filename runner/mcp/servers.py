"""The MCP servers that a command line names (`--mcp-config`, in the form of `.mcp.json`), and who may forbid them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from runner.dataclass import dataclass
from runner.errors import LockedError, UsageError
from runner.policy.layers import Settings

LARGEST = 1 << 20
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """One server: a program with its arguments and environment, or the address of one that speaks streamable HTTP,
    with headers. `source`: the file that names it, "" for the command line itself.
    """

    name: str
    command: str = ""
    args: tuple[str, ...] = ()
    env: Mapping[str, str]
    url: str = ""
    headers: Mapping[str, str]
    source: str = ""


def read_servers(given: Iterable[str], environ: Mapping[str, str], cwd: Path) -> dict[str, Server]:
    """The servers of each value: JSON, or a file of it. `${NAME}` and `${NAME:-default}` are the environment's. A
    later value's server replaces an earlier one's of that name. Raises UsageError.
    """
    servers: dict[str, Server] = {}
    for text in given:
        source = "" if text.lstrip().startswith("{") else str((cwd / text).absolute())
        where = source or "--mcp-config"
        try:
            document = json.loads(text if not source else _read(Path(source)))
        except (OSError, ValueError, RecursionError) as error:
            why = (
                (getattr(error, "strerror", None) or str(error)) if isinstance(error, OSError) else f"not JSON: {error}"
            )
            raise UsageError(f"{where}: {why}") from error
        named = document.get("mcpServers") if isinstance(document, dict) else None
        if not isinstance(named, dict):
            raise UsageError(f"{where}: there is no object mcpServers in it")
        for name, entry in named.items():
            servers[name] = _server(name, entry, source, where, environ)
    return servers


def _read(path: Path) -> str:
    with path.open("rb") as file:
        data = file.read(LARGEST + 1)
    if len(data) > LARGEST:
        raise UsageError(f"{path}: more than {LARGEST >> 20} MiB")
    return data.decode("utf-8-sig")


def _server(name: str, entry: Any, source: str, where: str, environ: Mapping[str, str]) -> Server:
    where = f"{where}: server {name!r}"
    if not _NAME.fullmatch(name) or not isinstance(entry, dict):
        raise UsageError(f"{where}: a name of letters, digits, - and _ with an object is needed")
    command, url = entry.get("command"), entry.get("url")
    kind = entry.get("type", "stdio" if command is not None else "http")
    args, env, headers = entry.get("args", []), entry.get("env", {}), entry.get("headers", {})
    fits = (
        kind in ("stdio", "http")
        and isinstance(command if kind == "stdio" else url, str)
        and _are_texts(args)
        and all(isinstance(each, dict) and _are_texts(each.values()) for each in (env, headers))
    )
    if not fits:
        raise UsageError(
            f"{where}: wanted are command, args and env (type stdio), or url and headers (type http), of texts"
        )

    def expand(text: str) -> str:
        return _VARIABLE.sub(lambda found: _value(found, environ, where), text)

    if kind == "http":
        address = expand(str(url))
        if not re.match(r"https?://[^/\s]", address):
            raise UsageError(f"{where}: {address!r} is no http address")
        made = {key: expand(value) for key, value in headers.items()}
        return Server(name=name, url=address, headers=made, env={}, source=source)
    return Server(
        name=name,
        command=expand(str(command)),
        args=tuple(expand(each) for each in args),
        env={key: expand(value) for key, value in env.items()},
        headers={},
        source=source,
    )


def _are_texts(values: Any) -> bool:
    return not isinstance(values, str | dict) and all(isinstance(each, str) for each in values)


def _value(found: re.Match[str], environ: Mapping[str, str], where: str) -> str:
    value = environ.get(found[1], found[2])
    if value is None:
        raise UsageError(f"{where}: {found[1]} is not in the environment")
    return value


def check_servers(servers: Sequence[Server], settings: Settings) -> None:
    """Raises LockedError for a server that settings do not let a command line bring. Of `allowedMcpServers` and
    `deniedMcpServers` every source counts: all lists must have it, none may forbid it.
    """
    if settings.locked("allowManagedMcpServersOnly"):
        raise LockedError("managed settings allow managed MCP servers only: --mcp-config is not for this machine")
    for loaded in settings.loaded:
        value = loaded.document.value
        if loaded.layer.value == "managed" and value.get("disableSideloadFlags"):
            raise LockedError(f"{loaded.file}: disableSideloadFlags forbids --mcp-config")
        for server in servers:
            denied, allowed = value.get("deniedMcpServers", []), value.get("allowedMcpServers")
            if not isinstance(denied, list) or any(_speaks_of(server, entry) for entry in denied):
                raise LockedError(f"{loaded.file}: deniedMcpServers forbids the server {server.name}")
            if allowed is not None and not (
                isinstance(allowed, list) and any(_speaks_of(server, entry) for entry in allowed)
            ):
                raise LockedError(f"{loaded.file}: allowedMcpServers does not have the server {server.name}")


def _speaks_of(server: Server, entry: Any) -> bool:
    """Whether an entry names this server: by its name, its whole command, or its address with * for anything."""
    if not isinstance(entry, dict):
        return False
    match entry:
        case {"serverName": str(name)}:
            return name == server.name
        case {"serverCommand": list(command)}:
            return bool(server.command) and command == [server.command, *server.args]
        case {"serverUrl": str(url)}:
            pattern = ".*".join(re.escape(part) for part in url.split("*"))
            return bool(server.url) and re.fullmatch(pattern, server.url) is not None
    return False
