"""Our own commands in the box. They pass the gate as everything does, with source fumehood."""

from __future__ import annotations

HELPER_SECONDS = 10.0
HELPER_OUTPUT = 64 << 10
_GIT = "git --no-optional-locks -c core.fsmonitor=false -c core.quotePath=false"
CARRIED_SECONDS = 600.0
# A commit of all that is not ignored, on top of HEAD, beside the repository's own index and branches. Its
# message comes by standard input. Says the commit's id; HEAD's where there is nothing to commit.
_COMMIT = r"""
set -e
cd "$(git rev-parse --show-toplevel)"
index=$(mktemp)
trap 'rm -f "$index"' EXIT
real=$(git rev-parse --git-path index)
if [ -f "$real" ]; then cp "$real" "$index"; else rm -f "$index"; fi
export GIT_INDEX_FILE="$index"
git -c core.fsmonitor=false -c advice.addEmbeddedRepo=false add -A >&2
tree=$(git write-tree)
head=$(git rev-parse -q --verify HEAD || true)
if [ -n "$head" ] && [ "$tree" = "$(git rev-parse 'HEAD^{tree}')" ]; then echo "$head"; exit; fi
if ! git config user.name >/dev/null; then export GIT_AUTHOR_NAME=fumehood GIT_COMMITTER_NAME=fumehood; fi
if ! git config user.email >/dev/null; then
    export GIT_AUTHOR_EMAIL=fumehood@localhost GIT_COMMITTER_EMAIL=fumehood@localhost
fi
git commit-tree ${head:+-p "$head"} -F - "$tree"
"""
# Our own commands in the box: a closed list of fixed argument vectors. Nothing is ever put into them.
HELPERS: dict[str, tuple[str, ...]] = {
    "git_state": (
        "/bin/sh",
        "-c",
        f"{_GIT} status --short --branch 2>/dev/null | head -c 4000; echo; {_GIT} log --oneline -n 5 | head -c 2000",
    ),
    "branch_commit": ("/bin/sh", "-c", _COMMIT),
    "branch_pack": ("git", "pack-objects", "--revs", "--stdout", "--delta-base-offset", "-q"),
}
