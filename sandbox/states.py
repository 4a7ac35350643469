"""States: what the writable places of a box held at one moment, as rows by path, and their form in the store.

A row tells all that is needed to make a path again, with the stamp by which a later walk sees
whether it was touched. Contents lie in the store, under their digests, or in a frozen layer.
"""

from __future__ import annotations

import json
import stat
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, TypeAlias

from sandbox.errors import StoreError
from sandbox.kinds import Kinded
from sandbox.marks import OPAQUE

STATE_VERSION = 2  # 1 knew no frozen layers


class Frozen(NamedTuple):
    """A file's content that lies in a frozen layer, under a path of its own there."""

    layer: str
    path: str


# A digest, or the pieces of a large or sparse file: (digest, length), the digest "" for a hole; or where it lies.
# None: of a frozen layer's own rows, content that was not read when it was frozen.
Payload: TypeAlias = "str | list[list[Any]] | Frozen | None"


class _Fields(NamedTuple):
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


class Row(_Fields, Kinded):
    """One path of a layer. `payload`: of a file its content, of a link its text. `attributes`: the
    user namespace's and ACLs, values in hex; those of files in frozen layers lie there. Rows of one
    inode with several links are one file.
    """

    __slots__ = ()

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


class State(dict[str, Row]):
    """Path beneath the layer's top ("" the top itself, undecodable bytes as surrogates) → row, of what lies in the
    upper directory. `lowers`: the frozen layers beneath it, the topmost first.
    """

    __slots__ = ("lowers",)

    def __init__(self, rows: Mapping[str, Row] | Iterable[tuple[str, Row]] = (), lowers: tuple[str, ...] = ()) -> None:
        super().__init__(rows)
        self.lowers = lowers


class Delta(NamedTuple):
    """What turns one state of a layer into the next. `lowers`: the rows are all of a new state, over these."""

    rows: dict[str, Row]
    gone: list[str]
    lowers: tuple[str, ...] | None = None

    def __bool__(self) -> bool:
        return bool(self.rows or self.gone) or self.lowers is not None


def whole(state: State) -> Delta:
    """A delta that tells all of a state."""
    return Delta(rows=state, gone=[], lowers=state.lowers)


def encode(deltas: Mapping[str, Delta]) -> bytes:
    """The deltas of all layers, by name."""
    body = {
        name: {
            "rows": [(path, *row) for path, row in delta.rows.items()],
            "gone": delta.gone,
            "lowers": delta.lowers,
        }
        for name, delta in deltas.items()
    }
    return json.dumps({"version": STATE_VERSION, "layers": body}, separators=(",", ":")).encode("ascii")


def decode(data: bytes) -> dict[str, Delta]:
    """The deltas again. Raises StoreError."""
    try:
        body = json.loads(data)
        if body["version"] not in (1, STATE_VERSION):
            raise StoreError(f"a checkpoint of version {body['version']!r} is not known")
        return {
            name: Delta(
                rows={row[0]: Row(*row[1:]) for row in layer["rows"]},
                gone=layer["gone"],
                lowers=None if layer.get("lowers") is None else tuple(layer["lowers"]),
            )
            for name, layer in body["layers"].items()
        }
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"a checkpoint's index makes no sense: {error}") from error


def update(states: dict[str, State], deltas: Mapping[str, Delta]) -> None:
    """Bring the states of all layers forward."""
    for name, delta in deltas.items():
        if delta.lowers is not None:
            states[name] = State(delta.rows, delta.lowers)
            continue
        state = states.setdefault(name, State())
        for path in delta.gone:
            state.pop(path, None)
        state.update(delta.rows)


def same_state(one: State, other: State) -> bool:
    """Whether two states of a layer make the same tree again. Inodes are compared too where a file has several
    names: sometimes a layer is made anew that need not be.
    """
    if one.lowers != other.lowers:
        return False
    return one.keys() == other.keys() and all(
        row is other[path] or (row.same(other[path]) and row.one_file(other[path])) for path, row in one.items()
    )


def stamped(state: State, made: Mapping[str, Row]) -> State:
    """A state with the stamps of what was made of it. `made`: rows without contents and attributes; what is not as the
    state tells keeps its own, and is looked into next time.
    """
    found = State(state, state.lowers)
    for path, row in made.items():
        if (was := state.get(path)) is not None:
            now = row._replace(payload=was.payload, attributes=was.attributes)
            if now.same(was):
                found[path] = now
    return found


def flatten(state: State, rows_of: Callable[[str], Mapping[str, Row]]) -> State:
    """The state as one upper directory would hold it, without frozen layers: what `rows_of` gives for each of them
    merged as an overlay does. Contents stay where they are. Raises what `rows_of` raises.
    """
    flat = State()
    for layer in reversed(state.lowers):
        _lay_over(flat, {path: _in_layer(row, layer, path) for path, row in rows_of(layer).items()})
    if not state.lowers:
        return state
    _lay_over(flat, state)
    return flat


def _in_layer(row: Row, layer: str, path: str) -> Row:
    return row._replace(payload=Frozen(layer, path)) if row.is_file else row


def _lay_over(flat: State, above: Mapping[str, Row]) -> None:
    """Merge an upper directory's rows over what lies beneath, in place."""
    beneath: dict[str, set[str]] = {}
    for path in flat:
        if path:
            beneath.setdefault(path.rpartition("/")[0], set()).add(path)

    def remove(path: str) -> None:
        left = [path]
        while left:
            each = left.pop()
            flat.pop(each, None)
            left += beneath.pop(each, ())

    for path in sorted(above, key=lambda each: each.split("/")):
        row, below = above[path], flat.get(path)
        if below is not None and path:
            if row.is_directory and below.is_directory and OPAQUE not in row.attributes:
                if OPAQUE in below.attributes:
                    row = row._replace(attributes={**row.attributes, OPAQUE: below.attributes[OPAQUE]})
            else:
                remove(path)
                if row.is_directory and not below.is_directory:
                    row = row._replace(attributes={**row.attributes, OPAQUE: b"y".hex()})
        flat[path] = row
