"""`--permission-prompt-tool`: a tool of an MCP server on the host answers what would be asked of the user.

It is sent `{tool_name, input, tool_use_id}` and returns text: JSON, `{"behavior": "allow", "updatedInput": {...}}`
or `{"behavior": "deny", "message": ...}`. Anything else, an error and silence are a no. The server is started at the
first question, in an empty directory, with a clean environment; its start and each call of it are judged and recorded.
"""

from __future__ import annotations

import asyncio
import json
import shlex
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from runner.effects import CallServer, Decision, Effect, RunOnHost, Source, Verdict, effect_to_json
from runner.errors import UsageError
from runner.events import ApprovalAsked, ApprovalGiven, Judged
from runner.journal import digest
from runner.mcp.servers import Server, read_servers
from runner.variables import whole

if TYPE_CHECKING:
    from runner.effects import Place
    from runner.policy.policy import Policy

TOOL = "McpServer"
BY = "prompt tool"
MCP_TIMEOUT, MCP_TOOL_TIMEOUT = 30.0, 600.0
LONGEST = 1 << 20


class Ground(Protocol):
    """Of the session's gate: the policy in force, where a call is made, and the journal."""

    @property
    def place(self) -> Place:
        """Where a call is made now."""
        ...

    @property
    def policy(self) -> Callable[[], Policy]:
        """Gives the policy in force."""
        ...

    @property
    def record(self) -> Callable[..., object]:
        """Journals a body."""
        ...


def split_name(name: str) -> tuple[str, str]:
    """Server and tool of `mcp__SERVER__TOOL`. Raises UsageError."""
    parts = name.split("__", 2)
    if len(parts) != 3 or parts[0] != "mcp" or not all(parts):
        raise UsageError(f"--permission-prompt-tool: {name!r} is not of the form mcp__SERVER__TOOL")
    return parts[1], parts[2]


def prompt_tool(name: str, configs: Sequence[str], environ: Mapping[str, str], cwd: Path) -> PromptTool:
    """The tool `mcp__SERVER__TOOL` of a server that one of `configs` describes. Raises UsageError."""
    wanted, tool = split_name(name)
    servers = read_servers(configs, environ, cwd)
    if wanted not in servers:
        raise UsageError(f"--permission-prompt-tool: no --mcp-config describes the server {wanted!r}")
    return PromptTool(servers[wanted], tool, environ)


class PromptTool:
    """An Approver. `ground` is set before the first question; `close` ends the server. Times in seconds, also by the
    variables MCP_TIMEOUT and MCP_TOOL_TIMEOUT, in milliseconds. Raises UsageError for what these cannot be.
    """

    can_ask = True

    def __init__(self, server: Server, tool: str, environ: Mapping[str, str]) -> None:
        self.server, self._tool = server, tool
        self._start_seconds = _seconds(environ, "MCP_TIMEOUT", MCP_TIMEOUT)
        self._call_seconds = _seconds(environ, "MCP_TOOL_TIMEOUT", MCP_TOOL_TIMEOUT)
        self.ground: Ground | None = None
        self._starting = asyncio.Lock()
        self._over = asyncio.Event()
        self._running: asyncio.Task[None] | None = None
        self._client: Any = None

    async def ask(self, asked: ApprovalAsked) -> ApprovalGiven:
        """The tool's answer; never raises but for cancellation."""
        sent = {"tool_name": asked.tool, "input": asked.input, "tool_use_id": asked.call}
        try:
            if why := self._judge(f"{asked.call}-prompt", self._called(), sent, cause=asked.call):
                return self._no(asked, why)
            async with self._starting:
                if why := await self._ready():
                    return self._no(asked, why)
            async with asyncio.timeout(self._call_seconds):
                result = await self._client.call_tool(self._tool, sent)
        except TimeoutError:
            return self._no(asked, f"no answer within {self._call_seconds:g} seconds")
        except Exception as error:  # noqa: BLE001 (whatever goes wrong out there, the answer is no)
            await self._end()  # the next question starts it again
            return self._no(asked, f"{type(error).__name__}: {str(error)[:300]}")
        texts = [getattr(block, "text", "") for block in result.content if block.type == "text"]
        if result.is_error:
            return self._no(asked, "it failed: " + "".join(texts)[:300])
        return self._read("".join(texts), asked)

    def answer(self, given: ApprovalGiven) -> bool:  # noqa: ARG002 (the protocol's)
        """Answers come from the tool only."""
        return False

    def expose(self, variables: Mapping[str, str]) -> None:
        """Further variables for the server's environment, before it starts."""
        if self.server.command and variables:
            self.server = replace(self.server, env={**variables, **self.server.env})

    async def close(self) -> None:
        """End the server; again is no harm."""
        self._over.set()
        if self._running is not None:
            await asyncio.wait({self._running})

    def _read(self, text: str, asked: ApprovalAsked) -> ApprovalGiven:
        try:
            said = json.loads(text) if len(text) <= LONGEST else None
        except (ValueError, RecursionError):
            said = None
        match said:
            case {"behavior": "allow", **more}:
                updated = more.get("updatedInput")
                if updated is None or updated == asked.input:
                    return ApprovalGiven(call=asked.call, allowed=True, by=BY)
                if isinstance(updated, dict):
                    return ApprovalGiven(call=asked.call, allowed=True, by=BY, input=updated)
            case {"behavior": "deny", **more}:
                return ApprovalGiven(call=asked.call, allowed=False, by=BY, reason=str(more.get("message", ""))[:2000])
        return self._no(asked, "its answer is neither allow nor deny")

    def _no(self, asked: ApprovalAsked, why: str) -> ApprovalGiven:
        name = f"mcp__{self.server.name}__{self._tool}"
        return ApprovalGiven(call=asked.call, allowed=False, by="nobody", reason=f"{name}: {why}")

    def _called(self) -> Effect:
        return CallServer(server=self.server.name, tool=self._tool, outside=True)

    def _judge(self, call: str, effect: Effect, sent: dict[str, Any], *, cause: str = "") -> str:
        """Decide and record something of the server's; why it may not be, "" where it may. The command line that
        places it allows it; a deny rule still counts.
        """
        assert self.ground is not None, "the session is not there yet"
        calls = isinstance(effect, CallServer)
        name = f"mcp__{self.server.name}__{self._tool}"
        tool = name if calls else TOOL
        found = self.ground.policy().judge((effect,), tool=name, place=self.ground.place, sent=sent)
        verdict = Verdict(
            decision=Decision.ALLOW,
            source=Source.COMMAND_LINE,
            reason="--permission-prompt-tool",
            matches=found.matches,
        )
        if any(match.decision is Decision.DENY for match in found.matches):
            verdict = found
        self.ground.record(
            Judged(
                call=call,
                tool=tool,
                digest=digest(sent),
                effects=[effect_to_json(effect)],
                verdict=verdict.to_json(),
            ),
            cause=cause or call,
        )
        return "" if verdict.decision is Decision.ALLOW else verdict.reason

    async def _ready(self) -> str:
        """Start the server where it does not run; why it cannot, "" where it does."""
        if self._running is not None and not self._running.done():
            return ""
        server = self.server
        said = shlex.join((server.command, *server.args)) if server.command else server.url
        secret = asdict(server) | {"env": sorted(server.env), "headers": sorted(server.headers)}
        if why := self._judge(f"mcp-{server.name}", RunOnHost(command=said), secret):
            return why
        started: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._running = asyncio.create_task(self._serve(started))
        try:
            async with asyncio.timeout(self._start_seconds):
                self._client = await asyncio.shield(started)
        except TimeoutError:
            await self._end()
            return f"the server was not ready within {self._start_seconds:g} seconds"
        except Exception as error:  # noqa: BLE001 (the same)
            return f"the server did not start: {error}"
        return ""

    async def _end(self) -> None:
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait({self._running})

    async def _serve(self, started: asyncio.Future[Any]) -> None:
        """The connection's whole life, in one task, as the library wants it."""
        with tempfile.TemporaryDirectory(prefix="fumehood-mcp-", ignore_cleanup_errors=True) as directory:
            errors = Path(directory) / "stderr"
            (Path(directory) / "empty").mkdir()
            try:
                async with AsyncExitStack() as stack:
                    log = stack.enter_context(errors.open("w"))
                    transport = await self._transport(Path(directory) / "empty", log, stack)
                    started.set_result(await stack.enter_async_context(import_module("mcp").Client(transport)))
                    await self._over.wait()
            except Exception as error:  # noqa: BLE001 (told to whoever asked; later questions start it again)
                if not started.done():
                    last = errors.read_text(errors="replace").strip().rpartition("\n")[2][-300:]
                    started.set_exception(UsageError(last or _first(error)))

    async def _transport(self, cwd: Path, log: Any, stack: AsyncExitStack) -> Any:
        server = self.server
        if server.url:
            http = import_module("mcp.client.streamable_http")
            client = await stack.enter_async_context(http.create_mcp_http_client(headers=dict(server.headers)))
            return http.streamable_http_client(server.url, http_client=client)
        stdio = import_module("mcp.client.stdio")
        parameters = stdio.StdioServerParameters(
            command=server.command, args=list(server.args), env=dict(server.env), cwd=cwd
        )
        return stdio.stdio_client(parameters, errlog=log)


def _first(error: BaseException) -> str:
    """What began a group of errors."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"


def _seconds(environ: Mapping[str, str], name: str, otherwise: float) -> float:
    text = environ.get(name, "").strip()
    return whole(name, text, 1) / 1000 if text else otherwise
