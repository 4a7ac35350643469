"""A company's proxy, as sites have them: CONNECT and requests in absolute form, with a login or not, names resolved by
a table of its own.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field


@dataclass(kw_only=True)
class CompanyProxy:
    """`names` leads host names to ports of this machine; `login`: what Proxy-Authorization has to be."""

    names: Mapping[str, int]
    login: str = ""
    port: int = 0
    heard: list[str] = field(default_factory=list)
    running: set[asyncio.Task[None]] = field(default_factory=set)

    def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""

        async def serve() -> None:
            try:
                with suppress(ConnectionError, asyncio.IncompleteReadError):
                    await self._serve(reader, writer)
            finally:
                writer.transport.abort()

        self.running.add(asyncio.create_task(serve()))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        line, *headers = head.splitlines()
        self.heard.append(line)
        method, target, _ = line.split(" ")
        if self.login and f"Proxy-Authorization: {self.login}" not in headers:
            writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
            await reader.read()
            return
        host = target.removeprefix("http://").partition("/")[0].partition(":")[0]
        if host not in self.names:
            writer.write(b"HTTP/1.1 502 No Such Name\r\nContent-Length: 0\r\n\r\n")
            await reader.read()
            return
        there, out = await asyncio.open_connection("127.0.0.1", self.names[host])
        if method == "CONNECT":
            writer.write(b"HTTP/1.1 200 Connection established\r\nX-Proxy: ours\r\n\r\n")
        else:
            path = "/" + target.removeprefix("http://").partition("/")[2]
            kept = [header for header in headers if not header.startswith("Proxy-")]
            out.write("\r\n".join([f"{method} {path} HTTP/1.1", *kept, ""]).encode("latin-1"))
        try:
            await asyncio.gather(_pump(reader, out), _pump(there, writer))
        finally:
            out.transport.abort()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError, OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
        else:
            writer.close()


@asynccontextmanager
async def company_proxy(
    names: Mapping[str, int], *, login: str = "", secure: ssl.SSLContext | None = None
) -> AsyncIterator[CompanyProxy]:
    """It listens on 127.0.0.1."""
    made = CompanyProxy(names=names, login=login)
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0, ssl=secure)
    made.port = int(server.sockets[0].getsockname()[1])
    try:
        yield made
    finally:
        server.close()
        for task in made.running:
            task.cancel()
        await asyncio.gather(*made.running, return_exceptions=True)
