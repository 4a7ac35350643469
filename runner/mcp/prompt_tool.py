"""`--permission-prompt-tool mcp__SERVER__TOOL`: an MCP tool answers what has to be asked.

The tool is given `{tool_name, input, tool_use_id}`. Its first text is JSON: `{behavior: "allow", updatedInput?}` or
`{behavior: "deny", message?}`. Anything else, and no answer in time, is a no.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Self

from mcp.client.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp_types import TextContent

from runner.errors import UsageError
from runner.events import ApprovalAsked, ApprovalGiven
from runner.mcp.servers import StdioServer, find_server

MAX_REPLY = 1 << 20
START_SECONDS = 30.0
ANSWER_SECONDS = 600.0


class PromptTool:
    """An Approver while it is entered: then the server runs, with this user's rights, in `/`. `deadline` in seconds,
    for each question.
    """

    can_ask = True

    def __init__(self, server: StdioServer, tool: str, *, deadline: float = ANSWER_SECONDS) -> None:
        self._server, self._tool, self._deadline = server, tool, deadline
        self._stop = asyncio.Event()
        self._ready: asyncio.Future[Client] | None = None
        self._life: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Start the server. Raises UsageError where it does not start, or has no such tool."""
        self._ready = asyncio.get_running_loop().create_future()
        self._life = asyncio.create_task(self._live(self._ready), name="permission prompt tool")
        try:
            async with asyncio.timeout(START_SECONDS):
                await self._ready
        except TimeoutError as error:
            await self.__aexit__()
            raise UsageError("the server of --permission-prompt-tool does not answer") from error
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop.set()
        if self._life is not None:
            await asyncio.gather(self._life, return_exceptions=True)

    async def _live(self, ready: asyncio.Future[Client]) -> None:
        """The connection is opened and closed by one task, as its library wants it."""
        parameters = StdioServerParameters(
            command=self._server.command,
            args=list(self._server.arguments),
            env=dict(self._server.environment),
            cwd="/",
        )
        try:
            with open(os.devnull, "w") as nowhere:  # noqa: ASYNC230, PTH123 (nothing is written or waited for)
                async with Client(stdio_client(parameters, errlog=nowhere)) as client:
                    names = [tool.name for tool in (await client.list_tools()).tools]
                    if self._tool in names:
                        ready.set_result(client)
                        await self._stop.wait()
                    else:
                        known = ", ".join(names) or "none"
                        ready.set_exception(UsageError(f"the MCP server has no tool {self._tool!r}, but {known}"))
        except (Exception, BaseExceptionGroup) as error:  # noqa: BLE001 (whatever a server does, nobody answers then)
            if not ready.done():
                ready.set_exception(UsageError(f"the server of --permission-prompt-tool does not start: {error}"))

    async def ask(self, asked: ApprovalAsked) -> ApprovalGiven:
        """The answer; never raises but for cancellation."""
        assert self._ready is not None
        assert self._life is not None
        sent = {"tool_name": asked.tool, "input": asked.input, "tool_use_id": asked.call}
        try:
            async with asyncio.timeout(self._deadline):
                reply = asyncio.ensure_future((await self._ready).call_tool(self._tool, sent))
                await asyncio.wait({reply, self._life}, return_when=asyncio.FIRST_COMPLETED)
                if not reply.done():
                    reply.cancel()
                    with suppress(asyncio.CancelledError):
                        await reply
                    return _no(asked, "its server has ended")
                result = await reply
        except TimeoutError:
            return _no(asked, f"no answer within {self._deadline:g} seconds")
        except Exception as error:  # noqa: BLE001 (whatever goes wrong out there, the answer is no)
            return _no(asked, f"{type(error).__name__}: {error}"[:500])
        text = next((block.text for block in result.content if isinstance(block, TextContent)), "")
        return _no(asked, text[:500]) if result.is_error else read_answer(asked, text)

    def answer(self, given: ApprovalGiven) -> bool:  # noqa: ARG002 (the protocol's)
        """Answers come from the tool only."""
        return False


def read_answer(asked: ApprovalAsked, text: str) -> ApprovalGiven:
    """The tool's text as an answer."""
    try:
        body = json.loads(text) if len(text) <= MAX_REPLY else None
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict) or body.get("behavior") not in ("allow", "deny"):
        return _no(asked, "its answer is neither allow nor deny")
    if body["behavior"] == "deny":
        message = str(body.get("message", ""))[:500]
        return ApprovalGiven(call=asked.call, allowed=False, by="prompt_tool", reason=message)
    updated = body.get("updatedInput")
    if updated is not None and not isinstance(updated, dict):
        return _no(asked, "its updatedInput is no object")
    changed = updated if updated is not None and updated != asked.input else None
    return ApprovalGiven(call=asked.call, allowed=True, by="prompt_tool", input=changed)


def _no(asked: ApprovalAsked, why: str) -> ApprovalGiven:
    return ApprovalGiven(call=asked.call, allowed=False, by="nobody", reason=f"the permission prompt tool: {why}")


def prompt_tool(
    name: str, configs: tuple[str, ...], *, cwd: Path, home: Path, environ: Mapping[str, str]
) -> PromptTool:
    """The tool that a flag names; `configs`: what `--mcp-config` gave. Raises UsageError, SettingsError."""
    prefix, _, rest = name.partition("__")
    server, _, tool = rest.partition("__")
    if prefix != "mcp" or not server or not tool:
        raise UsageError(f"--permission-prompt-tool wants mcp__SERVER__TOOL, not {name!r}")
    limit = environ.get("MCP_TOOL_TIMEOUT", "")
    deadline = int(limit) / 1000 if limit.isdecimal() and int(limit) > 0 else ANSWER_SECONDS
    found = find_server(server, configs, cwd=cwd, home=home, environ=environ)
    return PromptTool(found, tool, deadline=deadline)
