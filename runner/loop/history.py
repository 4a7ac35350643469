"""History: what the model is sent, as an incremental projection of the journal's records.

`fold` takes one record and does work in proportion to it; a message that was sent is never
changed again, so that providers' prompt caches and the running digest stay good.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import Any

from runner.events import (
    Compacted,
    Drifted,
    Event,
    HeadMoved,
    ModelAsked,
    ModelReplied,
    PromptGiven,
    TaskUpdated,
    ToolFinished,
    TurnEnded,
)
from runner.journal import canonical, digest
from runner.models.base import Request

_MARK = re.compile(r"<\s*/?\s*system-reminder", re.IGNORECASE)
NOT_RUN = "This call was not run: the turn ended before it."
Block = dict[str, Any]


class History:
    """Messages in the Messages API's form. Two of one role may follow each other (a turn that was
    interrupted before any reply); providers that refuse this merge them in their adapter.
    """

    def __init__(self, events: Iterable[Event] = ()) -> None:
        self.begin(events)

    def begin(self, events: Iterable[Event] = ()) -> None:
        """Forget everything and take in these."""
        self.messages: list[dict[str, Any]] = []
        self._pending: list[Block] = []
        self._calls: list[str] = []
        self._results: dict[str, Block] = {}
        self._broken: ModelReplied | None = None
        self._hash = hashlib.sha256()
        self._hash_prefix = b""
        self._hashed = 0
        for event in events:
            self.fold(event)

    @property
    def empty(self) -> bool:
        """Whether nothing was ever said."""
        return not self.messages and not self._pending

    def fold(self, event: Event) -> None:  # noqa: C901 (one row per kind)
        """Take in one record; those that the model does not see change nothing."""
        match event.body:
            case PromptGiven() as body:
                self._pending += [*body.context, *body.content]
            case ModelAsked():
                self.flush()
            case ModelReplied() as body:
                self._results.clear()
                self._broken = body if body.partial else None
                if not body.partial:
                    self._say(body.content)
            case ToolFinished() as body:
                self._results[body.call] = _result(body)
            case TurnEnded():
                self._keep_broken()
            case TaskUpdated(kind="command", state=state) as body if state != "running":
                self._pending.append(reminder(_task_text(body)))
            case Drifted(count=count, paths=paths):
                names = ", ".join(str(path) for path in paths[:20])
                self._pending.append(
                    reminder(
                        f"{count} files changed on the host since the session began: {names}. Read before editing."
                    )
                )
            case HeadMoved(reason=reason, left=left) if left:
                self._pending.append(reminder(reason))
            case Compacted(summary=summary):
                self.messages, self._calls, self._hashed = [], [], 0
                self._hash_prefix = b""
                self._pending.insert(0, {"type": "text", "text": summary})
            case _:
                pass

    def flush(self) -> None:
        """Make what is pending the next user message: results in the order of their calls, then the rest."""
        results = [self._results.get(call) or _missing(call) for call in self._calls]
        blocks = [*results, *self._pending]
        self._calls, self._pending = [], []
        self._results.clear()
        if blocks:
            self.messages.append({"role": "user", "content": blocks})

    def _say(self, content: list[Block]) -> None:
        if not content:
            return  # the API takes no empty message back
        self.messages.append({"role": "assistant", "content": content})
        self._calls = [block["id"] for block in content if block.get("type") == "tool_use"]

    def _keep_broken(self) -> None:
        """Of a reply that broke off and was not tried again, keep what the API accepts once more."""
        if self._broken is None:
            return
        content = [block for block in self._broken.content if self._acceptable(block)]
        while content and content[-1].get("type") in ("thinking", "redacted_thinking"):
            content.pop()
        self._broken = None
        self._say(content)

    def _acceptable(self, block: Block) -> bool:
        match block.get("type"):
            case "text":
                return bool(str(block.get("text", "")).strip())
            case "thinking":
                return bool(block.get("signature"))
            case "redacted_thinking":
                return True
            case "tool_use":
                return block.get("id") in self._results
            case _:
                return False  # a server tool's call without its result is refused

    def digest(self, frame: RequestFrame) -> str:
        """Hex sha256 of the canonical JSON of the request with these messages, each hashed once."""
        if frame.before != self._hash_prefix:
            self._hash, self._hash_prefix, self._hashed = hashlib.sha256(frame.before), frame.before, 0
        for message in self.messages[self._hashed :]:
            self._hash.update((b"," if self._hashed else b"") + canonical(message))
            self._hashed += 1
        whole = self._hash.copy()
        whole.update(frame.after)
        return whole.hexdigest()


class RequestFrame:
    """The canonical JSON of a request without its messages: the parts before and after them, and the
    digest of system prompt and tools. Made once for requests that differ in messages only.
    """

    def __init__(self, request: Request) -> None:
        whole = request_json(request)
        head = {"max_output_tokens": whole.pop("max_output_tokens")}
        whole.pop("messages")
        self.before = canonical(head)[:-1] + b',"messages":['
        self.after = b"]," + canonical(whole)[1:]
        self.fixed = digest({"system": whole["system"], "tools": whole["tools"]})


def request_json(request: Request) -> dict[str, Any]:
    """The request as the JSON object that ModelAsked's digest speaks of."""
    return {
        "max_output_tokens": request.max_output_tokens,
        "messages": list(request.messages),
        "metadata": request.metadata,
        "model": request.model,
        "system": list(request.system),
        "temperature": request.temperature,
        "thinking_tokens": request.thinking_tokens,
        "tools": [{"name": t.name, "description": t.description, "schema": t.schema} for t in request.tools],
    }


def reminder(text: str) -> Block:
    """Words of ours to the model, marked so that it does not take them for the user's. What is quoted in
    them (a repository's text, a command) cannot end the mark or forge another.
    """
    text = _MARK.sub(lambda found: found[0].replace("<", "&lt;"), text)
    return {"type": "text", "text": f"<system-reminder>\n{text}\n</system-reminder>"}


def _result(body: ToolFinished) -> Block:
    block: Block = {"type": "tool_result", "tool_use_id": body.call, "content": body.content}
    return block | {"is_error": True} if body.is_error else block


def _missing(call: str) -> Block:
    """A call that an undo cut off from its end."""
    return {"type": "tool_result", "tool_use_id": call, "content": NOT_RUN, "is_error": True}


def _task_text(body: TaskUpdated) -> str:
    detail = body.detail
    code = f" (exit code {detail['code']})" if detail.get("code") is not None else ""
    output = f" Its output is in {detail['output']}." if detail.get("output") else ""
    command = str(detail.get("command", ""))[:200]
    return f"Background task {body.task} ({command}) is {body.state}{code}.{output}"
