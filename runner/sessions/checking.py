"""Checking what is kept of a session: spec, journal and blobs, and what `sandbox.fsck` finds in its stores."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import field
from pathlib import Path
from typing import Any

from runner.chain import Verification
from runner.dataclass import dataclass
from runner.errors import JournalError, SessionBusyError, SessionNotFoundError
from runner.journal import Journal
from runner.sessions.store import Store
from runner.storage import FileStorage
from sandbox.fsck import check_stores, cut_torn
from sandbox.pool import Pool

JOURNAL = "journal.jsonl"
MOST = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A damaged object of a session, and what it takes with it."""

    object: str
    what: str
    checkpoints: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    turns: tuple[int, ...] = ()


@dataclass(slots=True, kw_only=True)
class Report:
    """What a check of one session found. `torn`: file → bytes at its end that no crash lets count; `cut`: they
    were taken away. `live`: an owner works beside it.
    """

    session: str
    live: bool = False
    records: int = 0
    findings: list[Finding] = field(default_factory=list)
    torn: dict[str, int] = field(default_factory=dict)
    cut: bool = False


def check(store: Store, session: str, *, repair: bool = False) -> Report:
    """Check one session, by its whole id; nothing is written, but with `repair` torn ends are cut where nobody
    owns it. Blocks. Raises SessionBusyError for a repair beside an owner.
    """
    lock = store.lock(session)
    report = Report(session=session, live=lock.held())
    if repair and report.live:
        raise SessionBusyError(f"session {session[:8]} is at work: its files cannot be repaired now")
    directory = store.directory(session)
    try:
        store.load(session)
    except (JournalError, SessionNotFoundError) as error:
        report.findings.append(Finding(object="spec.json", what=str(error)))
    turns = _check_journal(report, directory)
    checked = check_stores(directory, pool=Pool(store.layers, sessions=store.sessions))
    report.records += checked.records
    for damage in checked.damages:
        touched = sorted({turns[point] for point in damage.checkpoints if point in turns})
        report.findings.append(
            Finding(
                object=damage.file,
                what=damage.what,
                checkpoints=damage.checkpoints,
                paths=damage.paths,
                turns=tuple(touched),
            )
        )
    if not report.live:
        report.torn |= checked.torn
        if repair and report.torn:
            with lock:
                _cut(directory, report.torn)
            report.cut = True
    return report


def _check_journal(report: Report, directory: Path) -> dict[str, int]:
    """Checkpoint → turn, as far as the journal tells."""
    lines: list[Mapping[str, Any]] = []
    try:
        storage = FileStorage(directory, writable=False)
        try:
            lines = [_parsed(line) for line in storage.lines()]
        finally:
            storage.close()
        journal = Journal.view(directory)
        try:
            verified = journal.verify()
        finally:
            journal.close()
    except JournalError as error:  # it cannot even be read on
        report.findings.append(Finding(object=JOURNAL, what=str(error), turns=_turns_after_fault(lines)))
        verified = Verification(records=len(lines), head="")
    report.records += verified.records
    for problem in verified.problems:
        turn = next((int(row["turn"]) for row in reversed(lines[: problem.line]) if row), 0)
        what = f"line {problem.line}: {problem.detail} ({problem.kind})"
        report.findings.append(Finding(object=JOURNAL, what=what, turns=(turn,)))
    tail = _tail(directory / JOURNAL)
    if tail and not report.live:
        report.torn[JOURNAL] = tail
    return {
        str(row["body"].get("checkpoint")): int(row["turn"]) for row in lines if row.get("type") == "CheckpointTaken"
    }


def _turns_after_fault(lines: list[Mapping[str, Any]]) -> tuple[int, ...]:
    """The turns of the first line that is no record, and of all that come after it."""
    first = next((number for number, row in enumerate(lines) if not row), len(lines))
    return tuple(sorted({int(row["turn"]) for row in lines[max(first - 1, 0) :] if row}))


def _parsed(line: bytes) -> Mapping[str, Any]:
    with suppress(ValueError):
        found = json.loads(line)
        if isinstance(found, dict) and isinstance(found.get("body"), dict) and isinstance(found.get("turn"), int):
            return found
    return {}


def _tail(file: Path) -> int:
    """Bytes after the last whole line."""
    size = 0
    if not file.exists():
        return 0
    with file.open("rb") as opened:
        for line in opened:
            size = 0 if line.endswith(b"\n") else len(line)
    return size


def _cut(directory: Path, torn: Mapping[str, int]) -> None:
    cut_torn(directory, (name for name in torn if name != JOURNAL))
    if JOURNAL in torn:
        FileStorage(directory).close()
