"""A command in the box as its caller sees it: output to iterate, input to write, one end."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import PurePosixPath
from typing import Any

from sandbox.errors import ProtocolError
from sandbox.pipe import Pipe, refusal
from sandbox.spec import Command, Exited, Output, Pty, Stderr, Stdout
from sandbox.streams import Stream
from sandbox.wire import KILLED, STDERR, PathCode


def arguments_of(command: Command) -> dict[str, Any]:
    """A Command as the server takes it."""
    arguments: dict[str, Any] = {"argv": command.argv, "cwd": str(command.cwd)}
    if command.environment:
        arguments["env"] = dict(command.environment)
    for name in ("shell", "merge", "stdin", "detach"):
        if getattr(command, name):
            arguments[name] = True
    if command.pty is not None:
        arguments["pty"] = [command.pty.rows, command.pty.columns]
    if command.timeout is not None:
        arguments |= {"timeout": command.timeout, "grace": command.grace}
    if command.capture is not None:
        capture = command.capture
        arguments["capture"] = {"inline": capture.inline, "tail": capture.tail, "limit": capture.limit}
        if capture.path is not None:
            arguments["capture"]["path"] = str(capture.path)
    return arguments


class StreamProcess:
    """A Process over a stream of the pipe."""

    def __init__(self, pipe: Pipe, stream: Stream, command: Command, pid: int) -> None:
        self.pid = pid
        self._pipe = pipe
        self._stream = stream
        self._command = command
        self._size = 0
        self._input_ended = False

    @classmethod
    async def start(cls, pipe: Pipe, command: Command) -> StreamProcess:
        """Open the stream and wait until the command runs. Raises PathError, BoxLostError."""
        stream = pipe.open("exec", arguments_of(command))
        try:
            header, _ = await stream.receive()
        except BaseException:
            stream.ignore()
            stream.tell("cancel")
            raise
        match header["t"]:
            case "started":
                return cls(pipe, stream, command, header["pid"])
            case "fail":
                where = header.get("detail", "").startswith("cwd")
                raise refusal(header, str(command.cwd) if where else command.argv[0][:200])
            case _:
                raise pipe.violated("a command that ends before it starts")

    async def __aiter__(self) -> AsyncIterator[Output]:
        """See Process."""
        stream = self._stream
        try:
            while True:
                header, payload = await stream.receive()
                match header["t"]:
                    case "data":
                        self._size += len(payload)
                        yield Stderr(data=payload) if header.get("c") == STDERR else Stdout(data=payload)
                    case "done":
                        yield self._exited(header.get("r", {}), payload)
                        return
                    case "fail" if header["code"] == PathCode.CANCELLED:
                        yield Exited(code=-9, killed="cancelled", size=self._size)
                        return
                    case "fail":
                        raise refusal(header, self._command.argv[0][:200])
                    case _:
                        raise self._pipe.violated("a command that starts twice")
        finally:
            if not stream.closed:
                stream.ignore()
                if not self._command.detach:
                    stream.tell("cancel")

    def _exited(self, result: dict[str, Any], tail: bytes) -> Exited:
        """The result, every field of which the box could have made up."""
        try:
            return exited_of(result, tail, self._size)
        except ProtocolError as error:
            raise self._pipe.violated(str(error)) from error

    async def write_stdin(self, data: bytes | None) -> None:
        """See Process."""
        if self._input_ended:
            return
        if data is None:
            self._input_ended = True
            self._stream.tell("end")
        else:
            await self._stream.send(data)

    async def resize(self, pty: Pty) -> None:
        """See Process."""
        self._stream.tell("resize", rows=pty.rows, columns=pty.columns)

    async def kill(self, signal: int = 9) -> None:
        """See Process."""
        self._stream.tell("signal", sig=signal)


def exited_of(result: dict[str, Any], tail: bytes, seen: int) -> Exited:
    """An Exited from a result off the wire. Raises ProtocolError."""
    code, killed = result.get("code"), result.get("killed", "")
    size, seconds = result.get("size", seen), result.get("seconds", 0.0)
    path, cwd = result.get("path"), result.get("cwd")
    if (
        type(code) is not int
        or not -64 <= code <= 255
        or killed not in KILLED
        or type(size) is not int
        or size < 0
        or type(seconds) not in {int, float}
        or not isinstance(path, str | None)
        or not isinstance(cwd, str | None)
    ):
        raise ProtocolError("an end that makes no sense")
    return Exited(
        code=code,
        killed=killed,
        size=size,
        tail=tail,
        path=PurePosixPath(path) if path else None,
        cwd=PurePosixPath(cwd) if cwd and cwd.startswith("/") else None,
        seconds=float(seconds),
    )


def rows_of(body: bytes, count: int) -> list[list[str]]:
    """The rows of a resolve answer. Raises ProtocolError."""
    try:
        rows = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ProtocolError("resolutions that are no JSON") from error
    if not isinstance(rows, list) or len(rows) != count:
        raise ProtocolError("resolutions that do not fit the question")
    for row in rows:
        if not isinstance(row, list) or len(row) != 4 or not all(isinstance(text, str) for text in row):
            raise ProtocolError("a resolution that makes no sense")
        if not row[3] and not (row[0].startswith("/") and row[1].startswith("/")):
            raise ProtocolError("a resolution that is no absolute path")
    return rows
