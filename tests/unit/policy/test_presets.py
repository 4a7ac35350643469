"""The presets we ship: their examples hold, and the schema for editors is that of the models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from runner.cli import policy_files
from runner.effects import Mode
from runner.policy.documents import parse
from runner.policy.settings import check_shape

PRESETS = sorted(policy_files.PRESETS.glob("*.yaml"))


def test_the_presets_are_those_that_are_documented() -> None:
    assert [name for name, _ in policy_files.presets()] == [
        "autonomous",
        "ci",
        "enterprise-locked",
        "readonly",
        "review",
        "secrets",
    ]
    assert all(about for _, about in policy_files.presets())


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_a_preset_is_without_error_and_its_examples_hold(path: Path) -> None:
    assert policy_files.problems(path) == []
    tried, wrong = policy_files.try_examples(path)
    assert not wrong
    assert len(tried) >= 5
    assert {one.expect for one in tried} > {"deny"} or path.stem == "review"


def test_an_example_that_does_not_hold_is_found(tmp_path: Path) -> None:
    for path in PRESETS:
        text = path.read_text().replace("expect: deny", "expect: allow").replace("expect: ask", "expect: deny")
        spoiled = tmp_path / path.name
        spoiled.write_text(text)
        assert policy_files.problems(spoiled)


def test_the_schema_for_editors_is_in_step_with_the_models() -> None:
    shipped = policy_files.PRESETS / "policy.schema.json"
    assert shipped.read_text() == policy_files.schema(), (
        "write it again: fumehood policy schema > policies/policy.schema.json"
    )


def _allowed(schema: dict[str, Any], shape: dict[str, Any]) -> set[str]:
    assert shape.get("additionalProperties") is False
    for inner in shape["properties"].values():
        named = inner.get("$ref") or next((one["$ref"] for one in inner.get("anyOf", []) if "$ref" in one), None)
        if named:
            _allowed(schema, schema["$defs"][named.rpartition("/")[2]])
    return set(shape["properties"])


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_the_schema_knows_every_key_of_the_presets(path: Path) -> None:
    schema = json.loads((policy_files.PRESETS / "policy.schema.json").read_text())
    document = parse(path.read_bytes(), path.name)
    check_shape(document)
    assert document.value.keys() <= _allowed(schema, schema)


def test_the_locked_preset_locks(tmp_path: Path) -> None:
    policy = policy_files.policy_at(policy_files.PRESETS / "enterprise-locked.yaml", policy_files.HERE, Mode.DEFAULT)
    assert Mode.BYPASS not in policy.modes
    assert Mode.AUTO not in policy.modes
    assert {"allowManagedPermissionRulesOnly", "disableShell"} <= set(policy.locks)
