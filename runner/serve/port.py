"""A server in the box, seen in the user's browser: a loopback port of the host whose connections go over the pipe.

Whoever opens one must know the token, since any user of the machine reaches a loopback port: it comes once in the
address, and is kept as a cookie from there on. The first request of a connection is looked at; what follows on it is
the same client's. A request that names another host is no browser that was sent here, and is refused.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from http.cookies import CookieError, SimpleCookie
from typing import Self
from urllib.parse import parse_qsl, urlencode, urlsplit

import h11

from runner.dataclass import dataclass
from runner.errors import UsageError
from sandbox.errors import SandboxError
from sandbox.spec import Exited, Process, Stdout

HOST = "127.0.0.1"
TOKEN = "fumehood-token"  # noqa: S105 (its name)
HEAD = 64 << 10
HEAD_SECONDS = 30.0
BLOCK = 64 << 10
AT_ONCE = 64
NOBODY = 3

Dial = Callable[[], Awaitable[Process]]


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer in place of the server's. `headers`: more of them."""

    status: int
    text: str
    headers: tuple[tuple[str, str], ...] = ()

    def encoded(self) -> bytes:
        """As a whole HTTP reply, after which the connection ends."""
        body = f"{self.text}\n".encode()
        lines = [f"HTTP/1.1 {self.status} fumehood", *(f"{name}: {value}" for name, value in self.headers)]
        lines += ["Content-Type: text/plain; charset=utf-8", f"Content-Length: {len(body)}", "Connection: close"]
        return "\r\n".join([*lines, "", ""]).encode() + body


class PortServer:
    """An async context manager. `dial` opens a relay in the box to the port there. `at`: the port on the host, 0 for
    any that is free. Raises UsageError where it cannot be had.
    """

    def __init__(self, dial: Dial, *, inner: int, at: int = 0, token: str = "") -> None:
        self._dial, self._inner, self._at = dial, inner, at
        self.token = token or secrets.token_urlsafe(24)
        self._server: asyncio.Server | None = None
        self._room = asyncio.Semaphore(AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        try:
            self._server = await asyncio.start_server(self._accept, HOST, self._at, limit=HEAD)
        except OSError as error:
            raise UsageError(f"port {self._at} of this machine: {error.strerror}") from error
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    @property
    def port(self) -> int:
        """The port on the host."""
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    @property
    def address(self) -> str:
        """What the user opens."""
        return f"http://{HOST}:{self.port}/?{TOKEN}={self.token}"

    @property
    def cookie(self) -> str:
        """Its name: cookies do not tell ports apart."""
        return f"{TOKEN}-{self.port}"

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with self._room:
                async with asyncio.timeout(HEAD_SECONDS):
                    head = await reader.readuntil(b"\r\n\r\n")
                if (refusal := self._judge(head)) is not None:
                    writer.write(refusal.encoded())
                else:
                    await self._join(head, reader, writer)
                await writer.drain()
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError, OSError):
            return
        finally:
            writer.close()

    def _judge(self, head: bytes) -> Refusal | None:
        """Whether the first request of a connection may pass."""
        connection = h11.Connection(h11.SERVER)
        try:
            connection.receive_data(head)
            request = connection.next_event()
        except h11.RemoteProtocolError:
            return Refusal(400, "this is no request")
        if not isinstance(request, h11.Request):
            return Refusal(400, "this is no request")
        fields = [(name.decode(), value.decode("latin-1")) for name, value in request.headers]
        host = next((value for name, value in fields if name == "host"), "")
        if host not in (f"{HOST}:{self.port}", f"localhost:{self.port}"):
            return Refusal(421, f"{HOST}:{self.port} serves that name only")
        target = urlsplit(request.target.decode("latin-1"))
        query = parse_qsl(target.query, keep_blank_values=True)
        given = dict(query).get(TOKEN)
        if given is not None and secrets.compare_digest(given.encode(), self.token.encode()):
            rest = urlencode([pair for pair in query if pair[0] != TOKEN])
            there = (target.path or "/") + (f"?{rest}" if rest else "")
            kept = f"{self.cookie}={self.token}; Path=/; HttpOnly; SameSite=Strict"
            # a page, not a redirect: a browser that came from elsewhere sends no strict cookie along with one
            return Refusal(
                200, "", (("Set-Cookie", kept), ("Refresh", f"0; url={there if there[:2] != '//' else '/'}"))
            )
        if not any(self._knows(value) for name, value in fields if name == "cookie"):
            return Refusal(403, "open the address that `fumehood port` printed: it has a token in it")
        return None

    def _knows(self, header: str) -> bool:
        try:
            morsel = SimpleCookie(header).get(self.cookie)
        except CookieError:
            return False
        return morsel is not None and secrets.compare_digest(morsel.value.encode(), self.token.encode())

    async def _join(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            process = await self._dial()
        except SandboxError as error:
            writer.write(Refusal(502, f"the box: {error}").encoded())
            return
        feeder = asyncio.create_task(_feed(head, reader, process))
        said = False
        try:
            async for item in process:
                match item:
                    case Stdout(data=data):
                        said = True
                        writer.write(data)
                        await writer.drain()
                    case Exited(code=code) if code == NOBODY and not said:
                        writer.write(Refusal(502, f"nobody listens on port {self._inner} in the box").encoded())
                    case _:
                        pass
        except OSError:
            await process.kill()
        finally:
            feeder.cancel()
            await asyncio.gather(feeder, return_exceptions=True)


async def _feed(head: bytes, reader: asyncio.StreamReader, process: Process) -> None:
    await process.write_stdin(head)
    while data := await reader.read(BLOCK):
        await process.write_stdin(data)
    await process.write_stdin(None)
