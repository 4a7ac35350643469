"""Access: what a command may ask of a session's work, the same whether its owner is another
process (`client.Client`) or this one (`desk.Desk`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Any, Protocol

from runner.dataclass import dataclass
from sandbox.spec import Process, Pty


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which changes an apply takes. `paths`: absolute, on the host or in the box, each with all below it;
    none: all. A path that is held back is taken when it is named in `paths` or `include`, or with `held`.
    Where the host's changed too: `force` takes the box's version, `ours` leaves the host's, `merge` joins
    their lines, with `markers` conflict markers and all. `hunks`: (path, numbers from 0) of runs of changed
    lines, where not the whole file is wanted; `seen`: (path, sha256 of the text) of changes that were chosen
    by sight, and are refused when they are others now. `dry`: only say what would be done.
    """

    paths: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    held: bool = False
    force: bool = False
    ours: bool = False
    merge: bool = False
    markers: bool = False
    hunks: tuple[tuple[str, tuple[int, ...]], ...] = ()
    seen: tuple[tuple[str, str], ...] = ()
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
            ours=bool(data["ours"]),
            merge=bool(data["merge"]),
            markers=bool(data["markers"]),
            hunks=tuple((str(path), tuple(int(number) for number in numbers)) for path, numbers in data["hunks"]),
            seen=tuple((str(path), str(digest)) for path, digest in data["seen"]),
            dry=bool(data["dry"]),
        )


class Access(Protocol):
    """Paths are absolute and select what lies at or below them; none select all. Changes are JSON objects
    (`sandbox.diff`),
    reports too, so that they can cross a socket.
    """

    async def changes(self, paths: tuple[str, ...] = (), points: tuple[str, ...] = ()) -> list[dict[str, Any]]:
        """What the session changed, sorted by root and path. `points`: one checkpoint (from it to now) or two,
        by their ids' beginnings; then it is what changed between them in every writable place of the box.
        """
        ...

    def diff(self, paths: tuple[str, ...] = (), points: tuple[str, ...] = ()) -> AsyncIterator[bytes]:
        """A patch in git's format, in pieces; contents are bytes of any encoding."""
        ...

    def stat(self, paths: tuple[str, ...] = (), points: tuple[str, ...] = ()) -> AsyncIterator[bytes]:
        """How much changed in which file, as lines for people."""
        ...

    async def apply(self, selection: Selection) -> dict[str, Any]:
        """Bring changes over to the host. Raises ApplyConflictError, with nothing written."""
        ...

    async def undo_apply(self) -> dict[str, Any]:
        """Take the latest apply back. Raises UndoRefusedError, with nothing written."""
        ...

    def patch(self, selection: Selection) -> AsyncIterator[bytes]:
        """What `apply` would take, as a patch that git takes whole, binary files included."""
        ...

    async def branch(self, name: str, message: str) -> dict[str, Any]:
        """The box's commits, and one more of what is not committed there, as a new branch of the host's
        repository. Needs the box. Raises BranchError, PackError, UsageError, with no ref made.
        """
        ...

    async def hunks(self, paths: tuple[str, ...] = ()) -> list[dict[str, Any]]:
        """Changes with their runs of changed lines, to choose from: see `sandbox.hunks`."""
        ...

    async def checkpoints(self) -> dict[str, Any]:
        """The timeline: `checkpoints`, `turns` and the `present` one, oldest first. What changed is named
        PLACE/PATH; `places` tells where each is: a root's directory on the host, another's in the box.
        """
        ...

    async def travel(self, journey: dict[str, Any]) -> dict[str, Any]:
        """Undo, redo or rewind: a Journey as JSON; the report. Raises UsageError."""
        ...

    async def fork(self, request: dict[str, Any]) -> dict[str, Any]:
        """New sessions from one point of this one: `at` and `count`; the report. Raises UsageError."""
        ...

    def show(self, checkpoint: str, path: str) -> AsyncIterator[bytes]:
        """A file as it was at a checkpoint, in pieces."""
        ...

    async def shell(self, argv: tuple[str, ...], pty: Pty | None) -> Process:
        """A command of the user's own in the box; empty `argv` means a login shell."""
        ...
