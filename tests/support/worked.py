"""A repository that is worked on in a box: what a shell does to it, and the tree as the box sees it."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from sandbox.changes import Change
from tests.support.layers_by_hand import Shape
from tests.support.sessions import Inside

# Prints the tree below the working directory in the form of tests.support.layers_by_hand.read.
SEEN = """
import json, os, stat
def read(top):
    shape = {}
    for name in sorted(os.listdir(top)):
        path = os.path.join(top, name)
        seen = os.lstat(path)
        if stat.S_ISLNK(seen.st_mode):
            shape[name] = os.readlink(path)
        elif stat.S_ISDIR(seen.st_mode):
            shape[name] = read(path)
        elif stat.S_ISREG(seen.st_mode):
            shape[name] = [stat.S_IMODE(seen.st_mode), open(path, "rb").read().hex()]
    return shape
print(json.dumps(read(".")))
"""


def git(where: Path, *arguments: str) -> str:
    identity = {f"GIT_{who}_{what}": "a@b" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    environment = {**os.environ, **identity, "GIT_CONFIG_GLOBAL": "/dev/null"}
    command = ["git", "-c", "protocol.file.allow=always", *arguments]
    return subprocess.run(command, cwd=where, env=environment, check=True, capture_output=True, text=True).stdout


def without_git(shape: Shape) -> Shape:
    return {name: node for name, node in shape.items() if name != ".git"}


async def seen(inside: Inside) -> Shape:
    """The tree as the box sees it."""

    def decoded(node: object) -> object:
        if isinstance(node, dict):
            return {name: decoded(child) for name, child in node.items()}
        return (node[0], bytes.fromhex(node[1])) if isinstance(node, list) else node

    shape = decoded(json.loads(await inside.python(SEEN)))
    assert isinstance(shape, dict)
    return without_git(shape)


def told(changes: tuple[Change, ...]) -> list[tuple[str, str]]:
    return [(change.kind.value, change.path) for change in changes if not change.in_git]


EDITS = """
echo four >> file; chmod 644 script; rm gone; ln -sf dir link; rm -rf tree; mkdir -p tree/new; echo n > tree/new/n
mv dir moved; mkdir dir; echo fresh > dir/a; printf 'no end' > 'sp ace'; printf 'a\\0b' > binary; echo i > ignored
mkdir empty; touch $'new\\nline' $'by\\xffte'; echo \u00e9 > $'caf\u00e9'; chmod 755 moved/b
"""


def committed(repo: Path) -> Path:
    """With two more files, and one commit that holds all."""
    (repo / "file").write_bytes(b"one\ntwo\nthree\n")
    (repo / ".gitignore").write_text("ignored\n")
    (repo / ".gitignore").chmod(0o644)
    git(repo, "init", "-q")
    git(repo, "add", ".")
    git(repo, "commit", "-qm", "one")
    return repo
