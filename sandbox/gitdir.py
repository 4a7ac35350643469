"""What can be known of a git repository by reading its files: top level, git directories, HEAD.

No git is run, no configuration obeyed. A repository's own word about directories outside of it
counts only where those directories point back (else a crafted `.git` file could name any place).
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from sandbox.confined import read_beneath
from sandbox.dataclass import dataclass

_LIMIT = 64 << 10
_PACKED_LIMIT = 64 << 20
_ID = re.compile(rb"[0-9a-f]{40}(?:[0-9a-f]{24})?\Z")
_WORKTREE = re.compile(rb"^[ \t]*worktree[ \t]*=[ \t]*(.+?)[ \t]*$", re.MULTILINE | re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class GitDirs:
    """`top` holds `.git`; `git` is its git directory, `common` the one that worktrees share.
    `outside`: what lies outside of `top` and belongs to it, verified. `unverified`: a directory
    that `.git` names but that does not point back, else None.
    """

    top: Path
    git: Path
    common: Path
    outside: tuple[Path, ...] = ()
    unverified: Path | None = None


def find_top(start: Path) -> GitDirs | None:
    """The repository around `start` (absolute, resolved), or None."""
    for top in (start, *start.parents):
        entry = top / ".git"
        if entry.is_dir():
            if is_git_dir(entry):
                return GitDirs(top=top, git=entry, common=entry)
        elif entry.is_file():
            named = _named_by(entry)
            if named is not None:
                return _linked(top, named)
    return None


def is_git_dir(path: Path) -> bool:
    """Whether a directory is a git directory itself (`.git`, a bare repository)."""
    return os.path.lexists(path / "HEAD") and (path / "objects").is_dir()


def _named_by(entry: Path) -> Path | None:
    """The directory that a `.git` file names."""
    text = read_beneath(entry.parent, entry.name, _LIMIT) or b""
    if not text.startswith(b"gitdir:"):
        return None
    target = os.fsdecode(text[len(b"gitdir:") :].strip())
    return Path(os.path.realpath(entry.parent / target)) if target and "\0" not in target else None


def _linked(top: Path, git: Path) -> GitDirs:
    """A worktree or a submodule, if its git directory says so too."""
    if git.is_relative_to(top):
        return GitDirs(top=top, git=git, common=git)
    back = (read_beneath(git, "gitdir", _LIMIT) or b"").strip()
    shared = (read_beneath(git, "commondir", _LIMIT) or b"").strip()
    if back and shared:
        common = Path(os.path.realpath(git / os.fsdecode(shared)))
        genuine = git.parent == common / "worktrees" and is_git_dir(common)
        if genuine and Path(os.path.realpath(git / os.fsdecode(back))) == top / ".git":
            return GitDirs(top=top, git=git, common=common, outside=(common,))
    elif is_git_dir(git):
        configured = _WORKTREE.search(read_beneath(git, "config", _LIMIT) or b"")
        if configured and Path(os.path.realpath(git / os.fsdecode(configured[1].strip(b'"')))) == top:
            return GitDirs(top=top, git=git, common=git, outside=(git,))
    return GitDirs(top=top, git=git, common=git, unverified=git)


def read_head(dirs: GitDirs | None) -> str:
    """The commit id that HEAD stands on; "" where there is none, or where files do not tell (reftable)."""
    if dirs is None or dirs.unverified is not None:
        return ""
    text = read_beneath(dirs.git, "HEAD", _LIMIT)
    for _ in range(5):
        text = (text or b"").strip()
        if _ID.match(text):
            return text.decode()
        if not text.startswith(b"ref:"):
            return ""
        name = text[4:].strip()
        text = read_beneath(dirs.git, name, _LIMIT) or read_beneath(dirs.common, name, _LIMIT)
        if text is None:
            text = _packed(dirs.common, name)
    return ""


def _packed(common: Path, name: bytes) -> bytes:
    """A ref of `packed-refs`."""
    for line in (read_beneath(common, "packed-refs", _PACKED_LIMIT) or b"").splitlines():
        commit, _, ref = line.partition(b" ")
        if ref == name:
            return commit
    return b""


def read_identity(home: Path) -> tuple[str, str]:
    """The user's name and email as `~/.gitconfig` (or XDG's file) says them; "" where it does not."""
    found = {"name": "", "email": ""}
    for file in (home / ".config/git/config", home / ".gitconfig"):
        section = ""
        text = read_beneath(file.parent, file.name, _LIMIT) or b""
        for line in text.decode("utf-8", "replace").splitlines():
            stripped = line.strip()
            if stripped.startswith("["):
                section = stripped.strip("[] \t").lower()
            elif section == "user":
                key, _, value = stripped.partition("=")
                if key.strip().lower() in found:
                    found[key.strip().lower()] = value.strip().strip('"')
    return found["name"], found["email"]
