"""Claude over the Messages API: credentials and addresses from the environment, requests out,
deltas in, errors as ours.

The provider's SDK is not imported at run time: that takes 2-4 s. It serves the contract tests
as the oracle instead. What it would do besides (retries, types, Bedrock's and Vertex's
signatures) is `retry`'s, nobody's and later adapters' business. Source: the Messages API
reference, version 2023-06-01.
"""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import json
import re
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import field, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

from runner.dataclass import dataclass
from runner.errors import (
    AuthenticationError,
    BrokenStreamError,
    InvalidRequestError,
    MissingKeyError,
    ModelError,
    PromptTooLongError,
)
from runner.models.base import Delta, Request
from runner.models.deadlines import Deadlines, Watch, boot_clock
from runner.models.messages_reply import Reply, error_of, parse_json
from runner.models.messages_request import Options, encode, request_body
from runner.models.secret import SecretStr
from runner.models.sse import ServerEvent, SseDecoder, SseError

if TYPE_CHECKING:
    from runner.models.transport import HttpClient
    from runner.models.transport import Reply as HttpReply

BASE_URL = "https://api.anthropic.com"
VERSION = "2023-06-01"
USER_AGENT = "fumehood"
BODY_LIMIT = 32 << 20  # bytes of a request, the API's own
ERROR_LIMIT = 64 << 10  # bytes of an error's body that are read
FAMILIES = ("opus", "sonnet", "haiku", "fable")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e]*")
_MARKUP = re.compile(r"<(script|style)\b.*?</\1>|<[^>]*>", re.DOTALL | re.IGNORECASE)
_EXTRA_MOST = 64_000
_DECIDED_HERE = re.compile("model|message|system|tool|mcp|container|stream|max_tokens|fallback|provider|route|skill")
_ON = frozenset({"1", "true", "yes", "on"})


@dataclass(frozen=True, slots=True, kw_only=True)
class AnthropicSettings:
    """All that the environment decides. `headers`: further ones, by lower-case name."""

    key: SecretStr | None = None
    token: SecretStr | None = None
    base_url: str = BASE_URL
    headers: dict[str, SecretStr] = field(default_factory=dict)
    deadlines: Deadlines = field(default_factory=Deadlines)
    options: Options = field(default_factory=Options)


def settings_from(environ: Mapping[str, str], model: str = "") -> AnthropicSettings:
    """For requests to a model. Reads ANTHROPIC_API_KEY, _AUTH_TOKEN, _BASE_URL, _CUSTOM_HEADERS, _BETAS,
    API_TIMEOUT_MS, CLAUDE_STREAM_IDLE_TIMEOUT_MS, DISABLE_PROMPT_CACHING (also with a family: _OPUS ...),
    ENABLE_PROMPT_CACHING_1H, FORCE_PROMPT_CACHING_5M, DISABLE_INTERLEAVED_THINKING and CLAUDE_CODE_EXTRA_BODY. Raises
    InvalidRequestError for a value that cannot be used.
    """
    deadlines = Deadlines()
    if total := _milliseconds(environ, "API_TIMEOUT_MS"):
        deadlines = replace(deadlines, first_byte=total, total=total)
    if idle := _milliseconds(environ, "CLAUDE_STREAM_IDLE_TIMEOUT_MS"):
        deadlines = replace(deadlines, idle=idle)
    hour = _on(environ, "ENABLE_PROMPT_CACHING_1H") and not _on(environ, "FORCE_PROMPT_CACHING_5M")
    families = (f"_{family.upper()}" for family in FAMILIES if family in model)
    uncached = any(_on(environ, f"DISABLE_PROMPT_CACHING{family}") for family in ("", *families))
    betas = (beta.strip() for beta in environ.get("ANTHROPIC_BETAS", "").split(","))
    return AnthropicSettings(
        key=_secret(environ, "ANTHROPIC_API_KEY"),
        token=_secret(environ, "ANTHROPIC_AUTH_TOKEN"),
        base_url=(environ.get("ANTHROPIC_BASE_URL", "").strip() or BASE_URL).rstrip("/"),
        headers=_custom_headers(environ.get("ANTHROPIC_CUSTOM_HEADERS", "")),
        deadlines=deadlines,
        options=Options(
            cache="" if uncached else "1h" if hour else "5m",
            interleaved=not _on(environ, "DISABLE_INTERLEAVED_THINKING"),
            betas=tuple(beta for beta in betas if beta),
            extra=_extra_body(environ.get("CLAUDE_CODE_EXTRA_BODY", "")),
        ),
    )


def _extra_body(text: str) -> dict[str, Any]:
    """Fields that a gateway or a new option of the API wants, but none that says which model answers, what it is told
    or what the provider runs: those are decided here, and held by locks.
    """
    if not text.strip():
        return {}
    try:
        found = json.loads(text) if len(text) <= _EXTRA_MOST else None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise InvalidRequestError(f"CLAUDE_CODE_EXTRA_BODY takes a JSON object of at most {_EXTRA_MOST} characters")
    for name in found:
        if _DECIDED_HERE.search(name.lower()):
            raise InvalidRequestError(f"CLAUDE_CODE_EXTRA_BODY cannot set {name[:80]!r}: that is decided elsewhere")
    return found


def _on(environ: Mapping[str, str], name: str) -> bool:
    return environ.get(name, "").strip().lower() in _ON


def _milliseconds(environ: Mapping[str, str], name: str) -> float:
    text = environ.get(name, "").strip()
    if text and not (text.isdecimal() and len(text) < 20 and int(text)):
        raise InvalidRequestError(f"{name} is {text[:80]!r}; it takes milliseconds, more than 0")
    return int(text or 0) / 1000


def _secret(environ: Mapping[str, str], name: str) -> SecretStr | None:
    value = environ.get(name, "").strip()
    if not _HEADER_VALUE.fullmatch(value):
        raise AuthenticationError(f"{name} holds a character that no key has")
    return SecretStr(value) if value else None


def _custom_headers(text: str) -> dict[str, SecretStr]:
    headers = {}
    for line in text.splitlines():
        name, colon, value = (part.strip() for part in line.partition(":"))
        if not line.strip():
            continue
        if not colon or not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
            raise InvalidRequestError("ANTHROPIC_CUSTOM_HEADERS takes lines of `Name: value`")
        headers[name.lower()] = SecretStr(value)
    return headers


class AnthropicModel:
    """A ModelClient. `name` is asked where a request names no model of its own."""

    def __init__(
        self,
        name: str,
        settings: AnthropicSettings,
        *,
        environ: Mapping[str, str],
        clock: Callable[[], float] = boot_clock,
        tick: float = 5.0,
    ) -> None:
        self.name = name
        self._settings = settings
        self._url = f"{settings.base_url}/v1/messages"
        self._environ = environ
        self._watch = Watch(clock=clock, tick=tick)
        self._http: HttpClient | None = None
        self._opening = asyncio.Lock()

    def __repr__(self) -> str:
        return f"AnthropicModel({self.name!r})"

    async def warm(self) -> None:
        """Imports and makes the HTTP client. Nothing is sent. Never raises."""
        with contextlib.suppress(ModelError):
            await self._client()

    async def close(self) -> None:
        """Lets the connections go."""
        if self._http is not None:
            await self._http.close()

    async def _client(self) -> HttpClient:
        async with self._opening:
            if self._http is None:
                self._http = await asyncio.to_thread(self._open)
            return self._http

    def _open(self) -> HttpClient:
        made: HttpClient = import_module("runner.models.transport").HttpClient(
            self._url, environ=self._environ, deadlines=self._settings.deadlines, watch=self._watch
        )
        return made

    async def stream(self, request: Request) -> AsyncGenerator[Delta]:
        """One attempt. Raises MissingKeyError before any request where there is no key."""
        body, betas = request_body(replace(request, model=request.model or self.name), self._settings.options)
        headers = self._headers(betas)
        content = encode(body)
        if len(content) > BODY_LIMIT:
            raise PromptTooLongError(f"the request has {len(content) >> 20} MiB; the API takes {BODY_LIMIT >> 20}")
        try:
            http = await (await self._client()).post(headers, content)
        except ModelError as error:
            self._scrub(error)
            raise
        reply = Reply(request=http.headers.get("request-id", ""))
        try:
            async with contextlib.aclosing(self._deltas(http, reply)) as deltas:
                async for delta in deltas:
                    yield delta
        except ModelError as error:
            error.partial = reply.partial
            self._scrub(error)
            raise
        finally:
            if not reply.finished:
                await http.abort()

    async def _deltas(self, http: HttpReply, reply: Reply) -> AsyncGenerator[Delta]:
        """Finished comes last, when the connection has been given back."""
        kind = http.headers.get("content-type", "text/event-stream")
        if http.status != 200 or not kind.startswith("text/event-stream"):
            raise await self._refusal(http)
        async with contextlib.aclosing(self._events(http)) as events:
            async for event in events:
                for delta in reply.feed(event.data):
                    if reply.finished:
                        await http.finish()
                    yield delta
                if reply.finished:
                    return
        for delta in reply.end():
            await http.finish()
            yield delta

    async def _events(self, http: HttpReply) -> AsyncGenerator[ServerEvent]:
        decoder = SseDecoder()
        try:
            async with contextlib.aclosing(http.chunks()) as chunks:
                async for chunk in chunks:
                    for event in decoder.feed(chunk):
                        yield event
            for event in decoder.close():
                yield event
        except (SseError, BrokenStreamError) as error:
            raise BrokenStreamError(f"the reply broke off: {error}") from error

    def _headers(self, betas: tuple[str, ...]) -> dict[str, str]:
        settings = self._settings
        headers = {
            "user-agent": USER_AGENT,
            "accept": "text/event-stream",
            "accept-encoding": "identity",
            "content-type": "application/json",
            "anthropic-version": VERSION,
        }
        if betas:
            headers["anthropic-beta"] = ",".join(betas)
        if settings.key is not None:
            headers["x-api-key"] = settings.key.get_secret_value()
        if settings.token is not None:
            headers["authorization"] = f"Bearer {settings.token.get_secret_value()}"
        headers |= {name: value.get_secret_value() for name, value in settings.headers.items()}
        if not headers.keys() & {"x-api-key", "authorization"}:
            raise MissingKeyError
        return headers

    async def _refusal(self, http: HttpReply) -> ModelError:
        request = http.headers.get("request-id", "")
        if 300 <= http.status < 400:
            text = f"the provider redirects elsewhere (HTTP {http.status}), where no key is sent"
            return InvalidRequestError(text, status=http.status, request=request)
        body = await http.read(ERROR_LIMIT)
        kind, message = "", ""
        with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
            error = parse_json(body)["error"]
            kind, message = str(error.get("type", "")), str(error["message"])
        message = message or _readable(body) or "no explanation"
        if http.status == 200 and not kind:
            message = f"the reply is no event stream but {http.headers.get('content-type', 'unknown')}: {message}"
            return BrokenStreamError(message, status=200, request=request)
        wait = retry_after(http.headers, time.time())
        return error_of(http.status, kind, message, request=request, retry_after=wait)

    def _scrub(self, error: ModelError) -> None:
        """A server or proxy may echo what it was sent: no message of ours holds a secret."""
        settings = self._settings
        text = str(error)
        for secret in (settings.key, settings.token, *settings.headers.values()):
            if secret is not None and len(secret.get_secret_value()) >= 8:
                text = text.replace(secret.get_secret_value(), "[key]")
        error.args = (text,)


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds that the provider asks to wait: retry-after-ms, or Retry-After as seconds or as a date
    (RFC 9110, section 10.2.3). `now`: the wall clock.
    """
    with contextlib.suppress(ValueError):
        if "retry-after-ms" in headers:
            return max(0.0, float(headers["retry-after-ms"]) / 1000)
        return _after(headers, now)
    return None


def _after(headers: Mapping[str, str], now: float) -> float | None:
    text = headers.get("retry-after", "").strip()
    if not text:
        return None
    if re.fullmatch(r"\d+(\.\d*)?", text):
        return float(text)
    return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - now)


def _readable(body: bytes) -> str:
    """The words of a body that is no JSON (a gateway's HTML page), in one short line."""
    text = _MARKUP.sub(" ", body.decode("utf-8", "replace"))
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())[:300]
