r"""The script of a scripted model: its format, its loader, and the wire events that its replies consist of.

A script is YAML (a list of replies, or a mapping with `version: 1` and `replies`) or JSONL (a
reply per line). Each request to the model plays the next reply:

    - expect: ["1 failed", {matches: "test_(?P<name>\w+)"}]   # of the last user message, else ScriptMismatchError
      thinking: I should look at ${name} first.
      text: Let me see.
      tools: [{name: Read, input: {file_path: /repo/a.py}}]    # or `raw: '{"broken'` in place of input
      blocks: [{type: redacted_thinking, data: x}]             # any further blocks, as they are
      stop_reason: tool_use             # default: tool_use with tools, else end_turn
      usage: {input_tokens: 9}          # default: a quarter of the characters
      delay: 0.5                        # seconds before the reply begins
      pace: 0.02                        # seconds between its pieces
      repeat: 3                         # play it so many times
    - error: {type: overloaded_error, message: busy, retry_after: 1, after: 1}

`expect` takes strings (contained) and `matches` (a regular expression; its named groups fill
`${name}` in all later strings; `of: prompt` looks at the first user message instead). An
`error` comes after so many finished blocks of its reply, or, without `after`, instead of it;
besides the provider's own types there are `cut` (the stream ends), `malformed` (an event that
is no JSON) and `hang` (nothing more comes). The events are those of the Messages API.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from runner.errors import InvalidRequestError
from runner.models.messages_request import encode

PIECE = 24  # characters of one delta
OURS = frozenset({"cut", "malformed", "hang"})  # errors that no provider reports: they happen


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Expectation(_Strict):
    """What the conversation must hold before a reply is given."""

    contains: str = ""
    matches: str = ""
    of: Literal["last", "prompt"] = "last"


class ToolCall(_Strict):
    """A tool_use block. `raw` is sent as the input's JSON as it stands, valid or not."""

    name: str
    input: dict[str, Any] = Field(default_factory=dict)
    id: str = ""
    raw: str | None = None


class ScriptedError(_Strict):
    """What goes wrong, and after how many finished blocks; `after` None: before the reply begins."""

    type: Literal[
        "overloaded_error",
        "rate_limit_error",
        "api_error",
        "timeout_error",
        "authentication_error",
        "permission_error",
        "not_found_error",
        "invalid_request_error",
        "request_too_large",
        "cut",
        "malformed",
        "hang",
    ]
    message: str = ""
    after: int | None = Field(default=None, ge=0)
    retry_after: float | None = None


def _as_list(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


def _as_expectation(value: Any) -> Any:
    return {"contains": value} if isinstance(value, str) else value


class ScriptedReply(_Strict):
    """One reply of the script; see the module's words."""

    expect: Annotated[list[Annotated[Expectation, BeforeValidator(_as_expectation)]], BeforeValidator(_as_list)] = []
    thinking: str = ""
    text: str = ""
    tools: list[ToolCall] = []
    blocks: list[dict[str, Any]] = []
    stop_reason: str = ""
    usage: dict[str, Any] = {}
    delay: float = Field(default=0.0, ge=0)
    pace: float = Field(default=0.0, ge=0)
    repeat: int = Field(default=1, ge=1)
    error: ScriptedError | None = None


class Script(_Strict):
    """A whole script."""

    version: Literal[1] = 1
    model: str = "scripted"
    replies: list[ScriptedReply]

    def played(self) -> tuple[ScriptedReply, ...]:
        """The replies in order, repeated ones as often as they are played."""
        return tuple(reply for reply in self.replies for _ in range(reply.repeat))


def load_script(path: Path) -> Script:
    """Raises InvalidRequestError that names the file, the reply, its line where known, and the field."""
    lines: list[int] = []
    try:
        text = path.read_text("utf-8")
        if path.suffix == ".jsonl":
            numbered = [(at, line) for at, line in enumerate(text.splitlines(), 1) if line.strip()]
            lines = [at for at, _ in numbered]
            data: Any = [_json_line(at, line) for at, line in numbered]
        else:
            data, lines = _yaml(text)
        return Script.model_validate({"replies": data} if isinstance(data, list) else data)
    except ValidationError as error:
        raise InvalidRequestError(f"{path}: {_explain(error, lines)}") from error
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InvalidRequestError(f"the script {path} cannot be read: {error}") from error


def _json_line(at: int, line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        raise ValueError(f"line {at}: {error}") from error


def _yaml(text: str) -> tuple[Any, list[int]]:
    """The data, and the line of each reply."""
    loader = yaml.CSafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return [], []
        listed: Any = node
        if isinstance(node, yaml.MappingNode):
            listed = next((value for key, value in node.value if key.value == "replies"), node)
        lines = [item.start_mark.line + 1 for item in listed.value] if isinstance(listed, yaml.SequenceNode) else []
        return loader.construct_document(node), lines
    finally:
        loader.dispose()


def _explain(error: ValidationError, lines: Sequence[int]) -> str:
    first = error.errors(include_url=False)[0]
    where = [str(part) for part in first["loc"]]
    if len(first["loc"]) > 1 and isinstance(number := first["loc"][1], int):
        where[:2] = [f"reply {number + 1}" + (f" (line {lines[number]})" if number < len(lines) else "")]
    return f"{'.'.join(where) or 'the script'}: {first['msg']}"


def content_of(reply: ScriptedReply, number: int) -> list[dict[str, Any]]:
    """The reply's blocks. A tool call's input is a str where it stands for raw JSON."""
    blocks: list[dict[str, Any]] = []
    if reply.thinking:
        blocks.append({"type": "thinking", "thinking": reply.thinking, "signature": f"scripted-{number}"})
    if reply.text:
        blocks.append({"type": "text", "text": reply.text})
    for at, call in enumerate(reply.tools, 1):
        call_id = call.id or f"toolu_script_{number:04}_{at}"
        value = call.input if call.raw is None else call.raw
        blocks.append({"type": "tool_use", "id": call_id, "name": call.name, "input": value})
    return blocks + reply.blocks


def events_of(
    reply: ScriptedReply, blocks: Sequence[dict[str, Any]], *, number: int, model: str, usage: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """The events of the wire, up to the reply's error if it has one."""
    yield {
        "type": "message_start",
        "message": {
            "id": f"msg_script_{number:04}",
            "type": "message",
            "role": "assistant",
            "model": model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": usage | {"output_tokens": 1},
        },
    }
    ended = len(blocks) if reply.error is None or reply.error.after is None else reply.error.after
    for index, block in enumerate(blocks[:ended]):
        yield from _block_events(index, block)
    if reply.error is not None:
        if reply.error.type not in OURS:
            yield {"type": "error", "error": {"type": reply.error.type, "message": reply.error.message or "scripted"}}
        return
    stop = reply.stop_reason or ("tool_use" if reply.tools else "end_turn")
    yield {"type": "message_delta", "delta": {"stop_reason": stop, "stop_sequence": None}, "usage": usage}
    yield {"type": "message_stop"}


def _block_events(index: int, block: dict[str, Any]) -> Iterator[dict[str, Any]]:
    start, deltas = dict(block), list[dict[str, Any]]()
    match block:
        case {"type": "text", "text": str(text)}:
            start["text"] = ""
            deltas = [{"type": "text_delta", "text": piece} for piece in _pieces(text)]
        case {"type": "thinking", "thinking": str(text)}:
            start |= {"thinking": "", "signature": ""}
            deltas = [{"type": "thinking_delta", "thinking": piece} for piece in _pieces(text)]
            deltas.append({"type": "signature_delta", "signature": block.get("signature", "")})
        case {"type": "tool_use", "input": value}:
            start["input"] = {}
            raw = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in _pieces(raw)]
    yield {"type": "content_block_start", "index": index, "content_block": start}
    for delta in deltas:
        yield {"type": "content_block_delta", "index": index, "delta": delta}
    yield {"type": "content_block_stop", "index": index}


def _pieces(text: str) -> list[str]:
    return [text[at : at + PIECE] for at in range(0, len(text), PIECE)]


def usage_of(reply: ScriptedReply, blocks: Sequence[dict[str, Any]], asked: int) -> dict[str, Any]:
    """The script's usage over an estimate; `asked`: bytes of the request."""
    return {"input_tokens": asked // 4, "output_tokens": len(encode({"blocks": list(blocks)})) // 4} | reply.usage
