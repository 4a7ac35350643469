"""Variables that tune tools and loop, by table: a session keeps those that were set when it was made (`SessionSpec`),
checked and within bounds, and nothing reads them from the environment later.
"""

from __future__ import annotations

from collections.abc import Mapping

from runner.errors import UsageError

ON = frozenset({"1", "true", "yes", "on"})
OFF = frozenset({"0", "false", "no", "off"})
_MOST = (1 << 31) - 1

# name: the least that it takes, and the most that counts.
COUNTS: dict[str, tuple[int, int]] = {
    "BASH_DEFAULT_TIMEOUT_MS": (1, _MOST),
    "BASH_MAX_TIMEOUT_MS": (1, _MOST),
    "BASH_MAX_OUTPUT_LENGTH": (1, 150_000),
    "CLAUDE_CODE_FILE_READ_MAX_OUTPUT_TOKENS": (1, _MOST),
    "CLAUDE_CODE_GLOB_TIMEOUT_SECONDS": (1, _MOST),
    "CLAUDE_CODE_MAX_TOOL_USE_CONCURRENCY": (1, _MOST),
    "CLAUDE_CODE_MAX_WEB_SEARCHES_PER_SESSION": (0, _MOST),
    "CLAUDE_CODE_SESSIONEND_HOOKS_TIMEOUT_MS": (1, _MOST),
    "CLAUDE_CODE_STOP_HOOK_BLOCK_CAP": (1, _MOST),
    "CLAUDE_CODE_WEBFETCH_CACHE_TTL_MS": (0, _MOST),
}
SWITCHES = frozenset(
    [
        "CLAUDE_BASH_MAINTAIN_PROJECT_WORKING_DIR",
        "CLAUDE_CODE_DISABLE_CLAUDE_MDS",
        "CLAUDE_CODE_DISABLE_GIT_INSTRUCTIONS",
        "CLAUDE_CODE_GLOB_HIDDEN",
        "CLAUDE_CODE_GLOB_NO_IGNORE",
    ]
)


def whole(name: str, text: str, least: int = 0) -> int:
    """A variable's number. Raises UsageError for what is none, or less than `least`."""
    if not (text.isascii() and text.isdecimal() and len(text) < 20 and int(text) >= least):
        beyond = f", {least} or more" if least else ""
        raise UsageError(f"{name} is {text[:80]!r}; it takes a whole number{beyond}")
    return int(text)


def tuning(environ: Mapping[str, str]) -> dict[str, str]:
    """What is set of both tables, numbers within their bounds, switches as 1 or 0. Raises UsageError."""
    made: dict[str, str] = {}
    for name, (least, most) in COUNTS.items():
        if text := environ.get(name, "").strip():
            made[name] = str(min(whole(name, text, least), most))
    for name in sorted(SWITCHES):
        if text := environ.get(name, "").strip():
            if text.lower() not in ON | OFF:
                raise UsageError(f"{name} is {text[:80]!r}; it takes 1 or 0")
            made[name] = "1" if text.lower() in ON else "0"
    return made


def count(variables: Mapping[str, str], name: str, usual: int) -> int:
    """The number in force; `usual` where there is none that can be used."""
    least, most = COUNTS[name]
    text = variables.get(name, "")
    usable = text.isascii() and text.isdecimal() and len(text) < 20 and int(text) >= least
    return min(int(text), most) if usable else usual


def says(variables: Mapping[str, str], name: str, *, default: bool = False) -> bool:
    """Whether a switch is on."""
    text = variables.get(name, "").lower()
    return default if text not in ON | OFF else text in ON
