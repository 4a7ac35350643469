"""Our own commands in the box. They pass the gate as everything does, with source fumehood."""

from __future__ import annotations

HELPER_SECONDS = 10.0
HELPER_OUTPUT = 64 << 10
_GIT = "git --no-optional-locks -c core.fsmonitor=false -c core.quotePath=false"
# Our own commands in the box: a closed list of fixed argument vectors. Nothing is ever put into them.
HELPERS: dict[str, tuple[str, ...]] = {
    "git_state": (
        "/bin/sh",
        "-c",
        f"{_GIT} status --short --branch 2>/dev/null | head -c 4000; echo; {_GIT} log --oneline -n 5 | head -c 2000",
    ),
}
