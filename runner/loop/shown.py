"""What a running call has shown, and text made fit for every wire."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field
from typing import Any

from runner.dataclass import dataclass
from runner.events import ToolChunk, ToolOutput

SHOWN_LIMIT = 256 << 10


@dataclass(slots=True, kw_only=True)
class Shown:
    """What a running call has shown: live chunks, which together become one ToolOutput. `ran`: it has begun."""

    call: str
    id: str
    live: Callable[[ToolChunk, str, int], None]
    record: Callable[..., object]
    parts: list[str] = field(default_factory=list)
    size: int = 0
    cut: bool = False
    done: bool = False
    ran: bool = False

    @property
    def text(self) -> str:
        """All of it."""
        return "".join(self.parts)

    def add(self, text: str) -> None:
        """Show a piece, up to the limit in all."""
        if not text or self.done:
            return
        if self.size + len(text) > SHOWN_LIMIT:
            text, self.cut = text[: SHOWN_LIMIT - self.size], True
            if not text:
                return
        self.size += len(text)
        self.live(ToolChunk(call=self.call, text=text), self.id, len(self.parts))
        self.parts.append(text)

    def finish(self) -> None:
        """Record it; what comes later is not shown."""
        if self.parts and not self.done:
            body = ToolOutput(call=self.call, text=self.text, truncated=self.cut)
            self.record(body, cause=self.call, id=self.id)
        self.done = True


def plain(content: str | list[dict[str, Any]]) -> str | list[dict[str, Any]]:
    """Text that every wire can hold: lone surrogates replaced."""
    if isinstance(content, str):
        return content.encode("utf-8", errors="replace").decode("utf-8")
    return [
        block | {"text": plain(block["text"])} if isinstance(block.get("text"), str) else block for block in content
    ]
