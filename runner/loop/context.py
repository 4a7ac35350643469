"""Context: the system prompt, and what is put before the user's first words.

The system prompt and the tools stay the same over a session, so that providers cache them; what
varies (place, date, instruction files, git state) goes into the first user message.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path, PurePosixPath
from string import Template
from typing import Any

from runner.dataclass import dataclass
from runner.loop.history import reminder
from runner.loop.instructions import read_instructions, shown

_PROMPTS = Path(__file__).with_name("prompts")


def prompt_text(name: str) -> str:
    """One of our own texts for the model."""
    return (_PROMPTS / f"{name}.md").read_text(encoding="utf-8").strip()


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """`home`: the user's on the host; `root` and `at`: the session's first root on the host and in the
    box; `roots`, `cwd`, `box_home`: as the box sees them. `system_prompt` replaces ours, `append` follows it.
    `instructions`: whether instruction files are read, `git`: whether the git state is told. `hides`: whether policy
    hides a path of the box.
    """

    home: Path
    root: Path
    at: PurePosixPath
    cwd: PurePosixPath
    roots: tuple[PurePosixPath, ...]
    box_home: PurePosixPath
    now: Callable[[], datetime]
    system_prompt: str = ""
    append: str = ""
    instructions: bool = True
    git: bool = True
    hides: Callable[[PurePosixPath], bool] = shown

    def system(self) -> tuple[str, ...]:
        """The system prompt's parts, the stable one first."""
        parts = (self.system_prompt or prompt_text("system"), self.append)
        return tuple(part for part in parts if part)

    def opening(self, model: str) -> list[dict[str, Any]]:
        """Blocks before the first prompt of a session. Reads files: some milliseconds."""
        text = Template(prompt_text("environment")).substitute(
            cwd=self.cwd,
            roots=", ".join(map(str, self.roots)),
            home=self.box_home,
            date=self.now().date().isoformat(),
            model=model,
        )
        blocks = [reminder(text)]
        if self.instructions:
            found = read_instructions(home=self.home, root=self.root, at=self.at, cwd=self.cwd, hides=self.hides)
            if found:
                parts = [
                    f'<instructions path="{one.path}" from="{one.origin}">\n{_quoted(one.text)}\n</instructions>'
                    for one in found
                ]
                blocks.append(reminder("\n\n".join([prompt_text("instructions"), *parts])))
        return blocks


def _quoted(text: str) -> str:
    """A file's text that cannot end the element it stands in."""
    return text.replace("</instructions", "&lt;/instructions")


def git_block(state: str) -> dict[str, Any]:
    """The git state as the model reads it; the text comes from the box."""
    return reminder(Template(prompt_text("git")).substitute(state=state.strip()))
