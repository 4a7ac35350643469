"""The user's name and email for commits made in the box: read from git's user-level files, without git."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

_LIMIT = 256 << 10
_SECTION = re.compile(r"\[\s*([\w.-]+)\s*(\".*\")?\s*\]")
_VALUE = re.compile(r"(name|email)\s*=\s*(.*)", re.IGNORECASE)
_PIECE = re.compile(r'"((?:[^"\\]|\\.)*)"|([^"#;]+)|[#;].*')


def read_identity(environ: Mapping[str, str], home: Path) -> tuple[str, str]:
    """(name, email), each "" where git has none. Sources: GIT_AUTHOR_*, then GIT_CONFIG_GLOBAL, else
    ~/.gitconfig over the XDG file; includes are not followed (git-config(1), FILES).
    """
    found: dict[str, str] = {}
    for file in _files(environ, home):
        try:
            with file.open("rb") as opened:
                text = opened.read(_LIMIT).decode("utf-8", "replace")
        except OSError:
            continue
        found |= _user_section(text)
    return (
        environ.get("GIT_AUTHOR_NAME") or found.get("name", ""),
        environ.get("GIT_AUTHOR_EMAIL") or environ.get("EMAIL") or found.get("email", ""),
    )


def _files(environ: Mapping[str, str], home: Path) -> Iterator[Path]:
    if named := environ.get("GIT_CONFIG_GLOBAL"):
        yield Path(named)
        return
    yield Path(environ.get("XDG_CONFIG_HOME") or home / ".config") / "git" / "config"
    yield home / ".gitconfig"


def _user_section(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    inside = False
    for line in text.splitlines():
        stripped = line.strip()
        if section := _SECTION.match(stripped):
            inside = section[1].lower() == "user" and not section[2]
            stripped = stripped[section.end() :].strip()
        if inside and (pair := _VALUE.fullmatch(stripped)):
            found[pair[1].lower()] = _unquoted(pair[2])
    return found


def _unquoted(value: str) -> str:
    parts = [re.sub(r"\\(.)", r"\1", m[1]) if m[1] is not None else (m[2] or "") for m in _PIECE.finditer(value)]
    return "".join(parts).strip()
