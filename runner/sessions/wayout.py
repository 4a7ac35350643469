"""A session's way out: granted to each of its boxes, so that a box that was started again has no other; closed to
everything until the gate is there. The proxy itself is loaded with the first connection.

Where rules speak of requests inside of TLS, the session has a certificate authority, which its boxes are given to
trust: beside their image's own, in a file of their memory that no layer holds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from runner.events import Egress, Event
from sandbox.errors import PathError
from sandbox.injection import PLACEHOLDER
from sandbox.spec import Box
from sandbox.streams import Grant, Stream
from sandbox.wire import PathCode

if TYPE_CHECKING:
    from runner.journal import Secrets
    from runner.loop.gate import Gate
    from runner.sessions.credentials import Credential
    from runner.sessions.registries import Registry
    from runner.sessions.taping import Taping
    from runner.spec import SessionSpec
    from sandbox.authority import Authority
    from sandbox.egress import Egress as EgressProxy
    from sandbox.metering import Meter, Quotas

CONNECTIONS = 256
TRUSTED = PurePosixPath("/run/fumehood-trusted.pem")
TRUSTED_BY = (
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "NODE_EXTRA_CA_CERTS",
    "GIT_SSL_CAINFO",
    "PIP_CERT",
    "CARGO_HTTP_CAINFO",
)
BUNDLES = (
    PurePosixPath("/etc/ssl/certs/ca-certificates.crt"),
    PurePosixPath("/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem"),
    PurePosixPath("/etc/ssl/cert.pem"),
)


class WayOut:
    """`begin` gives it what decides; nothing passes before. `inspects`: requests inside of TLS are looked into, as they
    are where there are keys to put into them, and where exchanges are recorded or replayed, which is `taping`'s.
    `limits`: those in force, by the names of `runner.policy.locks.NETWORK`. `lasting`: a yes to a question counts until
    the session ends. `environ`: names a company's proxy and authorities. `registries`: those that are open now.
    """

    def __init__(
        self,
        *,
        inspects: bool,
        credentials: tuple[Credential, ...] = (),
        limits: Callable[[], Mapping[str, Any]] = dict,
        lasting: bool = False,
        environ: Mapping[str, str],
        taping: Taping | None = None,
        registries: Callable[[], Iterable[Registry]] = tuple,
    ) -> None:
        self._limits = limits
        self._lasting = lasting
        self._environ = environ
        self._registries = registries
        self._before: Callable[[], Iterable[Event]] = tuple
        self._inspects = inspects or bool(credentials) or taping is not None
        self._credentials = credentials
        self._taping = taping
        self._authority: Authority | None = None
        self._gate: Gate | None = None
        self._turn: Callable[[], int] = int
        self._egress: EgressProxy | None = None

    @property
    def grants(self) -> Mapping[str, Grant]:
        """What a box may open by itself."""
        return {"tcp": Grant(limit=CONNECTIONS, accept=self._accept)}

    @property
    def environment(self) -> Mapping[str, str]:
        """What commands need to find whom to trust, and what stands in the place of keys."""
        trusting = dict.fromkeys(TRUSTED_BY, str(TRUSTED)) if self._inspects else {}
        return trusting | {each.variable: PLACEHOLDER for each in self._credentials if each.variable}

    @property
    def files(self) -> Mapping[str, bytes]:
        """For the box's HOME: whom to trust, for a program that no variable tells."""
        return {".wgetrc": f"ca_certificate = {TRUSTED}\n".encode()} if self._inspects else {}

    async def welcome(self, box: Box) -> None:
        """Before anything else is done in a box."""
        if not self._inspects:
            return
        now = datetime.now(UTC)
        made = await asyncio.to_thread(lambda: import_module("sandbox.authority").Authority(now))
        known = b""
        for found in await box.resolve(BUNDLES):
            with suppress(PathError):
                known = (await box.read(found.target, limit=4 << 20)).data
                break
        await box.write(TRUSTED, known + b"\n" + made.certificate, mode=0o644)
        self._authority = made
        if self._egress is not None:
            self._egress.way.authority = made

    def begin(self, gate: Gate, turn: Callable[[], int], before: Callable[[], Iterable[Event]] = tuple) -> None:
        """From here on the gate decides. `turn`: the number of the one that runs; `before`: what the session's journal
        holds, of which the requests count.
        """
        self._gate, self._turn, self._before = gate, turn, before

    async def close(self) -> str:
        """End what is on its way. What the user is told of what was recorded, "" for nothing."""
        self._gate, egress, self._egress = None, self._egress, None
        if egress is not None:
            await egress.close()
        taping, self._taping = self._taping, None
        return "" if taping is None else taping.close()

    def _accept(self, stream: Stream, arguments: dict[str, Any]) -> None:
        if self._gate is None:
            stream.ignore()
            stream.tell("fail", code=PathCode.REFUSED)
            return
        if self._egress is None:
            judge = import_module("runner.loop.outward").Outward(
                self._gate,
                turn=self._turn,
                credentials=self._credentials,
                lasting=self._lasting,
                registries=self._registries,
                looks=self._taping is not None,
                replays=self._taping is not None and self._taping.replay is not None,
            )
            ends = {} if self._taping is None else {"tape": self._taping.tape, "replay": self._taping.replay}
            company = import_module("runner.sessions.company")
            ends = {} if self._taping is None else {"tape": self._taping.tape, "replay": self._taping.replay}
            way = import_module("sandbox.leaving").Way(
                judge,
                authority=self._authority,
                meter=self._meter(),
                route=company.route_of(self._environ),
                trusts=lambda: company.trust_of(self._environ),
                **ends,
            )
            self._egress = import_module("sandbox.egress").Egress(way, fault=judge.fault)
        self._egress.accept(stream, arguments)

    def _meter(self) -> Meter:
        """Counts on from what the session took before, where that matters."""
        metering = import_module("sandbox.metering")

        last: tuple[Mapping[str, Any], Quotas] | None = None

        def quotas() -> Quotas:  # asked with each block of bytes
            nonlocal last
            wanted = self._limits()
            if last is not None and last[0] is wanted:
                return last[1]
            parts: dict[str, dict[str, Any]] = {"": {}, "host": {}}
            for name, value in wanted.items():
                part, _, key = name.rpartition(".")
                parts[part][key] = value
            each = {key: parts[""].pop(key, None) for key in ("body", "seconds")}
            made: Quotas = metering.Quotas(
                whole=metering.Quota(**parts[""]), host=metering.Quota(**parts["host"]), **each
            )
            last = (wanted, made)
            return made

        before: dict[str, tuple[int, int]] = {}
        counted = any(name.endswith(("up", "down")) for name in self._limits())
        for event in self._before() if counted else ():
            if isinstance(event.body, Egress):
                up, down = before.get(event.body.host, (0, 0))
                before[event.body.host] = (up + event.body.sent, down + event.body.received)
        made: Meter = metering.Meter(quotas, before=before)
        return made


def taping_of(spec: SessionSpec, directory: Path, secrets: Secrets) -> Taping | None:
    """What records a session's exchanges or replays others, None where its spec asks for neither. Raises UsageError,
    StoreError, OSError.
    """
    if not (spec.record_net or spec.replay_net):
        return None
    made: Taping = import_module("runner.sessions.taping").Taping(spec, directory, secrets)
    return made
