"""Settings that change while a session runs: what tightens counts at once, what loosens only as it would at a start."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from runner.effects import Decision, Mode
from runner.errors import ManagedError, SettingsError
from runner.loop.modes import Changed
from runner.policy.trust import Grants
from runner.sessions.enforced import Change, Enforced
from tests.support.machine import Machine
from tests.support.policies import manage, put

MODEL = "anthropic:claude-opus-5"


def looked(enforced: Enforced, mode: Mode = Mode.DEFAULT) -> Change | None:
    change = enforced.look(mode, MODEL)
    assert change is None or enforced.look(mode, MODEL) is None or change.problem is not None  # told once
    return change


def rules(change: Change | None) -> set[str]:
    assert change is not None
    assert change.problem is None
    return {f"{rule.decision.name} {rule.text}" for rule in change.policy.rules}


def test_the_users_own_files_count_as_they_stand(machine: Machine) -> None:
    path = machine.user({"permissions": {"deny": ["Bash(a)"]}})
    enforced = machine.enforced(machine.spec())
    assert looked(enforced) is None
    machine.user({"permissions": {"deny": ["Bash(b)"], "allow": ["WebSearch"]}})
    change = looked(enforced)
    assert rules(change) == {"DENY Bash(b)", "ALLOW WebSearch"}
    assert change is not None
    assert change.event is not None
    assert change.event.digest == change.policy.digest
    assert change.policy.mode is Mode.DEFAULT
    path.touch()
    assert looked(enforced) is None
    path.unlink()
    assert rules(looked(enforced)) == set()
    put(machine.home / ".claude/settings.json", {"permissions": {"ask": ["Bash(c)"]}})
    assert rules(looked(enforced)) == {"ASK Bash(c)"}


def test_a_repository_that_is_not_trusted_tightens_at_once_and_takes_nothing_back(machine: Machine) -> None:
    path = machine.repository({"permissions": {"deny": ["Bash(a)"]}})
    enforced = machine.enforced(machine.spec())
    machine.repository({"permissions": {"ask": ["Bash(b)"], "allow": ["Bash(c)"], "additionalDirectories": ["/x"]}})
    assert rules(looked(enforced)) == {"DENY Bash(a)", "ASK Bash(b)"}
    path.unlink()
    assert looked(enforced) is None  # what it said goes on to count
    machine.repository("permissions: {deny: [Bash(d)]}", "fumehood.yaml")
    assert rules(looked(enforced)) == {"DENY Bash(a)", "ASK Bash(b)", "DENY Bash(d)"}
    machine.trust()
    assert rules(looked(enforced)) == {"DENY Bash(d)"}


def test_a_trusted_repository_that_changes_loses_what_it_allowed_and_keeps_what_it_denied(machine: Machine) -> None:
    machine.repository({"permissions": {"allow": ["Bash(a)"], "deny": ["Bash(b)"]}})
    machine.trust()
    enforced = machine.enforced(machine.spec())
    assert [rule.text for rule in enforced.policy.of(Decision.ALLOW)] == ["Bash(a)"]
    machine.repository({"permissions": {"allow": ["Bash(a)", "WebSearch"]}})
    assert rules(looked(enforced)) == {"DENY Bash(b)"}
    machine.trust()
    assert rules(looked(enforced)) == {"ALLOW Bash(a)", "ALLOW WebSearch"}
    Grants(machine.state).revoke(machine.project)
    assert rules(looked(enforced)) == set()


def test_an_always_that_is_withdrawn_elsewhere_is_gone_and_anothers_workspace_is_no_news(machine: Machine) -> None:
    enforced = machine.enforced(machine.spec())
    grants, now = Grants(machine.state), datetime.now(UTC)
    policy = enforced.remember(enforced.policy, "Bash(x)")
    assert [rule.text for rule in policy.of(Decision.ALLOW)] == ["Bash(x)"]
    assert looked(enforced) is None
    grants.approve(machine.home, "Bash(y)", now, "s")
    assert looked(enforced) is None
    grants.withdraw(grants.approvals(machine.project)[0].id)
    assert rules(looked(enforced)) == set()


@pytest.mark.parametrize("name", [".config/fumehood/settings.yaml", ".claude/settings.json", "project"])
def test_a_file_that_breaks_allows_nothing_until_it_is_mended(machine: Machine, name: str) -> None:
    path = machine.project / "fumehood.yaml" if name == "project" else machine.home / name
    enforced = machine.enforced(machine.spec())
    put(path, "{")
    for _ in range(2):
        change = enforced.look(Mode.BYPASS, MODEL)
        assert change is not None
        assert isinstance(change.problem, SettingsError)
        assert change.policy.hides("Bash")
    put(path, {"permissions": {"deny": ["Bash(a)"]}})
    assert rules(looked(enforced)) == {"DENY Bash(a)"}


def test_hidden_paths_that_come_are_masked_from_then_on(machine: Machine) -> None:
    enforced = machine.enforced(machine.spec())
    assert not enforced.masks
    machine.repository({"permissions": {"deny": ["Read(./secret.txt)"]}})
    looked(enforced)
    assert enforced.hides(enforced._roots[0] / "secret.txt")


def test_locks_that_come_hold_and_other_settings_are_those_of_the_start(machine: Machine) -> None:
    machine.user({"permissions": {"allow": ["Bash(a)"]}, "limits": {"maxTurns": 5}})
    enforced = machine.enforced(machine.spec(mode=Mode.BYPASS))
    machine.user({"permissions": {"allow": ["Bash(a)"], "defaultMode": "plan"}, "model": "sonnet"})
    assert looked(enforced, Mode.BYPASS) is None
    manage(machine.places, {"allowManagedPermissionRulesOnly": True})
    assert rules(looked(enforced)) == set()
    machine.user({"hooks": {"PreToolUse": [{"hooks": [{"type": "command", "command": "true"}]}]}})
    assert looked(enforced) is None
    manage(machine.places, {"hooks": {"PreToolUse": [{"hooks": [{"type": "command", "command": "true"}]}]}})
    change = enforced.look(Mode.DEFAULT, MODEL)
    assert change is not None
    assert "hooks by now" in str(change.problem)
    manage(machine.places, {"availableModels": ["haiku"]})
    change = enforced.look(Mode.DEFAULT, MODEL)
    assert change is not None
    assert "claude-opus-5" in str(change.problem)
    manage(machine.places, "{")
    change = enforced.look(Mode.DEFAULT, MODEL)
    assert change is not None
    assert isinstance(change.problem, ManagedError)


# ConfigChange hooks

HEARD = {"hooks": {"ConfigChange": [{"hooks": [{"type": "command", "command": "true"}]}]}}


def heard(**permissions: list[str]) -> dict[str, Any]:
    return {"permissions": permissions, **HEARD}


def asked(enforced: Enforced) -> Change:
    change = enforced.look(Mode.DEFAULT, MODEL)
    assert change is not None
    assert change.settle is not None
    return change


def answered(change: Change, *declined: str) -> Change | None:
    assert change.settle is not None
    return change.settle(frozenset(declined), Mode.DEFAULT, MODEL)


def in_force(enforced: Enforced) -> set[str]:
    return rules(enforced.heard(Mode.DEFAULT, MODEL))


def test_before_hooks_have_agreed_only_what_tightens_counts(machine: Machine) -> None:
    path = machine.user(heard(allow=["Bash(a)", "Bash(b)"], deny=["Bash(c)"]))
    enforced = machine.enforced(machine.spec())
    machine.user(heard(allow=["Bash(b)", "Bash(x)"], deny=["Bash(y)"]))
    change = asked(enforced)
    assert change.files == (Changed(source="user_settings", file=str(path)),)
    assert rules(change) == {"ALLOW Bash(b)", "DENY Bash(c)", "DENY Bash(y)"}
    assert rules(answered(change)) == {"ALLOW Bash(b)", "ALLOW Bash(x)", "DENY Bash(y)"}
    assert enforced.look(Mode.DEFAULT, MODEL) is None


def test_a_no_keeps_the_stricter_of_both_until_the_file_changes_again(machine: Machine) -> None:
    path = machine.user(heard(allow=["Bash(a)", "Bash(b)"], deny=["Bash(c)"]))
    enforced = machine.enforced(machine.spec())
    machine.user(heard(allow=["Bash(b)", "Bash(x)"], deny=["Bash(y)"]))
    assert answered(asked(enforced), str(path)) is None  # that is in force already
    strict = {"ALLOW Bash(b)", "DENY Bash(c)", "DENY Bash(y)"}
    assert in_force(enforced) == strict
    assert enforced.look(Mode.DEFAULT, MODEL) is None
    machine.repository({"permissions": {"deny": ["Bash(z)"]}})  # another file asks nothing about this one again
    change = asked(enforced)
    assert [each.source for each in change.files] == ["project_settings"]
    assert rules(change) == {*strict, "DENY Bash(z)"}
    answered(change)
    machine.user(heard(allow=["Bash(a)", "Bash(b)"], deny=["Bash(c)"]))  # as it was
    as_agreed = enforced.look(Mode.DEFAULT, MODEL)
    assert rules(as_agreed) == {"ALLOW Bash(a)", "ALLOW Bash(b)", "DENY Bash(c)", "DENY Bash(z)"}


def test_a_question_that_was_cut_off_is_put_again(machine: Machine) -> None:
    machine.user(heard(allow=["Bash(a)"]))
    enforced = machine.enforced(machine.spec())
    machine.user(heard(allow=["Bash(a)", "Bash(b)"]))
    for _ in range(2):
        assert len(asked(enforced).files) == 1
        assert in_force(enforced) == {"ALLOW Bash(a)"}


def test_hooks_hear_that_they_are_taken_away_and_may_say_no(machine: Machine) -> None:
    path = machine.user(heard(deny=["Bash(a)"]))
    enforced = machine.enforced(machine.spec())
    path.unlink()
    change = asked(enforced)
    assert answered(change, str(path)) is None
    assert in_force(enforced) == {"DENY Bash(a)"}
    assert enforced.hooks is not None
    assert enforced.hooks.of("ConfigChange")


def test_no_hook_keeps_managed_settings_from_counting(machine: Machine) -> None:
    machine.user(heard(allow=["Bash(a)"]))
    path = manage(machine.places, {"permissions": {"deny": ["Bash(m)"], "allow": ["Bash(n)"]}})
    enforced = machine.enforced(machine.spec())
    manage(machine.places, {"permissions": {"allow": ["Bash(o)"]}, "allowManagedPermissionRulesOnly": True})
    change = asked(enforced)
    assert change.files == (Changed(source="policy_settings", file=str(path)),)
    assert rules(change) == {"ALLOW Bash(o)"}
    answered(change, str(path))
    assert in_force(enforced) == {"ALLOW Bash(o)"}


def test_what_cannot_be_relied_on_locks_down_whatever_hooks_would_say(machine: Machine) -> None:
    path = machine.user(heard(allow=["Bash(a)"]))
    enforced = machine.enforced(machine.spec())
    for broken in ("{", {**heard(allow=["Bash(a)"]), "availableModels": ["haiku"]}):
        put(path, broken)
        change = enforced.look(Mode.DEFAULT, MODEL)
        assert change is not None
        assert change.problem is not None
        assert change.settle is None
    machine.user(heard(allow=["Bash(a)"]))
    assert rules(enforced.look(Mode.DEFAULT, MODEL)) == {"ALLOW Bash(a)"}


def test_a_no_to_a_repository_that_was_just_trusted_does_not_trust_what_it_said_before(machine: Machine) -> None:
    machine.user(HEARD)
    machine.repository({"permissions": {"allow": ["Bash(a)"]}})
    enforced = machine.enforced(machine.spec())
    path = machine.repository({"permissions": {"allow": ["Bash(a)", "Bash(b)"]}})
    machine.trust()
    change = asked(enforced)
    answered(change, str(path))
    assert in_force(enforced) == set()


def test_limits_of_requests_that_a_declined_file_lowers_are_lower(machine: Machine) -> None:
    path = machine.user({"network": {"limits": {"up": "1m"}}, **HEARD})
    enforced = machine.enforced(machine.spec())
    machine.user({"network": {"limits": {"up": "1k", "down": "1m"}}, **HEARD})
    change = asked(enforced)
    answered(change, str(path))
    lower = dict(enforced.network_limits)
    machine.user({"network": {"limits": {"up": "2m"}}, **HEARD})
    answered(asked(enforced), str(path))
    assert (lower, dict(enforced.network_limits)) == ({"up": 1024, "down": 1 << 20}, {"up": 1 << 20})
