"""A command's output on its way to the controller: forwarded as far as credit goes, or captured
(the first bytes forwarded, all of it kept in a file, the last bytes told at the end).
"""

from __future__ import annotations

import os

from sandbox.server import files, linux

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

BLOCK = 64 << 10


class Capture:
    """What is kept of an output that is too long to be shown. Sizes in bytes."""

    def __init__(self, given: dict[str, Any]) -> None:
        self.inline = int(given["inline"])
        self.tail_size = int(given["tail"])
        self.limit = int(given["limit"])
        self.path: bytes | None = files.checked(given["path"]) if given.get("path") else None
        self.size = 0
        self._head: list[bytes] = []
        self._tail: list[bytes] = []
        self._tail_kept = 0
        self._file = -1
        self._waiting = self.path is not None

    @property
    def over(self) -> bool:
        """Whether there is more than what is shown."""
        return self.size > self.inline

    @property
    def exceeded(self) -> bool:
        """Whether there is more than what may be kept."""
        return self.size > self.limit

    def take(self, data: bytes) -> bytes:
        """Account for output; the part of it that is to be shown. Writes the file when there is one."""
        before = self.size
        self.size += len(data)
        shown = data[: max(self.inline - before, 0)]
        if self._file >= 0:
            self._keep(data)
        elif self._waiting:
            self._head.append(data)
            if self.over:
                self._waiting = False
                self._open()
        self._remember(data)
        return shown

    def tail(self) -> bytes:
        """The last bytes, where not everything was shown."""
        if not self.over or not self.tail_size:
            return b""
        return b"".join(self._tail)[-self.tail_size :]

    def close(self) -> None:
        """The file is whole."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _remember(self, data: bytes) -> None:
        self._tail.append(data[-self.tail_size :] if self.tail_size else b"")
        self._tail_kept += len(self._tail[-1])
        while self._tail and self._tail_kept - len(self._tail[0]) >= self.tail_size:
            self._tail_kept -= len(self._tail.pop(0))

    def _open(self) -> None:
        path = self.path
        assert path is not None
        try:
            files.make_parents(path)
            self._file = linux.open_path(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOCTTY, 0o600)
        except OSError:
            self.path = None
        else:
            self._keep(b"".join(self._head))
        self._head.clear()

    def _keep(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._file, view) :]
        except OSError:  # no space: what is there stays, the rest is counted only
            self.close()


def read_some(fd: int, most: int) -> bytes | None:
    """What a pipe or terminal holds: None for nothing now, b"" for its end."""
    try:
        return os.read(fd, most)
    except BlockingIOError:
        return None
    except OSError:  # EIO: a terminal whose other end is closed
        return b""
