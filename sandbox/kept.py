"""What a path of the host was, kept so that it can be made again: content, mode, owner, times, attributes."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from sandbox.dataclass import dataclass
from sandbox.store import Store
from sandbox.trees import Entry, Tree

_PIECE = 4 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A path as it was. `pieces` of a file: (length, digest in the store), "" for a hole."""

    root: str
    path: str
    mode: int
    mtime_ns: int
    uid: int
    gid: int
    pieces: tuple[tuple[int, str], ...] = ()
    target: str = ""
    attributes: tuple[tuple[str, str], ...] = ()

    @property
    def name(self) -> bytes:
        """The path as bytes."""
        return os.fsencode(self.path)

    @property
    def is_directory(self) -> bool:
        """A directory."""
        return stat.S_ISDIR(self.mode)

    @property
    def is_link(self) -> bool:
        """A symbolic link."""
        return stat.S_ISLNK(self.mode)

    @property
    def size(self) -> int:
        """Bytes of a file."""
        return sum(length for length, _ in self.pieces)

    @classmethod
    def from_json(cls, body: dict[str, Any]) -> Kept:
        """What a note of `keep` says."""
        fields = {name: body[name] for name in ("root", "path", "mode", "mtime_ns", "uid", "gid", "target")}
        return cls(
            **fields,
            pieces=tuple((int(length), str(digest)) for length, digest in body["pieces"]),
            attributes=tuple((str(name), str(value)) for name, value in body["attributes"]),
        )


def keep(store: Store, root: str, entry: Entry, tree: Tree, *, content: bool = True) -> Kept:
    """Put a path's state into the store (`content` False: all but a file's bytes); it is there with the store's next
    sync. Raises OSError, StoreError.
    """
    pieces: list[tuple[int, str]] = []
    attributes: dict[str, bytes] = {}
    if entry.is_file and content:
        attributes = tree.attributes(entry.path)
        for piece in _gathered(tree.chunks(entry.path)):
            if isinstance(piece, int):
                pieces.append((piece, ""))
            else:
                pieces.append((len(piece), store.add(piece)))
    kept = Kept(
        root=root,
        path=os.fsdecode(entry.path),
        mode=entry.mode,
        mtime_ns=entry.mtime_ns,
        uid=entry.uid,
        gid=entry.gid,
        pieces=tuple(pieces),
        target=os.fsdecode(tree.readlink(entry.path)) if entry.is_link else "",
        attributes=tuple((name, value.hex()) for name, value in attributes.items()),
    )
    store.note(
        {
            "type": "kept",
            **{name: getattr(kept, name) for name in ("root", "path", "mode", "mtime_ns", "uid", "gid", "target")},
            "pieces": kept.pieces,
            "attributes": kept.attributes,
        },
        later=True,
    )
    return kept


def contents(store: Store, kept: Kept) -> Iterator[bytes | int]:
    """A file's bytes again, holes as numbers. Raises StoreError."""
    for length, digest in kept.pieces:
        yield store.get(digest) if digest else length


def dress(out: int, kept: Kept) -> None:
    """Give an open file or directory back what it had but its content; owners as far as this user may."""
    set_owner(out, kept.uid, kept.gid)
    for name, value in kept.attributes:
        with contextlib.suppress(OSError):
            os.setxattr(out, name, bytes.fromhex(value))
    os.fchmod(out, stat.S_IMODE(kept.mode))
    os.utime(out, ns=(kept.mtime_ns, kept.mtime_ns))


def fill_kept(log: Store, kept: Kept) -> Callable[[int], None]:
    """What makes a kept file again."""

    def fill(out: int) -> None:
        pour(out, contents(log, kept))
        dress(out, kept)

    return fill


def set_owner(out: int, uid: int, gid: int) -> None:
    """The owner as root; else the group, where this user is in it."""
    if os.geteuid() == 0:
        os.fchown(out, uid, gid)
    elif os.fstat(out).st_gid != gid:
        with contextlib.suppress(PermissionError):
            os.fchown(out, -1, gid)


def pour(out: int, pieces: Iterable[bytes | int]) -> int:
    """Write pieces, holes as holes; the size."""
    at = 0
    for piece in pieces:
        if isinstance(piece, int):
            at += piece
            continue
        view = memoryview(piece)
        while view:
            count = os.pwrite(out, view, at)
            view, at = view[count:], at + count
    os.ftruncate(out, at)
    return at


def _gathered(pieces: Iterator[bytes | int]) -> Iterator[bytes | int]:
    """Small pieces joined, so that they are stored together."""
    held = bytearray()
    for piece in pieces:
        if isinstance(piece, int) or len(held) + len(piece) > _PIECE:
            if held:
                yield bytes(held)
            held.clear()
        if isinstance(piece, int):
            yield piece
        else:
            held += piece
    if held:
        yield bytes(held)
