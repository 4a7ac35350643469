"""`-p --permission-prompt-tool`: an MCP server on the host answers for the user, with a real box."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.e2e.conftest import Bench, bash
from tests.support import approving_server

pytestmark = [pytest.mark.box, pytest.mark.timeout(240)]


def test_a_tool_of_the_users_answers_what_would_be_asked(repository: Bench) -> None:
    model = repository.script(
        {"tools": [bash("touch made")]},
        {"tools": [bash("rm calc.py")]},
        {"tools": [bash("change this")]},
        {"text": "done"},
    )
    config = repository.scratch / "mcp.json"
    program = str(Path(approving_server.__file__))
    config.write_text(json.dumps({"mcpServers": {"ok": {"command": sys.executable, "args": [program]}}}))
    arguments = ("-p", "go", "--model", model, "--permission-mode", "default", "--mcp-config", str(config))

    repository.run(*arguments, "--permission-prompt-tool", "mcp__ok__approve")

    assert repository.run("diff", "--stat").stdout.split()[0] == "made"
    records = repository.records(repository.sessions()[0]["session"])
    given = [record["body"] for record in records if record["type"] == "ApprovalGiven"]
    assert [(body["allowed"], body["by"]) for body in given] == [(yes, "prompt tool") for yes in (True, False, True)]
    assert "not that" in given[1]["reason"]
    outputs = [record["body"]["content"] for record in records if record["type"] == "ToolFinished"]
    assert "instead" in json.dumps(outputs[2])
    servers = [record["body"] for record in records if record["body"].get("tool") == "McpServer"]
    assert [body["verdict"]["source"] for body in servers] == ["command_line"]

    none = repository.run(*arguments, "--permission-prompt-tool", "mcp__other__approve", check=None)
    assert none.returncode == 2
    assert "'other'" in none.stderr
