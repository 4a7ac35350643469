"""Which MCP servers there are on the host: named by a flag or by the user's own `~/.claude.json`. A repository's
`.mcp.json` never counts here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from runner.errors import UsageError
from runner.policy.documents import parse, read_file

_VARIABLE = re.compile(r"\$\{([A-Za-z_]\w*)(?::-([^}]*))?\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class StdioServer:
    """A program that speaks MCP on its standard streams. `environment` is added to a few harmless variables."""

    command: str
    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


class _Server(BaseModel):
    model_config = ConfigDict(extra="ignore")

    type: Literal["stdio"] = "stdio"
    command: Annotated[str, Field(min_length=1)]
    args: list[str] = []
    env: dict[str, str] = {}


def find_server(name: str, given: tuple[str, ...], *, cwd: Path, home: Path, environ: Mapping[str, str]) -> StdioServer:
    """The server of a name: of `--mcp-config` (files, or JSON), the first that names it, else of `~/.claude.json`.
    Raises UsageError where there is none, or it is reached another way; SettingsError.
    """
    found: dict[str, Any] = {}
    for text in given:
        found = _named(_value(text, cwd), "--mcp-config") | found
    if name not in found and (user := read_file(home / ".claude.json")) is not None:
        found = _named(parse(user, "~/.claude.json").value, "~/.claude.json", wanted=False) | found
    if name not in found:
        known = ", ".join(sorted(found)) or "none"
        raise UsageError(f"there is no MCP server {name!r} (--mcp-config and ~/.claude.json name: {known})")
    try:
        made = _Server.model_validate(_expanded(found[name], environ))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise UsageError(
            f"MCP server {name!r}: {where}: {first['msg']} (only stdio servers can be used yet)"
        ) from error
    return StdioServer(command=made.command, arguments=tuple(made.args), environment=made.env)


def _value(text: str, cwd: Path) -> dict[str, Any]:
    if text.lstrip().startswith("{"):
        return parse(text.encode(), "--mcp-config").value
    data = read_file(cwd / text, name=text)
    if data is None:
        raise UsageError(f"--mcp-config: there is no {text}")
    return parse(data, text).value


def _named(value: Mapping[str, Any], where: str, *, wanted: bool = True) -> dict[str, Any]:
    servers = value.get("mcpServers")
    if servers is None and not wanted:
        return {}
    if not isinstance(servers, dict):
        raise UsageError(f"{where}: mcpServers is missing, or no object")
    return dict(servers)


def _expanded(value: Any, environ: Mapping[str, str]) -> Any:
    """`${NAME}` and `${NAME:-default}` in every text; a name that is not set and has no default stays as it is."""
    match value:
        case str():
            return _VARIABLE.sub(lambda m: environ.get(m[1], m[2] if m[2] is not None else m[0]), value)
        case list():
            return [_expanded(each, environ) for each in value]
        case dict():
            return {key: _expanded(each, environ) for key, each in value.items()}
        case _:
            return value
