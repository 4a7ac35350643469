"""The owner's end of the session socket: operations, events, and streams for clients.

Who owns a session is decided by `store.Lock`; this only listens for the one who does.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from runner.events import Event, body_to_json
from runner.loop.operations import Operation, operation_from_json
from runner.sessions.access import Access, Selection
from runner.sessions.channel import (
    CHANNEL_VERSION,
    DATA_LIMIT,
    HEADER_LIMIT,
    Channel,
    error_to_json,
    peer_uid,
    short_path,
    socket_path,
)
from runner.sessions.lock import Lock
from sandbox.spec import Exited, Process, Pty, Stderr, Stdout


class Conversation(Protocol):
    """The part of a Session that clients reach."""

    async def submit(self, operation: Operation) -> None:
        """Hand an operation in."""
        ...

    def events(self, after: int = -1) -> AsyncIterator[Event]:
        """Records after this seq, then live."""
        ...


class Owner:
    """Listens while its session lives. Leaving closes every client's connection."""

    def __init__(
        self,
        *,
        session: str,
        lock: Lock,
        home: Path,
        environ: Mapping[str, str],
        access: Access,
        talk: Conversation | None,
    ) -> None:
        self._session = session
        self._lock = lock
        self._path = socket_path(session, environ=environ, home=home)
        self._access = access
        self._talk = talk
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        with suppress(FileNotFoundError):
            self._path.unlink()
        with short_path(self._path) as address:
            self._server = await asyncio.start_unix_server(self._serve, sock=_private(address), limit=HEADER_LIMIT)
        self._lock.announce({"pid": os.getpid(), "socket": str(self._path)})
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with suppress(FileNotFoundError):
            self._path.unlink()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        channel = Channel(reader, writer)
        try:
            if peer_uid(writer.get_extra_info("socket")) == os.geteuid():
                await channel.send({"kind": "hello", "version": CHANNEL_VERSION, "session": self._session})
                await _Connection(channel, self._access, self._talk).run()
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            with suppress(ConnectionError):
                await channel.close()


class _Connection:
    """One client: requests by id, each served by a task of its own."""

    def __init__(self, channel: Channel, access: Access, talk: Conversation | None) -> None:
        self._channel = channel
        self._access = access
        self._talk = talk
        self._requests: dict[int, asyncio.Task[None]] = {}
        self._inputs: dict[int, asyncio.Queue[tuple[dict[str, Any], bytes]]] = {}

    async def run(self) -> None:
        try:
            while (frame := await self._channel.receive()) is not None:
                header, data = frame
                number = header.get("id")
                if not isinstance(number, int):
                    raise ConnectionError("a frame without an id")
                match header.get("kind"):
                    case "call":
                        self._inputs[number] = asyncio.Queue()
                        self._requests[number] = asyncio.create_task(self._answer(number, header))
                    case "cancel":
                        if task := self._requests.get(number):
                            task.cancel()
                    case _:
                        if queue := self._inputs.get(number):
                            queue.put_nowait((header, data))
        finally:
            for task in tuple(self._requests.values()):
                task.cancel()
            await asyncio.gather(*self._requests.values(), return_exceptions=True)

    async def _answer(self, number: int, header: dict[str, Any]) -> None:
        try:
            value = await self._call(number, str(header.get("name")), header.get("arguments") or {})
            await self._channel.send({"id": number, "kind": "done", "value": value})
        except ConnectionError:
            return
        except Exception as error:  # noqa: BLE001  # becomes the client's error
            with suppress(ConnectionError):
                await self._channel.send({"id": number, "kind": "error", **error_to_json(error)})
        finally:
            self._requests.pop(number, None)
            self._inputs.pop(number, None)

    async def _call(self, number: int, name: str, arguments: dict[str, Any]) -> Any:  # noqa: C901, PLR0911, PLR0912 (one row per request)
        match name:
            case "changes" | "hunks" | "apply" | "undo_apply" | "branch":
                return await self._report(name, arguments)
            case "patch":
                async for data in self._access.patch(Selection.from_json(arguments)):
                    await self._send_data(number, data)
                return None
            case "diff" | "stat":
                pieces = self._access.diff if name == "diff" else self._access.stat
                async for data in pieces(tuple(arguments["paths"]), tuple(arguments.get("points", ()))):
                    await self._send_data(number, data)
                return None
            case "checkpoints":
                return await self._access.checkpoints()
            case "travel" | "fork":
                return await (self._access.travel if name == "travel" else self._access.fork)(arguments)
            case "show":
                async for data in self._access.show(str(arguments["checkpoint"]), str(arguments["path"])):
                    await self._send_data(number, data)
                return None
            case "shell":
                pty = Pty(**arguments["pty"]) if arguments["pty"] else None
                return await self._run_shell(number, await self._access.shell(tuple(arguments["argv"]), pty))
            case "submit" if self._talk is not None:
                await self._talk.submit(operation_from_json(arguments))
                return None
            case "events" if self._talk is not None:
                async for event in self._talk.events(after=int(arguments["after"])):
                    await self._channel.send({"id": number, "kind": "item", "value": event_to_json(event)})
                return None
            case _:
                raise ValueError(name)

    async def _report(self, name: str, arguments: dict[str, Any]) -> Any:
        """The calls that answer with one JSON value."""
        match name:
            case "apply":
                return await self._access.apply(Selection.from_json(arguments))
            case "undo_apply":
                return await self._access.undo_apply()
            case "branch":
                return await self._access.branch(str(arguments["name"]), str(arguments["message"]))
            case "hunks":
                return await self._access.hunks(tuple(arguments["paths"]))
            case _:
                return await self._access.changes(tuple(arguments["paths"]), tuple(arguments.get("points", ())))

    async def _send_data(self, number: int, data: bytes) -> None:
        for start in range(0, len(data), DATA_LIMIT):
            await self._channel.send({"id": number, "kind": "data"}, data[start : start + DATA_LIMIT])

    async def _run_shell(self, number: int, process: Process) -> dict[str, Any]:
        feeder = asyncio.create_task(self._feed(number, process))
        try:
            async for item in process:
                match item:
                    case Stdout(data=data):
                        await self._channel.send({"id": number, "kind": "data", "stream": 1}, data)
                    case Stderr(data=data):
                        await self._channel.send({"id": number, "kind": "data", "stream": 2}, data)
                    case Exited():
                        return {"code": item.code, "killed": item.killed}
            return {"code": -1, "killed": "lost"}
        finally:
            feeder.cancel()

    async def _feed(self, number: int, process: Process) -> None:
        queue = self._inputs[number]
        while True:
            header, data = await queue.get()
            match header.get("kind"):
                case "stdin":
                    await process.write_stdin(data or None)
                case "resize":
                    await process.resize(Pty(rows=int(header["rows"]), columns=int(header["columns"])))
                case "kill":
                    await process.kill(int(header.get("signal", 9)))


def _private(address: str) -> socket.socket:
    """A socket at a path, this user's alone before anyone can connect. Not by umask: that is the whole process's, and
    other threads make files meanwhile.
    """
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        made.bind(address)
        Path(address).chmod(0o600)
    except BaseException:
        made.close()
        raise
    return made


def event_to_json(event: Event) -> dict[str, Any]:
    """The whole event, body and type apart, as the journal writes it."""
    body = body_to_json(event.body)
    return {
        "v": event.v,
        "seq": event.seq,
        "id": event.id,
        "at": event.at,
        "session": event.session,
        "agent": event.agent,
        "turn": event.turn,
        "parent": event.parent,
        "cause": event.cause,
        "type": event.type,
        "body": body,
        "prev": event.prev,
        "hash": event.hash,
    }
