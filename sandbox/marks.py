"""The marks of overlayfs in a layer, as an unprivileged process sees and sets them (userxattr)."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

OPAQUE = "user.overlay.opaque"


def make_opaque(directory: Path) -> None:
    """A new directory of ours hides what lies beneath it, and takes nothing in. Only an overlay reads the mark, and a
    file system that has none carries no overlay.
    """
    try:
        os.setxattr(directory, OPAQUE, b"y")
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise
    directory.chmod(0o555)


def is_whiteout(path: Path) -> bool:
    """Whether it says that something beneath is gone; what is not there at all says so too."""
    try:
        seen = path.lstat()
    except OSError:
        return True
    return stat.S_ISCHR(seen.st_mode) and seen.st_rdev == 0


def is_opaque(path: Path) -> bool:
    """Whether a directory hides what lies beneath it."""
    try:
        return os.getxattr(path, OPAQUE, follow_symlinks=False) in (b"y", b"x")
    except OSError:
        return False
