"""States: what the writable places of a box held at one moment, as rows by path, and their form in the store.

A row tells all that is needed to make a path again, with the stamp by which a later walk sees
whether it was touched. Contents lie in the store, under their digests.
"""

from __future__ import annotations

import json
import stat
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

from sandbox.errors import StoreError

STATE_VERSION = 1
# A digest, or the pieces of a large or sparse file: (digest, length), the digest "" for a hole.
Payload: TypeAlias = "str | list[list[Any]]"


class Row(NamedTuple):
    """One path of a layer. `payload`: of a file its content, of a link its text. `attributes`: the
    user namespace's and ACLs, values in hex. Rows of one inode with several links are one file.
    """

    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int
    mode: int
    uid: int
    gid: int
    device: int
    links: int
    payload: Payload
    attributes: dict[str, str]

    @property
    def is_directory(self) -> bool:
        """A directory."""
        return stat.S_ISDIR(self.mode)

    @property
    def is_file(self) -> bool:
        """A regular file."""
        return stat.S_ISREG(self.mode)

    @property
    def is_link(self) -> bool:
        """A symbolic link."""
        return stat.S_ISLNK(self.mode)

    @property
    def is_whiteout(self) -> bool:
        """A name that was removed from what lies beneath."""
        return stat.S_ISCHR(self.mode) and self.device == 0

    def same(self, other: Row | None) -> bool:
        """Whether both make the same path again. Inode and ctime cannot be made, and which names are one file is
        `one_file`'s; sizes of directories, and all of a whiteout but its being there, mean nothing.
        """
        if other is None or stat.S_IFMT(self.mode) != stat.S_IFMT(other.mode):
            return False
        if self.is_whiteout or other.is_whiteout:
            return self.is_whiteout and other.is_whiteout
        mine, theirs = (self.mtime_ns, *self[4:7], *self[9:]), (other.mtime_ns, *other[4:7], *other[9:])
        if self.is_directory:
            return mine == theirs
        return mine == theirs and self[1] == other[1] and self[7] == other[7]

    def one_file(self, other: Row) -> bool:
        """Whether a name is still told to be of the same file, where files have several."""
        if self.is_directory or self.is_whiteout:
            return True
        return self.links == other.links and (self.links < 2 or self.inode == other.inode)


# Path beneath the layer's top ("" the top itself, undecodable bytes as surrogates) → row.
State: TypeAlias = dict[str, Row]


class Delta(NamedTuple):
    """What turns one state of a layer into the next."""

    rows: State
    gone: list[str]

    def __bool__(self) -> bool:
        return bool(self.rows or self.gone)


def encode(deltas: Mapping[str, Delta]) -> bytes:
    """The deltas of all layers, by name."""
    body = {
        name: {"rows": [(path, *row) for path, row in delta.rows.items()], "gone": delta.gone}
        for name, delta in deltas.items()
    }
    return json.dumps({"version": STATE_VERSION, "layers": body}, separators=(",", ":")).encode("ascii")


def decode(data: bytes) -> dict[str, Delta]:
    """The deltas again. Raises StoreError."""
    try:
        body = json.loads(data)
        if body["version"] != STATE_VERSION:
            raise StoreError(f"a checkpoint of version {body['version']!r} is not known")
        return {
            name: Delta(rows={row[0]: Row(*row[1:]) for row in layer["rows"]}, gone=layer["gone"])
            for name, layer in body["layers"].items()
        }
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"a checkpoint's index makes no sense: {error}") from error


def update(states: dict[str, State], deltas: Mapping[str, Delta]) -> None:
    """Bring the states of all layers forward."""
    for name, delta in deltas.items():
        state = states.setdefault(name, {})
        for path in delta.gone:
            state.pop(path, None)
        state.update(delta.rows)


def same_state(one: State, other: State) -> bool:
    """Whether two states of a layer make the same tree again. Inodes are compared too where a file has several
    names: sometimes a layer is made anew that need not be.
    """
    return one.keys() == other.keys() and all(
        row is other[path] or (row.same(other[path]) and row.one_file(other[path])) for path, row in one.items()
    )
