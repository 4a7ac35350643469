"""Instruction files: CLAUDE.md and AGENTS.md of the user and of the project, with their imports.

Read on the host, once, for the first request of a new session, so that the box can start beside it.
The user's files are read by the user's own right; the project's only beneath its root, no link
followed. All of it is text for the model and nothing is run.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from runner.dataclass import dataclass
from sandbox.confined import read_beneath

FILE_LIMIT = 256 << 10
TOTAL_LIMIT = 512 << 10
MAX_DEPTH = 5
_CODE = re.compile(r"(?ms)^(?P<fence>```+|~~~+).*?^(?P=fence)|`[^`\n]*`|^(?: {4}|\t).*$")
_COMMENT = re.compile(r"(?ms)^<!--.*?-->[ \t]*\n?")
_IMPORT = re.compile(r"(?<![\w`@/.-])@(?P<path>~?[\w./-][\w./~+-]*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Instruction:
    """One file's text. `path` as the model knows it: in the box, or `~/...` for the user's."""

    path: str
    text: str
    origin: str


Read = Callable[[str], str | None]


def shown(_path: PurePosixPath) -> bool:
    """Nothing is hidden."""
    return False


def read_instructions(
    *,
    home: Path,
    root: Path,
    at: PurePosixPath,
    cwd: PurePosixPath,
    hides: Callable[[PurePosixPath], bool] = shown,
) -> tuple[Instruction, ...]:
    """The user's `~/.claude/CLAUDE.md`, then the project's from the root (`root` on the host, `at` in the
    box) down to `cwd` (in the box): CLAUDE.md, .claude/CLAUDE.md, CLAUDE.local.md of each directory;
    AGENTS.md where the project has none of these. Imports follow the file that names them. What policy `hides` (a
    path in the box) is not read. Never raises
    for a file that cannot be read; what is over the limits is cut, and says so.
    """
    found: list[Instruction] = []
    user = _Reader(origin="user", read=lambda path: _read_home(home, path), show=lambda path: f"~/{path}")
    found += user.load(".claude/CLAUDE.md")
    project = _Reader(
        origin="project",
        read=lambda path: None if hides(at / path) else _read_root(root, path),
        show=lambda path: str(at / path),
    )
    directories = list(_downwards(at, cwd))
    for directory in directories:
        for name in ("CLAUDE.md", ".claude/CLAUDE.md", "CLAUDE.local.md"):
            found += project.load(posixpath.normpath(posixpath.join(directory, name)))
    if not project.seen_any:
        for directory in directories:
            found += project.load(posixpath.normpath(posixpath.join(directory, "AGENTS.md")))
    return tuple(_within(found))


def _downwards(at: PurePosixPath, cwd: PurePosixPath) -> Iterator[str]:
    yield ""
    if cwd.is_relative_to(at):
        parts = cwd.relative_to(at).parts
        for count in range(1, len(parts) + 1):
            yield posixpath.join(*parts[:count])


def _within(found: list[Instruction]) -> Iterator[Instruction]:
    left = TOTAL_LIMIT
    for one in found:
        if left <= 0:
            yield Instruction(path=one.path, text="[left out: too much before it]", origin=one.origin)
        elif len(one.text) > left:
            text = one.text[:left] + "\n[cut: too long]"
            yield Instruction(path=one.path, text=text, origin=one.origin)
        else:
            yield one
        left -= len(one.text)


def _read_root(root: Path, path: str) -> str | None:
    return _decoded(read_beneath(root, path, FILE_LIMIT + 1))


def _read_home(home: Path, path: str) -> str | None:
    """A text file that really lies in the user's home; links are the user's own and are followed."""
    try:
        real = (home / path).resolve(strict=True)
        if not real.is_relative_to(home.resolve()) or not real.is_file():
            return None
        with real.open("rb") as file:
            return _decoded(file.read(FILE_LIMIT + 1))
    except (OSError, RuntimeError, ValueError):
        return None


def _decoded(data: bytes | None) -> str | None:
    if data is None or b"\0" in data:
        return None
    text = data[:FILE_LIMIT].decode("utf-8-sig", errors="replace")
    return text + "\n[cut: too long]" if len(data) > FILE_LIMIT else text


class _Reader:
    """Files beneath one place, by paths relative to it; each is given once, imports to a depth of five."""

    def __init__(self, *, origin: str, read: Read, show: Callable[[str], str]) -> None:
        self._origin = origin
        self._read = read
        self._show = show
        self._seen: set[str] = set()
        self.seen_any = False

    def load(self, path: str, depth: int = 0) -> Iterator[Instruction]:
        if path in self._seen:
            return
        self._seen.add(path)
        text = self._read(path)
        if text is None:
            return
        text = _COMMENT.sub("", text).strip()
        self.seen_any = True
        if text:
            yield Instruction(path=self._show(path), text=text, origin=self._origin)
        if depth < MAX_DEPTH:
            for target in _imports(text):
                beneath = self._beneath(path, target)
                if beneath is not None:
                    yield from self.load(beneath, depth + 1)

    def _beneath(self, path: str, target: str) -> str | None:
        """The import's path relative to the place, None when it leads out of it."""
        if target.startswith("~/"):
            joined = target[2:] if self._origin == "user" else ".."
        elif target.startswith("/"):
            joined = os.path.relpath(target, self._show("").removesuffix("/")) if self._origin == "project" else ".."
        else:
            joined = posixpath.join(posixpath.dirname(path), target)
        normal = posixpath.normpath(joined)
        return None if normal.startswith(("..", "/")) or normal == "." else normal


def _imports(text: str) -> Iterator[str]:
    """`@path` outside code, once each, without a sentence's full stop."""
    for found in dict.fromkeys(match["path"] for match in _IMPORT.finditer(_CODE.sub("", text))):
        yield found.rstrip(".,;:")
