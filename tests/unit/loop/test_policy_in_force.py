"""The policy of a session that runs: looked at before each turn, widened by an "always" of the user's alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from runner.approval import ClientApprover, DenyApprover
from runner.effects import Decision, Mode
from runner.errors import FumehoodError, LockedError, ManagedError, UsageError
from runner.events import (
    ApprovalAsked,
    ApprovalGiven,
    Failed,
    Judged,
    ModelAsked,
    PolicyLoaded,
    ToolFinished,
    TurnEnded,
)
from runner.loop.modes import Remember
from runner.loop.operations import Answer, Prompt, SetMode, SetModel
from runner.policy.grants import with_grant
from runner.policy.policy import Policy
from runner.sessions.enforced import Change as Changed
from runner.sessions.enforced import locked_down
from sandbox.spec import Command
from tests.unit.loop.conftest import REPO, Change, Stage

CHANGE = {"tools": [{"name": "Change", "input": {"path": "x"}}]}


async def test_managed_settings_that_break_end_the_turn_before_the_model_is_asked(stage: Stage) -> None:
    stage.script({"text": "one"}, {"text": "two"})
    broken: list[FumehoodError] = []

    def look(mode: Mode, _model: str) -> Changed | None:
        if not broken:
            return None
        policy = locked_down(mode)
        event = PolicyLoaded(digest=policy.digest, mode=mode.value, problem="broken")
        return Changed(policy=policy, event=event, problem=broken[0])

    async with stage.open(look=look) as session:
        await stage.play(session)
        broken.append(ManagedError("is no YAML", file="/etc/fumehood/managed-settings.yaml"))
        await stage.play(session)
        await stage.play(session)
        broken.clear()
    assert [(e.reason, e.rounds) for e in stage.bodies(TurnEnded)] == [("completed", 1), ("failed", 0), ("failed", 0)]
    assert len(stage.bodies(ModelAsked)) == 1
    assert [e.problem for e in stage.bodies(PolicyLoaded)] == ["broken"]  # told once
    assert [(e.error, e.exit_code) for e in stage.bodies(Failed)] == [("ManagedError", 7)] * 2


async def test_another_policy_is_recorded_and_in_force_from_the_next_turn_on(stage: Stage) -> None:
    stage.script(CHANGE, {"text": "one"}, CHANGE, {"text": "two"})
    news: list[Policy] = []

    def look(mode: Mode, _model: str) -> Changed | None:
        if not news:
            return None
        return Changed(policy=news[0], event=PolicyLoaded(digest=news[0].digest, mode=mode.value))

    async with stage.open(look=look) as session:
        await stage.play(session)
        news.append(locked_down(Mode.BYPASS))
        await stage.play(session)
    assert [done.is_error for done in stage.bodies(ToolFinished)] == [False, True]
    assert stage.bodies(PolicyLoaded)[0].digest == news[0].digest


async def test_a_locked_mode_and_a_locked_model_are_refused_while_running_too(stage: Stage) -> None:
    stage.script({"text": "one"})

    def resolve(name: str) -> object:
        raise LockedError(name)

    async with stage.open(resolve_model=resolve) as session:
        session._modes.policy = replace(
            session._modes.policy, mode=Mode.DEFAULT, modes=frozenset({Mode.DEFAULT, Mode.PLAN})
        )
        with pytest.raises(UsageError, match="locked"):
            await session.submit(SetMode(mode=Mode.BYPASS))
        with pytest.raises(LockedError):
            await session.submit(SetModel(model="opus"))
        assert session.mode is Mode.DEFAULT


async def test_the_users_shell_can_be_disabled_and_the_attempt_is_recorded(stage: Stage) -> None:
    stage.script({"text": "one"})
    async with stage.open() as session:
        session._modes.policy = replace(session._modes.policy, locks=("disableShell",))
        with pytest.raises(LockedError):
            await session.gate.user_command(Command(argv=("sh",), cwd=REPO))
    judged = [e.body for e in stage.journal.read() if isinstance(e.body, Judged) and e.body.tool == "shell"]
    assert [one.verdict["decision"] for one in judged] == ["deny"]
    assert stage.boxes == 0


class Write(Change):
    name = "Write"


async def test_always_allows_exactly_the_rule_that_was_shown(stage: Stage) -> None:
    stage.change = Write()
    write, other = ({"tools": [{"name": "Write", "input": {"path": path}}]} for path in ("x", "y"))
    stage.script(write, write, other, {"text": "done"})
    kept: list[str] = []

    def keep(policy: Policy, rule: str) -> Policy:
        kept.append(rule)
        return with_grant(policy, rule, session.gate.place, "/state/approvals.json")

    remember = Remember(keep=keep, file="/state/approvals.json")
    async with stage.open(mode=Mode.DEFAULT, approver=ClientApprover(), remember=remember) as session:
        await session.submit(Prompt.text("go"))
        async for event in session.events():
            if isinstance(event.body, ApprovalAsked):
                first = not kept
                await session.submit(Answer(call=event.body.call, allowed=first, always=first))
            if isinstance(event.body, TurnEnded):
                break
    asked = stage.bodies(ApprovalAsked)[0]
    assert asked.kept == "/state/approvals.json"
    assert kept == [asked.always] == [f"Edit(/{REPO}/x)"]
    verdicts = [one.verdict["decision"] for one in stage.bodies(Judged)]
    assert verdicts == ["ask", "allow", "ask"]
    assert [given.always for given in stage.bodies(ApprovalGiven)] == [True, False]


async def test_nothing_is_offered_for_always_where_nobody_is_asked_or_a_rule_asks(stage: Stage) -> None:
    for approver, rules in ((DenyApprover(), ()), (ClientApprover(deadline=0.01), ("Change",))):
        stage.script(CHANGE, {"text": "done"})
        remember = Remember(keep=lambda policy, _rule: policy, file="/state/approvals.json")
        async with stage.open(mode=Mode.DEFAULT, approver=approver, ask=rules, remember=remember) as session:
            await stage.play(session)
        assert all(one.always == "" for one in stage.bodies(ApprovalAsked))
    assert [given.allowed for given in stage.bodies(ApprovalGiven)] == [False, False]


def test_locked_down_denies_everything() -> None:
    policy = locked_down(Mode.BYPASS)
    for tool in ("Bash", "Read", "mcp__x__y", "TodoWrite"):
        assert policy.hides(tool)
    assert policy.of(Decision.DENY)


async def test_what_changes_between_a_reply_and_its_calls_is_judged_by_what_is_in_force_then(stage: Stage) -> None:
    stage.script(CHANGE, {"text": "done"}, CHANGE, {"text": "never asked for"})
    looks = 0

    def look(mode: Mode, _model: str) -> Changed | None:
        nonlocal looks
        looks += 1
        policy = locked_down(mode)
        if looks not in (2, 6, 7):  # turn, calls, request; then turn, calls, request, with a problem
            return None
        problem = ManagedError("is no YAML", file="/etc/fumehood/managed-settings.yaml") if looks > 2 else None
        event = PolicyLoaded(digest=policy.digest, mode=mode.value, problem=str(problem or ""))
        return Changed(policy=policy, event=event, problem=problem)

    async with stage.open(look=look) as session:
        await stage.play(session)
        await stage.play(session)
    assert [done.is_error for done in stage.bodies(ToolFinished)] == [True, True]
    assert [(e.reason, e.rounds) for e in stage.bodies(TurnEnded)] == [("completed", 2), ("failed", 1)]
