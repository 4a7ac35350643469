"""`fumehood port` over real sockets: the relay that runs in the box, a server behind it, and clients of all kinds."""

from __future__ import annotations

import asyncio
import socket
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from typing import Any

import httpx2
import pytest

from runner.errors import UsageError
from runner.serve.port import TOKEN, PortServer
from sandbox.local import LocalBox
from sandbox.server import relay
from sandbox.spec import Command, Process

LARGE = b"0123456789abcdef" * 200_000


@pytest.fixture
def inner() -> Iterator[int]:
    """The server in the box."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if self.headers.get("Upgrade"):
                self.connection.sendall(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
                while data := self.rfile.read1(100):
                    self.connection.sendall(data.upper())
                self.close_connection = True
                return
            body = LARGE if self.path == "/large" else f"{self.path} for {self.headers['Host']}".encode()
            self.answer(body)

        def do_POST(self) -> None:
            self.answer(str(len(self.rfile.read(int(self.headers["Content-Length"])))).encode())

        def answer(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    thread.join()
    server.server_close()


async def opened(inner: int, tmp_path: Path) -> AsyncIterator[PortServer]:
    async with LocalBox(tmp_path) as box:

        async def dial() -> Process:
            argv = (sys.executable, "-ISB", str(Path(relay.__file__)), str(inner))
            return await box.exec(Command(argv=argv, cwd=PurePosixPath(tmp_path), stdin=True))

        async with PortServer(dial, inner=inner) as server:
            yield server


@pytest.fixture
async def server(inner: int, tmp_path: Path) -> AsyncIterator[PortServer]:
    async for made in opened(inner, tmp_path):
        yield made


def known(server: PortServer) -> httpx2.AsyncClient:
    """A browser that has the cookie."""
    return httpx2.AsyncClient(
        base_url=f"http://127.0.0.1:{server.port}", headers={"Cookie": f"a=b; {server.cookie}={server.token}"}
    )


async def test_the_printed_address_leads_to_the_page_and_the_token_leaves_it(server: PortServer) -> None:
    async with httpx2.AsyncClient() as client:
        first = await client.get(server.address.replace("/?", "/some/page?x=1&"))
        assert first.status_code == 200
        assert first.headers["refresh"] == "0; url=/some/page?x=1"
        assert "HttpOnly" in first.headers["set-cookie"]
        page = await client.get(f"http://127.0.0.1:{server.port}/some/page?x=1")
        assert page.text == f"/some/page?x=1 for 127.0.0.1:{server.port}"


async def test_large_bodies_and_many_connections_come_whole(server: PortServer) -> None:
    async with known(server) as client:
        assert (await client.get("/large")).content == LARGE
        assert (await client.post("/", content=LARGE)).text == str(len(LARGE))
        pages = await asyncio.gather(*(client.get(f"/{number}") for number in range(30)))
        assert [page.text.split()[0] for page in pages] == [f"/{number}" for number in range(30)]


async def test_what_follows_an_upgrade_passes_as_it_is(server: PortServer) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    cookie = f"Cookie: {server.cookie}={server.token}\r\n"
    writer.write(f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n{cookie}Upgrade: x\r\n\r\n".encode())
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101")
    writer.write(b"\x00\xffabc")
    assert await reader.readexactly(5) == b"\x00\xffABC"
    writer.write_eof()
    assert await reader.read() == b""
    writer.close()


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/", {}, 403),
        (f"/?{TOKEN}=wrong", {}, 403),
        (f"/?{TOKEN}=", {}, 403),
        ("/", {"Cookie": f"{TOKEN}=wrong"}, 403),
        ("/", {"Host": "evil.example"}, 421),
        ("/", {"Host": "127.0.0.1"}, 421),
    ],
)
async def test_nobody_else_gets_in(server: PortServer, path: str, headers: dict[str, str], status: int) -> None:
    async with httpx2.AsyncClient() as client:
        reply = await client.get(f"http://127.0.0.1:{server.port}{path}", headers=headers)
    assert reply.status_code == status


async def test_a_name_that_was_made_to_point_here_gets_in_with_no_token_either(server: PortServer) -> None:
    async with known(server) as client:
        assert (await client.get("/", headers={"Host": f"rebound.example:{server.port}"})).status_code == 421


@pytest.mark.parametrize("text", [b"\x16\x03\x01\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"x" * 100_000])
async def test_what_is_no_request_ends(server: PortServer, text: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(text)
    async with asyncio.timeout(20):
        said = await reader.read()
    assert said[:12] in (b"HTTP/1.1 400", b"")
    writer.close()


async def test_where_nobody_listens_it_says_so(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        nobody = free.getsockname()[1]
    async for server in opened(nobody, tmp_path):
        async with known(server) as client:
            reply = await client.get("/")
        assert (reply.status_code, "nobody listens" in reply.text) == (502, True)


async def test_a_port_that_is_taken_is_an_error(inner: int) -> None:
    async def dial() -> Process:
        raise AssertionError

    with pytest.raises(UsageError, match=str(inner)):
        async with PortServer(dial, inner=1, at=inner):
            pass
