"""Settings that change while a session runs: what tightens counts at once, what loosens only as it would at a start."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from runner.effects import Decision, Mode
from runner.errors import ManagedError, SettingsError
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
