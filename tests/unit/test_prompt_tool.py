"""`--permission-prompt-tool` over real MCP servers: only a well-formed yes is a yes, and deny rules stand above it."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from runner.effects import Decision, Mode, Place, RuleSource, Source
from runner.errors import LockedError, UsageError
from runner.events import ApprovalAsked, ApprovalGiven, Judged
from runner.mcp.prompt_tool import PromptTool, prompt_tool
from runner.mcp.servers import check_servers, read_servers
from runner.policy.policy import Policy
from runner.policy.rules import Rule, parse_rule
from tests.support import approving_server
from tests.support.policies import joined, loaded

PROGRAM = Path(approving_server.__file__)
PLACE = Place(cwd=PurePosixPath("/repo"), home=PurePosixPath("/home/box"), roots=(PurePosixPath("/repo"),))


@dataclass
class Ground:
    rules: tuple[Rule, ...] = ()
    said: list[Judged] = field(default_factory=list)
    place: Place = PLACE

    def policy(self) -> Policy:
        return Policy(mode=Mode.DEFAULT, rules=self.rules)

    def record(self, body: Judged, **_: Any) -> None:
        self.said.append(body)


def config(*more: str, name: str = "ok", **entry: Any) -> str:
    entry = entry or {"command": sys.executable, "args": [str(PROGRAM), *more]}
    return json.dumps({"mcpServers": {name: entry}})


@asynccontextmanager
async def asking(
    *configs: str,
    ground: Ground | None = None,
    environ: Mapping[str, str] | None = None,
    name: str = "mcp__ok__approve",
) -> AsyncIterator[PromptTool]:
    tool = prompt_tool(name, configs or (config(),), environ or {}, Path.cwd())
    tool.ground = ground or Ground()
    try:
        yield tool
    finally:
        await tool.close()


def asked(command: str, call: str = "c1") -> ApprovalAsked:
    return ApprovalAsked(call=call, tool="Bash", input={"command": command}, reason="mode")


async def test_its_answer_is_the_answer() -> None:
    ground = Ground()
    async with asking(ground=ground) as tool:
        assert await tool.ask(asked("ls")) == ApprovalGiven(call="c1", allowed=True, by="prompt tool")
        no = await tool.ask(asked("rm x", "c2"))
        assert (no.allowed, no.reason) == (False, "Bash c2: not that")
        changed = await tool.ask(asked("change"))
        assert changed.allowed
        assert changed.input == {"command": "echo instead"}
        both = await asyncio.gather(tool.ask(asked("ls", "c3")), tool.ask(asked("rm", "c4")))
        assert [each.allowed for each in both] == [True, False]
    assert [(body.call, body.tool) for body in ground.said[:2]] == [
        ("c1-prompt", "mcp__ok__approve"),
        ("mcp-ok", "McpServer"),
    ]
    assert [body.call for body in ground.said].count("mcp-ok") == 1
    assert {body.verdict["source"] for body in ground.said} == {"command_line"}


@pytest.mark.parametrize("command", ["garbage", "fail"])
async def test_whatever_is_no_answer_is_a_no(command: str) -> None:
    async with asking() as tool:
        given = await tool.ask(asked(command))
        assert (given.allowed, given.by) == (False, "nobody")
        assert "mcp__ok__approve" in given.reason
        assert (await tool.ask(asked("ls"))).allowed


async def test_silence_is_a_no() -> None:
    async with asking(environ={"MCP_TOOL_TIMEOUT": "300"}) as tool:
        await tool._ready()
        given = await tool.ask(asked("sleep"))
    assert not given.allowed
    assert "no answer within 0.3 seconds" in given.reason


@pytest.mark.parametrize("name", ["MCP_TIMEOUT", "MCP_TOOL_TIMEOUT"])
@pytest.mark.parametrize("text", ["soon", "0", "²", "9" * 5000])
def test_a_time_that_is_none_is_an_error(name: str, text: str) -> None:
    with pytest.raises(UsageError, match=f"^{name} is"):
        prompt_tool("mcp__ok__approve", (config(),), {name: text}, Path.cwd())


async def test_a_server_that_dies_is_a_no_and_is_started_again_for_the_next() -> None:
    async with asking() as tool:
        assert not (await tool.ask(asked("die"))).allowed
        answers = [await tool.ask(asked("ls")) for _ in range(2)]
        assert answers[-1].allowed


async def test_a_server_that_does_not_start_says_why() -> None:
    async with asking(config("broken")) as tool:
        given = await tool.ask(asked("ls"))
    assert not given.allowed
    assert "no licence for this server" in given.reason
    async with asking(config(command="/no/such/program")) as tool:
        given = await tool.ask(asked("ls"))
    assert not given.allowed
    assert "did not start" in given.reason


async def test_it_runs_in_an_empty_directory_without_the_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-secret")
    entry: dict[str, Any] = {
        "command": sys.executable,
        "args": [str(PROGRAM)],
        "env": {"TOKEN": "${MINE}", "MORE": "${NO:-more}"},
    }
    async with asking(config(**entry), environ={"MINE": "x"}) as tool:
        assert not await tool._ready()
        seen = json.loads((await tool._client.call_tool("where", {})).content[0].text)
    assert Path(seen["cwd"]).name == "empty"
    assert "ANTHROPIC_API_KEY" not in seen["names"]
    assert {"TOKEN", "MORE", "PATH"} <= set(seen["names"])


@pytest.mark.parametrize("text", ["mcp__ok", "mcp__ok__approve", "mcp__*"])
async def test_a_deny_rule_stands_above_it(text: str) -> None:
    rule = parse_rule(text, Decision.DENY, RuleSource(layer=Source.MANAGED), PLACE)
    ground = Ground(rules=(rule,))
    async with asking(ground=ground) as tool:
        given = await tool.ask(asked("ls"))
        assert not given.allowed
        assert tool._running is None
    assert [body.verdict["decision"] for body in ground.said] == ["deny"]


async def test_over_http_too() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(PROGRAM), "http", str(port), stderr=asyncio.subprocess.DEVNULL
    )
    try:
        await until_open(port)
        address = config(type="http", url=f"http://127.0.0.1:{port}/mcp", headers={"Authorization": "Bearer ${KEY}"})
        async with asking(address, environ={"KEY": "k"}) as tool:
            assert (await tool.ask(asked("ls"))).allowed
            assert not (await tool.ask(asked("rm"))).allowed
    finally:
        process.terminate()
        await process.wait()


async def until_open(port: int) -> None:
    for _ in range(1_000):
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.05)
        else:
            writer.close()
            await writer.wait_closed()
            return
    raise AssertionError("the server did not open its port")


@pytest.mark.parametrize("name", ["approve", "mcp__ok", "mcp____x", "mcp__other__approve", "stdio"])
def test_a_name_that_leads_nowhere_is_an_error(name: str) -> None:
    with pytest.raises(UsageError):
        prompt_tool(name, (config(),), {}, Path.cwd())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]" * 3,
        "{}",
        '{"mcpServers": []}',
        '{"mcpServers": {"a b": {"command": "x"}}}',
        '{"mcpServers": {"a": "x"}}',
        '{"mcpServers": {"a": {}}}',
        '{"mcpServers": {"a": {"command": ["x"]}}}',
        '{"mcpServers": {"a": {"command": "x", "args": "y"}}}',
        '{"mcpServers": {"a": {"command": "x", "env": {"A": 1}}}}',
        '{"mcpServers": {"a": {"command": "${NOT_THERE}"}}}',
        '{"mcpServers": {"a": {"type": "sse", "url": "http://x"}}}',
        '{"mcpServers": {"a": {"url": "file:///etc/passwd"}}}',
        "{" * 100_000,
        "/no/such/file",
    ],
)
def test_a_broken_description_is_an_error(text: str) -> None:
    with pytest.raises(UsageError):
        read_servers((text,), {}, Path.cwd())


@pytest.mark.parametrize(
    ("layer", "value"),
    [
        (Source.MANAGED, {"allowManagedMcpServersOnly": True}),
        (Source.MANAGED, {"disableSideloadFlags": True}),
        (Source.MANAGED, {"allowedMcpServers": []}),
        (Source.USER, {"allowedMcpServers": [{"serverName": "other"}]}),
        (Source.PROJECT, {"deniedMcpServers": [{"serverName": "ok"}]}),
        (Source.MANAGED, {"deniedMcpServers": "everything"}),
        (Source.MANAGED, {"deniedMcpServers": [{"serverCommand": [sys.executable, str(PROGRAM)]}]}),
    ],
)
def test_settings_can_forbid_it(layer: Source, value: Mapping[str, Any]) -> None:
    servers = tuple(read_servers((config(),), {}, Path.cwd()).values())
    with pytest.raises(LockedError):
        check_servers(servers, joined(loaded(layer, value)))
    check_servers(servers, joined(loaded(layer, {"allowedMcpServers": [{"serverName": "ok"}]})))
