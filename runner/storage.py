"""Where a journal's lines and blobs lie: on disk, or in memory for tests and throw-away sessions."""

from __future__ import annotations

import errno
import os
from array import array
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from runner.errors import JournalError

JOURNAL_NAME = "journal.jsonl"
BLOBS_NAME = "blobs"


class Storage(Protocol):
    """Where lines and blobs lie. Lines come back without their newline, in order."""

    def append(self, line: bytes) -> None:
        """Keep one line, whole or not at all. Raises JournalError."""
        ...

    def lines(self, start: int = 0) -> Iterator[bytes]:
        """Lines from number `start` on, as far as written when reached."""
        ...

    def put(self, name: str, data: bytes) -> None:
        """Keep a blob; one that is there already stays."""
        ...

    def get(self, name: str) -> bytes | None:
        """A blob's bytes, None when it is gone."""
        ...

    def forget(self, name: str) -> None:
        """Remove a blob; no error when it is gone."""
        ...

    def sync(self) -> None:
        """Make all of it survive a power loss. May be called from another thread."""
        ...

    def close(self) -> None:
        """Give back what is held; closing twice is no error."""
        ...


class FileStorage:
    """`journal.jsonl` and `blobs/` in a directory, 0600 in 0700. A torn last line (a crash in
    mid-write: it was never shown) is cut off when opened; where another process may be writing
    (`writable` False) it is left alone and not read.
    """

    def __init__(self, directory: Path, *, create: bool = False, writable: bool = True) -> None:
        self._path, self._blobs = directory / JOURNAL_NAME, directory / BLOBS_NAME
        if create:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._writable = writable
        access = os.O_RDWR | os.O_APPEND if writable else os.O_RDONLY
        flags = access | os.O_CLOEXEC | os.O_NOFOLLOW | (os.O_CREAT | os.O_EXCL if create else 0)
        try:
            self._fd = os.open(self._path, flags, 0o600)
        except OSError as error:
            raise JournalError(f"{self._path}: {error.strerror}") from error
        if writable:
            self._blobs.mkdir(mode=0o700, exist_ok=True)
        self._offsets = array("Q")
        self._size = 0
        self._unsynced: list[Path] = []
        self._index()

    def _index(self) -> None:
        for line in self._scan(0):
            if not line.endswith(b"\n"):
                if self._writable:
                    os.ftruncate(self._fd, self._size)
                break
            self._offsets.append(self._size)
            self._size += len(line)

    def _scan(self, offset: int) -> Iterator[bytes]:
        with self._path.open("rb") as file:
            file.seek(offset)
            yield from file

    def append(self, line: bytes) -> None:
        """As Storage.append: what a failed write left is cut off again."""
        data = line + b"\n"
        try:
            written = os.write(self._fd, data)
        except OSError as error:
            written, reason = 0, error.strerror
        else:
            reason = os.strerror(errno.ENOSPC)  # what a short write to a file means
        if written != len(data):
            with suppress(OSError):
                os.ftruncate(self._fd, self._size)
            raise JournalError(f"{self._path}: cannot be written: {reason}")
        self._offsets.append(self._size)
        self._size += len(data)

    def lines(self, start: int = 0) -> Iterator[bytes]:
        """As Storage.lines."""
        if start < len(self._offsets):
            for line in self._scan(self._offsets[start]):
                if line.endswith(b"\n"):
                    yield line[:-1]

    def put(self, name: str, data: bytes) -> None:
        """As Storage.put."""
        path = self._blobs / name
        with suppress(OSError):
            if path.stat().st_size == len(data):
                return
        # Written in place: the record that names it follows, so a half blob is named by nobody.
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            with open(fd, "wb", buffering=0) as file:  # noqa: PTH123 (a descriptor, not a path)
                view = memoryview(data)
                while view:
                    view = view[file.write(view) :]
        except OSError as error:
            raise JournalError(f"{path}: cannot be written: {error.strerror}") from error
        self._unsynced.append(path)

    def get(self, name: str) -> bytes | None:
        """As Storage.get."""
        try:
            return (self._blobs / name).read_bytes()
        except FileNotFoundError:
            return None

    def forget(self, name: str) -> None:
        """As Storage.forget."""
        (self._blobs / name).unlink(missing_ok=True)

    def sync(self) -> None:
        """As Storage.sync: blobs first, then the lines that name them."""
        paths, self._unsynced = self._unsynced, []
        for path in [*paths, self._blobs] if paths else []:
            with suppress(FileNotFoundError):
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    os.fsync(fd)
                finally:
                    os.close(fd)
        os.fdatasync(self._fd)

    def close(self) -> None:
        """Give the descriptor back; closing twice is no error."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class MemoryStorage:
    """The same contract without a disk."""

    def __init__(self) -> None:
        self.kept: list[bytes] = []
        self.blobs: dict[str, bytes] = {}

    def append(self, line: bytes) -> None:
        """As Storage.append: what a failed write left is cut off again."""
        self.kept.append(line)

    def lines(self, start: int = 0) -> Iterator[bytes]:
        """As Storage.lines."""
        while start < len(self.kept):
            yield self.kept[start]
            start += 1

    def put(self, name: str, data: bytes) -> None:
        """As Storage.put."""
        self.blobs.setdefault(name, data)

    def get(self, name: str) -> bytes | None:
        """As Storage.get."""
        return self.blobs.get(name)

    def forget(self, name: str) -> None:
        """As Storage.forget."""
        self.blobs.pop(name, None)

    def sync(self) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Nothing to do."""
