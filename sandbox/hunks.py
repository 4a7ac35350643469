"""The changes of a session in pieces that can be chosen one by one: hunks, and the runs of lines in them."""

from __future__ import annotations

import stat
from typing import Any

from sandbox.changes import Kind
from sandbox.diff import FileDiff
from sandbox.gitpatch import Blob, format_hunk, grouped, split_lines
from sandbox.linediff import changed_spans


def to_hunks(item: FileDiff) -> dict[str, Any] | None:
    """One change as JSON: `header` (what stands above its hunks), `hunks`, each a list of runs
    `{"number", "text"}` and the `text` of all of them together; no hunks where it can only be taken as a
    whole. Bytes are shown as UTF-8 with what is none escaped (PEP 383). None for what has no text.
    """
    if not item.patch.text:
        return None
    old, new = item.sides
    found: list[dict[str, Any]] = []
    header, _, _ = item.patch.text.partition(b"@@ -")
    if item.change.kind is Kind.MODIFIED and _is_text(old) and _is_text(new):
        assert old is not None
        assert new is not None
        before, after = split_lines(old.content or b""), split_lines(new.content or b"")
        number = 0
        for group in grouped(changed_spans(before, after)):
            runs = []
            for span in group:
                runs.append({"number": number, "text": _shown(format_hunk(before, after, [span]))})
                number += 1
            found.append({"text": _shown(format_hunk(before, after, group)), "runs": runs})
    return {
        "root": item.change.root,
        "path": item.change.path,
        "header": _shown([header]),
        "text": _shown([item.patch.text]),
        "held": item.held,
        "hunks": found,
    }


def _is_text(side: Blob | None) -> bool:
    return side is not None and stat.S_ISREG(side.mode) and not side.is_binary


def _shown(lines: list[bytes]) -> str:
    return b"".join(lines).decode("utf-8", "surrogateescape")
