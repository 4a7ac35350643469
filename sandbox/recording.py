"""The exchanges of a session as they are kept for playing them again, without the secrets in them.

A file of the form of `sandbox.store`: records with checksums, contents by their digest. Its notes (version 1) are
`recording` (the first; version, id, session), `exchange`, `failed` (a request of which nothing came) and `missed` (what
passed without being kept, and why). Of a body stands its sha256 and size, and the contents that it consists of, each
of PIECE bytes at most: no body is ever in memory as a whole. `n` numbers requests in the order in which they began.

Known secrets are replaced by as many asterisks wherever they stand, percent-encoded too; of headers that carry keys
and cookies the value is left out whole. Digests are taken of what is left then.
"""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from hashlib import sha256
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

from sandbox.dataclass import dataclass
from sandbox.errors import StoreError
from sandbox.injection import CARRIERS, Mask
from sandbox.reachable import Address
from sandbox.refusals import GIVEN_UP
from sandbox.rulings import Request
from sandbox.store import Store
from sandbox.tape import Headers, Take, Tape

VERSION = 1
FILE = "net.recording"
PIECE = 256 << 10
LIMIT = 4 << 30
SCRUBBED = "scrubbed"
WITHOUT_VALUE = CARRIERS | {b"proxy-authorization", b"authentication-info"}
COOKIE = re.compile(r"([^=;]*=)[^;]*")


def scrubbing(secrets: Iterable[bytes]) -> tuple[bytes, ...]:
    """What is looked for, to find these secrets: as they are, percent-encoded, and within JSON."""
    found = dict[bytes, None]()
    for secret in secrets:
        text = secret.decode("utf-8", "surrogateescape")
        forms = (text, quote(text, safe="", errors="surrogateescape"), json.dumps(text)[1:-1])
        found |= {form.encode("utf-8", "surrogateescape"): None for form in forms}
    return tuple(found)


class Digest:
    """The digest of a body as recordings have it."""

    def __init__(self, secrets: tuple[bytes, ...]) -> None:
        self._mask, self._hash, self.size = Mask(secrets), sha256(), 0

    def feed(self, data: bytes) -> bytes:
        """The next bytes; what is left of those before that can be told by now."""
        return self._add(self._mask.feed(data))

    def rest(self) -> bytes:
        """Nothing more comes."""
        return self._add(self._mask.rest())

    def _add(self, data: bytes) -> bytes:
        self._hash.update(data)
        self.size += len(data)
        return data

    @property
    def hex(self) -> str:
        """Of all up to here; ends it."""
        self.rest()
        return self._hash.hexdigest()


class _Body:
    """A body on its way into the store."""

    def __init__(self, secrets: tuple[bytes, ...], add: Callable[[bytes], str]) -> None:
        self._digest, self._add = Digest(secrets), add
        self._waiting = bytearray()
        self._pieces: list[str] = []

    def feed(self, data: bytes) -> None:
        self._take(self._digest.feed(data))

    def _take(self, data: bytes) -> None:
        self._waiting += data
        while len(self._waiting) >= PIECE:
            self._pieces.append(self._add(bytes(self._waiting[:PIECE])))
            del self._waiting[:PIECE]

    def to_json(self, *, whole: bool) -> dict[str, Any]:
        self._take(self._digest.rest())
        if self._waiting:
            self._pieces.append(self._add(bytes(self._waiting)))
            self._waiting.clear()
        return {"sha256": self._digest.hex, "size": self._digest.size, "pieces": self._pieces, "whole": whole}


class FullError(Exception):
    """Nothing more can be kept."""


class Recorder(Tape):
    """Writes a recording, a new one or what follows in one. `secrets`: what is looked for; `limit`: bytes that the
    file may have. Close it. Raises StoreError, OSError for a file that cannot be written or is another.
    """

    def __init__(
        self,
        file: Path,
        *,
        session: str,
        secrets: tuple[bytes, ...] = (),
        limit: int = LIMIT,
        clock: Callable[[], float] = time.time,
        identity: str = "",
    ) -> None:
        self._store = Store(file, writable=True)
        self._secrets, self._limit, self._clock = scrubbing(secrets), limit, clock
        self.kept = self.lost = 0
        self.problem = ""
        try:
            notes = list(self._store.notes())
            if notes:
                check_header(notes[0], file)
            else:
                made = identity or str(uuid.uuid4())
                self._store.note({"type": "recording", "version": VERSION, "id": made, "session": session})
        except BaseException:
            self._store.close()
            raise
        self._last = max((note["n"] for note in notes if "n" in note), default=0)

    def begin(self, request: Request, headers: Headers) -> Take:
        """See Tape."""
        return _Take(self, self._number(), request, headers)

    def missed(self, request: Request, why: str) -> None:
        """See Tape."""
        self.miss(self._number(), request, why)

    def close(self) -> None:
        """All of it is on the disk when this returns."""
        try:
            self._store.sync()
        except OSError as error:
            self.problem = self.problem or str(error.strerror)
        self._store.close()

    def _number(self) -> int:
        self._last += 1
        return self._last

    def miss(self, number: int, request: Request, why: str) -> None:
        """It is named as missing."""
        self.lost += 1
        body = {"type": "missed", "n": number, "request": self.text(str(request)), "why": self.text(why)}
        self._note(body)

    def keep(self, body: dict[str, Any]) -> None:
        """A note on an exchange, whose contents are there."""
        self.kept += 1
        self._note(body | {"at": round(self._clock(), 3)})

    def _note(self, body: dict[str, Any]) -> None:
        try:
            self._store.note(body)
        except OSError as error:
            self.problem = str(error.strerror)

    def add(self, data: bytes) -> str:
        """A content. Raises FullError."""
        if self._store.size + len(data) > self._limit:
            raise FullError(f"the recording has its {self._limit >> 20} MiB")
        try:
            name = self._store.add(data)
            self._store.flush()
        except OSError as error:
            self.problem = str(error.strerror)
            raise FullError(f"the recording cannot be written: {error.strerror}") from error
        return name

    def body(self) -> _Body:
        """An empty one."""
        return _Body(self._secrets, self.add)

    def text(self, text: str) -> str:
        """Without secrets."""
        return Mask(self._secrets).whole(text.encode("utf-8", "surrogateescape")).decode("utf-8", "backslashreplace")

    def headers(self, headers: Headers) -> list[list[str]]:
        """Without secrets, and without the values that are ones."""
        return [[self.text(name.decode("latin-1")), self._value(name.lower(), value)] for name, value in headers]

    def _value(self, name: bytes, value: bytes) -> str:
        if name == b"set-cookie":
            return self.text(COOKIE.sub(rf"\1{SCRUBBED}", value.decode("latin-1"), count=1))
        return SCRUBBED if name in WITHOUT_VALUE else self.text(value.decode("latin-1"))


class _Take(Take):
    def __init__(self, recorder: Recorder, number: int, request: Request, headers: Headers) -> None:
        self._recorder, self._number, self._request = recorder, number, request
        self._asked = recorder.headers(headers)
        self._up, self._down = recorder.body(), recorder.body()
        self._all_sent = False
        self._address = ""
        self._head: dict[str, Any] = {}
        self._full = ""

    def asks(self, headers: Headers) -> Headers:
        """Unpacked: else secrets in the answer would not be seen."""
        kept = [(name, value) for name, value in headers if name.lower() != b"accept-encoding"]
        return [*kept, (b"Accept-Encoding", b"identity")]

    def reached(self, address: Address | None) -> None:
        self._address = str(address or "")

    def sent(self, data: bytes) -> None:
        self._feed(self._up, data)

    def all_sent(self) -> None:
        self._all_sent = True

    def answered(self, status: int, headers: Headers, reason: bytes) -> None:
        told = self._recorder.headers(headers)
        self._head = {"status": status, "reason": self._recorder.text(reason.decode("latin-1")), "headers": told}

    def received(self, data: bytes) -> None:
        self._feed(self._down, data)

    def _feed(self, body: _Body, data: bytes) -> None:
        if not self._full:
            try:
                body.feed(data)
            except FullError as error:
                self._full = str(error)

    def close(self, refusal: str = "", *, failure: str = "") -> None:
        if refusal:
            return  # it did not leave
        try:
            sent = self._up.to_json(whole=self._all_sent)
            answer = self._down.to_json(whole=not failure)
        except FullError as error:
            self._full = self._full or str(error)
        if self._full or (failure == GIVEN_UP and not self._head):
            self._recorder.miss(self._number, self._request, self._full or failure)
            return
        body = {
            "n": self._number,
            "request": self._recorder.text(str(self._request)),
            "address": self._address,
            "asked": self._asked,
            "sent": sent,
        }
        if self._head:
            self._recorder.keep({"type": "exchange", **body, **self._head, "answer": answer})
        else:
            self._recorder.keep({"type": "failed", **body, "why": self._recorder.text(failure)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """One that was kept. `sent`: the digest of the request's body, "" where the answer came before all of it; `why`:
    nothing came of it. The answer is one of `sandbox.tape`.
    """

    number: int
    request: str
    sent: str
    address: Address | None
    size: int
    whole: bool
    status: int = 0
    reason: bytes = b""
    headers: Headers
    why: str = ""
    names: tuple[str, ...]
    store: Store

    def pieces(self) -> Iterator[bytes]:
        """The answer's body, each piece verified. Raises StoreError."""
        return map(self.store.get, self.names)


class Recording:
    """A recording to read: `exchanges` in the order in which they began, `missed` by request. Close it. Raises
    StoreError for a file that is none, of another version, or damaged.
    """

    def __init__(self, file: Path) -> None:
        try:
            self._store = Store(file, writable=False)
        except OSError as error:
            raise StoreError(f"{file} cannot be read: {error.strerror}") from error
        try:
            notes = self._store.notes()
            header = check_header(next(notes, {}), file, self._store.broken)
            self.id: str = header["id"]
            self.session: str = header["session"]
            self.missed: dict[str, str] = {}
            found = []
            for note in notes:
                if note["type"] == "missed":
                    self.missed[note["request"]] = note["why"]
                elif note["type"] in ("exchange", "failed"):
                    found.append(self._read(note))
        except BaseException as error:
            self._store.close()
            if isinstance(error, KeyError | TypeError | ValueError):
                raise StoreError(f"{file} is no recording that can be read: {error}") from error
            raise
        self.exchanges = sorted(found, key=lambda one: one.number)

    def _read(self, note: dict[str, Any]) -> Exchange:
        answer = note.get("answer", {"size": 0, "whole": True, "pieces": []})
        return Exchange(
            number=note["n"],
            request=note["request"],
            sent=note["sent"]["sha256"] if note["sent"]["whole"] else "",
            address=ip_address(note["address"]) if note["address"] else None,
            size=answer["size"],
            whole=answer["whole"],
            status=note.get("status", 0),
            reason=note.get("reason", "").encode("latin-1"),
            headers=[(name.encode("latin-1"), value.encode("latin-1")) for name, value in note.get("headers", ())],
            why=note.get("why", ""),
            names=tuple(answer["pieces"]),
            store=self._store,
        )

    def close(self) -> None:
        """Give the file back."""
        self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def check_header(note: dict[str, Any], file: Path, broken: int = 0) -> dict[str, Any]:
    """The first note. Raises StoreError where it is not that of a recording that this program reads, or the file is
    `broken` at some byte.
    """
    if broken:
        raise StoreError(f"{file}: the record at {broken} is damaged")
    if note.get("type") != "recording":
        raise StoreError(f"{file} is no recording of exchanges")
    if note.get("version") != VERSION:
        raise StoreError(f"{file} is a recording of version {note.get('version')!r}; this program reads {VERSION}")
    return note
