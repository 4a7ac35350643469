"""The pool: frozen layers, directories that nothing writes to any more, which sessions and their forks share.

`$FUMEHOOD_HOME/layers/ID/`: `d` is what an upper directory was when it was frozen, `rows` tells all of it
(`sandbox.states`), after a magic and a digest, and `digests` what its files hold. Who needs which is read from the
sessions' layer tables, and counted nowhere: a table names a layer before it comes here, so that what no table names
is garbage, whatever crashed. Nothing is removed while the lock is shared: by whoever freezes or forks.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import stat
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sandbox import digests
from sandbox.copies import remove_tree
from sandbox.dataclass import dataclass
from sandbox.errors import StoreError
from sandbox.layers import LayerTable
from sandbox.states import Delta, Row, State, decode, encode

MAGIC = b"fhfrozn\n"
_DIGEST = 32
_TRASH = ".trash-"
HALF = ".fork-"  # before the name of a session that is being made from another
_ROWS = "rows"
_KEPT = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A frozen layer that is not as it was. `path`: in it; "" where all of it is meant."""

    layer: str
    path: str
    what: str


class Pool:
    """The pool in `directory`, made when first needed. `sessions`: where the sessions lie that share it; None:
    it is one session's own. Everything blocks; safe from several threads and processes.
    """

    def __init__(self, directory: Path, *, sessions: Path | None = None) -> None:
        self.directory = directory
        self._sessions = sessions
        self._known: dict[str, State] = {}
        self._sizes: dict[str, int] = {}
        self._digested: set[str] = set()

    def make(self) -> None:
        """The directory itself."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def place(self, layer: str) -> Path:
        """Where a frozen layer's parts lie or will lie."""
        return self.directory / layer

    def tree(self, layer: str) -> Path:
        """The frozen directory itself."""
        return self.directory / layer / "d"

    def begin(self, rows: State) -> str:
        """A new layer's id, its rows written down and its directory still to come. Name it in the session's
        table first thing. Raises OSError.
        """
        name = uuid.uuid4().hex[:12]
        self.place(name).mkdir(mode=0o700)
        self.tell(name, rows)
        return name

    def tell(self, layer: str, rows: State) -> None:
        """Write a layer's rows down, whole or not at all. Raises OSError."""
        data = encode({"": Delta(rows=rows, gone=[])})
        new = self.place(layer) / (_ROWS + ".new")
        new.write_bytes(MAGIC + hashlib.blake2b(data, digest_size=_DIGEST).digest() + data)
        new.replace(self.place(layer) / _ROWS)
        self._known.pop(layer, None)

    def rows(self, layer: str) -> State:
        """What a frozen layer holds. Raises StoreError where that is missing or damaged."""
        if layer not in self._known:
            if len(self._known) >= _KEPT:
                self._known.pop(next(iter(self._known)))
            self._known[layer] = self._read(layer)
        return self._known[layer]

    def _read(self, layer: str) -> State:
        try:
            data = (self.place(layer) / _ROWS).read_bytes()
        except OSError as error:
            raise StoreError(f"the frozen layer {layer} is missing: {error.strerror}") from error
        head, body = data[: len(MAGIC) + _DIGEST], data[len(MAGIC) + _DIGEST :]
        if head != MAGIC + hashlib.blake2b(body, digest_size=_DIGEST).digest():
            raise StoreError(f"the rows of the frozen layer {layer} are damaged")
        return State(decode(body)[""].rows)

    def undigested(self, layers: Iterable[str]) -> list[str]:
        """Those of which it is not known that their digests were taken."""
        return [layer for layer in layers if layer not in self._digested]

    def digest(self, layers: Iterable[str], stop: Callable[[], bool]) -> None:
        """Take the digests of these where that was not done yet. Slow: in the background, never in line. Raises
        OSError, StoreError.
        """
        for layer in self.undigested(layers):
            file = self.place(layer) / digests.NAME
            if not file.exists() and self.tree(layer).is_dir():
                digests.take(self.tree(layer), self._read(layer), file, as_frozen=_as_frozen, stop=stop)
            if not stop():
                self._digested.add(layer)

    def size(self, layer: str) -> int:
        """Bytes that the files of a layer hold, as far as its rows tell."""
        if layer not in self._sizes:
            try:
                self._sizes[layer] = sum(row.size for row in self.rows(layer).values() if row.is_file)
            except StoreError:
                return 0
        return self._sizes[layer]

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Nothing is removed from the pool meanwhile, by whomever."""
        self.make()
        with self._locked(fcntl.LOCK_SH):
            yield

    @contextmanager
    def _locked(self, how: int) -> Iterator[None]:
        lock = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, how)
            yield
        finally:
            os.close(lock)

    def layers(self) -> tuple[str, ...]:
        """All that lie here."""
        try:
            names = [entry.name for entry in self.directory.iterdir() if entry.is_dir()]
        except FileNotFoundError:
            return ()
        return tuple(sorted(name for name in names if not name.startswith(".")))

    def references(self) -> dict[str, tuple[str, ...]]:
        """Which layer is needed by which sessions (none: garbage), from the tables on disk. Raises StoreError for a
        table that cannot be read: what it names cannot be told then.
        """
        found: dict[str, list[str]] = {name: [] for name in self.layers()}
        for table in sorted(self._sessions.glob("*/layers/layers.json")) if self._sessions else ():
            read = LayerTable.read(table)
            for name in read.frozen if read else ():
                found.setdefault(name, []).append(table.parent.parent.name)
        return {name: tuple(sessions) for name, sessions in found.items()}

    def sweep(self, *, dry: bool = False) -> tuple[tuple[str, ...], tuple[Path, ...]]:
        """Remove what nobody needs, and forks that were cut off in the making: the layers that went (with `dry`: would
        go), and the paths that this user may not remove. Nothing goes while somebody freezes or forks. Raises
        StoreError as `references`.
        """
        if not self.directory.exists():
            return (), ()
        try:
            with self._locked(fcntl.LOCK_EX | fcntl.LOCK_NB):
                gone = tuple(name for name, sessions in self.references().items() if not sessions)
                for name in gone if not dry else ():
                    if self.place(name).exists():
                        self.place(name).rename(self.directory / (_TRASH + name))
                for half in self._sessions.glob(HALF + "*") if self._sessions and not dry else ():
                    half.rename(self.directory / (_TRASH + half.name))
        except BlockingIOError:
            return (), ()
        left: list[Path] = []
        for trash in self.directory.glob(_TRASH + "*") if not dry else ():
            left += remove_tree(trash)
        return gone, tuple(left)

    def problems(self, layer: str) -> list[Problem]:
        """What differs from the rows by its stamps (a path that came, went or was written), or from its digest by what
        it holds. As far as this user may look. A ctime alone says nothing: one more hard link moves it.
        """
        try:
            rows, told = self.rows(layer), digests.read(self.place(layer) / digests.NAME)
        except StoreError as error:
            return [Problem(layer=layer, path="", what=str(error))]
        top = os.fsencode(self.tree(layer))
        found, seen = [], {""}
        try:
            left = [os.scandir(top)]
        except OSError as error:
            return [Problem(layer=layer, path="", what=f"missing: {error.strerror}")]
        while left:
            with left.pop() as entries:
                for entry in entries:
                    path = os.fsdecode(entry.path[len(top) + 1 :])
                    seen.add(path)
                    row, now = rows.get(path), entry.stat(follow_symlinks=False)
                    if row is None:
                        found.append(Problem(layer=layer, path=path, what="added"))
                    elif not _as_frozen(row, now):
                        found.append(Problem(layer=layer, path=path, what="changed"))
                    elif path in told and digests.differs(Path(os.fsdecode(entry.path)), told[path]):
                        found.append(Problem(layer=layer, path=path, what="damaged"))
                    if stat.S_ISDIR(now.st_mode) and os.access(entry.path, os.R_OK | os.X_OK):
                        left.append(os.scandir(entry.path))
                    elif stat.S_ISDIR(now.st_mode):
                        seen |= {each for each in rows if each.startswith(path + "/")}
        found += [Problem(layer=layer, path=path, what="removed") for path in rows.keys() - seen]
        return sorted(found, key=lambda problem: os.fsencode(problem.path))


def _as_frozen(row: Row, now: os.stat_result) -> bool:
    if stat.S_ISDIR(now.st_mode):
        return row.mode == now.st_mode
    return (row.mode, row.size, row.mtime_ns) == (now.st_mode, now.st_size, now.st_mtime_ns)
