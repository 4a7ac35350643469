"""Single steps on names beneath one directory, its parents kept open from one step to the next: many steps on
neighbours cost little more than the steps themselves.

What is kept open was opened as `sandbox.confined` does it, so no link was followed; a name in it is only ever used
by itself. A directory that somebody moves meanwhile is still the one that was opened: `forget` before names must
mean anew what they mean.
"""

from __future__ import annotations

import errno
import os
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

from sandbox import confined
from sandbox.trees import Entry, LocalTree, file_chunks, user_attributes

_MOST = 32


class Beneath(LocalTree):
    """A tree to read and to take steps in. All raise OSError. Close it."""

    def __init__(self, top: Path) -> None:
        super().__init__(top)
        self._parents: OrderedDict[bytes, int] = OrderedDict()

    def close(self) -> None:
        """Give the descriptors back."""
        self.forget()
        super().close()

    @property
    def directory(self) -> int:
        """The descriptor of the top."""
        return self._top

    def forget(self) -> None:
        """Open parents anew from here on."""
        while self._parents:
            os.close(self._parents.popitem()[1])

    def stat(self, path: bytes) -> Entry | None:
        """Lstat; None where nothing is, or a link or file stands in the way."""
        try:
            if not path:
                return super().stat(path)
            parent, name = self._parent(path)
            return Entry.of(path, os.stat(name, dir_fd=parent, follow_symlinks=False))
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                return None
            raise

    def open(self, path: bytes, flags: int, mode: int = 0) -> int:
        """As `confined.open_beneath`."""
        if not path:
            return confined.open_beneath(self._top, path, flags, mode)
        parent, name = self._parent(path)
        return os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, mode, dir_fd=parent)

    def mkdir(self, path: bytes, mode: int) -> None:
        """Make one directory; its parent exists."""
        parent, name = self._parent(path)
        os.mkdir(name, mode, dir_fd=parent)

    def rmdir(self, path: bytes) -> None:
        """Remove an empty directory."""
        parent, name = self._parent(path)
        os.rmdir(name, dir_fd=parent)
        self.forget()  # it may be made again

    def unlink(self, path: bytes) -> None:
        """Remove a name that is no directory."""
        parent, name = self._parent(path)
        os.unlink(name, dir_fd=parent)

    def symlink(self, path: bytes, target: bytes, mtime_ns: int) -> None:
        """Make a link with this text, and time where there is one."""
        parent, name = self._parent(path)
        os.symlink(target, name, dir_fd=parent)
        if mtime_ns:
            os.utime(name, ns=(mtime_ns, mtime_ns), dir_fd=parent, follow_symlinks=False)

    def rename(self, old: bytes, new: bytes, *, replace: bool = False) -> None:
        """Without `replace` a target that is there is EEXIST."""
        source, name = self._parent(old)
        target, other = self._parent(new)
        if replace:
            os.rename(name, other, src_dir_fd=source, dst_dir_fd=target)
        else:
            confined.rename_names(source, name, target, other, exchange=False)

    def exchange(self, one: bytes, other: bytes) -> None:
        """Let two names that are there change places, at once. EINVAL where the file system cannot."""
        source, name = self._parent(one)
        target, end = self._parent(other)
        confined.rename_names(source, name, target, end, exchange=True)

    def chunks(self, path: bytes, limit: int | None = None) -> Iterator[bytes | int]:
        """A regular file's content in pieces; holes as numbers."""
        found = self.stat(path)
        if found is None or not found.is_file:
            raise OSError(errno.EINVAL, "not a regular file")
        opened = self.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            yield from file_chunks(opened, limit)
        finally:
            os.close(opened)

    def attributes(self, path: bytes) -> dict[str, bytes]:
        """Attributes of the user namespace."""
        parent, name = self._parent(path) if path else (self._top, b".")
        return user_attributes(os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent))

    def _parent(self, path: bytes) -> tuple[int, bytes]:
        head, _, name = path.rpartition(b"/")
        if name in (b"", b".", b"..") or path.startswith(b"/") or b"\0" in name:
            raise OSError(errno.EXDEV, "not a name beneath the directory")
        if not head:
            return self._top, name
        found = self._parents.get(head)
        if found is not None:
            self._parents.move_to_end(head)
            return found, name
        opened = confined.open_beneath(self._top, head, os.O_PATH | os.O_DIRECTORY)
        self._parents[head] = opened
        if len(self._parents) > _MOST:
            os.close(self._parents.popitem(last=False)[1])
        return opened, name
