"""Git's own pointers between directories (a worktree's `.git` file and the way back, a submodule's
`core.worktree`), rewritten for the box where it sees these directories under other paths.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from sandbox.confined import read_beneath
from sandbox.gitdir import GitDirs, find_top
from sandbox.roots import Root, to_box

_LIMIT = 64 << 10
_WORKTREE = re.compile(rb"^([ \t]*worktree[ \t]*=).*$", re.MULTILINE | re.IGNORECASE)


def box_links(roots: tuple[Root, ...]) -> dict[str, dict[str, bytes]]:
    """Root name → path in it → what the file must hold in the box, for every pointer between two roots
    that would lead nowhere there.
    """
    found: dict[str, dict[str, bytes]] = {}
    for root in roots:
        dirs = find_top(root.host)
        if dirs is None or dirs.top != root.host or not dirs.outside:
            continue
        for host, text in _pointers(dirs, roots):
            for holder in roots:
                if host.is_relative_to(holder.host):
                    found.setdefault(holder.name, {})[str(host.relative_to(holder.host))] = text
                    break
    return found


def _pointers(dirs: GitDirs, roots: tuple[Root, ...]) -> Iterator[tuple[Path, bytes]]:
    top, git = to_box(roots, dirs.top), to_box(roots, dirs.git)
    if top is None or git is None:
        return
    entry = dirs.top / ".git"
    named = (read_beneath(dirs.top, ".git", _LIMIT) or b"")[len(b"gitdir:") :].strip()
    if not _leads(top, named, git):
        yield entry, b"gitdir: " + os.fsencode(git) + b"\n"
    back = (read_beneath(dirs.git, "gitdir", _LIMIT) or b"").strip()
    if back:
        if not _leads(git, back, top / ".git"):
            yield dirs.git / "gitdir", os.fsencode(top / ".git") + b"\n"
        return
    config = read_beneath(dirs.git, "config", _LIMIT) or b""
    line = _WORKTREE.search(config)
    if line and not _leads(git, line[0].partition(b"=")[2].strip().strip(b'"'), top):
        yield dirs.git / "config", _WORKTREE.sub(lambda m: m[1] + b' "' + _escaped(os.fsencode(top)) + b'"', config)


def _leads(start: PurePosixPath, text: bytes, target: PurePosixPath) -> bool:
    """Whether a path as it stands, taken from `start` in the box, is `target`."""
    return os.path.normpath(os.path.join(str(start), os.fsdecode(text))) == str(target)  # noqa: PTH118 - the box's path


def _escaped(path: bytes) -> bytes:
    return path.replace(b"\\", b"\\\\").replace(b'"', b'\\"').replace(b"\n", b"\\n")
