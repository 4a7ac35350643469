"""The audit sink that managed settings require: it acknowledges the head of a session's journal, by a signature that
makes it an anchor (`runner.sessions.anchors`). Whoever holds the journal cannot make one.

Request: `{version, statement, nonce, at}`, canonical JSON. To a `url` by POST, with the header
`X-Fumehood-Signature: sha256=HEX`, the HMAC of the body with the shared secret; the reply is 200. To a `command` on
its standard input; it ends with 0. The reply is JSON, `{signature}`: minisign's, of the canonical JSON of the
statement. `fumehood audit acknowledge` is such a command.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from runner.errors import AuditSinkError, FumehoodError, ManagedError, UsageError
from runner.events import Event
from runner.journal import Journal, canonical
from runner.policy.signing import PublicKey, public_keys
from runner.policy.signing import verify as check_signature
from runner.remote_approval import HEADER, read_secret, sign
from runner.sessions.anchors import ANCHORS_NAME, MARK, Anchor, Statement, keep_anchor, statement_of

if TYPE_CHECKING:
    from runner.loop.session import Session
    from runner.sessions.enforced import Enforced

VERSION = 1
MAX_REPLY = 64 << 10
RETRY_SECONDS = 5.0
_PASSED = ("HOME", "LANG", "LC_ALL", "LOGNAME", "PATH", "SSH_AUTH_SOCK", "TZ", "USER")


class Sink:
    """For one session, whose journal is written by this process. `wanted`: the setting. `client` makes the HTTP client
    (httpx2.AsyncClient).
    """

    def __init__(
        self,
        wanted: Mapping[str, Any],
        *,
        directory: Path,
        journal: Journal,
        environ: Mapping[str, str],
        client: Callable[[], Any] | None = None,
        clock: Callable[[], float] = time.time,
        nonce: Callable[[], str] = lambda: secrets.token_hex(16),
    ) -> None:
        """Raises ManagedError for a key that is none, or a secret that cannot be read."""
        self._wanted, self._directory, self._journal, self._environ = wanted, directory, journal, environ
        self._client, self._clock, self._nonce = client, clock, nonce
        self.every = float(wanted.get("every", 60))
        self._deadline = float(wanted.get("deadline", 10))
        self._key, self._secret = _key(wanted), _secret(wanted, environ)
        self._turn = asyncio.Lock()
        self._records, self._since, self._head = 0, 0, ""
        self._marks: list[str] = []

    async def begin(self) -> None:
        """The journal as it is found is checked against what was acknowledged before, and acknowledged. Raises
        JournalError, AuditSinkError.
        """
        self._journal.on_append.append(self._note)
        await asyncio.to_thread(self._journal.sync)
        found = await asyncio.to_thread(
            statement_of, self._directory, session=self._journal.session, key=self._key, at=self._clock()
        )
        self._records, self._since, self._head = found.records, found.since, found.head
        self._marks = [found.marks[at : at + MARK] for at in range(0, len(found.marks), MARK)]
        await self.acknowledge()

    async def acknowledge(self) -> None:
        """Have the head as it stands acknowledged; nothing where it is already. Raises AuditSinkError, JournalError."""
        async with self._turn:
            if self._records == self._since:
                return
            statement = Statement(
                session=self._journal.session,
                records=self._records,
                head=self._head,
                at=self._clock(),
                since=self._since,
                marks="".join(self._marks),
            )
            anchor = Anchor(statement=statement, signature=await self._asked(statement))
            await asyncio.to_thread(keep_anchor, anchor, self._directory / ANCHORS_NAME)
            del self._marks[: statement.records - self._since]
            self._since = statement.records

    def _note(self, event: Event) -> None:
        if event.seq >= self._records:
            self._records, self._head = event.seq + 1, event.hash
            self._marks.append(event.hash[:MARK])

    async def _asked(self, statement: Statement) -> str:
        body = canonical(
            {"version": VERSION, "statement": asdict(statement), "nonce": self._nonce(), "at": self._clock()}
        )
        try:
            async with asyncio.timeout(self._deadline):
                reply = await (self._run(body) if self._wanted.get("command") else self._post(body))
        except TimeoutError as error:
            raise AuditSinkError(f"the audit sink does not answer within {self._deadline:g} seconds") from error
        except FumehoodError:
            raise
        except Exception as error:
            raise AuditSinkError(f"the audit sink cannot be reached: {type(error).__name__}: {error}") from error
        try:
            signature = str(json.loads(reply)["signature"])
            check_signature(canonical(asdict(statement)), signature, (self._key,))
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise AuditSinkError(f"the audit sink did not sign what it was sent: {error}") from error
        return signature

    async def _post(self, body: bytes) -> bytes:
        make = self._client or import_module("httpx2").AsyncClient
        headers = {"content-type": "application/json", HEADER: sign(self._secret, body)}
        async with (
            make() as client,
            client.stream(
                "POST",
                self._wanted["url"],
                content=body,
                headers=headers,
                timeout=self._deadline,
                follow_redirects=False,
            ) as reply,
        ):
            text = bytearray()
            async for piece in reply.aiter_bytes():
                text += piece
                if len(text) > MAX_REPLY:
                    raise AuditSinkError("the audit sink's reply is too long")
            if reply.status_code != 200:
                raise AuditSinkError(f"the audit sink answers with status {reply.status_code}")
        return bytes(text)

    async def _run(self, body: bytes) -> bytes:
        process = await asyncio.create_subprocess_exec(
            *self._wanted["command"],
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env={name: self._environ[name] for name in _PASSED if name in self._environ},
            cwd="/",
            start_new_session=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            with suppress(ConnectionError):
                process.stdin.write(body + b"\n")
                await process.stdin.drain()
            process.stdin.close()
            reply = bytearray()
            while piece := await process.stdout.read(MAX_REPLY + 1):
                reply += piece
                if len(reply) > MAX_REPLY:
                    raise AuditSinkError("the audit sink's reply is too long")
            code = await process.wait()
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        if code != 0:
            raise AuditSinkError(f"the audit sink's command ends with {code}")
        return bytes(reply)


class Auditing:
    """Keeps a session that runs acknowledged. While the sink is `unheard` the strictest policy is in force."""

    def __init__(self, sink: Sink, enforced: Enforced, journal: Journal) -> None:
        self.unheard = False
        self._sink, self._enforced, self._journal = sink, enforced, journal
        self._ended = asyncio.Event()

    @classmethod
    def of(cls, enforced: Enforced, *, directory: Path, journal: Journal, environ: Mapping[str, str]) -> Self:
        """As settings want it. Raises ManagedError."""
        assert enforced.sink is not None
        sink = Sink(enforced.sink, directory=directory, journal=journal, environ=environ)
        return cls(sink, enforced, journal)

    async def begin(self) -> None:
        """Before anything else happens in the session. Raises AuditSinkError, JournalError: it does not start."""
        await self._sink.begin()
        self._journal.on_append.append(lambda event: self._ended.set() if event.type == "TurnEnded" else None)

    async def acknowledge(self, session: Session) -> None:
        """All that happened until now, the policy of the session being as strict as that leaves it. Raises
        AuditSinkError, JournalError.
        """
        try:
            await self._sink.acknowledge()
        except FumehoodError as error:
            self.unheard = True
            session.enforce(self._enforced.unheard(session.mode, error))
            raise
        if self.unheard:
            session.enforce(self._enforced.heard(session.mode, session.model))
            self.unheard = False

    async def go_on(self, session: Session) -> None:
        """After each turn and every so often, until it is cancelled."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(min(self._sink.every, RETRY_SECONDS) if self.unheard else self._sink.every):
                    await self._ended.wait()
            self._ended.clear()
            with suppress(FumehoodError):
                await self.acknowledge(session)

    async def end(self) -> str:
        """The session has ended: what came last. Why it is not acknowledged, "" where it is."""
        try:
            await self._sink.acknowledge()
        except FumehoodError as error:
            return f"the end of this session is not acknowledged: {error}"
        return ""


def _key(wanted: Mapping[str, Any]) -> PublicKey:
    try:
        (key,) = public_keys(str(wanted["publicKey"]))
    except ValueError as error:
        raise ManagedError(f"requiredAuditSink.publicKey: {error}") from error
    return key


def _secret(wanted: Mapping[str, Any], environ: Mapping[str, str]) -> bytes:
    if wanted.get("command"):
        return b""
    try:
        return read_secret(wanted, environ)
    except UsageError as error:
        raise ManagedError(f"requiredAuditSink: {error}") from error
