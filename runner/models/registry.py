"""From a model's name to the model: `anthropic:NAME`, `scripted:PATH`, or a bare name (anthropic).

Providers are imported when one is named: a session pays for its own only (the start-up figure).
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from runner.errors import InvalidRequestError, MissingKeyError
from runner.models.base import ModelClient

MOST_RETRIES = 15
_PROVIDERS = ("anthropic", "scripted")
_KEYS = ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_CUSTOM_HEADERS")


def model_id(name: str, environ: Mapping[str, str]) -> str:
    """`provider:id` in full, aliases resolved: what a SessionSpec records. Raises InvalidRequestError."""
    provider, target = _split(name)
    if provider == "scripted":
        return f"scripted:{target}"
    return f"anthropic:{_module('prices').resolve_alias(target, environ)}"


def require_key(name: str, environ: Mapping[str, str]) -> None:
    """Before anything slow is begun. Raises MissingKeyError where the model cannot be asked for want of a key,
    InvalidRequestError.
    """
    provider, _ = _split(name)
    if provider == "anthropic" and not any(environ.get(key, "").strip() for key in _KEYS):
        raise MissingKeyError


def resolve_model(
    name: str, environ: Mapping[str, str], *, fallbacks: Sequence[str] = (), retries: int | None = None
) -> ModelClient:
    """A client that retries; `retries` None: CLAUDE_CODE_MAX_RETRIES, else ten. Opens nothing and needs
    no key yet. Raises InvalidRequestError for a name, a script or an environment that cannot be used.
    """
    models = [_client(one, environ) for one in (name, *fallbacks)]
    times = _retries(environ) if retries is None else retries
    wrapped: ModelClient = _module("retry").RetryingModel(models[0], fallbacks=models[1:], retries=times)
    return wrapped


def _client(name: str, environ: Mapping[str, str]) -> ModelClient:
    provider, target = _split(model_id(name, environ))
    client: ModelClient
    if provider == "scripted":
        script = _module("script").load_script(Path(target))
        client = _module("scripted").ScriptedModel(script)
    else:
        adapter = _module("anthropic")
        client = adapter.AnthropicModel(target, adapter.settings_from(environ, target), environ=environ)
    return client


def _split(name: str) -> tuple[str, str]:
    provider, colon, target = name.partition(":")
    if not colon:
        return "anthropic", name
    if provider not in _PROVIDERS:
        raise InvalidRequestError(f"{name!r} names no provider that is known: {', '.join(_PROVIDERS)}")
    return provider, target


def _module(name: str) -> Any:
    return importlib.import_module(f"runner.models.{name}")


def _retries(environ: Mapping[str, str]) -> int:
    text = environ.get("CLAUDE_CODE_MAX_RETRIES", "").strip()
    if text and not (text.isdecimal() and len(text) < 20):
        raise InvalidRequestError(f"CLAUDE_CODE_MAX_RETRIES is {text[:80]!r}; it takes a number")
    return min(int(text), MOST_RETRIES) if text else 10
