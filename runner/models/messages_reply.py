"""A streamed reply of the Messages API, put together: its events in, our deltas out.

Pure. Blocks and deltas of kinds that are not known here are kept as they came. Source: the
Messages API's streaming reference, and the accumulator of the provider's SDK, which the
contract tests hold against this one.
"""

from __future__ import annotations

import json
import re
from typing import Any

from runner.errors import (
    AuthenticationError,
    BrokenStreamError,
    InvalidRequestError,
    ModelError,
    ModelNotFoundError,
    OverloadedError,
    PromptTooLongError,
)
from runner.models.base import BlockDone, Delta, Finished, Retrying, Started, TextPart, ThinkingPart

REPLY_LIMIT = 64 << 20  # characters of one reply
_TOO_LONG = re.compile(
    r"(prompt|input) is too long|exceeds? (the )?(maximum )?context|too many total text bytes", re.IGNORECASE
)
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_STATUS = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
_RETRIED = frozenset({408, 409, 425, 429})


def parse_json(text: str | bytes) -> Any:
    """Strict JSON (no NaN), in which every string can be encoded as UTF-8: half a surrogate pair
    becomes U+FFFD. Raises ValueError.
    """
    try:
        whole = text if isinstance(text, str) else text.decode(json.detect_encoding(text), "surrogatepass")
        value = _decode(whole)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    escape = b"\\u" if isinstance(text, bytes) else "\\u"
    return _whole(value) if escape in text else value  # type: ignore[operator]


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


_decode = json.JSONDecoder(parse_constant=_refuse_constant).decode  # made once: each event of a stream is read by it


def _whole(value: Any) -> Any:
    match value:
        case str():
            return _LONE_SURROGATE.sub("\ufffd", value)
        case list():
            return [_whole(item) for item in value]
        case dict():
            return {_whole(key): _whole(item) for key, item in value.items()}
        case _:
            return value


def error_of(
    status: int | None, kind: str, message: str, *, request: str = "", retry_after: float | None = None
) -> ModelError:
    """The provider's error as ours. `kind` is its `error.type`, "" where the body was no JSON."""
    code = _STATUS.get(kind, status) if status in (None, 200) else status
    text = f"{message} ({kind or 'HTTP'}{f' {code}' if code else ''})"
    if code == 413 or (code == 400 and _TOO_LONG.search(message)):
        return PromptTooLongError(text, status=code, request=request)
    if code in (401, 403):
        return AuthenticationError(text, status=code, request=request)
    if code == 404:
        return ModelNotFoundError(text, status=code, request=request)
    if code is None or code in _RETRIED or code >= 500:
        return OverloadedError(text, status=code, request=request, retry_after=retry_after)
    return InvalidRequestError(text, status=code, request=request)


class _Block:
    """A content block that is still growing."""

    __slots__ = ("fields", "input", "parts")

    def __init__(self, fields: dict[str, Any]) -> None:
        self.fields = fields
        self.parts: dict[str, list[str]] = {}
        self.input: list[str] | None = None

    def grow(self, delta: dict[str, Any]) -> None:
        match delta:
            case {"type": "text_delta", "text": str(text)}:
                self._append("text", text)
            case {"type": "thinking_delta", "thinking": str(text)}:
                self._append("thinking", text)
            case {"type": "input_json_delta", "partial_json": str(text)}:
                self.input = [] if self.input is None else self.input
                self.input.append(text)
            case {"type": "citations_delta", "citation": citation}:
                self.fields["citations"] = [*(self.fields.get("citations") or []), citation]
            case {"type": "signature_delta" | "compaction_delta"}:
                self.fields |= {key: value for key, value in delta.items() if key != "type"}
            case _:
                self._merge(delta)

    def _append(self, key: str, text: str) -> None:
        self.parts.setdefault(key, []).append(text)

    def _merge(self, delta: dict[str, Any]) -> None:
        """A delta of an unknown kind: strings and lists continue what is there, the rest replaces it."""
        for key, value in delta.items():
            old = self.fields.get(key)
            if key == "type":
                continue
            if isinstance(value, str) and isinstance(old, str):
                self._append(key, value)
            elif isinstance(value, list) and isinstance(old, list):
                self.fields[key] = [*old, *value]
            else:
                self.fields[key] = value

    def done(self, index: int) -> BlockDone:
        for key, parts in self.parts.items():
            old = self.fields.get(key)
            self.fields[key] = (old if isinstance(old, str) else "") + "".join(parts)
        raw = "".join(self.input or ())
        if not raw.strip():
            return BlockDone(index=index, block=self.fields)
        try:
            value = parse_json(raw)
        except ValueError:
            value = None
        if isinstance(value, dict):
            return BlockDone(index=index, block=self.fields | {"input": value})
        return BlockDone(index=index, block=self.fields | {"input": {}}, invalid=raw)


class Reply:
    """Feed it each event's data; `partial` is what is finished of it, `finished` whether all is."""

    def __init__(self, *, request: str = "", limit: int = REPLY_LIMIT) -> None:
        self.finished = False
        self._request = request
        self._left = limit
        self._begun = False
        self._open: dict[int, _Block] = {}
        self._done: list[dict[str, Any]] = []
        self._usage: dict[str, Any] = {}
        self._stop: dict[str, Any] = {}

    @property
    def partial(self) -> tuple[dict[str, Any], ...]:
        """The finished blocks. A tool call that could not be read is among them, with empty input."""
        return tuple(self._done)

    def feed(self, data: str) -> list[Delta]:
        """Raises ModelError's classes: the provider's error, or BrokenStreamError for what is no
        reply; the caller adds `partial`.
        """
        self._left -= len(data)
        if self._left < 0:
            raise self._broken("it is too large")
        try:
            event = parse_json(data)
        except ValueError as error:
            raise self._broken(f"an event is not JSON: {error}") from error
        try:
            return self._event(event)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise self._broken(f"an event is not as the Messages API has it: {error!r}") from error

    def end(self) -> list[Delta]:
        """The stream ended. Some gateways leave message_stop out: with a stop reason and no block
        open it is whole; else raises BrokenStreamError.
        """
        if self.finished:
            return []
        if self._begun and self._stop.get("stop_reason") and not self._open:
            return [self._finish()]
        raise self._broken("it ended early" if self._begun else "it is empty")

    def _broken(self, why: str) -> BrokenStreamError:
        return BrokenStreamError(f"the reply broke off: {why}", request=self._request)

    def _event(self, event: dict[str, Any]) -> list[Delta]:
        match event["type"]:
            case "content_block_delta":
                return self._delta(event["index"], event["delta"])
            case "content_block_start":
                block = dict(event["content_block"])
                self._open[event["index"]] = _Block(block)
                if block.get("type") == "text" and block.get("text"):
                    return [TextPart(text=block["text"])]
            case "content_block_stop":
                done = self._open.pop(event["index"]).done(event["index"])
                self._done.append(done.block)
                return [done]
            case "message_start":
                return self._start(event["message"])
            case "message_delta":
                self._stop |= {key: value for key, value in event["delta"].items() if value is not None}
                self._count(event.get("usage") or {})
            case "message_stop":
                if self._open or not self._begun:
                    raise self._broken("it was declared complete with a block still open or none begun")
                return [self._finish()]
            case "error":
                error = event.get("error") or {}
                raise error_of(
                    None, str(error.get("type", "")), str(error.get("message", "error")), request=self._request
                )
            case _:  # ping, and events yet to be invented
                pass
        return []

    def _start(self, message: dict[str, Any]) -> list[Delta]:
        deltas: list[Delta] = []
        if self._begun:  # spliced: the provider lost its worker and began anew in the same stream
            again = "the provider began its reply anew"
            deltas.append(Retrying(attempt=1, attempts=1, delay=0.0, error=again, partial=self.partial))
            self._open, self._done, self._usage, self._stop = {}, [], {}, {}
        self._begun = True
        self._count(message.get("usage") or {})
        deltas.append(
            Started(
                message=str(message.get("id", "")),
                model=str(message.get("model", "")),
                usage=dict(self._usage),
                request=self._request,
            )
        )
        if message.get("stop_reason"):
            self._stop["stop_reason"] = message["stop_reason"]
        for index, block in enumerate(message.get("content") or []):
            self._done.append(block)
            if block.get("type") == "text" and block.get("text"):
                deltas.append(TextPart(text=block["text"]))
            deltas.append(BlockDone(index=index, block=block))
        return deltas

    def _delta(self, index: int, delta: dict[str, Any]) -> list[Delta]:
        self._open[index].grow(delta)
        match delta:
            case {"type": "text_delta", "text": str(text)} if text:
                return [TextPart(text=text)]
            case {"type": "thinking_delta", "thinking": str(text)} if text:
                return [ThinkingPart(text=text)]
            case _:
                return []

    def _count(self, usage: dict[str, Any]) -> None:
        """Counts are totals so far: they replace; what is absent or null stays."""
        self._usage |= {key: value for key, value in usage.items() if value is not None}

    def _finish(self) -> Finished:
        self.finished = True
        details = {key: value for key, value in self._stop.items() if key != "stop_reason"}
        return Finished(stop_reason=self._stop.get("stop_reason"), usage=dict(self._usage), details=details)
