"""Paths of tool arguments: from the model's text to the path that was judged, and errors as sentences."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import NoReturn

from runner.effects import Place
from runner.tools.base import ToolContext
from runner.tools.text import show_path
from sandbox.errors import PathError
from sandbox.wire import PathCode


class RefusedError(Exception):
    """The call cannot be done; the message goes to the model."""


def located(text: str, place: Place) -> PurePosixPath:
    """The absolute path that an argument names; `~` is the box's home. Nothing is resolved."""
    if text == "~" or text.startswith("~/"):
        return place.home / text[2:]
    path = place.cwd / text
    return PurePosixPath("/", *path.parts[1:]) if path.root == "//" else path


def judged(path: PurePosixPath, ctx: ToolContext) -> PurePosixPath:
    """The one path that may be opened for it."""
    return ctx.targets[path]


def refuse_path(error: PathError, path: PurePosixPath) -> NoReturn:
    """Raise what the model should hear of a failed file request."""
    raise RefusedError(explained(error, path)) from error


def explained(error: PathError, path: PurePosixPath) -> str:
    """A sentence for each code of sandbox.wire.PathCode."""
    shown = show_path(str(path))
    sentence = _SENTENCES.get(error.code)
    return sentence.format(path=shown) if sentence else f"{shown}: {error}"


_RELINKED = "{path} goes through a link that was not there when the call was judged."
_SENTENCES = {
    PathCode.NOT_FOUND: "{path} does not exist.",
    PathCode.DENIED: "{path}: permission denied.",
    PathCode.NOT_FILE: "{path} is not a regular file.",
    PathCode.NOT_DIRECTORY: "{path}: a part of the path is a file, not a directory.",
    PathCode.LINK: _RELINKED,
    PathCode.LOOP: "{path} leads into a loop of links.",
    PathCode.CHANGED: "{path} was changed by something else just now. Read it again, then repeat the call.",
    PathCode.INVALID: "{path} is not a path that can be opened (too long, or with characters no path holds).",
    PathCode.NO_SPACE: "{path}: no space is left in the box.",
    PathCode.READ_ONLY: "{path} lies in a part of the box that is read-only.",
    PathCode.BUSY: "{path} is a program that is running now; it cannot be written.",
}


def beside(path: PurePosixPath, base: PurePosixPath) -> str:
    """The path as a user who works in `base` would write it."""
    return str(path.relative_to(base)) if path.is_relative_to(base) else str(path)
