"""The client's end of the session socket: Access, operations and events of a session that
another process owns.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from runner.errors import SessionBusyError
from runner.events import Event, body_from_json
from runner.loop.operations import Operation, operation_to_json
from runner.sessions.access import Selection
from runner.sessions.channel import (
    CHANNEL_VERSION,
    HEADER_LIMIT,
    Channel,
    error_from_json,
    peer_uid,
    short_path,
)
from runner.sessions.lock import Lock
from sandbox.gitpack import PackError
from sandbox.hostgit import BranchError
from sandbox.reversal import UndoRefusedError
from sandbox.selection import ApplyConflictError, PlanError
from sandbox.spec import Exited, Output, Pty, Stderr, Stdout

# Only classes that are imported can be told from an exit code again (`channel.error_from_json`).
REMADE = (ApplyConflictError, UndoRefusedError, PlanError, PackError, BranchError)
CONNECT_TIMEOUT = 10.0
STARTING_PAUSE = 0.05


class Client:
    """A connection to a session's owner. Raises SessionBusyError where the owner does not answer."""

    def __init__(self, lock: Lock) -> None:
        self._lock = lock
        self._calls: dict[int, asyncio.Queue[tuple[dict[str, Any], bytes] | None]] = {}
        self._next = 0
        self._channel: Channel | None = None
        self._reader: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                while not (path := self._lock.owner().get("socket", "")) and self._lock.held():  # noqa: ASYNC110  # another process's
                    await asyncio.sleep(STARTING_PAUSE)  # it is about to listen
                with short_path(Path(path)) as address:
                    reader, writer = await asyncio.open_unix_connection(address, limit=HEADER_LIMIT)
                if peer_uid(writer.get_extra_info("socket")) != os.geteuid():
                    raise ConnectionError("another user listens there")
                self._channel = Channel(reader, writer)
                frame = await self._channel.receive()
        except (OSError, TimeoutError) as error:
            raise SessionBusyError("the session's owner does not answer; try again in a moment") from error
        if frame is None or frame[0].get("version") != CHANNEL_VERSION:
            raise SessionBusyError("the session's owner is another version of fumehood")
        self._reader = asyncio.create_task(self._read())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)
        if self._channel is not None:
            await self._channel.close()

    async def changes(self, paths: tuple[str, ...] = (), points: tuple[str, ...] = ()) -> list[dict[str, Any]]:
        """See Access."""
        found: list[dict[str, Any]] = await self._ask("changes", {"paths": paths, "points": points})
        return found

    def diff(self, paths: tuple[str, ...] = (), points: tuple[str, ...] = ()) -> AsyncIterator[bytes]:
        """See Access."""
        return self._pieces("diff", {"paths": paths, "points": points})

    def stat(self, paths: tuple[str, ...] = (), points: tuple[str, ...] = ()) -> AsyncIterator[bytes]:
        """See Access."""
        return self._pieces("stat", {"paths": paths, "points": points})

    def patch(self, selection: Selection) -> AsyncIterator[bytes]:
        """See Access."""
        return self._pieces("patch", selection.to_json())

    async def _pieces(self, name: str, arguments: dict[str, Any]) -> AsyncIterator[bytes]:
        async for header, data in self._stream(*await self._begin(name, arguments)):
            if header["kind"] == "data":
                yield data

    async def apply(self, selection: Selection) -> dict[str, Any]:
        """See Access."""
        report: dict[str, Any] = await self._ask("apply", selection.to_json())
        return report

    async def undo_apply(self) -> dict[str, Any]:
        """See Access."""
        report: dict[str, Any] = await self._ask("undo_apply", {})
        return report

    async def branch(self, name: str, message: str) -> dict[str, Any]:
        """See Access."""
        report: dict[str, Any] = await self._ask("branch", {"name": name, "message": message})
        return report

    async def hunks(self, paths: tuple[str, ...] = ()) -> list[dict[str, Any]]:
        """See Access."""
        found: list[dict[str, Any]] = await self._ask("hunks", {"paths": paths})
        return found

    async def checkpoints(self) -> dict[str, Any]:
        """See Access."""
        found: dict[str, Any] = await self._ask("checkpoints", {})
        return found

    async def travel(self, journey: dict[str, Any]) -> dict[str, Any]:
        """See Access."""
        report: dict[str, Any] = await self._ask("travel", journey)
        return report

    async def fork(self, request: dict[str, Any]) -> dict[str, Any]:
        """See Access."""
        report: dict[str, Any] = await self._ask("fork", request)
        return report

    async def show(self, checkpoint: str, path: str) -> AsyncIterator[bytes]:
        """See Access."""
        arguments = {"checkpoint": checkpoint, "path": path}
        async for header, data in self._stream(*await self._begin("show", arguments)):
            if header["kind"] == "data":
                yield data

    async def shell(self, argv: tuple[str, ...], pty: Pty | None) -> RemoteProcess:
        """See Access."""
        size = {"rows": pty.rows, "columns": pty.columns} if pty else None
        number, queue = await self._begin("shell", {"argv": argv, "pty": size})
        return RemoteProcess(self, number, queue)

    async def submit(self, operation: Operation) -> None:
        """Hand an operation to the session."""
        await self._ask("submit", operation_to_json(operation))

    async def events(self, after: int = -1) -> AsyncGenerator[Event, None]:
        """The session's events, from the owner's journal and live."""
        number, queue = await self._begin("events", {"after": after})
        try:
            async for header, _ in self._stream(number, queue):
                if header["kind"] == "item":
                    yield event_from_json(header["value"])
        finally:
            await self.send({"id": number, "kind": "cancel"})

    async def send(self, header: dict[str, Any], data: bytes = b"") -> None:
        """One frame to the owner."""
        assert self._channel is not None
        await self._channel.send(header, data)

    async def _ask(self, name: str, arguments: dict[str, Any]) -> Any:
        async for header, _ in self._stream(*await self._begin(name, arguments)):
            if header["kind"] == "done":
                return header["value"]
        return None

    async def _begin(
        self, name: str, arguments: dict[str, Any]
    ) -> tuple[int, asyncio.Queue[tuple[dict[str, Any], bytes] | None]]:
        self._next += 1
        number = self._next
        queue: asyncio.Queue[tuple[dict[str, Any], bytes] | None] = asyncio.Queue()
        self._calls[number] = queue
        await self.send({"id": number, "kind": "call", "name": name, "arguments": arguments})
        return number, queue

    async def _stream(
        self, number: int, queue: asyncio.Queue[tuple[dict[str, Any], bytes] | None]
    ) -> AsyncIterator[tuple[dict[str, Any], bytes]]:
        """Frames of one call; ends after done, raises the owner's error."""
        try:
            while True:
                frame = await queue.get()
                if frame is None:
                    raise SessionBusyError("the session's owner went away in mid-call")
                if frame[0]["kind"] == "error":
                    raise error_from_json(frame[0])
                yield frame
                if frame[0]["kind"] == "done":
                    return
        finally:
            self._calls.pop(number, None)

    async def _read(self) -> None:
        assert self._channel is not None
        try:
            while (frame := await self._channel.receive()) is not None:
                if queue := self._calls.get(frame[0].get("id", 0)):
                    queue.put_nowait(frame)
        except ConnectionError:
            pass
        finally:
            for queue in self._calls.values():
                queue.put_nowait(None)


class RemoteProcess:
    """A command in the box that the owner runs for us; fulfils `sandbox.spec.Process`."""

    pid = 0

    def __init__(self, client: Client, number: int, queue: asyncio.Queue[tuple[dict[str, Any], bytes] | None]) -> None:
        self._client = client
        self._number = number
        self._queue = queue

    async def __aiter__(self) -> AsyncIterator[Output]:
        async for header, data in self._client._stream(self._number, self._queue):  # noqa: SLF001  # one module
            if header["kind"] == "done":
                yield Exited(code=int(header["value"]["code"]), killed=str(header["value"]["killed"]))
            elif header["kind"] == "data":
                yield Stderr(data=data) if header.get("stream") == 2 else Stdout(data=data)

    async def write_stdin(self, data: bytes | None) -> None:
        """Feed standard input; None closes it."""
        await self._client.send({"id": self._number, "kind": "stdin"}, data or b"")

    async def resize(self, pty: Pty) -> None:
        """Tell the terminal its new size."""
        await self._client.send({"id": self._number, "kind": "resize", "rows": pty.rows, "columns": pty.columns})

    async def kill(self, signal: int = 9) -> None:
        """Signal the command's processes."""
        await self._client.send({"id": self._number, "kind": "kill", "signal": signal})


def event_from_json(data: dict[str, Any]) -> Event:
    """The event that `owner.event_to_json` wrote."""
    return Event(
        body=body_from_json(data["type"], data["body"]),
        **{name: data[name] for name in ("v", "seq", "id", "at", "session", "agent", "turn", "parent", "cause")},
        prev=data["prev"],
        hash=data["hash"],
    )
