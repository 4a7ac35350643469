"""The log of a transaction on the host: the steps that are wanted, what was there before, and how far it came.
A `Store` file; what it says is what a process that finds it goes on from.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sandbox.dataclass import dataclass
from sandbox.kept import Kept
from sandbox.manifest import Stamp
from sandbox.selection import Action
from sandbox.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One step that is wanted. `expect`: the host's stamp (None: nothing there). `fill` writes a new
    file's content and dresses it; `target` is a new link's text; `mode` is for CHMOD and MKDIR;
    `mtime_ns` for a directory or link that is made again.
    """

    root: str
    path: bytes
    action: Action
    expect: Stamp | None
    mode: int = 0
    mtime_ns: int = 0
    target: bytes = b""
    fill: Callable[[int], None] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """An order as the log has it. `temporary`: our own name, for the new content first and the old one then."""

    root: str
    path: bytes
    action: Action
    expect: Stamp | None
    mode: int
    mtime_ns: int
    temporary: bytes

    def to_json(self) -> dict[str, Any]:
        """As a note."""
        return {
            "type": "step",
            "root": self.root,
            "path": os.fsdecode(self.path),
            "action": self.action.value,
            "expect": None if self.expect is None else stamp_json(self.expect),
            "mode": self.mode,
            "mtime_ns": self.mtime_ns,
            "temporary": os.fsdecode(self.temporary),
        }

    @classmethod
    def from_json(cls, body: dict[str, Any]) -> Row:
        """From a note."""
        return cls(
            root=body["root"],
            path=os.fsencode(body["path"]),
            action=Action(body["action"]),
            expect=None if body["expect"] is None else Stamp(**body["expect"]),
            mode=body["mode"],
            mtime_ns=body["mtime_ns"],
            temporary=os.fsencode(body["temporary"]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A path as a transaction left it."""

    root: str
    path: str
    stamp: Stamp | None


class TransactionLog:
    """A log, and what it says so far. Close it. `store` holds what was kept too."""

    def __init__(self, file: Path) -> None:
        """Opens the file, or makes it. Raises StoreError, OSError."""
        self.store = Store(file, writable=True)
        self.header: dict[str, Any] = {}
        self.rows: list[Row] = []
        self.staged: dict[bytes, Stamp] = {}
        self.kept: dict[tuple[str, str], Kept] = {}
        self.around: list[dict[str, Any]] = []
        self.marks: set[str] = set()
        self.results: list[Result] = []
        for body in self.store.notes():
            self._read(body)

    def close(self) -> None:
        """Give the file back."""
        self.store.close()

    def sync(self) -> None:
        """Return when all that was noted will survive a power loss."""
        self.store.sync()

    def note(self, body: dict[str, Any]) -> None:
        """It is on the disk with the next sync: none of these counts before the mark that comes after it."""
        self.store.note(body, later=True)
        self._read(body)

    def mark(self, mark: str) -> None:
        """A point of no return, on the disk when this returns."""
        self.note({"type": "mark", "mark": mark})
        self.store.sync()

    def _read(self, body: dict[str, Any]) -> None:
        match body["type"]:
            case "header":
                self.header = body
            case "step":
                self.rows.append(Row.from_json(body))
            case "staged":
                self.staged[os.fsencode(body["temporary"])] = Stamp(**body["stamp"])
            case "result":
                stamp = None if body["stamp"] is None else Stamp(**body["stamp"])
                self.results.append(Result(root=body["root"], path=body["path"], stamp=stamp))
            case "kept":
                kept = Kept.from_json(body)
                self.kept[kept.root, kept.path] = kept
            case "around":
                self.around.append({name: body[name] for name in ("root", "path", "mtime_ns")})
            case "mark":
                self.marks.add(body["mark"])


def stamp_json(stamp: Stamp) -> dict[str, int]:
    """As notes have it."""
    return {name: getattr(stamp, name) for name in ("mode", "size", "mtime_ns", "ctime_ns", "inode")}
