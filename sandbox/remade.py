"""What a whole copy held right after a restore or a fork made it again: by that is told what the box touched since.

Stamps alone do not do it: a file that was made again has another ctime than at first, and one whose size and time are
as at first may still hold something else, from before or since.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Self

from sandbox.dataclass import dataclass
from sandbox.layers import REMADE
from sandbox.manifest import Manifest, Stamp
from sandbox.states import Row, State
from sandbox.walk import encode

FILE = "remade.manifest"


def forget(place: Path) -> None:
    """A layer's copy was made again just now, and nothing is noted of it yet."""
    (place / FILE).unlink(missing_ok=True)
    (place / REMADE).write_bytes(b"")


def note(place: Path, state: State, first: State) -> None:
    """Write down what the copy in a layer's directory holds: `state`, with the stamps that it has now. `first`: of the
    session's first checkpoint. Raises OSError, StoreError.
    """
    try:
        manifest = Manifest(place / "copy.manifest")
    except FileNotFoundError:
        return  # it was never told what it held at first: all shows
    try:
        others = [path for path, row in state.items() if not row.is_directory and _slipped(path, row, first, manifest)]
    finally:
        manifest.close()
    rows = sorted((os.fsencode(path or "."), row.mode, row.size, *row[2:4], row.inode) for path, row in state.items())
    new = (place / FILE).with_suffix(".new")
    new.write_bytes(encode(rows, time.time_ns()))
    new.replace(place / FILE)
    mark = (place / REMADE).with_suffix(".new")
    mark.write_text(json.dumps(others))
    mark.replace(place / REMADE)


def _slipped(path: str, row: Row, first: State, manifest: Manifest) -> bool:
    """Whether a path looks as at first, and holds something else or cannot be told to hold the same."""
    was = manifest.stamp(os.fsencode(path))
    if was is None or not stamp_of(row).alike(was):
        return False
    begun = first.get(path)
    if begun is None or stamp_of(begun) != was:
        return True
    return (begun.payload, begun.attributes) != (row.payload, row.attributes)


def stamp_of(row: Row) -> Stamp:
    """A row's stamp."""
    return Stamp(mode=row.mode, size=row.size, mtime_ns=row.mtime_ns, ctime_ns=row.ctime_ns, inode=row.inode)


@dataclass(frozen=True, slots=True)
class Remade:
    """What was noted. Close it."""

    manifest: Manifest
    others: frozenset[bytes]

    @classmethod
    def read(cls, place: Path) -> Self | None:
        """None where nothing was. Raises StoreError."""
        try:
            manifest = Manifest(place / FILE)
        except FileNotFoundError:
            return None
        text = (place / REMADE).read_text()
        return cls(manifest, frozenset(map(os.fsencode, json.loads(text) if text else ())))

    def close(self) -> None:
        """Let go of the file."""
        self.manifest.close()

    def touched(self, path: bytes, now: Stamp) -> bool:
        """Whether what is there now was touched since, or held something else already then."""
        return path in self.others or not now.same(self.manifest.stamp(path))
