"""A new branch on the host from what the box committed: packed in the box, checked and written by us. The
host runs no git, and no branch is moved.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import PurePosixPath
from typing import Any, TypeAlias

from sandbox.gitdir import GitDirs, find_top
from sandbox.gitpack import PACK_BYTES, connected, read_pack
from sandbox.hostgit import BranchError, HostGit, check_branch_name, ids_of
from sandbox.roots import Root

Carry: TypeAlias = Callable[[str, PurePosixPath, bytes, int], Awaitable[bytes]]
_REFS_TOLD = 2000
_MOST_SESSIONS = 1000


async def make_branch(carry: Carry, root: Root, *, name: str, message: str, session: str) -> dict[str, Any]:
    """What was made: {branch, commit, ref, objects}. Raises BranchError, PackError, UsageError."""
    check_branch_name(name)
    dirs = find_top(root.host)
    if dirs is None or dirs.top != root.host:
        raise BranchError(f"{root.host} is no git repository")
    known = await asyncio.to_thread(_known, dirs, f"refs/heads/{name}")
    answer = await carry("branch_commit", root.at, message.encode(), 4096)
    tip = answer.decode("ascii", "replace").strip()
    if len(tip) not in (40, 64) or set(tip) - set("0123456789abcdef"):
        raise BranchError("the box names no commit")
    wanted = "".join([f"{tip}\n", *(f"^{each}\n" for each in known)])
    data = await carry("branch_pack", root.at, wanted.encode(), PACK_BYTES)
    return await asyncio.to_thread(_write, dirs, data, tip=tip, name=name, session=session)


def _known(dirs: GitDirs, branch: str) -> list[str]:
    """What the host has already. Raises BranchError when the branch is there."""
    with HostGit(dirs) as git:
        git.free(branch)
        return ids_of(git.refs(), most=_REFS_TOLD, has=git.has)


def _write(dirs: GitDirs, data: bytes, *, tip: str, name: str, session: str) -> dict[str, Any]:
    with HostGit(dirs) as git:
        pack = read_pack(data, algorithm=git.algorithm)
        connected(pack, bytes.fromhex(tip), git.has)
        git.free(f"refs/heads/{name}")
        if pack.objects:
            git.add_pack(pack)
        ref = _free_ref(git, session)
        git.create_ref(ref, tip)
        git.create_ref(f"refs/heads/{name}", tip)
        return {"branch": name, "commit": tip, "ref": ref, "objects": len(pack.objects)}


def _free_ref(git: HostGit, session: str) -> str:
    """Each time a new one: what an earlier one holds stays held."""
    taken = git.refs()
    names = [f"refs/fumehood/{session}", *(f"refs/fumehood/{session}-{n}" for n in range(2, _MOST_SESSIONS))]
    return next(name for name in names if name not in taken)
