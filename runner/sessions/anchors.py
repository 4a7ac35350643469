"""Anchors: the head of a session's journal, signed with a key that whoever may write the journal does not hold. A
chain can be made anew by anybody; what stands before an anchor cannot.

An anchor is one line of JSON, `{"statement": {...}, "signature": "..."}`; the signature is minisign's, of the
canonical JSON of the statement. Anchors lie beside the journal, and wherever a copy was put: only a copy out of reach
guards against an anchor being taken away together with what it held.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any

from runner.chain import Problem, Verification, hash_of, verify
from runner.dataclass import dataclass
from runner.errors import JournalError, UsageError
from runner.journal import canonical
from runner.policy.signing import PublicKey, SecretKey, SignatureError, UnknownKeyError
from runner.policy.signing import verify as check_signature
from runner.storage import FileStorage

ANCHORS_NAME = "anchors.jsonl"
ANCHOR_VERSION = 1
MARK = 8
MAX_SIZE = 64 << 20
HOLDS, BROKEN, NOT_CHECKED, UNKNOWN_KEY = (
    "holds",
    "broken",
    "not checked: no key is given",
    "by a key that is not given",
)
CUT, REWRITTEN = "anchor_cut", "anchor_rewritten"


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """What is signed: that at `at` (seconds since the epoch) the session's journal had `records` records, and `head`
    was the hash of the last. `marks`: the first eight digits of the hashes of the records from `since` on, which tell
    where a chain that was made anew leaves this one.
    """

    session: str
    records: int
    head: str
    at: float
    since: int = 0
    marks: str = ""
    version: int = ANCHOR_VERSION


@dataclass(frozen=True, slots=True, kw_only=True)
class Anchor:
    """A statement and its signature, as read: neither need be true."""

    statement: Statement
    signature: str

    def line(self) -> bytes:
        """As it lies in a file."""
        return canonical({"statement": asdict(self.statement), "signature": self.signature}) + b"\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What became of an anchor. `state`: holds, broken, or why it was not looked at."""

    records: int
    at: float
    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """What a check of a journal against its anchors found. Kinds of problems beside those of `runner.chain`: foreign,
    anchor_cut, anchor_rewritten, anchor_invalid, anchor_missing. `anchored`: how many of its first records an anchor
    holds; the rest is consistent, not anchored, where there are no problems. `remarks`: what is no damage, and
    should be known.
    """

    session: str
    live: bool
    records: int
    head: str
    anchored: int = 0
    anchored_at: float = 0.0
    problems: tuple[Problem, ...] = ()
    anchors: tuple[Held, ...] = ()
    remarks: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


def read_anchors(file: Path) -> tuple[list[Anchor], int]:
    """The anchors in a file, none where there is no file, and how many of its lines are none. Raises JournalError."""
    try:
        fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(fd, "rb") as opened:
            data = opened.read(MAX_SIZE + 1)
    except FileNotFoundError:
        return [], 0
    except OSError as error:
        raise JournalError(f"{file}: {error.strerror}") from error
    if len(data) > MAX_SIZE:
        raise JournalError(f"{file}: is longer than {MAX_SIZE >> 20} MiB")
    found = [_parsed(line) for line in data.splitlines() if line.strip()]
    anchors = [anchor for anchor in found if anchor is not None]
    return anchors, len(found) - len(anchors)


def _parsed(line: bytes) -> Anchor | None:
    try:
        body = json.loads(line)
        statement, signature = parse_statement(body["statement"]), body["signature"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    fits = statement is not None and isinstance(signature, str)
    return Anchor(statement=statement, signature=signature) if statement is not None and fits else None


def parse_statement(body: Mapping[str, Any]) -> Statement | None:
    """A statement as it is sent, None where it is none. Raises TypeError for other fields."""
    statement = Statement(**body)
    kinds = {"session": str, "records": int, "head": str, "at": float | int, "since": int, "marks": str, "version": int}
    good = all(isinstance(getattr(statement, name), kind) for name, kind in kinds.items())
    good = good and statement.version == ANCHOR_VERSION and math.isfinite(statement.at)
    return statement if good and statement.records > 0 and 0 <= statement.since <= statement.records else None


def examine(
    directory: Path,
    *,
    session: str,
    live: bool,
    keys: Sequence[PublicKey] = (),
    files: Iterable[Path] = (),
    wanted: bool = False,
) -> Audit:
    """Check a session's journal against the anchors beside it and in `files`. Only anchors by one of `keys` count;
    `wanted`: that there is none is a problem. Writes nothing, beside an owner too. Raises JournalError where there
    is no journal.
    """
    storage = FileStorage(directory, writable=False)
    try:
        found = verify(storage)
        hashes, strange = _second_look(storage, session, found.records)
    finally:
        storage.close()
    anchors, broken = list[Anchor](), 0
    for file in (directory / ANCHORS_NAME, *files):
        more, bad = read_anchors(file)
        anchors += [one for one in more if one.statement.session == session and one not in anchors]
        broken += bad
    audit = Audit(
        session=session,
        live=live,
        records=found.records,
        head=found.head,
        problems=(*strange, *found.problems),
        remarks=(f"{broken} lines among the anchors are none",) if broken else (),
    )
    for anchor in sorted(anchors, key=lambda one: one.statement.records):
        audit = _weighed(audit, anchor, hashes, tuple(keys))
    if wanted and not audit.anchored and not any(each.kind.startswith("anchor") for each in audit.problems):
        none = Problem(line=0, kind="anchor_missing", detail="no anchor by the given key holds any of this journal")
        audit = replace(audit, problems=(*audit.problems, none))
    return replace(audit, remarks=(*audit.remarks, *_redacted_later(audit, found)))


def _second_look(storage: FileStorage, session: str, count: int) -> tuple[list[str], tuple[Problem, ...]]:
    """The hashes of the first `count` lines; and the first record of another session: the whole journal may have been
    put in this one's place.
    """
    hashes, strange = list[str](), tuple[Problem, ...]()
    for number, line in enumerate(islice(storage.lines(), count), 1):
        hashes.append(hash_of(line))
        try:
            record = json.loads(line)
            name, seq = record["session"], int(record["seq"])
        except (ValueError, KeyError, TypeError, RecursionError):
            continue  # told as malformed
        if isinstance(name, str) and name != session and not strange:
            strange = (Problem(line=number, kind="foreign", detail=f"the record is of session {name}", seq=seq),)
    return hashes, strange


def _weighed(audit: Audit, anchor: Anchor, hashes: Sequence[str], keys: tuple[PublicKey, ...]) -> Audit:
    """The audit with one more anchor, which tells of no fewer records than those before it."""
    told = anchor.statement
    held = Held(records=told.records, at=told.at, state=HOLDS)
    if not keys:
        return replace(audit, anchors=(*audit.anchors, replace(held, state=NOT_CHECKED)))
    try:
        check_signature(canonical(asdict(told)), anchor.signature, keys)
    except UnknownKeyError:
        return replace(audit, anchors=(*audit.anchors, replace(held, state=UNKNOWN_KEY)))
    except SignatureError as error:
        detail = f"the anchor of {told.records} records {error}"
        problem: Problem | None = Problem(line=0, kind="anchor_invalid", detail=detail)
    else:
        problem = _difference(told, hashes, audit.anchored)
    if problem is None:
        return replace(audit, anchors=(*audit.anchors, held), anchored=told.records, anchored_at=told.at)
    problems = audit.problems
    if problem.kind == CUT:
        problems = tuple(each for each in problems if each.kind != CUT)
    elif problem.kind == REWRITTEN and any(each.kind == REWRITTEN or each.line == problem.line for each in problems):
        problem = None  # follows from what is told already
    more = () if problem is None else (problem,)
    return replace(audit, anchors=(*audit.anchors, replace(held, state=BROKEN)), problems=(*problems, *more))


def _difference(told: Statement, hashes: Sequence[str], anchored: int) -> Problem | None:
    """Where the journal leaves what was anchored, None where it does not."""
    if len(hashes) >= told.records and hashes[told.records - 1] == told.head:
        return None
    marks = [told.marks[at : at + MARK] for at in range(0, len(told.marks), MARK)]
    for seq, mark in enumerate(marks, told.since):
        if seq < len(hashes) and hashes[seq][:MARK] != mark:
            first = anchored if seq == told.since else seq
            where = f"record {seq} is" if first >= seq else f"of records {first} to {seq} one or more are"
            return Problem(line=seq + 1, kind=REWRITTEN, detail=f"{where} not as anchored", seq=first)
    if len(hashes) < told.records:
        detail = f"records {len(hashes)} to {told.records - 1} were anchored and are gone"
        return Problem(line=len(hashes) + 1, kind=CUT, detail=detail, seq=len(hashes))
    detail = f"of records {anchored} to {told.records - 1} one or more are not as anchored"
    return Problem(line=told.records, kind=REWRITTEN, detail=detail, seq=anchored)


def _redacted_later(audit: Audit, found: Verification) -> tuple[str, ...]:
    """Payloads of anchored records that only a record after the anchor says to be redacted."""
    late = sum(record < audit.anchored <= redaction for record, redaction in found.redacted)
    word = "payloads of anchored records are redacted by records that are not anchored"
    return (f"{late} {word}",) if late else ()


def statement_of(directory: Path, *, session: str, key: PublicKey, at: float) -> Statement:
    """What is to be signed of the journal as it stands. Raises JournalError where it, or an earlier anchor by this
    key, does not hold: such a journal is not vouched for.
    """
    audit = examine(directory, session=session, live=False, keys=(key,))
    if not audit.ok:
        raise JournalError(f"the journal is not anchored: {audit.problems[0].detail}")
    storage = FileStorage(directory, writable=False)
    try:
        hashes = [hash_of(line) for line in storage.lines()][: audit.records]
    finally:
        storage.close()
    if not hashes:
        raise UsageError("the journal has no record to anchor yet")
    if hashes[-1] != audit.head:
        raise JournalError("the journal is not anchored: it changed while it was read")
    return Statement(
        session=session,
        records=len(hashes),
        head=hashes[-1],
        at=at,
        since=audit.anchored,
        marks="".join(each[:MARK] for each in hashes[audit.anchored :]),
    )


def signed(statement: Statement, key: SecretKey) -> Anchor:
    """The statement with a signature."""
    told = f"session:{statement.session}\trecords:{statement.records}\thead:{statement.head}"
    return Anchor(statement=statement, signature=key.sign(canonical(asdict(statement)), f"fumehood anchor\t{told}"))


def make_anchor(directory: Path, *, session: str, key: SecretKey, at: float) -> Anchor:
    """The journal as it stands, signed. Raises JournalError as `statement_of`."""
    return signed(statement_of(directory, session=session, key=key.public, at=at), key)


def keep_anchor(anchor: Anchor, file: Path) -> None:
    """Append it to a file, which is made (0600) where there is none; it is on the disk when this returns. An
    end that a crash tore stays a line of its own. Raises JournalError.
    """
    try:
        fd = os.open(file, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            size = os.fstat(fd).st_size
            torn = size > 0 and os.pread(fd, 1, size - 1) != b"\n"
            line = b"\n" * torn + anchor.line()
            if os.write(fd, line) != len(line):
                raise JournalError(f"{file}: could not be written whole")
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as error:
        raise JournalError(f"{file}: {error.strerror}") from error
