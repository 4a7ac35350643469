"""Variables of the environment that tune tools and loop: from where they are set to where they count."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath

import pytest

from runner.errors import UsageError
from runner.policy.environment import MEANINGS, passes
from runner.rig import Rig
from runner.sessions.store import Store
from runner.spec import SessionSpec
from runner.variables import COUNTS, SWITCHES, count, says
from tests.support.machine import Machine

HUGE = str(1 << 40)
MOST = str((1 << 31) - 1)
TABLE = [
    ("BASH_DEFAULT_TIMEOUT_MS", " 7000 ", "7000"),
    ("BASH_MAX_TIMEOUT_MS", HUGE, MOST),
    ("BASH_MAX_OUTPUT_LENGTH", "999999", "150000"),
    ("CLAUDE_CODE_FILE_READ_MAX_OUTPUT_TOKENS", "0100", "100"),
    ("CLAUDE_CODE_GLOB_TIMEOUT_SECONDS", "1", "1"),
    ("CLAUDE_CODE_MAX_TOOL_USE_CONCURRENCY", "1", "1"),
    ("CLAUDE_CODE_MAX_WEB_SEARCHES_PER_SESSION", "0", "0"),
    ("CLAUDE_CODE_SESSIONEND_HOOKS_TIMEOUT_MS", "5000", "5000"),
    ("CLAUDE_CODE_STOP_HOOK_BLOCK_CAP", "2", "2"),
    ("CLAUDE_CODE_WEBFETCH_CACHE_TTL_MS", "0", "0"),
    ("CLAUDE_BASH_MAINTAIN_PROJECT_WORKING_DIR", "Yes", "1"),
    ("CLAUDE_CODE_DISABLE_CLAUDE_MDS", "on", "1"),
    ("CLAUDE_CODE_DISABLE_GIT_INSTRUCTIONS", "true", "1"),
    ("CLAUDE_CODE_GLOB_HIDDEN", "off", "0"),
    ("CLAUDE_CODE_GLOB_NO_IGNORE", "False", "0"),
]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_the_table_below_is_the_whole_one_and_nothing_of_it_passes_into_the_box() -> None:
    names = {name for name, *_ in TABLE}
    assert names == COUNTS.keys() | SWITCHES
    assert names <= MEANINGS.keys()
    assert not any(passes(name) for name in names)


@pytest.mark.parametrize(("name", "text", "kept"), TABLE)
def test_each_comes_from_the_environment_or_settings_never_from_a_repository(
    machine: Machine, name: str, text: str, kept: str
) -> None:
    machine.repository({"env": {name: text}})
    machine.trust()
    assert machine.spec().variables == {}
    machine.environ[name] = "1"
    assert machine.spec().variables == {name: "1"}
    machine.user({"env": {name: text}})
    spec = machine.spec()
    assert spec.variables == {name: kept}
    assert spec.environment == ()
    assert SessionSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


@pytest.mark.parametrize("name", [name for name, *_ in TABLE] + ["CLAUDE_CODE_MAX_TURNS", "MAX_THINKING_TOKENS"])
@pytest.mark.parametrize("text", ["many", "-1", "1.5", "٣", "9" * 5000])
def test_what_is_malformed_starts_nothing_and_is_named(machine: Machine, name: str, text: str) -> None:
    machine.environ[name] = text
    with pytest.raises(UsageError, match=f"^{name} is"):
        machine.spec()


@pytest.mark.parametrize(("name", "least"), [(name, least) for name, (least, _) in COUNTS.items() if least])
def test_what_is_too_little_starts_nothing(machine: Machine, name: str, least: int) -> None:
    machine.environ[name] = str(least - 1)
    with pytest.raises(UsageError, match=f"^{name} is '0'; it takes a whole number, 1 or more"):
        machine.spec()


def test_a_session_keeps_them_and_what_is_set_when_it_goes_on_counts_more(machine: Machine) -> None:
    machine.environ |= {"BASH_MAX_TIMEOUT_MS": "9000", "CLAUDE_CODE_GLOB_HIDDEN": "0"}
    stored = machine.stored()
    del machine.environ["CLAUDE_CODE_GLOB_HIDDEN"]
    machine.environ |= {"BASH_MAX_TIMEOUT_MS": "8000", "CLAUDE_CODE_MAX_TURNS": "3"}
    spec = machine.resume(stored)
    assert spec.variables == {"BASH_MAX_TIMEOUT_MS": "8000", "CLAUDE_CODE_GLOB_HIDDEN": "0"}
    assert (spec.limits.max_turns, machine.resume(stored, turn={"max_turns": 2}).limits.max_turns) == (3, 2)


def test_a_spec_of_before_has_none_and_one_made_by_hand_does_no_harm(machine: Machine) -> None:
    old = machine.spec().to_json()
    del old["variables"]
    assert SessionSpec.from_json(old).variables == {}
    by_hand = SessionSpec.from_json(old | {"variables": {"BASH_MAX_TIMEOUT_MS": -4, "CLAUDE_CODE_GLOB_HIDDEN": "?"}})
    assert count(by_hand.variables, "BASH_MAX_TIMEOUT_MS", 5) == 5
    assert says(by_hand.variables, "CLAUDE_CODE_GLOB_HIDDEN", default=True)
    with pytest.raises(ValueError, match="session spec"):
        SessionSpec.from_json(old | {"variables": 3})


async def test_a_session_hands_them_to_its_tools_and_its_commands_know_where_they_are(
    machine: Machine, tmp_path: Path
) -> None:
    script = tmp_path / "script.yaml"
    script.write_text("replies: [{text: ok}]")
    machine.environ |= {"BASH_MAX_TIMEOUT_MS": "9000", "CLAUDE_CODE_DISABLE_CLAUDE_MDS": "1"}
    spec = machine.stored(model=f"scripted:{script}")
    store = Store(machine.state)
    with store.lock(spec.session) as lock:
        rig = Rig(machine.enforced(spec), store, lock, lambda _line: None)
        made = rig._environment()
        session = rig._session(None, None)
        assert session.gate.environment == spec.variables
        assert not rig._context().instructions
        assert rig._context().git
        await rig.close()
    assert made["CLAUDE_CODE_SESSION_ID"] == spec.session
    assert PurePosixPath(made["CLAUDE_PROJECT_DIR"]) == PurePosixPath(spec.roots[0].at)
