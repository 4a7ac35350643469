"""The journal: an append-only, hash-chained file of records, with large payloads beside it as blobs.

It owns the form on disk, the chain, ids and parents, and the replacement of known secrets. What the
records mean is decided elsewhere: history, usage and views are projections of them.
One thread appends; any number of readers may read, in this process or another.
"""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

from runner.chain import HASH_KEY, Chain, Verification, check_line, verify
from runner.errors import JournalError
from runner.events import RECORD_VERSION, Body, Event, HeadMoved, body_from_json, body_to_json
from runner.storage import FileStorage, MemoryStorage, Storage

BLOB_LIMIT = 4096
_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode


def canonical(value: Any) -> bytes:
    """The one canonical JSON of this program: sorted keys, no spaces, ASCII only.
    Raises ValueError for what JSON cannot hold (NaN), TypeError for what is no JSON value.
    """
    return _encode(value).encode("ascii")


def digest(value: Any) -> str:
    """Hex sha256 of the canonical JSON."""
    return hashlib.sha256(canonical(value)).hexdigest()


def new_id() -> str:
    """A random record id (UUID 4)."""
    return str(uuid.uuid4())


class Secrets:
    """Known secrets, replaced by `[secret:NAME]` wherever text is about to be kept or shown."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[str, str]] = {}

    def add(self, name: str, value: str) -> None:
        """Values that would match everywhere are not taken: under six characters, and plain words or
        numbers under ten.
        """
        if len(value) >= (10 if (value.islower() and value.isalpha()) or value.isdigit() else 6):
            self._known[value] = (_encode(value)[1:-1], f"[secret:{name}]")

    @property
    def values(self) -> tuple[str, ...]:
        """The secrets themselves."""
        return tuple(self._known)

    def hide(self, text: str) -> str:
        """Plain text without any known secret."""
        for value, (_, mark) in self._known.items():
            if value in text:
                text = text.replace(value, mark)
        return text

    def found_in(self, encoded: str) -> bool:
        """Whether JSON text holds one, escaped as values stand there."""
        return any(escaped in encoded for escaped, _ in self._known.values())

    def hide_in(self, value: Any) -> Any:
        """A JSON value without any: in every text and in the keys of inner objects."""
        match value:
            case str():
                return self.hide(value)
            case list() | tuple():
                return [self.hide_in(item) for item in value]
            case dict():
                return {self.hide(key): self.hide_in(item) for key, item in value.items()}
            case _:
                return value


class Journal:
    """A session's journal. `append` returns the event as it was written (secrets replaced); listeners
    in `on_append` are called after the write, in order. `parent` is the last record of the same
    agent; a sub-agent's first record follows the main agent's head. HeadMoved's parent is the record
    it moves to, so that history is the path from the head to the root.
    """

    def __init__(
        self,
        storage: Storage,
        *,
        session: str = "",
        clock: Callable[[], float] = time.time,
        ids: Callable[[], str] = new_id,
        secrets: Secrets | None = None,
        check: bool = True,
    ) -> None:
        self.session = session
        self.secrets = secrets if secrets is not None else Secrets()
        self.on_append: list[Callable[[Event], None]] = []
        self.storage = storage
        self.clock = clock
        self.ids = ids
        self._chain = Chain()
        self._load(check=check)

    @classmethod
    def create(
        cls,
        directory: Path,
        session: str,
        clock: Callable[[], float] = time.time,
        *,
        ids: Callable[[], str] = new_id,
        secrets: Secrets | None = None,
    ) -> Self:
        """A new journal in a directory that has none. Raises JournalError."""
        return cls(FileStorage(directory, create=True), session=session, clock=clock, ids=ids, secrets=secrets)

    @classmethod
    def open(
        cls,
        directory: Path,
        clock: Callable[[], float] = time.time,
        *,
        ids: Callable[[], str] = new_id,
        secrets: Secrets | None = None,
    ) -> Self:
        """An existing journal, to go on with: for the session's owner only. Raises JournalError when it is
        absent or its chain is broken.
        """
        return cls(FileStorage(directory), clock=clock, ids=ids, secrets=secrets)

    @classmethod
    def view(cls, directory: Path) -> Self:
        """An existing journal as it stands now, to read and verify, whoever writes it. Raises JournalError
        when it is absent; a broken chain is `verify`'s to tell.
        """
        return cls(FileStorage(directory, writable=False), check=False)

    def _load(self, *, check: bool) -> None:
        chain = self._chain
        for number, line in enumerate(self.storage.lines(), 1):
            record, problem = check_line(line, number, chain)
            if problem is not None and (check or not record):
                raise JournalError(f"journal of session {self.session or '?'}, line {number}: {problem.detail}")
            self.session = record["session"]
            chain.heads[record["agent"]] = record["id"]
            chain.turn = max(chain.turn, record["turn"])
            chain.seq, chain.hash = chain.seq + 1, record["hash"]

    @property
    def last_seq(self) -> int:
        """Number of the last record, -1 when there is none."""
        return self._chain.seq - 1

    @property
    def last_turn(self) -> int:
        """The highest turn of any record, undone ones included; 0 before the first."""
        return self._chain.turn

    def head(self, agent: str = "main") -> str:
        """Id of the record that the agent's next one follows, "" for none."""
        heads = self._chain.heads
        return heads.get(agent) or heads.get("main", "")

    def append(self, body: Body, *, agent: str = "main", turn: int = 0, cause: str = "", id: str = "") -> Event:  # noqa: A002 (the record's own word)
        """Write a record; it is on its way to the disk when this returns, and only then shown.
        Raises JournalError when it cannot be kept whole (nothing of it stays then).
        """
        chain = self._chain
        text, body = self._encode_body(body)
        kind = type(body).__name__
        event = Event(
            v=RECORD_VERSION,
            seq=chain.seq,
            id=id or self.ids(),
            at=self.clock(),
            session=self.session,
            agent=agent,
            turn=turn,
            parent=body.to if isinstance(body, HeadMoved) else self.head(agent),
            cause=cause,
            body=body,
            prev=chain.hash,
        )
        # Canonical by construction: keys in order; a test holds this against canonical().
        line = (
            f'{{"agent":{_encode(agent)},"at":{_encode(event.at)},"body":{text},"cause":{_encode(cause)},'
            f'"id":{_encode(event.id)},"parent":{_encode(event.parent)},"prev":"{chain.hash}","seq":{chain.seq},'
            f'"session":{_encode(self.session)},"turn":{turn},"type":"{kind}","v":{RECORD_VERSION}}}'
        ).encode("ascii")
        own = hashlib.sha256(line).hexdigest()
        self.storage.append(line[:-1] + HASH_KEY + own.encode("ascii") + b'"}')
        chain.seq, chain.hash = chain.seq + 1, own
        chain.heads[agent] = event.id
        chain.turn = max(chain.turn, turn)
        object.__setattr__(event, "hash", own)  # not seen by anybody yet
        for listener in self.on_append:
            listener(event)
        return event

    def _encode_body(self, body: Body) -> tuple[str, Body]:
        data = body_to_json(body)
        text = _encode(data)
        if self.secrets.found_in(text):
            data = {name: self.secrets.hide_in(value) for name, value in data.items()}
            text, body = _encode(data), body_from_json(type(body).__name__, data)
        if len(text) <= BLOB_LIMIT and '"$blob"' not in text:
            return text, body
        return _encode({name: self._outline(value) for name, value in data.items()}), body

    def _outline(self, value: Any) -> Any:
        """The value itself, or a reference to its blob. Whatever looks like a reference becomes a blob
        too, so that a reference is never in doubt.
        """
        if not isinstance(value, str | list | tuple | dict):
            return value
        text = _encode(value)
        if len(text) <= BLOB_LIMIT and not (isinstance(value, dict) and "$blob" in value):
            return value
        data = text.encode("ascii")
        name = hashlib.sha256(data).hexdigest()
        self.storage.put(name, data)
        kind = "text" if isinstance(value, str) else "object" if isinstance(value, dict) else "list"
        return {"$blob": name, "is": kind, "size": len(data)}

    def _inline(self, value: Any, where: int) -> Any:
        if not (isinstance(value, dict) and "$blob" in value):
            return value
        data = self.storage.get(value["$blob"])
        if data is None:
            gone = "[redacted]"
            return {"text": gone, "list": [{"type": "text", "text": gone}], "object": {}}[value["is"]]
        if hashlib.sha256(data).hexdigest() != value["$blob"]:
            raise JournalError(f"journal, line {where}: blob {value['$blob']} is damaged")
        return json.loads(data)

    def _event(self, record: dict[str, Any]) -> Event:
        where = record["seq"] + 1
        data = {name: self._inline(value, where) for name, value in record.pop("body").items()}
        try:
            body = body_from_json(record.pop("type"), data)
            return Event(body=body, **record)
        except (KeyError, TypeError) as error:
            raise JournalError(f"journal, line {where}: unknown kind or field: {error}") from error

    def read(self, after: int = -1, limit: int | None = None) -> Iterator[Event]:
        """Records with seq > `after`, in order, at most `limit`, payloads included. A payload that was
        redacted reads as `[redacted]`.
        """
        for count, line in enumerate(self.storage.lines(max(after, -1) + 1)):
            if limit is not None and count >= limit:
                return
            yield self._event(json.loads(line))

    def path(self, agent: str = "main", *, to: str = "") -> Iterator[Event]:
        """The agent's own records on the way from the root to its head (or to another): what history is made of."""
        before = {r["id"]: r["parent"] for r in map(json.loads, self.storage.lines())}
        at, wanted = to or self._chain.heads.get(agent, ""), set[str]()
        while at and at not in wanted:
            wanted.add(at)
            at = before.get(at, "")
        for record in map(json.loads, self.storage.lines()):
            if record["id"] in wanted and record["agent"] == agent:
                yield self._event(record)

    def lines(self) -> Iterator[bytes]:
        """The records as they lie there, hash and all: what `verify` looks at."""
        return self.storage.lines()

    def forget(self, blob: str) -> None:
        """Remove a payload. A Redacted record that names it comes first, else `verify` misses it."""
        self.storage.forget(blob)

    def sync(self) -> None:
        """Fsync. Blocks for milliseconds: call it from a thread."""
        self.storage.sync()

    def close(self) -> None:
        """No append after this."""
        self.storage.close()

    def verify(self) -> Verification:
        """Check every hash, number and blob from the disk; goes on after a fault to find all of them."""
        return verify(self.storage)


class MemoryJournal(Journal):
    """A journal without a disk, for tests and throw-away sessions; the same records and chain."""

    def __init__(
        self,
        session: str = "memory",
        clock: Callable[[], float] = time.time,
        *,
        ids: Callable[[], str] = new_id,
        secrets: Secrets | None = None,
    ) -> None:
        super().__init__(MemoryStorage(), session=session, clock=clock, ids=ids, secrets=secrets)
