"""Cases that nobody here wrote: they lie beside the repository, or where FUMEHOOD_CASES says, and are never copied."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

CASES = Path(os.environ.get("FUMEHOOD_CASES") or Path(__file__).resolve().parents[3] / "shared/cases")


def streams(provider: str, *kinds: str) -> list[Any]:
    """pytest parameters: the recorded streams of a provider, from its directories of these kinds.
    Where the cases are absent: one that is skipped and says so.
    """
    index = CASES / "streams/index.jsonl"
    if not index.exists():
        reason = f"no recorded streams at {CASES}: set FUMEHOOD_CASES to the directory that holds streams/index.jsonl"
        return [pytest.param(None, id="absent", marks=pytest.mark.skip(reason=reason))]
    rows = [json.loads(line) for line in index.read_text("utf-8").splitlines()]
    chosen = [row for row in rows if row["provider"] == provider and row["response"].split("/")[0] in kinds]
    return [pytest.param(row | {"file": CASES / "streams" / row["response"]}, id=row["name"]) for row in chosen]
