"""What the ends of a journal tell at a glance, whatever its length: how the session began, whether a model ever
answered, whether the last turn ended. Nothing is verified here.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from runner.dataclass import dataclass

TITLE_LENGTH = 200
_HEAD_BYTES = 256 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Beginning:
    """How a session began: the first prompt's text on one line ("" before there is one), and when
    (seconds since the epoch, 0 when unknown).
    """

    title: str = ""
    at: float = 0.0


def beginning(journal: Path) -> Beginning:
    """Read from the journal's head only, so that listing does not depend on the length of sessions."""
    try:
        with journal.open("rb") as file:
            lines = file.read(_HEAD_BYTES).splitlines()
    except OSError:
        return Beginning()
    at = 0.0
    for line in lines:
        if at and b'"PromptGiven"' not in line:
            continue
        try:
            record = json.loads(line)
            at = at or float(record["at"])
            if record["type"] == "PromptGiven":
                return Beginning(title=_text(record["body"]["content"], journal.parent), at=at)
        except (ValueError, KeyError, TypeError):
            break
    return Beginning(at=at)


def _text(blocks: Any, directory: Path) -> str:
    if isinstance(blocks, dict) and isinstance(name := blocks.get("$blob"), str):
        try:
            blocks = json.loads((directory / "blobs" / Path(name).name).read_bytes())
        except (OSError, ValueError):
            return ""
    texts = [str(block.get("text", ""))[:_HEAD_BYTES] for block in blocks if isinstance(block, dict)]
    return " ".join(" ".join(texts).split())[:TITLE_LENGTH].rstrip()


def answered(journal: Path) -> bool:
    """Whether a model ever answered; told from the journal's head, which a long one has no need of."""
    try:
        with journal.open("rb") as file:
            head = file.read(4 * _HEAD_BYTES + 1)
    except OSError:
        return False
    return len(head) > 4 * _HEAD_BYTES or b'"type":"ModelReplied"' in head


def unfinished(journal: Path) -> bool:
    """Whether the last turn of a journal began and never ended; reads the file's end only."""
    try:
        with journal.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _HEAD_BYTES))
            tail = file.read().splitlines()
    except OSError:
        return False
    for line in reversed(tail):
        if b'"TurnEnded"' in line:
            return False
        if b'"TurnStarted"' in line or b'"ModelReplied"' in line or b'"ToolRequested"' in line:
            return True
    return False
