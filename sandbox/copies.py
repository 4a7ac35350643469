"""Whole copies of a tree, for roots over which no overlay can be had; and removing trees.

Copying is `cp`'s work (holes, hard links, attributes, shared blocks); removing is done here, since
a box leaves directories that nobody may enter and marks that belong to root.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
from pathlib import Path

from sandbox.errors import DiskFullError, WorkspaceError
from sandbox.walk import MAX_DEPTH

_SECONDS = 3600.0


def copy_tree(source: Path, target: Path, *, reflink: bool, skip: Path | None = None) -> tuple[str, ...]:
    """Copy what `source` holds into the existing directory `target`, everything kept that this user
    may keep. `skip`: a path beneath `source` that is left out with what it holds. Returns a line for
    each thing that could not be copied. Raises WorkspaceError, DiskFullError.
    """
    if shutil.which("cp") is None:
        raise WorkspaceError("there is no cp to copy the repository with", hint="install coreutils")
    command = ["cp", "-a", f"--reflink={'always' if reflink else 'auto'}", "--sparse=auto"]
    names = [name for name in source.iterdir() if skip is None or not skip.is_relative_to(name)]
    failures: list[str] = []
    for batch in (names[at : at + 200] for at in range(0, len(names), 200)):
        failures += _cp([*command, "--", *batch, target])
    if skip is not None:
        first = source / skip.relative_to(source).parts[0]
        if first != skip:
            part = target / first.name
            part.mkdir(exist_ok=True)
            shutil.copystat(first, part)
            failures += copy_tree(first, part, reflink=reflink, skip=skip)
    return tuple(failures)


def _cp(command: list[str | Path]) -> list[str]:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_SECONDS, check=False)
    lines = done.stderr.decode("utf-8", "backslashreplace").splitlines()
    if any(os.strerror(errno.ENOSPC) in line for line in lines):
        raise DiskFullError("no space to copy the repository into the session's own state")
    return [line.removeprefix("cp: ") for line in lines]


def remove_tree(path: Path) -> tuple[Path, ...]:
    """Remove all of it, however its modes are set. Returns what this user may not remove."""
    try:
        parent = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return ()
    try:
        left: list[bytes] = []
        _remove(parent, os.fsencode(path.name), b"", left, 0)
        return tuple(path.parent / os.fsdecode(name) for name in left)
    finally:
        os.close(parent)


def remove_beneath(parent: int, name: bytes) -> bool:
    """Remove one name of an open directory with all it holds, no link followed. False where something stays."""
    left: list[bytes] = []
    _remove(parent, name, b"", left, 0)
    return not left


def _remove(parent: int, name: bytes, prefix: bytes, left: list[bytes], depth: int) -> None:
    try:
        seen = os.stat(name, dir_fd=parent, follow_symlinks=False)
        if not stat.S_ISDIR(seen.st_mode):
            os.unlink(name, dir_fd=parent)
            return
        try:
            os.rmdir(name, dir_fd=parent)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        else:
            return
        if depth > MAX_DEPTH:
            left.append(prefix + name)
            return
        directory = _enter(parent, name)
        try:
            with os.scandir(directory) as entries:
                names = [os.fsencode(entry.name) for entry in entries]
            before = len(left)
            for child in names:
                _remove(directory, child, prefix + name + b"/", left, depth + 1)
        finally:
            os.close(directory)
        if len(left) == before:
            os.rmdir(name, dir_fd=parent)
    except FileNotFoundError:
        return
    except OSError:
        left.append(prefix + name)


def _enter(parent: int, name: bytes) -> int:
    """Open a directory for removing what it holds, giving ourselves the right where it is missing."""
    found = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        through = f"/proc/self/fd/{found}"
        if os.fstat(found).st_mode & stat.S_IRWXU != stat.S_IRWXU:
            os.chmod(through, stat.S_IRWXU)  # noqa: PTH101 - a descriptor, not a path
        return os.open(through, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    finally:
        os.close(found)
