"""Environment variables with a meaning here, by table: which part of a session each fills in, and which the
controller keeps to itself. Settings may set them (`env`), but a repository's never. What tunes tools and loop goes by
the tables of `runner.variables`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runner.policy.layers import Settings
from runner.spec import SessionSpec, TurnLimits
from runner.variables import ON, tuning, whole

# name: (the spec's part, its field): whole numbers.
NUMBERS: dict[str, tuple[type[Any], str]] = {
    "MAX_THINKING_TOKENS": (SessionSpec, "thinking_tokens"),
    "CLAUDE_CODE_MAX_OUTPUT_TOKENS": (SessionSpec, "max_output_tokens"),
    "CLAUDE_CODE_MAX_TURNS": (TurnLimits, "max_turns"),
}

# name: what it does. The controller reads these; none of them passes into the box.
MEANINGS = {
    "ANTHROPIC_API_KEY": "the key of the Messages API",
    "ANTHROPIC_AUTH_TOKEN": "the same as a bearer token",
    "ANTHROPIC_BASE_URL": "another address for the Messages API",
    "ANTHROPIC_BETAS": "further beta headers",
    "ANTHROPIC_CUSTOM_HEADERS": "further headers of requests to the model",
    "ANTHROPIC_MODEL": "the model, where --model and FUMEHOOD_MODEL name none",
    "ANTHROPIC_DEFAULT_MODEL": "the model where nothing names one",
    "ANTHROPIC_DEFAULT_OPUS_MODEL": "what `opus` means",
    "ANTHROPIC_DEFAULT_SONNET_MODEL": "what `sonnet` means",
    "ANTHROPIC_DEFAULT_HAIKU_MODEL": "what `haiku` means",
    "ANTHROPIC_DEFAULT_FABLE_MODEL": "what `fable` means",
    "CLAUDE_CODE_EXTRA_BODY": "further fields of requests to the model",
    "API_TIMEOUT_MS": "how long one request to the model may take",
    "CLAUDE_STREAM_IDLE_TIMEOUT_MS": "how long a reply may be silent",
    "DISABLE_INTERLEAVED_THINKING": "no thinking between calls, with models that want a header for it",
    "DISABLE_PROMPT_CACHING": "no prompt caching",
    "DISABLE_PROMPT_CACHING_OPUS": "none with these models",
    "DISABLE_PROMPT_CACHING_SONNET": "none with these models",
    "DISABLE_PROMPT_CACHING_HAIKU": "none with these models",
    "DISABLE_PROMPT_CACHING_FABLE": "none with these models",
    "ENABLE_PROMPT_CACHING_1H": "prompts are cached for an hour",
    "FORCE_PROMPT_CACHING_5M": "for five minutes, whatever else says",
    "CLAUDE_CODE_MAX_RETRIES": "how often a request to the model is tried again",
    "CLAUDE_CODE_DISABLE_THINKING": "no thinking",
    "CLAUDE_CONFIG_DIR": "where the user's Claude Code settings lie",
    "CLAUDE_CODE_DISABLE_WEB_FETCH": "no WebFetch",
    "CLAUDE_CODE_DISABLE_BACKGROUND_TASKS": "no commands in the background",
    "MAX_THINKING_TOKENS": "the thinking budget",
    "CLAUDE_CODE_MAX_OUTPUT_TOKENS": "output tokens of one reply at most",
    "CLAUDE_CODE_MAX_TURNS": "model rounds of one turn at most",
    "BASH_DEFAULT_TIMEOUT_MS": "how long a command may take that asks for no time",
    "BASH_MAX_TIMEOUT_MS": "how long a command may ask for",
    "BASH_MAX_OUTPUT_LENGTH": "output of a command that the model gets in full",
    "CLAUDE_BASH_MAINTAIN_PROJECT_WORKING_DIR": "each command begins where the session did",
    "CLAUDE_CODE_FILE_READ_MAX_OUTPUT_TOKENS": "tokens of text that one Read may show",
    "CLAUDE_CODE_GLOB_HIDDEN": "whether Glob finds names that begin with a dot",
    "CLAUDE_CODE_GLOB_NO_IGNORE": "whether Glob finds what .gitignore names",
    "CLAUDE_CODE_GLOB_TIMEOUT_SECONDS": "how long a Glob may take",
    "CLAUDE_CODE_MAX_TOOL_USE_CONCURRENCY": "how many reading calls run side by side",
    "CLAUDE_CODE_WEBFETCH_CACHE_TTL_MS": "how long a fetched page is kept",
    "CLAUDE_CODE_MAX_WEB_SEARCHES_PER_SESSION": "how many searches a session may make",
    "CLAUDE_CODE_STOP_HOOK_BLOCK_CAP": "how often in a row a Stop hook may put the end off",
    "CLAUDE_CODE_SESSIONEND_HOOKS_TIMEOUT_MS": "how long SessionEnd hooks may hold the end up",
    "CLAUDE_CODE_DISABLE_CLAUDE_MDS": "no instruction files",
    "CLAUDE_CODE_DISABLE_GIT_INSTRUCTIONS": "the model is not told the git state",
    "FUMEHOOD_MODEL": "the model, where --model names none",
    "HTTP_PROXY": "the proxy of requests to the model",
    "HTTPS_PROXY": "the same",
    "NO_PROXY": "where no proxy is used",
    "NODE_EXTRA_CA_CERTS": "further certificate authorities",
}

# Variables that take something away, as the deny rules that they come to.
_DENYING = {
    "CLAUDE_CODE_DISABLE_WEB_FETCH": "WebFetch",
    "CLAUDE_CODE_DISABLE_BACKGROUND_TASKS": "Bash(run_in_background:true)",
}

# What decides where things lie or what runs on the host: of the process's own environment only.
HOST = frozenset(
    [
        "PATH",
        "HOME",
        "USER",
        "SHELL",
        "TMPDIR",
        "FUMEHOOD_HOME",
        "FUMEHOOD_DEBUG",
        "XDG_CONFIG_HOME",
        "XDG_STATE_HOME",
        "XDG_RUNTIME_DIR",
        "CLAUDE_CONFIG_DIR",
        "DOCKER_HOST",
        "DOCKER_CONFIG",
        "DOCKER_CERT_PATH",
        "DOCKER_TLS_VERIFY",
        "DOCKER_CONTEXT",
    ]
)
_HOST_FAMILIES = ("LD_", "PYTHON", "SSL_")
_SECRET = ("KEY", "TOKEN", "SECRET", "PASSWORD", "CREDENTIAL")


def overlaid(environ: Mapping[str, str], settings: Settings) -> Mapping[str, str]:
    """The environment under the variables of settings, as Claude Code has it: settings win, but for what belongs
    to the host.
    """
    more = {name: str(entry.value) for name, entry in settings.env.items() if not of_host(name)}
    return {**environ, **more} if more else environ


def of_host(name: str) -> bool:
    """Whether settings may not set it."""
    return name in HOST or name.startswith(_HOST_FAMILIES)


def passes(name: str) -> bool:
    """Whether a variable that settings set goes into the box: not what the controller reads, nor what looks like a
    secret (`--env NAME` passes that).
    """
    return not (name in MEANINGS or of_host(name) or any(part in name.upper() for part in _SECRET))


def fields_of(environ: Mapping[str, str], part: type[Any]) -> dict[str, Any]:
    """Fields of SessionSpec or TurnLimits that variables fill in. Raises UsageError for what is no number."""
    made: dict[str, Any] = {}
    for name, (where, field) in NUMBERS.items():
        text = environ.get(name, "").strip()
        if where is part and text:
            made[field] = whole(name, text)
    if part is SessionSpec:
        made["variables"] = tuning(environ)
        if environ.get("CLAUDE_CODE_DISABLE_THINKING", "").strip().lower() in ON:
            made["thinking_tokens"] = 0
    return made


def denied_by(environ: Mapping[str, str]) -> tuple[str, ...]:
    """The deny rules that variables come to."""
    return tuple(rule for name, rule in _DENYING.items() if environ.get(name, "").strip().lower() in ON)
