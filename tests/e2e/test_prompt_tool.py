"""`-p` with a permission prompt tool, over a real box and a real MCP server."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.e2e.conftest import Bench, bash

pytestmark = [pytest.mark.box, pytest.mark.timeout(240)]
SERVER = Path(__file__).resolve().parents[1] / "support" / "mcp_server.py"


def test_a_prompt_tool_answers_what_would_be_asked(repository: Bench, tmp_path: Path) -> None:
    answers = tmp_path / "answers"
    answers.write_text(
        '{"behavior": "allow"}\n{"behavior": "deny", "message": "not this one"}\n'
        '{"behavior": "allow", "updatedInput": {"command": "echo changed > c"}}\n'
    )
    config = tmp_path / "servers.json"
    server = {"command": sys.executable, "args": [str(SERVER), str(answers)]}
    config.write_text(json.dumps({"mcpServers": {"office": server}}))
    model = repository.script(
        {"tools": [bash("echo one > a")]},
        {"tools": [bash("echo two > b")]},
        {"tools": [bash("echo three > c")]},
        {"tools": [bash("cat a b c")]},
        {"text": "done"},
    )
    flags = ("--permission-mode", "default", "--permission-prompt-tool", "mcp__office__decide")
    done = repository.run("-p", "go", "--model", model, *flags, "--mcp-config", str(config))
    assert done.stdout == "done\n"
    (session,) = repository.sessions()
    records = repository.records(session["session"])
    given = [record["body"] for record in records if record["type"] == "ApprovalGiven"]
    assert [(each["allowed"], each["by"], each["reason"]) for each in given][:3] == [
        (True, "prompt_tool", ""),
        (False, "prompt_tool", "not this one"),
        (True, "prompt_tool", ""),
    ]
    finished = [record["body"] for record in records if record["type"] == "ToolFinished"]
    assert [each["is_error"] for each in finished][:3] == [False, True, False]
    assert "one" in finished[3]["content"]
    assert "changed" in finished[3]["content"]
    asked = [json.loads(line) for line in Path(f"{answers}.asked").read_text().splitlines()]
    assert [each["input"]["command"] for each in asked] == ["echo one > a", "echo two > b", "echo three > c"]
