"""Pieces of a reply as the Messages API's stream events, for `--include-partial-messages`.

Our live events carry text only, so starts, stops and tool inputs are added: a client that assembles the
events gets the reply's blocks, in order. The message id is the request's, in all messages of the reply: the
provider's own is not known when the first piece goes out.
"""

from __future__ import annotations

import json
from dataclasses import field
from typing import Any

from runner.dataclass import dataclass
from runner.events import ModelReplied

_DELTAS = {"text": ("text_delta", "text"), "thinking": ("thinking_delta", "thinking")}
Raw = dict[str, Any]


@dataclass(slots=True)
class PartialReply:
    """The reply that streams in. One object per request."""

    request: str
    model: str
    started: bool = False
    kinds: list[str] = field(default_factory=list)

    def piece(self, kind: str, text: str) -> list[Raw]:
        """Stream events for a piece of `kind` (text or thinking)."""
        made = self._start()
        kinds = self.kinds
        if not kinds or kinds[-1] != kind:
            if kinds:
                made.append({"type": "content_block_stop", "index": len(kinds) - 1})
            made.append(_block_start(len(kinds), {"type": kind, kind: ""} | _signature(kind)))
            kinds.append(kind)
        delta, key = _DELTAS[kind]
        made.append(_delta(len(kinds) - 1, {"type": delta, key: text}))
        return made

    def block(self, index: int, block: Raw) -> tuple[list[Raw], list[Raw]]:
        """Stream events before and after the assistant message of the finished block `index`."""
        kinds = self.kinds
        stop = {"type": "content_block_stop", "index": index}
        if index < len(kinds):  # its pieces went out already; the last one is still open
            return [], [stop] if index == len(kinds) - 1 else []
        kinds.append(str(block.get("type")))
        return [*self._start(), *_whole(index, block)], [stop]

    def end(self, reply: ModelReplied) -> list[Raw]:
        """The last events of the message."""
        delta = {"stop_reason": reply.stop_reason, "stop_sequence": None}
        return [
            *self._start(),
            {"type": "message_delta", "delta": delta, "usage": reply.usage},
            {"type": "message_stop"},
        ]

    def _start(self) -> list[Raw]:
        if self.started:
            return []
        self.started = True
        message: Raw = {
            "id": self.request,
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {"input_tokens": 0, "output_tokens": 0},
        }
        return [{"type": "message_start", "message": message}]


def _whole(index: int, block: Raw) -> list[Raw]:
    kind = str(block.get("type"))
    if kind in _DELTAS:
        delta, key = _DELTAS[kind]
        start = _block_start(index, {"type": kind, key: ""} | _signature(kind))
        return [start, _delta(index, {"type": delta, key: block.get(key, "")})]
    if kind == "tool_use":
        start = _block_start(index, block | {"input": {}})
        return [start, _delta(index, {"type": "input_json_delta", "partial_json": json.dumps(block.get("input", {}))})]
    return [_block_start(index, block)]


def _signature(kind: str) -> Raw:
    return {"signature": ""} if kind == "thinking" else {}


def _block_start(index: int, block: Raw) -> Raw:
    return {"type": "content_block_start", "index": index, "content_block": block}


def _delta(index: int, delta: Raw) -> Raw:
    return {"type": "content_block_delta", "index": index, "delta": delta}
