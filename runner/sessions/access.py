"""Access: what a command may ask of a session's work, the same whether its owner is another
process (`client.Client`) or this one (`desk.Desk`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from sandbox.spec import Process, Pty


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which changes an apply takes. `paths`: absolute, on the host or in the box, each with all below it;
    none: all. A path that is held back is taken when it is named in `paths` or `include`, or with `held`.
    `force`: take the box's version where the host's changed too. `dry`: only say what would be done.
    """

    paths: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    held: bool = False
    force: bool = False
    dry: bool = False

    def to_json(self) -> dict[str, Any]:
        """A JSON object that `Selection.from_json` turns back."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Selection:
        """Raises TypeError or KeyError for what no Selection is."""
        return cls(
            paths=tuple(data["paths"]),
            include=tuple(data["include"]),
            held=bool(data["held"]),
            force=bool(data["force"]),
            dry=bool(data["dry"]),
        )


class Access(Protocol):
    """Paths are absolute and select what lies at or below them; none select all. Changes are JSON objects
    (`sandbox.diff`),
    reports too, so that they can cross a socket.
    """

    async def changes(self, paths: tuple[str, ...] = ()) -> list[dict[str, Any]]:
        """What the session changed, sorted by root and path."""
        ...

    def diff(self, paths: tuple[str, ...] = ()) -> AsyncIterator[bytes]:
        """A patch in git's format, in pieces; contents are bytes of any encoding."""
        ...

    def stat(self, paths: tuple[str, ...] = ()) -> AsyncIterator[bytes]:
        """How much changed in which file, as lines for people."""
        ...

    async def apply(self, selection: Selection) -> dict[str, Any]:
        """Bring changes over to the host. Raises ApplyConflictError, with nothing written."""
        ...

    async def checkpoints(self) -> dict[str, Any]:
        """The timeline: `checkpoints`, `turns` and the `present` one, oldest first."""
        ...

    async def travel(self, journey: dict[str, Any]) -> dict[str, Any]:
        """Undo, redo or rewind: a Journey as JSON; the report. Raises UsageError."""
        ...

    def show(self, checkpoint: str, path: str) -> AsyncIterator[bytes]:
        """A file as it was at a checkpoint, in pieces."""
        ...

    async def shell(self, argv: tuple[str, ...], pty: Pty | None) -> Process:
        """A command of the user's own in the box; empty `argv` means a login shell."""
        ...
