"""Operations: all that a client can ask of a session, as one closed union with a JSON form.

They travel in this form over the owner's socket too; what comes from there is untrusted, so
`operation_from_json` takes known fields of known types only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeAlias

from runner.dataclass import dataclass
from runner.effects import Mode
from runner.events import ApprovalGiven

CONTENT_BLOCKS = frozenset({"text", "image", "document"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """Begin a turn with these content blocks (text, image, document); waits for the turn before it."""

    content: list[dict[str, Any]]

    @classmethod
    def text(cls, text: str) -> Prompt:
        """A prompt of plain text."""
        return cls(content=[{"type": "text", "text": text}])

    @property
    def said(self) -> str:
        """Its text."""
        return "\n".join(str(block.get("text", "")) for block in self.content if block.get("type") == "text")


@dataclass(frozen=True, slots=True, kw_only=True)
class Interrupt:
    """Stop the running turn; nothing happens when none runs. Prompts that wait go on afterwards."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The reply to an ApprovalAsked. `always`: allow the rule that it offers from here on. `input` takes the place of
    the call's own: it holds a user's answers.
    """

    call: str
    allowed: bool
    reason: str = ""
    always: bool = False
    input: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SetMode:
    """The permission mode from the next decision on."""

    mode: Mode


@dataclass(frozen=True, slots=True, kw_only=True)
class SetModel:
    """The model from the next request on."""

    model: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Undo:
    """Take back files and conversation. Reserved: a session without checkpoints refuses it."""

    steps: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Close:
    """End the session: the running turn is interrupted, readers come to their end."""


Operation: TypeAlias = Prompt | Interrupt | Answer | SetMode | SetModel | Undo | Close
_TYPES: dict[str, type[Any]] = {t.__name__: t for t in Operation.__args__}
_FIELDS: dict[str, type[Any]] = {
    "content": list,
    "call": str,
    "allowed": bool,
    "always": bool,
    "reason": str,
    "input": dict,
    "mode": str,
    "model": str,
    "steps": int,
}


def given_by_client(answer: Answer) -> ApprovalGiven:
    """What a client's answer is as a record."""
    return ApprovalGiven(
        call=answer.call,
        allowed=answer.allowed,
        by="client",
        reason=answer.reason,
        always=answer.always,
        input=answer.input,
    )


def operation_to_json(operation: Operation) -> dict[str, Any]:
    """`{"type": name, ...fields}`."""
    values = {f.name: getattr(operation, f.name) for f in fields(operation)}
    if isinstance(operation, SetMode):
        values["mode"] = operation.mode.value
    return {"type": type(operation).__name__} | values


def operation_from_json(data: Mapping[str, Any]) -> Operation:
    """The operation; raises ValueError for anything that is not one, field for field."""
    made = _TYPES.get(str(data.get("type")))
    if made is None:
        raise ValueError(f"unknown operation {data.get('type')!r}")
    values = {key: value for key, value in data.items() if key != "type" and not (key == "input" and value is None)}
    for key, value in values.items():
        wanted = _FIELDS.get(key)
        if wanted is None or type(value) is not wanted:
            raise ValueError(f"{made.__name__}: field {key!r} is unknown or of the wrong type")
    if "mode" in values:
        values["mode"] = Mode(values["mode"])
    for block in values.get("content", ()):
        if not isinstance(block, dict) or block.get("type") not in CONTENT_BLOCKS:
            raise ValueError("Prompt: content is a list of text, image and document blocks")
    try:
        operation: Operation = made(**values)
    except TypeError as error:
        raise ValueError(f"{made.__name__}: {error}") from error
    return operation
