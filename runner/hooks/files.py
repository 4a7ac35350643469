"""What the user's hooks consist of: small files below `~/.claude/hooks`, copied into the box's HOME so that a command
which names them works there.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from runner.effects import Source
from runner.hooks.config import Configured
from runner.hooks.kinds import BOX, COMMAND

MOST_FILES = 500
LARGEST = 1 << 20
MOST_BYTES = 16 << 20


def hook_files(configured: Configured, home: Path, environ: Mapping[str, str]) -> dict[str, bytes]:
    """By name relative to HOME. None where no hook of the user's runs in the box; what is no regular file, is too
    large or too much, is left out. Directories are not followed through links.
    """
    wanted = any(
        handler.source.layer is Source.USER and handler.where == BOX and handler.type == COMMAND
        for handler in configured.handlers
    )
    if not wanted:
        return {}
    top = Path(environ.get("CLAUDE_CONFIG_DIR") or home / ".claude") / "hooks"
    found: dict[str, bytes] = {}
    left = MOST_BYTES
    for path in _files(top):
        data = _read(path)
        if data is not None and len(data) <= left and len(found) < MOST_FILES:
            found[f".claude/hooks/{path.relative_to(top)}"] = data
            left -= len(data)
    return found


def _files(top: Path) -> Iterator[Path]:
    for directory, names, files in os.walk(top):
        names.sort()
        for name in sorted(files):
            yield Path(directory) / name


def _read(path: Path) -> bytes | None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    with os.fdopen(fd, "rb") as file:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_size > LARGEST:
            return None
        return file.read(LARGEST)
