"""An approver elsewhere: each question is one signed HTTP request, and only a signed yes in time is a yes.

Request: POST, JSON `{version, session, call, tool, input, reason, nonce, at, deadline}`, with the header
`X-Fumehood-Signature: sha256=HEX`, the HMAC of the body with the shared secret. Reply: 200, JSON
`{call, nonce, allowed, reason?}`, signed the same way. Anything else is a no.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from runner.errors import UsageError
from runner.events import ApprovalAsked, ApprovalGiven
from runner.journal import canonical

HEADER = "X-Fumehood-Signature"
VERSION = 1
MAX_REPLY = 64 << 10
MAX_SECRET = 64 << 10
SHORTEST_SECRET = 16


def sign(secret: bytes, body: bytes) -> str:
    """The header's value."""
    return "sha256=" + hmac.new(secret, body, hashlib.sha256).hexdigest()


def read_secret(wanted: Mapping[str, Any], environ: Mapping[str, str]) -> bytes:
    """The shared secret of the setting `approver`. Raises UsageError."""
    if file := wanted.get("secretFile"):
        try:
            with Path(file).open("rb") as opened:
                secret = opened.read(MAX_SECRET).strip()
        except OSError as error:
            raise UsageError(f"approver.secretFile: {file}: {error.strerror}") from error
    else:
        secret = environ.get(str(wanted.get("secretEnv", "")), "").encode()
    if len(secret) < SHORTEST_SECRET:
        raise UsageError(f"approver: the secret has {len(secret)} bytes; {SHORTEST_SECRET} at least are needed")
    return secret


class RemoteApprover:
    """`deadline` in seconds, for each question. `client` makes the HTTP client (httpx2.AsyncClient)."""

    can_ask = True

    def __init__(
        self,
        *,
        url: str,
        secret: bytes,
        deadline: float,
        session: str = "",
        client: Callable[[], Any] | None = None,
        clock: Callable[[], float] = time.time,
        nonce: Callable[[], str] = lambda: secrets.token_hex(16),
    ) -> None:
        self._url, self._secret, self._deadline, self._session = url, secret, deadline, session
        self._client, self._clock, self._nonce = client, clock, nonce

    async def ask(self, asked: ApprovalAsked) -> ApprovalGiven:
        """The answer; never raises but for cancellation."""
        try:
            async with asyncio.timeout(self._deadline):
                return await self._ask(asked)
        except TimeoutError:
            why = f"no answer within {self._deadline:g} seconds"
        except Exception as error:  # noqa: BLE001 (whatever goes wrong out there, the answer is no)
            why = f"the remote approver cannot be asked: {type(error).__name__}"
        return ApprovalGiven(call=asked.call, allowed=False, by="nobody", reason=why)

    async def _ask(self, asked: ApprovalAsked) -> ApprovalGiven:
        nonce = self._nonce()
        body = canonical(
            {
                "version": VERSION,
                "session": self._session,
                "call": asked.call,
                "tool": asked.tool,
                "input": asked.input,
                "reason": asked.reason,
                "nonce": nonce,
                "at": self._clock(),
                "deadline": self._deadline,
            }
        )
        headers = {"content-type": "application/json", HEADER: sign(self._secret, body)}
        make = self._client or import_module("httpx2").AsyncClient
        async with (
            make() as client,
            client.stream(
                "POST", self._url, content=body, headers=headers, timeout=self._deadline, follow_redirects=False
            ) as reply,
        ):
            text = bytearray()
            async for piece in reply.aiter_bytes():
                text += piece
                if len(text) > MAX_REPLY:
                    return self._no(asked, "its reply is too long")
            given = reply.headers.get(HEADER, "")
            status = int(reply.status_code)
        if status != 200:
            return self._no(asked, f"it answers with status {status}")
        if not hmac.compare_digest(given.encode(), sign(self._secret, bytes(text)).encode()):
            return self._no(asked, "its reply is not signed with the shared secret")
        answer = json.loads(text)
        if not isinstance(answer, dict) or (answer.get("call"), answer.get("nonce")) != (asked.call, nonce):
            return self._no(asked, "its reply is to another question")
        allowed = answer.get("allowed") is True
        return ApprovalGiven(call=asked.call, allowed=allowed, by="remote", reason=str(answer.get("reason", ""))[:500])

    @staticmethod
    def _no(asked: ApprovalAsked, why: str) -> ApprovalGiven:
        return ApprovalGiven(call=asked.call, allowed=False, by="nobody", reason=f"the remote approver: {why}")

    def answer(self, given: ApprovalGiven) -> bool:  # noqa: ARG002 (the protocol's)
        """Answers come back over HTTP only."""
        return False
