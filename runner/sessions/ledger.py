"""The other end of a required audit sink (`runner.sessions.sink`): requests answered, and kept as anchors in a file
that the user of the sessions does not write to.
"""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path

from runner.errors import JournalError, UsageError
from runner.policy.signing import SecretKey
from runner.sessions.anchors import MARK, Anchor, Statement, keep_anchor, parse_statement, read_anchors, signed
from runner.sessions.sink import VERSION

MAX_REQUEST = 16 << 20


def answer(request: bytes, ledger: Path, key: SecretKey) -> Anchor:
    """The statement of a request, signed, once it is kept. Raises UsageError for what is no request, JournalError
    for a statement that contradicts an earlier one of its session.
    """
    statement = _parsed(request)
    lock = os.open(ledger.with_name(ledger.name + ".lock"), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        earlier = [each.statement for each in read_anchors(ledger)[0] if each.statement.session == statement.session]
        if earlier and (why := contradiction(max(earlier, key=lambda each: each.records), statement)):
            raise JournalError(f"session {statement.session}: {why}")
        made = signed(statement, key)
        keep_anchor(made, ledger)
        return made
    finally:
        os.close(lock)


def contradiction(before: Statement, now: Statement) -> str:
    """Why a journal cannot be told of by both statements, the first of which is kept; "" where it can."""
    if now.records < before.records:
        return f"{before.records} records were acknowledged, and now there are {now.records}"
    if now.since > before.records:
        return f"{before.records} records were acknowledged, and these begin at {now.since}"
    at = (before.records - 1 - now.since) * MARK
    return (
        ""
        if at < 0 or now.marks[at : at + MARK] == before.head[:MARK]
        else f"record {before.records - 1} is not the one that was acknowledged"
    )


def _parsed(request: bytes) -> Statement:
    try:
        body = json.loads(request) if len(request) <= MAX_REQUEST else {}
        found = parse_statement(body["statement"]) if body["version"] == VERSION else None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UsageError("this is no request of an audit sink") from error
    if found is None or len(found.marks) != (found.records - found.since) * MARK:
        raise UsageError("this is no request of an audit sink")
    return found
