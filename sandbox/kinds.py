"""What an st_mode tells of a path, for whatever has one."""

from __future__ import annotations

import stat
from typing import Protocol


class Moded(Protocol):
    """A path's st_mode and, of a device, its st_rdev."""

    @property
    def mode(self) -> int:
        """As lstat gives it."""
        ...

    @property
    def device(self) -> int:
        """As lstat gives it; 0 of anything that is none."""
        ...


class Kinded:
    """The kinds of a path, for a class that has `mode` and `device`."""

    __slots__ = ()

    @property
    def is_directory(self: Moded) -> bool:
        """A directory."""
        return stat.S_ISDIR(self.mode)

    @property
    def is_file(self: Moded) -> bool:
        """A regular file."""
        return stat.S_ISREG(self.mode)

    @property
    def is_link(self: Moded) -> bool:
        """A symbolic link."""
        return stat.S_ISLNK(self.mode)

    @property
    def is_whiteout(self: Moded) -> bool:
        """What an overlay leaves where a name of what lies beneath was removed."""
        return stat.S_ISCHR(self.mode) and self.device == 0
