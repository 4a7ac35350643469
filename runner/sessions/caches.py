"""What of the caches is old: archives of images and toolboxes that today's recipes do not make, packages, small
files of boxes. All of it is made again when it is needed; what today's recipes make is kept at any age.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sandbox.recipe import plain_digest, recipe_names
from sandbox.toolbox import parts_digest

PATTERNS = {"images": "*-*-*.*", "toolbox": "*-*.*", "packages": "archives/*.deb", "boxes": "accounts/*"}


def old_caches(cache: Path, before: float) -> Iterator[tuple[str, list[Path]]]:
    """(name, files or directories) of each cache that were last used before then (seconds since the epoch). No box
    may run. While entries are handed out, the caches are locked. A `cache` that is a link is shared with other state
    homes, whose sessions are not known here: nothing of it is old.
    """
    if cache.is_symlink():
        return
    today = {f"{name}-{plain_digest(name)[:12]}" for name in recipe_names()} | {parts_digest()[:12]}
    with _locked(cache / "images" / "lock") as one, _locked(cache / "toolbox" / "lock") as two:
        for name, pattern in PATTERNS.items():
            found = [
                path
                for path in sorted((cache / name).glob(pattern))
                if path.name.rpartition("-")[0] not in today and _used(path) < before
            ]
            if found and one and two:
                yield name, found


def _used(path: Path) -> float:
    """When a file was last read or written, as far as the file system tells."""
    seen = path.lstat()
    return max(seen.st_atime, seen.st_mtime)


@contextmanager
def _locked(file: Path) -> Iterator[bool]:
    """Whether nobody makes anything there just now; nobody will within."""
    if not file.exists():
        yield True
        return
    with file.open("rb") as opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        yield True
