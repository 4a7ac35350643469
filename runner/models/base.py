"""The Model protocol: a request in, deltas out. An adapter speaks one provider's wire format."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import field
from typing import Any, Protocol, TypeAlias

from runner.dataclass import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolSpec:
    """A tool as the model sees it; `schema` is a JSON Schema object."""

    name: str
    description: str
    schema: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One model request, in the Messages API's terms whatever the provider is.

    `system`: text parts, the first of them stable over the session (cached). `messages`: role and
    content blocks. `thinking_tokens` None: thinking off. Deadlines are the adapter's.
    """

    model: str
    system: tuple[str, ...]
    messages: tuple[dict[str, Any], ...]
    tools: tuple[ToolSpec, ...]
    max_output_tokens: int
    thinking_tokens: int | None = None
    temperature: float | None = None
    metadata: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """The provider accepted: its message id, the model that answers, usage so far."""

    message: str
    model: str
    usage: dict[str, Any]
    request: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextPart:
    """A piece of visible text."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ThinkingPart:
    """A piece of thinking."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockDone:
    """Content block `index` is complete, exactly as received (signature, citations, unknown fields).

    A tool_use block whose input was not valid JSON carries `invalid`: the raw text; its
    `input` is then {}.
    """

    index: int
    block: dict[str, Any]
    invalid: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """The message is complete. `usage` is the provider's final count. `details`: what else it
    said at the end (stop_sequence, stop_details, container), as received.
    """

    stop_reason: str | None
    usage: dict[str, Any]
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrying:
    """The adapter's wrapper waits `delay` seconds before attempt `attempt` of `attempts` (the first
    is 1, so the first retry is 2). Anything of the broken attempt is void; `partial` holds its
    finished blocks. An unchanged attempt with no delay: the provider itself began its reply anew.
    """

    attempt: int
    attempts: int
    delay: float
    error: str
    status: int | None = None
    partial: tuple[dict[str, Any], ...] = ()


Delta: TypeAlias = Started | TextPart | ThinkingPart | BlockDone | Finished | Retrying


class Model(Protocol):
    """A provider's model. Raises ModelError's classes, nothing else; closing the iterator
    closes the connection.
    """

    name: str

    def stream(self, request: Request) -> AsyncIterator[Delta]:
        """Yields Started, then parts and blocks, then Finished exactly once."""
        ...


class ModelClient(Model, Protocol):
    """A Model that holds a connection: what `resolve_model` returns. Whoever resolved it closes it."""

    async def warm(self) -> None:
        """Does what can be done ahead of the first request, so that it overlaps with other work. Never raises."""
        ...

    async def close(self) -> None:
        """Lets the connections go. May be called more than once."""
        ...
