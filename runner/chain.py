"""The chain of a journal's lines: which follows from which, and what is wrong with one. How lines are made is the
journal's, where they lie the storage's.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import field
from typing import Any

from runner.dataclass import dataclass
from runner.events import RECORD_VERSION
from runner.storage import Storage

HASH_KEY = b',"hash":"'
UNKNOWN = "?"  # the hash before this line cannot be told
_TAIL = len(HASH_KEY) + 64 + len(b'"}')
_BLOB = re.compile(r"[0-9a-f]{64}")
_LATEST = 1 << 36  # seconds since the epoch; no clock says more
_SHAPE: dict[str, Any] = {
    "agent": str,
    "at": int | float,
    "body": dict,
    "hash": str,
    "id": str,
    "parent": str,
    "prev": str,
    "seq": int,
    "session": str,
    "turn": int,
    "type": str,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Something wrong with a journal. `line` counts from 1; `seq`: of the record that stands there, or should.
    `kind`: malformed, version, edited, removed, reordered, blob_missing, blob_damaged.
    """

    line: int
    kind: str
    detail: str
    seq: int = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What `verify` found. `head` is the hash of the last line: what an anchor signs. `redacted`: of each payload
    that is gone on purpose, the records that held it first and that told of it first.
    """

    records: int
    head: str
    problems: tuple[Problem, ...] = ()
    redacted: tuple[tuple[int, int], ...] = ()

    @property
    def ok(self) -> bool:
        """Whether the chain holds and every blob is there and right (or redacted on purpose)."""
        return not self.problems


@dataclass(slots=True)
class Chain:
    """Where the chain stands: next `seq`, hash of the last line, last record id per agent."""

    seq: int = 0
    hash: str = ""
    heads: dict[str, str] = field(default_factory=dict)
    turn: int = 0


def hash_of(line: bytes) -> str:
    """What a whole line hashes to, whatever it says of itself."""
    return hashlib.sha256(line[:-_TAIL] + b"}").hexdigest()


def check_line(line: bytes, number: int, chain: Chain) -> tuple[dict[str, Any], Problem | None]:  # noqa: PLR0911
    """A line's record ({} when there is none) and the first thing wrong with it, given the chain before it."""

    def wrong(kind: str, detail: str, at: int = chain.seq) -> Problem:
        return Problem(line=number, kind=kind, detail=detail, seq=at)

    try:
        record = json.loads(line)
        good = all(isinstance(record[name], kind) for name, kind in _SHAPE.items()) and len(line) > _TAIL
        good = good and abs(record["at"]) < _LATEST
        version, seq = record["v"], record["seq"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        return {}, wrong("malformed", f"no record: {error!r}")
    if not good:
        return {}, wrong("malformed", "no record")
    if version != RECORD_VERSION:
        return record, wrong("version", f"version {version!r}; this program reads {RECORD_VERSION}", seq)
    if hash_of(line) != record["hash"] or not line.endswith(b'"}'):
        return record, wrong("edited", f"record {seq} does not match its hash", seq)
    if seq > chain.seq:
        return record, wrong("removed", f"records {chain.seq} to {seq - 1} are missing before record {seq}")
    if seq < chain.seq:
        return record, wrong("reordered", f"record {seq} stands where {chain.seq} belongs", seq)
    if chain.hash not in (record["prev"], UNKNOWN):
        return record, wrong("edited", f"record {seq} does not follow from the record before it", seq)
    return record, None


def verify(storage: Storage) -> Verification:
    """Check every hash, number and blob from the disk; goes on after a fault to find all of them. Nothing that
    stands in the lines makes it raise.
    """
    chain, problems = Chain(), list[Problem]()
    redacted, wanted = dict[str, int](), dict[str, tuple[int, int]]()
    number = 0
    for number, line in enumerate(storage.lines(), 1):
        record, problem = check_line(line, number, chain)
        if problem is not None:
            problems.append(problem)
        if not record:
            chain.seq, chain.hash = chain.seq + 1, UNKNOWN
            continue
        follows = problem is None or problem.kind != "reordered"
        chain.seq = max(chain.seq, record["seq"] + 1)
        chain.hash = record["hash"] if follows else UNKNOWN
        for name in _wanted(record):
            wanted.setdefault(name, (number, record["seq"]))
        for name in _forgotten(storage, record):
            redacted.setdefault(name, record["seq"])
    gone: list[tuple[int, int]] = []
    for name, (at, seq) in wanted.items():
        data = _blob(storage, name)
        if data is None and name in redacted:
            gone.append((seq, redacted[name]))
        elif data is None:
            problems.append(Problem(line=at, kind="blob_missing", detail=f"blob {name} is gone", seq=seq))
        elif hashlib.sha256(data).hexdigest() != name:
            problems.append(Problem(line=at, kind="blob_damaged", detail=f"blob {name} is damaged", seq=seq))
    problems.sort(key=lambda p: p.line)
    return Verification(records=number, head=chain.hash, problems=tuple(problems), redacted=tuple(gone))


def _wanted(record: dict[str, Any]) -> list[str]:
    """The blobs that a record refers to."""
    return [str(value["$blob"]) for value in record["body"].values() if isinstance(value, dict) and "$blob" in value]


def _blob(storage: Storage, name: str) -> bytes | None:
    """None where there is none; b"" for what cannot be one."""
    try:
        return storage.get(name) if _BLOB.fullmatch(name) else b""
    except OSError:
        return b""


def _forgotten(storage: Storage, record: dict[str, Any]) -> list[str]:
    """The blobs that a Redacted record names; the list may lie in a blob itself."""
    blobs = record["body"].get("blobs") if record["type"] == "Redacted" else None
    if isinstance(blobs, dict):
        name = str(blobs.get("$blob"))
        data = _blob(storage, name)
        if data is None or hashlib.sha256(data).hexdigest() != name:
            return []
        blobs = json.loads(data)
    return [str(name) for name in blobs] if isinstance(blobs, list) else []
