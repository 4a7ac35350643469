"""Who owns a session: one process at a time, by a lock that dies with it."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from runner.errors import SessionBusyError

_TRIES = 6
_PAUSE = 0.03  # seconds


class Lock:
    """The right to own a session: an flock, which the kernel drops when the process dies.

    The file's text tells clients where the owner listens. Raises SessionBusyError on `take`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1

    def take(self) -> Self:
        """Become the owner; a probe of another process is waited out."""
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        for attempt in range(_TRIES):
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                    os.close(fd)
                    raise
                if attempt + 1 < _TRIES:
                    time.sleep(_PAUSE)
            else:
                self._fd = fd
                self.announce({"pid": os.getpid()})
                return self
        os.close(fd)
        raise SessionBusyError(f"another fumehood (process {self.owner().get('pid', '?')}) is working in this session")

    def announce(self, facts: Mapping[str, Any]) -> None:
        """Tell clients about the owner (pid, socket). Only the owner may."""
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, json.dumps(facts).encode(), 0)

    def held(self) -> bool:
        """Whether some process owns the session now."""
        try:
            fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            return True
        finally:
            os.close(fd)
        return False

    def owner(self) -> dict[str, Any]:
        """What the last owner announced; empty when there is nothing to read."""
        try:
            facts = json.loads(self._path.read_bytes()[:4096])
        except (OSError, ValueError):
            return {}
        return facts if isinstance(facts, dict) else {}

    def release(self) -> None:
        """Give the session up. Harmless when it was never taken."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self.take()

    def __exit__(self, *_: object) -> None:
        self.release()
