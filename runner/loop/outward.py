"""What leaves the box by itself: each request of the proxy is judged by the policy in force, asked about where somebody
can be, recorded, and told when it is over. A yes counts for the host, port and scheme until the turn ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from ipaddress import ip_address, ip_network
from shlex import quote
from typing import TYPE_CHECKING, Any, Protocol

from runner.dataclass import dataclass
from runner.effects import ConnectHost, Decision, Source, Verdict, effect_to_json
from runner.errors import UsageError
from runner.events import ApprovalAsked, Egress, Failed, Judged
from runner.journal import digest
from runner.loop.indexes import Indexes, Registry
from runner.policy.grants import offer, with_grant
from runner.policy.network import network_pattern, opening, shown
from runner.policy.policy import Policy
from runner.policy.rules import NETWORK
from sandbox.injection import Injection
from sandbox.rulings import Outcome, Request, Ruling

if TYPE_CHECKING:
    from runner.loop.gate import Gate

LONGEST_PATH = 2000
ANSWERED = 1001  # above every rule that asks
Key = tuple[str, str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """A request's verdict, and the call that it belongs to, "" where that is not known."""

    verdict: Verdict
    cause: str


class Bound(Protocol):
    """A key that is bound to hosts."""

    @property
    def injection(self) -> Injection:
        """What goes into a request."""
        ...

    def fits(self, effect: ConnectHost) -> bool:
        """Whether the key is for this request."""
        ...

    def concerns(self, host: str, port: int) -> bool:
        """Whether it is for some request to there."""
        ...


class Outward:
    """A `sandbox.rulings.Judge` over the gate. `turn`: the number of the one that runs. `credentials`: keys that go
    into requests that are allowed; they allow nothing. `lasting`: a yes counts until the session ends. `looks`: all
    requests inside of TLS are looked into; `replays`: a recording answers, and nothing leaves. `registries`: those that
    are open, the files of which may be fetched where their indexes name them.
    """

    def __init__(
        self,
        gate: Gate,
        *,
        turn: Callable[[], int],
        credentials: Sequence[Bound] = (),
        lasting: bool = False,
        looks: bool = False,
        replays: bool = False,
        registries: Callable[[], Iterable[Registry]] = tuple,
    ) -> None:
        self._gate = gate
        self._indexes = Indexes(registries)
        self._lasting = lasting
        self._granted: list[tuple[int, str]] = []
        self._looks = looks
        self._replays = replays
        self._credentials = credentials
        self._turn = turn
        self._answers: dict[Key, tuple[int, asyncio.Task[Verdict]]] = {}
        self._inside: set[Key] = set()  # answered with a rule on what is inside of the tunnel

    async def judge(self, request: Request) -> Ruling:
        """See Judge."""
        gate, effect, cause = self._gate, effect_of(request), self._gate.cause
        policy = self._policy()
        verdict = policy.judge((effect,), tool=NETWORK, place=gate.place)
        if verdict.source is Source.MODE and effect.method in ("", "GET", "CONNECT"):
            fetching = gate.fetching(effect.host, effect.port, effect.scheme)
            verdict = _fetched(fetching) if fetching else verdict
            cause = fetching or cause
        if verdict.source is Source.MODE and policy.hosts_asked and (page := self._indexes.named(effect)):
            verdict = _listed(page)
        if verdict.decision is Decision.ASK:
            verdict = await self._answer(effect, verdict, cause)
            if (effect.scheme, effect.host, effect.port) in self._inside and not self._looked_into(effect):
                verdict = _denied(verdict, "it cannot be looked into any more, as the answer has it")
        sent = {"request": str(request)[:LONGEST_PATH]}
        body = Judged(
            call=gate.new_id(),
            tool=NETWORK,
            digest=digest(sent),
            effects=[effect_to_json(_short(effect))],
            verdict=verdict.to_json(),
        )
        gate.record(body, cause=cause)
        named, barred = policy.reach(effect)
        if verdict.source is Source.USER:
            named += _literal(request.host)
        return Ruling(
            allowed=verdict.decision is Decision.ALLOW,
            reason=refusal(effect, verdict),
            named=named,
            barred=barred,
            injection=next((each.injection for each in self._credentials if each.fits(effect)), None),
            reader=self._indexes.reader(effect) if verdict.decision is Decision.ALLOW else None,
            about=Decided(verdict=verdict, cause=cause),
        )

    def expected(self, host: str, port: int) -> str:
        """See Judge."""
        policy = self._policy()
        found = policy.expected(host, port)
        keys = [each for each in self._credentials if each.concerns(host, port)]
        # what pins a host to its key has to see its requests, exempt or not
        pinned = any(each.injection.pin for each in keys)
        looks = self._looks or self._indexes.concerns(host, port)
        if found == "https" and (pinned or ((keys or looks) and not policy.exempts(host))):
            return "inspected"
        return found

    def _policy(self) -> Policy:
        """The one in force, with what the user allowed for a while."""
        policy = self._gate.policy()
        for turn, text in self._granted:
            if self._lasting or turn == self._turn():
                policy = with_grant(policy, text, self._gate.place)
                policy = replace(policy, rules=(*policy.rules[:-1], replace(policy.rules[-1], priority=ANSWERED)))
        return policy

    def broken(self, request: Request, reason: str) -> None:
        """See Judge."""
        verdict = Verdict(decision=Decision.DENY, source=Source.FUMEHOOD, reason=reason)
        self._tell(request, Decided(verdict=verdict, cause=self._gate.cause), verdict, Outcome())

    def ended(self, request: Request, ruling: Ruling, outcome: Outcome) -> None:
        """See Judge."""
        decided: Decided = ruling.about
        verdict = decided.verdict
        if outcome.refusal:
            verdict = Verdict(decision=Decision.DENY, source=Source.FUMEHOOD, reason=outcome.refusal)
        self._tell(request, decided, verdict, outcome)

    def _tell(self, request: Request, decided: Decided, verdict: Verdict, outcome: Outcome) -> None:
        more: dict[str, Any] = {"failure": outcome.failure, "via": outcome.via}
        if self._replays and verdict.decision is Decision.ALLOW:
            more["replayed"] = True
        body = Egress(
            host=request.host,
            port=request.port,
            scheme=request.scheme,
            method=request.method,
            path=request.path[:LONGEST_PATH],
            verdict=verdict.to_json() | {name: value for name, value in more.items() if value},
            sent=outcome.sent,
            received=outcome.received,
            seconds=outcome.seconds,
        )
        self._gate.record(body, cause=decided.cause)

    def fault(self, error: Exception) -> None:
        """An error of ours ended a connection."""
        self._gate.record(Failed(error=type(error).__name__, message=f"proxy: {error}", exit_code=1, retrying=True))

    async def _answer(self, effect: ConnectHost, verdict: Verdict, cause: str) -> Verdict:
        """The user's answer, asked for once for all requests to the same place."""
        if not self._gate.approver.can_ask:
            return _denied(verdict, "nobody can be asked in this session")
        key, turn = (effect.scheme, effect.host, effect.port), self._turn()
        known = self._answers.get(key)
        if known is None or (known[0] != turn and not (self._lasting and _was_yes(known[1]))):
            known = self._answers[key] = (turn, self._gate.spawn(self._ask(effect, verdict, cause)))
        with self._gate.waiting.of(cause, self._gate.monotonic):
            return await asyncio.shield(known[1])

    async def _ask(self, effect: ConnectHost, verdict: Verdict, cause: str) -> Verdict:
        gate, policy = self._gate, self._gate.policy()
        self._inside.discard((effect.scheme, effect.host, effect.port))
        always = "" if gate.remember is None else offer(policy, NETWORK, (effect,), gate.place, verdict)
        sent: dict[str, Any] = {"to": shown(effect), "request": f"{effect.method} {effect.path}"[:LONGEST_PATH].strip()}
        asked = ApprovalAsked(
            call=gate.new_id(),
            tool=NETWORK,
            input=sent | {"until": f"this {self._until} ends"},
            reason=verdict.reason,
            always=always,
            kept=gate.remember.kept if gate.remember is not None and always else "",
        )
        gate.record(asked, cause=cause)
        if gate.hooks is not None:
            gate.hooks.notify(f"fumehood needs your permission to reach {effect.host}")
        given = await gate.approver.ask(asked)
        gate.record(given, cause=cause)
        if not given.allowed:
            return _denied(verdict, given.reason or "the user said no")
        if given.always and always and gate.remember is not None:
            gate.remember.keep(always)
        reason = f"as the user answered, for this {self._until}"
        if given.input is not None and (text := str(given.input.get("rule", ""))):
            return self._grant(effect, text, reason)
        return Verdict(decision=Decision.ALLOW, source=Source.USER, reason=reason)

    def _looked_into(self, effect: ConnectHost) -> bool:
        return effect.method == "CONNECT" and self.expected(effect.host, effect.port) == "inspected"

    @property
    def _until(self) -> str:
        return "session" if self._lasting else "turn"

    def _grant(self, effect: ConnectHost, text: str, reason: str) -> Verdict:
        """The user answered with a rule, such as one on methods: it counts as long as a yes would, for this host."""
        try:
            fits = network_pattern(text).host.host == effect.host
        except (UsageError, ValueError):
            fits = False
        if not fits:
            return Verdict(decision=Decision.DENY, source=Source.USER, reason=f"{text!r} is no rule on {effect.host}")
        self._granted.append((self._turn(), f"{NETWORK}({text})"))
        verdict = self._policy().judge((effect,), tool=NETWORK, place=self._gate.place)
        if verdict.decision is Decision.ASK:  # the rule is not on the tunnel, but on what is inside
            looked = self._looked_into(effect)
            if looked:
                self._inside.add((effect.scheme, effect.host, effect.port))
            decision = Decision.ALLOW if looked else Decision.DENY
            return Verdict(decision=decision, source=Source.USER, reason=f"{reason}: {text}")
        return replace(verdict, reason=f"{reason}: {text}")


def _was_yes(answer: asyncio.Task[Verdict]) -> bool:
    """A no is only for its turn."""
    whole = answer.done() and not answer.cancelled() and answer.exception() is None
    return whole and answer.result().decision is Decision.ALLOW


def effect_of(request: Request) -> ConnectHost:
    """The request as the policy judges it."""
    return ConnectHost(
        host=request.host, port=request.port, scheme=request.scheme, method=request.method, path=request.path
    )


def refusal(effect: ConnectHost, verdict: Verdict) -> str:
    """What the client is told: why not, and the rule that would allow it."""
    if verdict.decision is Decision.ALLOW:
        return ""
    if verdict.rule:
        where = f" ({verdict.file}:{verdict.line})" if verdict.file else ""
        return f"{shown(effect)} is denied by rule {verdict.rule}{where}"
    rule = quote(opening(effect))
    return (
        f"no rule allows {shown(effect)}; --allow-host {rule} would, or that under network.allow in settings "
        f"({verdict.reason})"
    )


def _fetched(call: str) -> Verdict:
    return Verdict(decision=Decision.ALLOW, source=Source.FUMEHOOD, reason=f"call {call} was allowed to fetch there")


def _listed(page: str) -> Verdict:
    return Verdict(decision=Decision.ALLOW, source=Source.FUMEHOOD, reason=f"a registry's index names it: {page}")


def _denied(verdict: Verdict, why: str) -> Verdict:
    return Verdict(decision=Decision.DENY, source=verdict.source, rule=verdict.rule, reason=f"{verdict.reason}; {why}")


def _short(effect: ConnectHost) -> ConnectHost:
    return ConnectHost(
        host=effect.host,
        port=effect.port,
        scheme=effect.scheme,
        method=effect.method,
        path=effect.path[:LONGEST_PATH],
    )


def _literal(host: str) -> tuple[Any, ...]:
    try:
        return (ip_network(ip_address(host)),)
    except ValueError:
        return ()
