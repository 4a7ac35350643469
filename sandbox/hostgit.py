"""Git directories of the host without git: which objects are there, which ids refs stand on, and adding a
checked pack and new refs. Nothing that is there is changed; no configuration is obeyed but the formats'.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from sandbox import confined
from sandbox.errors import WorkspaceError
from sandbox.gitdir import GitDirs
from sandbox.gitpack import Pack, make_index
from sandbox.trees import LocalTree

_LIMIT = 64 << 10
_PACKED_LIMIT = 64 << 20
_REFS = 20_000
_DEPTH = 5
_BAD_REF = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|/\.|\.lock(?:/|$)|\.$|/$|^[/.-]")


class BranchError(WorkspaceError):
    """A branch cannot be made as asked."""

    exit_code = 57


def check_branch_name(name: str) -> None:
    """Raises BranchError for what git takes for no branch's name (git-check-ref-format(1))."""
    if not name or name in ("@", "HEAD") or _BAD_REF.search(name) or len(os.fsencode(name)) > 200:
        raise BranchError(f"{name!r} is no name for a branch")


class HostGit:
    """A repository's shared git directory, open. Close it. Raises BranchError where its format is not known."""

    def __init__(self, dirs: GitDirs) -> None:
        if dirs.unverified is not None:
            raise BranchError(f"{dirs.unverified} does not say that it belongs to {dirs.top}")
        self.common = dirs.common
        config = (confined.read_beneath(dirs.common, "config", _LIMIT) or b"").decode("utf-8", "replace").lower()
        if re.search(r"^\s*refstorage\s*=\s*(?!files\b)\S", config, re.MULTILINE):
            raise BranchError("this repository keeps its refs in a format that is not known here")
        self.algorithm = "sha256" if re.search(r"^\s*objectformat\s*=\s*sha256\b", config, re.MULTILINE) else "sha1"
        self._top = confined.open_root(dirs.common)
        self._tree = LocalTree(dirs.common)
        self._indexes: list[mmap.mmap] = []
        self._stores = list(self._object_stores(dirs.common / "objects"))
        for store in self._stores:
            self._open_indexes(store / "pack")

    def close(self) -> None:
        """Give all back."""
        for index in self._indexes:
            index.close()
        self._tree.close()
        os.close(self._top)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def has(self, name: bytes) -> bool:
        """Whether the repository has this object."""
        text = name.hex()
        loose = any((store / text[:2] / text[2:]).is_file() for store in self._stores)
        return loose or any(_finds(index, name) for index in self._indexes)

    def refs(self) -> dict[str, str]:
        """Name → id of every ref."""
        found: dict[str, str] = {}
        packed = confined.read_beneath(self.common, "packed-refs", _PACKED_LIMIT) or b""
        for line in packed.splitlines():
            name, _, ref = line.partition(b" ")
            if line[:1] not in (b"#", b"^") and _is_id(name):
                found[os.fsdecode(ref)] = name.decode()
        waiting = [b"refs"]
        while waiting and len(found) < _REFS:
            directory = waiting.pop()
            with contextlib.suppress(OSError):
                for entry in self._tree.scan(directory):
                    if entry.is_directory:
                        waiting.append(entry.path)
                    elif entry.is_file:
                        text = (confined.read_beneath(self.common, entry.path, 256) or b"").strip()
                        if _is_id(text):
                            found[os.fsdecode(entry.path)] = text.decode()
        return found

    def add_pack(self, pack: Pack) -> None:
        """Put a checked pack among the repository's: index last, so that it counts when it is whole."""
        name = f"objects/pack/pack-{pack.checksum.hex()}"
        with _told("objects/pack"):
            self._make_directories("objects/pack")
            for ending, data in ((".pack", pack.data), (".idx", make_index(pack, algorithm=self.algorithm))):
                self._write(name + ending, data, 0o444)
            confined.sync_directory(self._top, "objects/pack")

    def free(self, ref: str) -> None:
        """Raise BranchError when the ref is there, or one that stands in its way."""
        for other in self.refs():
            if other == ref or other.startswith(ref + "/") or ref.startswith(other + "/"):
                raise BranchError(f"{other} is there already; nothing is ever overwritten", hint="choose another name")

    def create_ref(self, ref: str, commit: str) -> None:
        """Make a new ref, under git's own lock. Raises BranchError when it is there."""
        self.free(ref)
        lock = f"{ref}.lock"
        with _told(ref):
            self._make_directories(ref.rpartition("/")[0])
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
            out = confined.open_beneath(self._top, lock, flags, 0o644)
            try:
                os.write(out, commit.encode() + b"\n")
                self._own(out)
                os.fsync(out)
                self.free(ref)
                confined.rename_beneath(self._top, lock, ref, replace=False)
            except BaseException:
                with contextlib.suppress(OSError):
                    confined.unlink_beneath(self._top, lock)
                raise
            finally:
                os.close(out)
            confined.sync_directory(self._top, ref.rpartition("/")[0])

    def _write(self, name: str, data: bytes, mode: int) -> None:
        if self._tree.stat(os.fsencode(name)) is not None:
            return
        temporary = f"objects/pack/tmp_fumehood_{os.getpid()}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        out = confined.open_beneath(self._top, temporary, flags, 0o600)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(out, view) :]
            self._own(out)
            os.fchmod(out, mode)
            os.fsync(out)
            confined.rename_beneath(self._top, temporary, name, replace=False)
        except BaseException:
            with contextlib.suppress(OSError):
                confined.unlink_beneath(self._top, temporary)
            raise
        finally:
            os.close(out)

    def _own(self, out: int) -> None:
        """As root: the repository's owner."""
        if os.geteuid() == 0:
            top = os.fstat(self._top)
            os.fchown(out, top.st_uid, top.st_gid)

    def _make_directories(self, path: str) -> None:
        made = ""
        for part in path.split("/"):
            made = f"{made}/{part}" if made else part
            try:
                confined.mkdir_beneath(self._top, made, 0o777)
            except FileExistsError:
                continue
            opened = confined.open_beneath(self._top, made, os.O_RDONLY | os.O_DIRECTORY)
            try:
                self._own(opened)
            finally:
                os.close(opened)

    def _object_stores(self, objects: Path, depth: int = 0) -> Iterator[Path]:
        """The object directory, and those that it borrows from (the user's own setting)."""
        yield objects
        named = confined.read_beneath(objects, "info/alternates", _LIMIT) or b""
        for line in named.splitlines():
            other = Path(os.path.normpath(objects / os.fsdecode(line)))
            if line and not line.startswith(b"#") and depth < _DEPTH and other.is_dir():
                yield from self._object_stores(other, depth + 1)

    def _open_indexes(self, directory: Path) -> None:
        for file in sorted(directory.glob("pack-*.idx")):
            with contextlib.suppress(OSError, ValueError), file.open("rb") as opened:
                index = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
                if index[:8] == b"\xfftOc\0\0\0\2" and len(index) > 1032:
                    self._indexes.append(index)
                else:
                    index.close()


def ids_of(refs: dict[str, str], *, most: int, has: Callable[[bytes], bool]) -> list[str]:
    """The ids that refs stand on and that are there."""
    return [name for name in sorted(set(refs.values()))[:most] if has(bytes.fromhex(name))]


def _is_id(text: bytes) -> bool:
    return re.fullmatch(rb"[0-9a-f]{40}(?:[0-9a-f]{24})?", text) is not None


def _finds(index: mmap.mmap, name: bytes) -> bool:
    low = struct.unpack_from(">I", index, 8 + 4 * (name[0] - 1))[0] if name[0] else 0
    high = struct.unpack_from(">I", index, 8 + 4 * name[0])[0]
    width, names = len(name), 1032
    while low < high:
        middle = (low + high) // 2
        found = index[names + middle * width : names + (middle + 1) * width]
        if found == name:
            return True
        low, high = (middle + 1, high) if found < name else (low, middle)
    return False


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTDIR, errno.EISDIR):
            raise BranchError(f"{what} is there already, or is being made", hint="choose another name") from error
        raise BranchError(f"{what} cannot be written in the repository: {error.strerror}") from error
