"""What leaves the box by itself: judged by the policy in force, asked about once, recorded before and after."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from ipaddress import ip_address
from itertools import count
from typing import Any

import pytest

from runner.approval import ClientApprover
from runner.effects import ConnectHost, Effect, Mode, Place
from runner.events import ApprovalAsked, ApprovalGiven, Egress, Judged, ToolFinished
from runner.loop.modes import Remember
from runner.loop.operations import Answer
from runner.loop.outward import Outward, effect_of
from runner.loop.session import Session
from runner.policy.grants import with_grant
from runner.policy.network import shown
from runner.policy.policy import Policy, build_policy
from runner.tools.base import ToolContext, ToolResult
from sandbox.rulings import Outcome, Request, Ruling
from tests.unit.loop.conftest import Probe, ProbeArguments, Stage, until

TLS = Request(host="a.example", port=443, scheme="https", method="CONNECT")


@asynccontextmanager
async def outward(
    stage: Stage, *, lasting: bool = False, credentials: tuple[Any, ...] = (), **options: Any
) -> AsyncIterator[tuple[Outward, Session, list[int]]]:
    stage.script({"text": "never asked"})
    turn = [1]
    async with stage.open(**options) as session:
        yield Outward(session.gate, turn=lambda: turn[0], lasting=lasting, credentials=credentials), session, turn


async def answered(
    out: Outward, session: Session, request: Request, *, allowed: bool, always: bool = False, rule: str = ""
) -> Ruling:
    waiting = asyncio.create_task(out.judge(request))
    async for event in session.events():
        if isinstance(event.body, ApprovalAsked) and event.body.input["to"] == shown(effect_of(request)):
            given = event.body.input | {"rule": rule} if rule else None
            await session.submit(Answer(call=event.body.call, allowed=allowed, always=always, input=given))
            break
    return await waiting


async def test_a_request_is_judged_recorded_and_its_end_too(stage: Stage) -> None:
    async with outward(stage, allow=("Network(a.example)",)) as (out, _, _):
        ruling = await out.judge(TLS)
        assert ruling.allowed
        out.ended(TLS, ruling, Outcome(sent=3, received=5, seconds=0.5))
    [judged] = stage.bodies(Judged)
    assert judged.effects == [
        {"type": "ConnectHost", "host": "a.example", "port": 443, "scheme": "https", "method": "CONNECT"}
    ]
    assert judged.verdict["rule"] == "Network(a.example)"
    [egress] = stage.bodies(Egress)
    assert egress == Egress(
        host="a.example",
        port=443,
        scheme="https",
        method="CONNECT",
        path="",
        verdict=judged.verdict,
        sent=3,
        received=5,
        seconds=0.5,
    )


async def test_what_no_rule_allows_is_denied_where_nobody_is_asked_and_the_rule_is_named(stage: Stage) -> None:
    async with outward(stage, mode=Mode.BYPASS) as (out, _, _):
        ruling = await out.judge(TLS)
    assert not ruling.allowed
    assert "--allow-host https://a.example would" in ruling.reason
    assert stage.bodies(ApprovalAsked) == []
    assert stage.bodies(Judged)[0].verdict["decision"] == "deny"


async def test_a_denied_one_names_the_rule(stage: Stage) -> None:
    async with outward(stage, allow=("Network",), deny=("Network(*.example)",)) as (out, _, _):
        ruling = await out.judge(TLS)
    assert not ruling.allowed
    assert "Network(*.example)" in ruling.reason


async def test_a_yes_counts_for_the_place_until_the_turn_ends(stage: Stage) -> None:
    async with outward(stage, mode=Mode.DEFAULT, approver=ClientApprover()) as (out, session, turn):
        assert (await answered(out, session, TLS, allowed=True)).allowed
        assert (await out.judge(TLS)).allowed
        waiting = asyncio.create_task(out.judge(Request(host="a.example", port=8443, scheme="https", method="CONNECT")))
        await asyncio.sleep(0.01)
        assert not waiting.done()
        waiting.cancel()
        turn[0] = 2
        waiting = asyncio.create_task(out.judge(TLS))
        await asyncio.sleep(0.01)
        assert not waiting.done()
        waiting.cancel()
    assert len(stage.bodies(ApprovalAsked)) == 3


async def test_a_yes_counts_until_the_session_ends_where_settings_say_so(stage: Stage) -> None:
    async with outward(stage, mode=Mode.DEFAULT, approver=ClientApprover(), lasting=True) as (out, session, turn):
        assert (await answered(out, session, TLS, allowed=True)).allowed
        turn[0] = 5
        assert (await out.judge(TLS)).allowed
        other = Request(host="b.example", port=443, scheme="https", method="CONNECT")
        assert not (await answered(out, session, other, allowed=False)).allowed
        turn[0] = 6
        waiting = asyncio.create_task(out.judge(other))
        await asyncio.sleep(0.01)
        assert not waiting.done()  # a no is asked about again
        waiting.cancel()
    assert [asked.input["until"] for asked in stage.bodies(ApprovalAsked)] == ["this session ends"] * 3


async def test_an_answer_may_be_a_rule_on_what_is_inside_and_counts_for_new_connections(stage: Stage) -> None:
    def inside(method: str) -> Request:
        return Request(host="a.example", port=443, scheme="https", method=method, path="/x")

    async with outward(stage, mode=Mode.DEFAULT, approver=ClientApprover()) as (out, session, turn):
        assert out.expected("a.example", 443) == "https"
        assert (await answered(out, session, TLS, allowed=True, rule="GET https://a.example")).allowed
        assert out.expected("a.example", 443) == "inspected"  # what the tunnel carries is judged by itself
        assert (await out.judge(inside("GET"))).allowed
        assert not (await out.judge(inside("POST"))).allowed
        turn[0] = 2
        assert out.expected("a.example", 443) == "https"
        other = Request(host="c.example", port=443, scheme="https", method="CONNECT")
        assert not (await answered(out, session, other, allowed=True, rule="GET https://b.example")).allowed
        assert out.expected("b.example", 443) == "https"


async def test_an_answer_on_all_paths_of_a_host_has_each_request_judged_and_recorded(stage: Stage) -> None:
    """As the terminal's `i` answers."""
    async with outward(stage, mode=Mode.DEFAULT, approver=ClientApprover()) as (out, session, _):
        assert (await answered(out, session, TLS, allowed=True, rule="https://a.example/*")).allowed
        assert out.expected("a.example", 443) == "inspected"
        for method in ("GET", "DELETE"):
            inside = Request(host="a.example", port=443, scheme="https", method=method, path="/x?q")
            assert (await out.judge(inside)).allowed
    _, *judged = stage.bodies(Judged)
    assert [(body.effects[0]["method"], body.effects[0]["path"]) for body in judged] == [
        ("GET", "/x?q"),
        ("DELETE", "/x?q"),
    ]
    assert [body.verdict["rule"] for body in judged] == ["Network(https://a.example/*)"] * 2


async def test_many_requests_to_one_place_are_one_question_and_a_no_is_for_all(stage: Stage) -> None:
    async with outward(stage, mode=Mode.DEFAULT, approver=ClientApprover()) as (out, session, _):
        more = [asyncio.create_task(out.judge(TLS)) for _ in range(5)]
        ruling = await answered(out, session, TLS, allowed=False)
        assert not ruling.allowed
        assert not any([(await task).allowed for task in more])
    assert len(stage.bodies(ApprovalAsked)) == len(stage.bodies(ApprovalGiven)) == 1
    assert len(stage.bodies(Judged)) == 6


async def test_a_client_that_goes_away_does_not_take_the_question_along(stage: Stage) -> None:
    async with outward(stage, mode=Mode.DEFAULT, approver=ClientApprover()) as (out, session, _):
        first = asyncio.create_task(out.judge(TLS))
        await until(session, ApprovalAsked)
        first.cancel()
        ruling = await answered(out, session, TLS, allowed=True)
        assert ruling.allowed
    assert len(stage.bodies(ApprovalAsked)) == 1


async def test_always_keeps_the_narrowest_rule(stage: Stage) -> None:
    kept: list[str] = []

    def keep(policy: Policy, rule: str) -> Policy:
        kept.append(rule)
        return with_grant(policy, rule, session.gate.place)

    remember = Remember(keep=keep, file="approvals")
    options: dict[str, Any] = {"mode": Mode.DEFAULT, "approver": ClientApprover(), "remember": remember}
    async with outward(stage, **options) as (out, session, turn):
        assert (await answered(out, session, TLS, allowed=True, always=True)).allowed
        turn[0] = 2
        assert (await out.judge(TLS)).allowed
    assert kept == ["Network(https://a.example)"]


async def test_a_yes_for_a_name_is_none_for_a_private_address(stage: Stage) -> None:
    async with outward(stage, mode=Mode.DEFAULT, approver=ClientApprover()) as (out, session, _):
        assert (await answered(out, session, TLS, allowed=True)).named == ()
        literal = Request(host="10.0.0.1", port=80, scheme="http", method="GET", path="/")
        assert [str(each) for each in (await answered(out, session, literal, allowed=True)).named] == ["10.0.0.1/32"]


async def test_a_policy_that_is_read_again_counts_for_the_next_request(stage: Stage) -> None:
    async with outward(stage, allow=("Network(a.example)",)) as (out, session, _):
        assert (await out.judge(TLS)).allowed
        before = session._modes.policy
        session._modes.policy = build_policy(mode=before.mode, place=session.gate.place, deny=["Network(*.example)"])
        assert not (await out.judge(TLS)).allowed
        session._modes.policy = build_policy(mode=before.mode, place=session.gate.place)
        assert not (await out.judge(TLS)).allowed


async def test_no_yes_goes_over_a_deny_rule(stage: Stage) -> None:
    rules: dict[str, Any] = {
        "mode": Mode.DEFAULT,
        "approver": ClientApprover(),
        "deny": ("WebFetch(domain:a.example)",),
    }
    async with outward(stage, **rules) as (out, _, _):
        assert not (await out.judge(TLS)).allowed
    assert stage.bodies(ApprovalAsked) == []


async def test_what_was_allowed_and_then_refused_is_logged_as_refused(stage: Stage) -> None:
    async with outward(stage, allow=("Network(a.example)",)) as (out, _, _):
        ruling = await out.judge(TLS)
        out.ended(TLS, ruling, Outcome(refusal="TLS for b.example in a tunnel to a.example"))
        out.ended(TLS, ruling, Outcome(failure="a.example:443 cannot be reached"))
    refused, failed = stage.bodies(Egress)
    assert (refused.verdict["decision"], refused.verdict["source"]) == ("deny", "fumehood")
    assert (failed.verdict["decision"], failed.verdict["failure"]) == ("allow", "a.example:443 cannot be reached")


async def test_paths_are_kept_short(stage: Stage) -> None:
    async with outward(stage, allow=("Network(a.example)",)) as (out, _, _):
        long = Request(host="a.example", port=80, scheme="http", method="GET", path="/" + "x" * 30_000)
        out.ended(long, await out.judge(long), Outcome())
    assert len(stage.bodies(Egress)[0].path) == 2000
    assert len(stage.bodies(Judged)[0].effects[0]["path"]) == 2000


class Fetch(Probe):
    """Fetches by the proxy, as the real one does."""

    name = "WebFetch"
    asked: Callable[[], Awaitable[list[bool]]]

    def effects(self, args: ProbeArguments, place: Place) -> tuple[Effect, ...]:
        return (ConnectHost(host="a.example", port=443, scheme="https", method="GET", path="/page"),)

    async def run(self, args: ProbeArguments, ctx: ToolContext) -> ToolResult:
        return ToolResult(for_model=str(await self.asked()))


async def test_a_fetch_that_was_allowed_passes_for_its_own_call_and_place_only(stage: Stage) -> None:
    fetch = Fetch()
    stage.look = fetch  # type: ignore[assignment]
    stage.script({"tools": [{"name": "WebFetch", "id": "t1", "input": {}}]}, {"text": "ok"})
    async with stage.open(allow=("WebFetch",)) as session:
        out = Outward(session.gate, turn=lambda: 1)
        others = (
            Request(host="b.example", port=443, scheme="https", method="CONNECT"),
            Request(host="a.example", port=8443, scheme="https", method="CONNECT"),
            Request(host="a.example", port=80, scheme="http", method="GET", path="/page"),
            Request(host="a.example", port=443, scheme="https", method="POST", path="/page"),
        )

        async def asked() -> list[bool]:
            return [(await out.judge(request)).allowed for request in (TLS, *others)]

        fetch.asked = asked
        events = await stage.play(session)
        assert not (await out.judge(TLS)).allowed
    [finished] = [event.body for event in events if isinstance(event.body, ToolFinished)]
    assert finished.content == "[True, False, False, False, False]"


async def test_a_rule_that_denies_the_host_stands_above_a_fetch(stage: Stage) -> None:
    fetch = Fetch()
    stage.look = fetch  # type: ignore[assignment]
    stage.script({"tools": [{"name": "WebFetch", "id": "t1", "input": {}}]}, {"text": "ok"})
    async with stage.open(allow=("WebFetch",), deny=("Network(a.example)",)) as session:
        out = Outward(session.gate, turn=lambda: 1)

        async def asked() -> list[bool]:
            return [(await out.judge(TLS)).allowed]

        fetch.asked = asked
        events = await stage.play(session)
    finished = [event.body for event in events if isinstance(event.body, ToolFinished)]
    assert "True" not in str(finished[0].content)


INDEX = Request(host="index.example", port=443, scheme="https", method="GET", path="/simple/tiny/")
FILE = Request(host="files.example", port=443, scheme="https", method="GET", path="/tiny.whl")


@dataclass(frozen=True)
class Pip:
    tool: str = "pip"
    urls: tuple[str, ...] = ("https://index.example/simple",)


@pytest.mark.parametrize("deny", [(), ("Network(files.example)",)])
async def test_files_that_an_index_names_may_be_fetched_and_nothing_else_is_opened(
    stage: Stage, deny: tuple[str, ...]
) -> None:
    stage.script({"text": "never asked"})
    async with stage.open(allow=("Network(GET https://index.example)",), deny=deny) as session:
        out = Outward(session.gate, turn=lambda: 1, registries=lambda: (Pip(),))
        assert (await out.judge(FILE)).allowed is False
        page = await out.judge(INDEX)
        assert page.reader is not None
        page.reader("text/html", b'<a href="https://files.example/tiny.whl">tiny</a>')
        named = await out.judge(FILE)
        assert named.allowed is (not deny)
        assert named.reader is None
        assert named.objection(ip_address("10.0.0.1"))
        assert not named.objection(ip_address("93.184.216.34"))
        others = (
            replace(FILE, path="/other.whl"),
            replace(FILE, method="POST"),
            replace(FILE, method="CONNECT", path=""),
            replace(FILE, port=8443),
            replace(FILE, scheme="http"),
        )
        assert [(await out.judge(other)).allowed for other in others] == [False] * 5
        assert out.expected("files.example", 443) == "inspected"
        assert out.expected("files.example", 8443) == "https"


async def test_where_managed_settings_alone_name_hosts_an_index_names_none(stage: Stage) -> None:
    stage.script({"text": "never asked"})
    async with stage.open(allow=("Network(GET https://index.example)",)) as session:
        policy = replace(session.gate.policy(), hosts_asked=False)
        session.gate.policy = lambda: policy
        out = Outward(session.gate, turn=lambda: 1, registries=lambda: (Pip(),))
        page = await out.judge(INDEX)
        assert page.reader is not None
        page.reader("text/html", b'<a href="https://files.example/tiny.whl">tiny</a>')
        assert (await out.judge(FILE)).allowed is False


async def test_the_wait_for_an_answer_is_no_time_of_the_call_that_asks(stage: Stage) -> None:
    async with outward(stage, mode=Mode.DEFAULT, approver=ClientApprover()) as (out, session, _):
        ticks = count()
        session.gate.monotonic = lambda: float(next(ticks))
        assert (await answered(out, session, TLS, allowed=True)).allowed
        assert session.gate.waiting.take(session.gate.cause) == 1.0
