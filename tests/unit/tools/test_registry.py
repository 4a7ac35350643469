"""Which tools a session gets, and what the model is told of them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from runner.errors import UsageError
from runner.tools.registry import Deferred, default_tools, select_tools, tool_spec
from runner.tools.schema import schema_of

SEARCH = {"kind": "searxng", "url": "https://search.example/"}
SNAPSHOTS = Path(__file__).parent / "snapshots"
DEFAULT = [
    "AskUserQuestion",
    "Bash",
    "Edit",
    "EnterPlanMode",
    "ExitPlanMode",
    "Glob",
    "Grep",
    "NotebookEdit",
    "Read",
    "TaskStop",
    "TodoWrite",
    "WebFetch",
    "Write",
]


def names(tools: tuple[Any, ...]) -> list[str]:
    return [tool.name for tool in tools]


@pytest.mark.parametrize("tool", default_tools(search=SEARCH), ids=lambda tool: tool.name)
def test_what_the_model_sees_of_a_tool_is_as_reviewed(tool: Any) -> None:
    spec = tool_spec(tool)
    seen = {"name": spec.name, "description": spec.description.split("\n"), "schema": spec.schema}
    file = SNAPSHOTS / f"{tool.name}.json"
    assert seen == json.loads(file.read_text()), f"if this is wanted, write the new text to {file}"


@pytest.mark.parametrize("tool", default_tools(search=SEARCH), ids=lambda tool: tool.name)
def test_schemas_are_plain(tool: Any) -> None:
    def check(schema: dict[str, Any]) -> None:
        assert not {"title", "$ref", "$defs", "anyOf", "default"} & schema.keys()
        if schema.get("type") == "object":
            assert schema["additionalProperties"] is False
        for inner in [*schema.get("properties", {}).values(), *([schema["items"]] if "items" in schema else [])]:
            check(inner)

    check(schema_of(tool.args))


@pytest.mark.parametrize("tool", default_tools(search=SEARCH), ids=lambda tool: tool.name)
def test_what_is_told_of_a_tool_before_it_is_imported_is_the_tools_own(tool: Deferred) -> None:
    def told(one: Any) -> list[Any]:
        return [one.name, one.asks, one.optional, one.description, one.args, schema_of(one.args)]

    assert told(tool) == told(tool.tool)
    assert tool.schema() == schema_of(tool.tool.args), "`python -m runner.tools.schema` writes the new ones"


def test_what_only_a_call_needs_is_not_imported_before_the_first_request() -> None:
    code = """
import sys
import runner.cli.drive, runner.loop.session, runner.models.anthropic
from runner.tools.registry import load, select_tools, tool_spec
tools = select_tools()
specs = [tool_spec(tool) for tool in tools]
late = {"pydantic", "pydantic_core", "runner.tools.bash", "runner.policy.words"}
assert not late & sys.modules.keys(), sorted(sys.modules)
for tool in tools:
    load(tool)
assert {"pydantic", "runner.tools.bash"} <= sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_optional_tools_are_offered_only_when_named() -> None:
    assert names(select_tools()) == DEFAULT
    assert "MultiEdit" in names(select_tools(allowed=["MultiEdit"]))
    assert names(select_tools(["default", "MultiEdit"])) == sorted([*DEFAULT, "MultiEdit"])


def test_tools_are_those_that_are_named() -> None:
    assert names(select_tools(["Read", "Bash"])) == ["Bash", "Read"]
    assert names(select_tools(["Read"], allowed=["Bash(ls *)"])) == ["Read"]
    assert select_tools("") == ()
    assert select_tools([]) == ()


def test_a_bare_name_takes_a_tool_away_and_a_rule_does_not() -> None:
    assert "Bash" not in names(select_tools(disallowed=["Bash"]))
    assert "Bash" in names(select_tools(disallowed=["Bash(rm *)"]))


def test_an_unknown_name_is_an_error() -> None:
    with pytest.raises(UsageError, match="no such tool: Nope"):
        select_tools(["Nope"])


def test_a_search_is_offered_where_settings_name_a_service() -> None:
    assert "WebSearch" in names(select_tools(search=SEARCH))
    with pytest.raises(UsageError):
        select_tools(["WebSearch"])
