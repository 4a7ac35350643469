"""A request of the Messages API, as JSON: cache breakpoints, thinking, and what each model accepts.

Pure. Messages, system parts and tools go over as they are but for the cache breakpoints;
a request's own objects are never changed.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import field
from typing import Any

from runner.dataclass import dataclass
from runner.models.base import Request

INTERLEAVED = "interleaved-thinking-2025-05-14"
LONG_CONTEXT = "context-1m-2025-08-07"
LEAST_THINKING = 1024  # tokens; the API refuses smaller budgets
_THINKING = frozenset({"thinking", "redacted_thinking"})
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_VERSION = re.compile(r"claude-(?:[a-z]+-)?(\d+)(?:[-.](\d{1,2})(?!\d))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the environment decides about requests. `cache`: "", "5m" or "1h". `extra`: further fields of the body."""

    cache: str = "5m"
    extra: Mapping[str, Any] = field(default_factory=dict)
    interleaved: bool = True
    betas: tuple[str, ...] = ()


def version_of(model: str) -> tuple[int, int] | None:
    """(major, minor) of a Claude model's id in either order of its words; None for other names."""
    found = _VERSION.search(model)
    return (int(found[1]), int(found[2] or 0)) if found else None


def request_body(request: Request, options: Options) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The JSON object, and the betas that it needs."""
    name, long_context = request.model.removesuffix("[1m]"), request.model.endswith("[1m]")
    version = version_of(name)
    adaptive = version is not None and version >= (4, 6)
    betas = list(options.betas)
    if long_context and not adaptive:
        betas.append(LONG_CONTEXT)
    body: dict[str, Any] = {"model": name, "max_tokens": request.max_output_tokens, "stream": True}
    if request.system:
        body["system"] = [{"type": "text", "text": part} for part in request.system if part]
    if request.tools:
        body["tools"] = [
            {"name": tool.name, "description": tool.description, "input_schema": tool.schema} for tool in request.tools
        ]
    thinking = _thinking(request, adaptive=adaptive)
    if thinking is not None:
        body["thinking"] = thinking
        if request.tools and not adaptive and options.interleaved:
            betas.append(INTERLEAVED)
    elif request.temperature is not None and (version is None or version < (4, 7)):
        body["temperature"] = request.temperature  # later models refuse it
    if request.metadata:
        body["metadata"] = dict(request.metadata)
    body |= options.extra
    body["messages"] = list(request.messages)
    if options.cache:
        _set_breakpoints(body, {"type": "ephemeral"} | ({"ttl": "1h"} if options.cache == "1h" else {}))
    return body, tuple(dict.fromkeys(betas))


def _thinking(request: Request, *, adaptive: bool) -> dict[str, Any] | None:
    """From 4.6 on the model finds its own measure and refuses a budget (4.7), so a budget only says
    that thinking is wanted, and seen. Without one nothing is sent: some models cannot be told not to.
    """
    if request.thinking_tokens is None:
        return None
    if adaptive:
        return {"type": "adaptive", "display": "summarized"}
    budget = min(max(request.thinking_tokens, LEAST_THINKING), request.max_output_tokens - 1)
    return {"type": "enabled", "budget_tokens": budget} if budget >= LEAST_THINKING else None


def _set_breakpoints(body: dict[str, Any], mark: dict[str, Any]) -> None:
    """Four, the most there may be: after the tools, after the stable part of the system prompt, and
    after the last two user messages (the older one is where the previous request's entry ends).
    """
    for key, at in (("tools", -1), ("system", 0)):
        if body.get(key):
            body[key][at] = body[key][at] | {"cache_control": mark}
    left = 2
    messages = body["messages"]
    for index in range(len(messages) - 1, -1, -1):
        marked = _marked(messages[index], mark) if messages[index].get("role") == "user" else None
        if marked is not None:
            messages[index] = marked
            left -= 1
            if not left:
                return


def _marked(message: dict[str, Any], mark: dict[str, Any]) -> dict[str, Any] | None:
    """The message with a breakpoint on its last block; None where that cannot carry one."""
    content = message.get("content")
    blocks = [{"type": "text", "text": content}] if isinstance(content, str) else list(content or ())
    if not blocks or blocks[-1].get("type") in _THINKING or blocks[-1].get("text") == "":
        return None
    blocks[-1] = blocks[-1] | {"cache_control": mark}
    return message | {"content": blocks}


def encode(body: dict[str, Any]) -> bytes:
    """UTF-8 JSON, 1 ms per MB. Half a surrogate pair (a file name that is not UTF-8) becomes U+FFFD."""
    written = _to_json()
    try:
        return written(body)
    except ValueError:
        return written(_encodable(body))


def _to_json() -> Callable[[Any], bytes]:
    """Pydantic's, four times quicker; the first request, which is small, does not wait for its import."""
    found: Callable[[Any], bytes] = getattr(sys.modules.get("pydantic_core"), "to_json", _plain_json)
    return found


def _plain_json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _encodable(value: Any) -> Any:
    match value:
        case str():
            return _LONE_SURROGATE.sub("\ufffd", value)
        case list() | tuple():
            return [_encodable(item) for item in value]
        case dict():
            return {_encodable(key): _encodable(item) for key, item in value.items()}
        case _:
            return value


def without_thinking(messages: Iterable[dict[str, Any]]) -> tuple[dict[str, Any], ...]:
    """History for another model: thinking is signed for the model that thought it, and others may
    refuse it. Messages that held nothing else go.
    """
    kept: list[dict[str, Any]] = []
    for message in messages:
        content = message.get("content")
        if message.get("role") != "assistant" or not isinstance(content, Sequence) or isinstance(content, str):
            kept.append(message)
            continue
        blocks = [block for block in content if block.get("type") not in _THINKING]
        if len(blocks) == len(content):
            kept.append(message)
        elif blocks:
            kept.append(message | {"content": blocks})
    return tuple(kept)
