"""Whether anything in the root file system changed since it was asked last: a watch (inotify(7)) on each of
its directories, of which only one thing is ever read: that something came.

What lies in other mounts (layers, tmpfs) is not watched. A store through a shared mapping comes with the
end of the mapping. Where not every directory can be watched, everything counts as changed.
"""

from __future__ import annotations

import os

from sandbox.server import linux

_ROOT = b"/"


class RootWatch:
    """`arm` it, then ask. For a thread that may enter every directory."""

    def __init__(self) -> None:
        self._fd = -1
        self._changed = True

    def arm(self) -> None:
        """From now on. A directory is watched before it is listed: one that is made meanwhile is a change."""
        self.close()
        device = os.lstat(_ROOT).st_dev
        try:
            self._fd = linux.inotify()
            left = [_ROOT]
            while left:
                left += self._watch(left.pop(), device)
        except OSError:
            self.close()
        else:
            self._changed = False

    def changed(self) -> bool:
        """Whether something came since it was armed."""
        if not self._changed:
            try:
                os.read(self._fd, 1 << 16)
                self._changed = True
            except BlockingIOError:
                pass
        return self._changed

    def close(self) -> None:
        """Everything counts as changed from now on."""
        self._changed = True
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _watch(self, directory: bytes, device: int) -> list[bytes]:
        try:
            linux.watch_directory(self._fd, directory)
            with os.scandir(directory) as entries:
                below = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
            return [path for path in below if os.lstat(path).st_dev == device]
        except FileNotFoundError:  # it went meanwhile, which is a change of the one above
            return []
