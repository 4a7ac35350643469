"""Every managed lock on every way in: what a flag, a variable, settings, a stored spec, a fork, a session that runs, an
approval or a hook asks for against the lock does not come about.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runner.effects import Decision, Mode, Source
from runner.errors import LockedError, PolicyChangedError, UsageError
from runner.hooks.kinds import Ran
from runner.hooks.output import Said, read
from runner.policy.policy import Policy
from runner.sessions.chain import read_given
from runner.sessions.enforced import Enforced
from runner.sessions.store import Store
from runner.spec import SessionSpec
from tests.support.machine import Machine
from tests.support.policies import manage

# A lock, and what somebody asks for against it (fields of a spec, `allow`: a rule).
LOCKS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "bypass": ({"permissions": {"disableBypassPermissionsMode": "disable"}}, {"mode": Mode.BYPASS}),
    "auto": ({"permissions": {"disableAutoMode": "disable"}}, {"mode": Mode.AUTO}),
    "forced mode": ({"forcedMode": "plan"}, {"mode": Mode.DEFAULT}),
    "available models": ({"availableModels": ["sonnet"]}, {"model": "opus"}),
    "a script": ({"availableModels": ["sonnet"]}, {"model": "scripted:/x"}),
    "denied models": ({"deniedModels": ["opus"]}, {"model": "opus"}),
    "fallback models": ({"availableModels": ["sonnet"]}, {"fallback_models": ("opus",)}),
    "images": ({"allowedImages": ["base"]}, {"image": "evil"}),
    "registries": ({"allowedRegistries": ["registry.example"]}, {"image": "other.example/evil"}),
    "memory": ({"limits": {"memory": "1g"}}, {"box": {"memory": 2 << 30}}),
    "turns": ({"limits": {"maxTurns": 5}}, {"turn": {"max_turns": 6}}),
    "managed rules only": ({"allowManagedPermissionRulesOnly": True}, {"allow": ("Bash(curl *)",)}),
    "managed hosts only": ({"network": {"allowManagedDomainsOnly": True}}, {"allow": ("Network(evil.example)",)}),
}
START: dict[str, Any] = {"model": "sonnet"}  # what every lock allows
MODEL = "anthropic:claude-sonnet-4-5"


def as_settings(fields: dict[str, Any]) -> dict[str, Any]:
    """What settings would say to get these fields."""
    match fields:
        case {"mode": mode}:
            return {"permissions": {"defaultMode": mode.value}}
        case {"fallback_models": models}:
            return {"fallbackModel": list(models)}
        case {"box": {"memory": size}}:
            return {"limits": {"memory": size}}
        case {"turn": {"max_turns": number}}:
            return {"limits": {"maxTurns": number}}
        case {"allow": rules}:
            return {"permissions": {"allow": list(rules)}}
        case _:
            return fields


def as_variables(fields: dict[str, Any]) -> dict[str, str]:
    """Variables that would; none for what no variable speaks of."""
    match fields:
        case {"model": model}:
            return {"FUMEHOOD_MODEL": model, "ANTHROPIC_MODEL": model, "ANTHROPIC_DEFAULT_MODEL": model}
        case {"turn": {"max_turns": number}}:
            return {"CLAUDE_CODE_MAX_TURNS": str(number)}
        case _:
            return {}


def began(machine: Machine, lock: dict[str, Any], **fields: Any) -> SessionSpec:
    """A session of the time before the lock."""
    spec = machine.stored(**fields)
    manage(machine.places, lock)
    return spec


def by_flag(machine: Machine, lock: dict[str, Any], fields: dict[str, Any]) -> Enforced:
    manage(machine.places, lock)
    return machine.enforced(machine.spec(**(START | fields)))


def by_environment(machine: Machine, lock: dict[str, Any], fields: dict[str, Any]) -> Enforced:
    manage(machine.places, lock)
    machine.environ |= {"FUMEHOOD_MODEL": "sonnet"} | as_variables(fields)
    return machine.enforced(machine.spec())


def by_variables_of_settings(machine: Machine, lock: dict[str, Any], fields: dict[str, Any]) -> Enforced:
    manage(machine.places, lock)
    machine.environ["FUMEHOOD_MODEL"] = "sonnet"
    machine.user({"env": as_variables(fields)})
    return machine.enforced(machine.spec())


def by_given_settings(machine: Machine, lock: dict[str, Any], fields: dict[str, Any]) -> Enforced:
    manage(machine.places, lock)
    given = read_given(json.dumps(as_settings(fields)), machine.project)
    return machine.enforced(machine.spec(settings=given, **_start(machine, fields)))


def by_user_settings(machine: Machine, lock: dict[str, Any], fields: dict[str, Any]) -> Enforced:
    manage(machine.places, lock)
    machine.user(as_settings(fields))
    return machine.enforced(machine.spec(**_start(machine, fields)))


def by_trusted_repository(machine: Machine, lock: dict[str, Any], fields: dict[str, Any]) -> Enforced:
    manage(machine.places, lock)
    machine.repository(as_settings(fields), "fumehood.yaml")
    machine.trust()
    return machine.enforced(machine.spec(**START))


def _start(machine: Machine, fields: dict[str, Any]) -> dict[str, Any]:
    """The model by name, unless it is what settings are to say."""
    if "model" not in fields:
        return START
    del machine.environ["FUMEHOOD_MODEL"]
    return {}


def by_spec(machine: Machine, lock: dict[str, Any], fields: dict[str, Any]) -> Enforced:
    spec = began(machine, lock, **(START | fields))
    return machine.enforced(SessionSpec.from_json(spec.to_json() | {"policy_digest": ""}))


def by_spec_with_its_digest(machine: Machine, lock: dict[str, Any], fields: dict[str, Any]) -> Enforced:
    return machine.enforced(SessionSpec.from_json(began(machine, lock, **(START | fields)).to_json()))


def by_resume(machine: Machine, lock: dict[str, Any], fields: dict[str, Any]) -> Enforced:
    return machine.enforced(machine.resume(began(machine, lock, **(START | fields))))


def by_resume_with_a_flag(machine: Machine, lock: dict[str, Any], fields: dict[str, Any]) -> Enforced:
    return machine.enforced(machine.resume(began(machine, lock, **START), **fields))


def by_fork(machine: Machine, lock: dict[str, Any], fields: dict[str, Any]) -> Enforced:
    spec = replace(began(machine, lock, **(START | fields)), session=str(uuid.uuid4()))
    store = Store(machine.state)
    store.directory(spec.session).mkdir(mode=0o700)
    store.save(spec)
    return machine.enforced(machine.resume(spec))


def by_a_command_on_a_session_at_rest(machine: Machine, lock: dict[str, Any], fields: dict[str, Any]) -> Enforced:
    return machine.enforced(began(machine, lock, **(START | fields)), stored=True)


def while_it_runs(machine: Machine, lock: dict[str, Any], fields: dict[str, Any]) -> Enforced:
    spec = machine.spec(**(START | fields))
    enforced = machine.enforced(spec)
    manage(machine.places, lock)
    change = enforced.look(spec.mode, spec.model)
    assert change is not None
    if change.problem is not None:
        raise change.problem
    enforced.policy = change.policy
    return enforced


def by_an_operation(machine: Machine, lock: dict[str, Any], fields: dict[str, Any]) -> Enforced:
    """SetMode and SetModel of a client; an "always" of the user's."""
    manage(machine.places, lock)
    enforced = machine.enforced(machine.spec(**START))
    if "mode" in fields:
        enforced.policy = enforced.policy.with_mode(fields["mode"])
    if "model" in fields:
        enforced.check_models(fields["model"])
    for rule in fields.get("allow", ()):
        enforced.policy = enforced.remember(enforced.policy, rule)
        enforced = machine.enforced(machine.spec(**START))  # what was kept counts from the next start on
    return enforced


def by_hook(machine: Machine, lock: dict[str, Any], fields: dict[str, Any]) -> Enforced:
    """What a hook says may change an input, or deny: there is no field of an answer for a mode, a model or a rule."""
    manage(machine.places, lock)
    wish = {"type": "setMode", "mode": str(fields.get("mode", "")), "destination": "session"}
    rule = {"type": "addRules", "behavior": "allow", "rules": [{"toolName": "Bash"}], "destination": "session"}
    said = {
        "hookSpecificOutput": {
            "hookEventName": "PermissionRequest",
            "decision": {"behavior": "allow", "updatedPermissions": [wish, rule]},
        },
        **{name: str(value) for name, value in fields.items()},
    }
    answer = read("PermissionRequest", Ran(code=0, stdout=json.dumps(said)))
    assert {name for name in Said.__dataclass_fields__ if getattr(answer, name) != getattr(Said(), name)} == {"answer"}
    return machine.enforced(machine.spec(**START))


Way = Callable[[Machine, dict[str, Any], dict[str, Any]], Enforced]
WAYS: tuple[Way, ...] = (
    by_flag,
    by_environment,
    by_variables_of_settings,
    by_given_settings,
    by_user_settings,
    by_trusted_repository,
    by_spec,
    by_spec_with_its_digest,
    by_resume,
    by_resume_with_a_flag,
    by_fork,
    by_a_command_on_a_session_at_rest,
    while_it_runs,
    by_an_operation,
    by_hook,
)


ways = pytest.mark.parametrize("way", WAYS, ids=lambda way: str(way.__name__))


@ways
@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_holds_on_every_way_in(machine: Machine, name: str, way: Way) -> None:
    lock, fields = LOCKS[name]
    try:
        enforced = way(machine, lock, fields)
    except (LockedError, PolicyChangedError, UsageError):
        return
    asks_no_model = way is by_a_command_on_a_session_at_rest and {"model", "fallback_models"} & fields.keys()
    assert asks_no_model or _held(enforced.spec, enforced.policy, fields)


@ways
def test_without_the_lock_the_way_leads_in(tmp_path: Path, way: Way) -> None:
    for name in ("auto", "available models", "images", "turns", "managed rules only"):
        _, fields = LOCKS[name]
        if way is by_hook or not _leads(way, fields):
            continue
        (tmp_path / name).mkdir()
        enforced = way(Machine(tmp_path / name), {"permissions": {"deny": ["Bash(x)"]}}, fields)
        assert not _held(enforced.spec, enforced.policy, fields), name


def _leads(way: Way, fields: dict[str, Any]) -> bool:
    """Whether one can ask for it in this way at all."""
    if way in (by_environment, by_variables_of_settings):
        return bool(as_variables(fields)) and (way is by_environment or "turn" in fields)
    if way is by_an_operation:
        return bool({"mode", "allow"} & fields.keys())
    if way is by_trusted_repository:
        return not {"mode", "model"} & fields.keys()  # never from there
    return way is not by_spec_with_its_digest


def _held(spec: SessionSpec, policy: Policy, fields: dict[str, Any]) -> bool:
    """Whether what was asked for did not come about."""
    match fields:
        case {"mode": mode}:
            return policy.mode is not mode and mode not in policy.modes
        case {"box": asked}:
            return all((getattr(spec.box, key) or number) < number for key, number in asked.items())
        case {"turn": asked}:
            return all((getattr(spec.limits, key) or number) < number for key, number in asked.items())
        case {"allow": _}:
            return all(rule.source.layer is Source.MANAGED for rule in policy.of(Decision.ALLOW))
        case {"model": model}:
            return model not in spec.model
        case _:
            return all(getattr(spec, key) != value for key, value in fields.items())
