"""A tool call written as text, `Bash(git push)`, and as the effects that it would have: for examples, explanations
and comparisons. Nothing is resolved: a path is its own target.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from runner.effects import (
    AskUser,
    CallServer,
    ConnectHost,
    Effect,
    Place,
    ReadPath,
    RunCommand,
    StopTask,
    UseProvider,
    Verdict,
    WritePath,
)
from runner.errors import UsageError
from runner.policy.policy import Policy

_FORM = re.compile(r"(?P<tool>[A-Za-z][\w-]*)(?:\((?P<about>.*)\))?", re.DOTALL)
_SHELLS = frozenset({"Bash", "Monitor"})
_READERS = frozenset({"Read", "Grep", "Glob", "LSP"})
_EDITORS = frozenset({"Edit", "Write", "MultiEdit", "NotebookEdit"})
_ASKING = {"AskUserQuestion": "questions", "ExitPlanMode": "plan"}
TOOLS = _SHELLS | _READERS | _EDITORS | frozenset(_ASKING)
TOOLS |= {"WebFetch", "Network", "WebSearch", "TodoWrite", "TaskStop", "EnterPlanMode", "Agent", "Skill", "PowerShell"}
_FOLDED = {name.lower(): name for name in TOOLS}
_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}
_PATHS = frozenset({"path", "link", "target", "cwd"})
_TYPES: dict[str, type[Any]] = {
    kind.__name__: kind
    for kind in (RunCommand, ReadPath, WritePath, StopTask, ConnectHost, CallServer, UseProvider, AskUser)
}


def call_of(text: str, place: Place) -> tuple[str, tuple[Effect, ...]]:  # noqa: PLR0911 (a table, row by row)
    """The tool and the effects of `Tool(command, path, URL or domain:host)`. Raises UsageError for what is no call."""
    tool, about = _parted(text)
    if tool in _SHELLS:
        return tool, (RunCommand(command=about, cwd=place.cwd),)
    if tool in _READERS:
        return tool, (resolved(ReadPath(path=path_of(about or ".", place))),)
    if tool in _EDITORS:
        return tool, (resolved(WritePath(path=path_of(about or ".", place))),)
    if tool == "WebFetch":
        return tool, (_host(about),) if about else ()
    if tool == "Network":
        method, _, url = about.rpartition(" ")
        made = _host(url)
        query = url.partition("?")[2].partition("#")[0]
        return tool, (replace(made, method=method, path=made.path + (f"?{query}" if query else "")),) if about else ()
    if tool in _ASKING:
        return tool, (AskUser(about=_ASKING[tool]),)
    if tool == "WebSearch":
        return tool, (UseProvider(tool="web_search"),)
    if tool.startswith("mcp__"):
        _, _, rest = tool.partition("__")
        server, _, name = rest.partition("__")
        return tool, (CallServer(server=server, tool=name, outside=True),)
    return tool, ()


def _parted(text: str) -> tuple[str, str]:
    form = _FORM.fullmatch(text.strip())
    if form is None:
        raise UsageError(f"{text!r} is no call of the form Tool(command, path or URL)")
    tool = form["tool"]
    if tool not in TOOLS and (near := _FOLDED.get(tool.lower())):
        raise UsageError(f"no tool is called {tool!r}; did you mean {near!r}?")
    return tool, form["about"] or ""


def path_of(text: str, place: Place) -> PurePosixPath:
    """A path as a user writes it: from the place's directory, or with `~` from the box's home."""
    if text == "~" or text.startswith("~/"):
        return place.home / text[2:]
    return PurePosixPath(posixpath.normpath(str(place.cwd / text)))


def _host(about: str) -> ConnectHost:
    if about.startswith("domain:"):
        return ConnectHost(host=about.removeprefix("domain:"), port=443, scheme="https")
    parts = urlsplit(about if "://" in about else f"https://{about}")
    try:
        port = parts.port or _PORTS.get(parts.scheme, 0)
    except ValueError as error:
        raise UsageError(f"{about!r}: {error}") from error
    return ConnectHost(host=parts.hostname or "", port=port, scheme=parts.scheme, path=parts.path)


def resolved(effect: Effect) -> Effect:
    """A path effect that was not resolved is taken to be its own link and target."""
    if isinstance(effect, ReadPath | WritePath) and effect.target is None:
        return replace(effect, link=effect.path, target=effect.path)
    return effect


def judge(policy: Policy, tool: str, effects: tuple[Effect, ...], place: Place) -> Verdict:
    """What the policy decides on effects that were resolved, or need no resolving."""
    whole = tuple(resolved(effect) for effect in policy.expand(effects, place))
    return policy.judge(whole, tool=tool, place=place)


def effect_from_json(data: Mapping[str, Any]) -> Effect:
    """An effect as a journal's Judged holds it. Raises ValueError for what is none."""
    fields = {
        key: PurePosixPath(value) if key in _PATHS and isinstance(value, str) else value for key, value in data.items()
    }
    kind = _TYPES.get(str(fields.pop("type", "")))
    if kind is None:
        raise ValueError(f"unknown effect {data.get('type')!r}")
    if kind is ConnectHost:
        fields["path"] = str(fields.get("path", ""))
    try:
        made: Effect = kind(**fields)
    except TypeError as error:
        raise ValueError(str(error)) from error
    return made
