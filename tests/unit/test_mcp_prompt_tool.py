"""The permission prompt tool over a real MCP server on its standard streams: only a clear allow in time is a yes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from runner.errors import UsageError
from runner.events import ApprovalAsked, ApprovalGiven
from runner.mcp.prompt_tool import MAX_REPLY, PromptTool, prompt_tool, read_answer
from runner.mcp.servers import StdioServer, find_server

pytestmark = pytest.mark.timeout(120)
SERVER = Path(__file__).resolve().parents[1] / "support" / "mcp_server.py"
ASKED = ApprovalAsked(call="c1", tool="Bash", input={"command": "git push"}, reason="it leaves the box")


def config(answers: Path) -> dict[str, Any]:
    return {"mcpServers": {"office": {"command": sys.executable, "args": [str(SERVER), str(answers)]}}}


def tool(tmp_path: Path, *lines: str, name: str = "mcp__office__decide", **environ: str) -> PromptTool:
    (tmp_path / "answers").write_text("\n".join(lines) + "\n")
    text = json.dumps(config(tmp_path / "answers"))
    return prompt_tool(name, (text,), cwd=tmp_path, home=tmp_path, environ=environ)


async def test_the_tool_is_asked_with_the_whole_call_and_its_answers_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-not-for-servers")
    allow = json.dumps({"behavior": "allow", "updatedInput": {"command": "git push"}})
    other = json.dumps({"behavior": "allow", "updatedInput": {"command": "git push --dry-run"}})
    deny = json.dumps({"behavior": "deny", "message": "not today"})
    async with tool(tmp_path, allow, other, deny, "FAIL") as office:
        given = [await office.ask(ASKED) for _ in range(4)]
    assert given[:3] == [
        ApprovalGiven(call="c1", allowed=True, by="prompt_tool"),
        ApprovalGiven(call="c1", allowed=True, by="prompt_tool", input={"command": "git push --dry-run"}),
        ApprovalGiven(call="c1", allowed=False, by="prompt_tool", reason="not today"),
    ]
    assert (given[3].allowed, given[3].by) == (False, "nobody")
    asked = [json.loads(line) for line in (tmp_path / "answers.asked").read_text().splitlines()]
    assert asked[0] == {"tool_name": "Bash", "input": ASKED.input, "tool_use_id": "c1", "secrets": []}


@pytest.mark.parametrize("line", ["HANG", "DIE"])
async def test_a_server_that_hangs_or_dies_is_a_no(tmp_path: Path, line: str) -> None:
    limit = {"MCP_TOOL_TIMEOUT": "500"} if line == "HANG" else {}
    async with tool(tmp_path, line, **limit) as office:
        given = await office.ask(ASKED)
        again = await office.ask(ASKED) if line == "DIE" else given
    assert [(each.allowed, each.by) for each in (given, again)] == [(False, "nobody")] * 2


@pytest.mark.parametrize(
    "text",
    [
        "",
        "yes",
        "[]",
        "{}",
        '{"behavior": "ALLOW"}',
        '{"behavior": true}',
        '{"behavior": "allow", "updatedInput": []}',
        "[" * 9000,
        '{"behavior": "allow", "x": "' + "y" * MAX_REPLY + '"}',
    ],
)
def test_what_is_no_clear_answer_is_a_no(text: str) -> None:
    assert read_answer(ASKED, text).allowed is False


async def test_a_server_or_tool_that_is_not_there_starts_nothing(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no tool 'other', but decide"):
        async with tool(tmp_path, name="mcp__office__other"):
            raise AssertionError
    for command in (["false"], ["/nowhere/at/all"]):
        missing = PromptTool(StdioServer(command=command[0]), "decide")
        with pytest.raises(UsageError, match="does not start"):
            async with missing:
                raise AssertionError
    for name in ("office", "mcp__office", "Bash", "mcp____x"):
        with pytest.raises(UsageError, match="mcp__SERVER__TOOL"):
            tool(tmp_path, name=name)
    with pytest.raises(UsageError, match="no MCP server 'elsewhere'"):
        tool(tmp_path, name="mcp__elsewhere__x")


def test_servers_are_named_by_the_flag_before_the_users_file_and_never_by_a_repository(tmp_path: Path) -> None:
    home, repo = tmp_path / "home", tmp_path / "repo"
    home.mkdir()
    repo.mkdir()
    (repo / ".mcp.json").write_text('{"mcpServers": {"theirs": {"command": "evil"}}}')
    (home / ".claude.json").write_text(
        '{"mcpServers": {"a": {"command": "of-the-user"}, "b": {"command": "b", "args": ["${X:-d}", "${Y}", "${Z}"]}}}'
    )
    (repo / "given.json").write_text('{"mcpServers": {"a": {"command": "of-the-flag", "env": {"K": "${Y}"}}}}')

    def find(name: str, *given: str) -> StdioServer:
        return find_server(name, given, cwd=repo, home=home, environ={"Y": "y"})

    assert find("a").command == "of-the-user"
    assert find("a", "given.json") == StdioServer(command="of-the-flag", environment={"K": "y"})
    assert find("b", "given.json").arguments == ("d", "y", "${Z}")
    with pytest.raises(UsageError, match="no MCP server 'theirs'"):
        find("theirs", "given.json")
    for bad in ("none.json", "{}", '{"mcpServers": []}'):
        with pytest.raises(UsageError, match="mcp-config"):
            find("a", bad)
    with pytest.raises(UsageError, match="only stdio"):
        find("h", '{"mcpServers": {"h": {"type": "http", "url": "http://127.0.0.1:1"}}}')
