"""What managed settings hold on every way in: locks, models, images, their serial."""

from __future__ import annotations

import json
from typing import Any

import pytest

from runner.effects import Decision, Mode
from runner.errors import LockedError, ManagedError, PolicyChangedError
from runner.sessions.chain import read_given
from runner.sessions.specs import check_image_here
from tests.support.machine import Machine
from tests.support.policies import manage


@pytest.mark.parametrize(
    ("lock", "left"),
    [
        ({"allowManagedHooksOnly": True}, ["audit"]),
        ({"disableAllHooks": True}, []),
        ({}, ["mine", "theirs", "given", "audit"]),
    ],
)
@pytest.mark.parametrize("way", ["new", "stored", "resume", "running"])
def test_locks_on_hooks_hold_on_every_way_in(machine: Machine, way: str, lock: dict[str, Any], left: list[str]) -> None:
    def of(command: str) -> dict[str, Any]:
        return {"hooks": {"Stop": [{"hooks": [{"type": "command", "command": command}]}]}}

    machine.user(of("mine"))
    machine.repository(of("theirs"))
    machine.trust()
    manage(machine.places, of("audit"))
    settings = read_given(json.dumps(of("given")), machine.project)
    if way == "new":
        manage(machine.places, of("audit") | lock)
    spec = machine.stored(settings=settings)
    enforced = machine.enforced(spec)
    if way != "new":
        manage(machine.places, of("audit") | lock)
    if way == "running":
        enforced.look(Mode.BYPASS, "anthropic:claude-opus-4-5")
    elif way == "resume":
        enforced = machine.enforced(machine.resume(spec))
    elif way == "stored":
        enforced = machine.enforced(spec, stored=True)
    assert enforced.hooks is not None
    assert [handler.text for handler in enforced.hooks.handlers] == left


def test_a_locked_start_mode_becomes_the_default_one(machine: Machine) -> None:
    manage(machine.places, {"permissions": {"disableBypassPermissionsMode": "disable"}})
    assert machine.spec().mode is Mode.DEFAULT
    manage(machine.places, {"forcedMode": "plan"})
    assert machine.spec().mode is Mode.PLAN


def test_a_session_that_goes_on_is_brought_under_the_locks_of_today(machine: Machine) -> None:
    stored = machine.stored(box={"memory": 8 << 30})
    assert stored.mode is Mode.BYPASS
    manage(
        machine.places,
        {"permissions": {"disableBypassPermissionsMode": "disable"}, "limits": {"memory": "1g", "maxTurns": 3}},
    )
    spec = machine.resume(stored)
    assert (spec.mode, spec.box.memory, spec.limits.max_turns) == (Mode.DEFAULT, 1 << 30, 3)
    assert any("locked by managed settings" in line for line in machine.heard)
    assert any("policy is another one" in line for line in machine.heard)
    machine.enforced(spec)


def test_a_command_on_a_session_at_rest_is_brought_under_the_locks_too(machine: Machine) -> None:
    stored = machine.stored()
    manage(machine.places, {"permissions": {"disableBypassPermissionsMode": "disable"}, "disableShell": True})
    enforced = machine.enforced(stored, stored=True)
    assert enforced.spec.mode is Mode.DEFAULT
    assert "disableShell" in enforced.policy.locks


def test_a_spec_for_another_policy_is_refused(machine: Machine) -> None:
    spec = machine.spec()
    machine.enforced(spec)
    machine.user({"permissions": {"deny": ["Bash(x)"]}})
    with pytest.raises(PolicyChangedError):
        machine.enforced(spec)
    machine.enforced(machine.spec())


def test_no_flag_and_no_setting_source_leaves_managed_settings_out(machine: Machine) -> None:
    manage(machine.places, {"permissions": {"deny": ["WebFetch"]}})
    spec = machine.spec(
        setting_sources=(), settings=read_given('{"permissions": {"allow": ["WebFetch"]}}', machine.project)
    )
    assert [rule.text for rule in machine.enforced(spec).policy.of(Decision.DENY)] == ["WebFetch"]


def test_managed_settings_that_break_start_nothing(machine: Machine) -> None:
    spec, stored = machine.spec(), machine.stored()
    manage(machine.places, "permissions: [")
    for start in (machine.spec, lambda: machine.enforced(spec), lambda: machine.resume(stored)):
        with pytest.raises(ManagedError):
            start()


def test_a_managed_rule_that_is_none_starts_nothing(machine: Machine) -> None:
    manage(machine.places, "permissions:\n  deny:\n    - Bash(ok)\n    - Bash(oops\n")
    with pytest.raises(ManagedError, match=r"managed-settings.yaml:4:7"):
        machine.spec()


def test_the_serial_that_was_in_force_is_the_least_from_then_on(machine: Machine) -> None:
    manage(machine.places, "serial: 5")
    enforced = machine.enforced(machine.spec())
    enforced.begin()
    manage(machine.places, "serial: 4")
    with pytest.raises(ManagedError, match="older"):
        machine.spec()
    manage(machine.places, "serial: 6")
    machine.spec()


def test_models_are_checked_by_whatever_name(machine: Machine) -> None:
    manage(machine.places, {"availableModels": ["opus"]})
    enforced = machine.enforced(machine.spec())
    enforced.check_models("opus")
    for name in ("sonnet", "scripted:/x"):
        with pytest.raises(LockedError):
            enforced.check_models(name)


def test_before_each_turn_managed_settings_are_looked_at(machine: Machine) -> None:
    path = manage(machine.places, {"permissions": {"deny": ["Bash(a)"]}})
    enforced = machine.enforced(machine.spec())
    model = "anthropic:claude-opus-5"
    assert enforced.look(Mode.BYPASS, model) is None
    manage(machine.places, {"permissions": {"deny": ["Bash(b)"], "disableBypassPermissionsMode": "disable"}})
    change = enforced.look(Mode.BYPASS, model)
    assert change is not None
    assert change.problem is None
    assert (change.policy.mode, [rule.text for rule in change.policy.of(Decision.DENY)]) == (Mode.DEFAULT, ["Bash(b)"])
    assert enforced.look(Mode.DEFAULT, model) is None
    for spoil in ("{", '{"availableModels": ["sonnet"]}', ""):
        path.write_text(spoil)
        for _ in range(2):  # before every turn again
            change = enforced.look(Mode.DEFAULT, model)
            assert change is not None
            assert change.problem is not None
            assert change.event is not None
            assert change.event.problem
            assert change.policy.hides("Bash")
            assert change.policy.hides("Read")
    path.unlink()
    change = enforced.look(Mode.DEFAULT, model)
    assert change is not None
    assert "gone" in str(change.problem)
    manage(machine.places, {"permissions": {"deny": ["Bash(c)"]}})
    change = enforced.look(Mode.DEFAULT, model)
    assert change is not None
    assert change.problem is None
    assert [rule.text for rule in change.policy.rules] == ["Bash(c)"]


def test_images_that_managed_settings_do_not_allow_are_not_built_either(machine: Machine) -> None:
    check_image_here(machine.project, "debian", machine.environ, machine.places)
    manage(machine.places, {"allowedImages": ["base"]})
    check_image_here(machine.project, "base", machine.environ, machine.places)
    with pytest.raises(LockedError, match="debian"):
        check_image_here(machine.project, "debian", machine.environ, machine.places)
