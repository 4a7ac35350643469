"""A provider behind TLS and proxies: whom the client trusts, and what a proxy is told."""

from __future__ import annotations

import asyncio
import datetime as dt
import ssl
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from runner.errors import (
    BrokenStreamError,
    ModelError,
    OverloadedError,
)
from runner.models.base import Finished
from tests.support.claude import KEY, REPLY, claude, play
from tests.support.model_server import ModelServer


async def test_plain_http_goes_through_a_proxy_that_is_told_the_password() -> None:
    async with ModelServer([REPLY]) as proxy:
        through = proxy.url.replace("http://", "http://me:pass@")
        async with claude("http://api.example.com", HTTP_PROXY=through) as model:
            await play(model)
        (received,) = proxy.requests
    assert received.target == "http://api.example.com/v1/messages"
    assert received.headers["host"] == "api.example.com"
    assert received.headers["proxy-authorization"] == "Basic bWU6cGFzcw=="


class Tunnel:
    """A proxy that knows CONNECT only; what it was asked is kept."""

    def __init__(self, *, refuse: bool = False) -> None:
        self.asked: list[str] = []
        self.writers: list[asyncio.StreamWriter] = []
        self.port = 0
        self.spoils: Callable[[], object] = bool
        self._refuse = refuse

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        self.asked.append((await reader.readuntil(b"\r\n\r\n")).decode())
        if self._refuse:
            writer.write(b"HTTP/1.1 407 Who are you\r\ncontent-length: 0\r\n\r\n")
            return
        port = int(self.asked[-1].split()[1].rpartition(":")[2])
        up, down = await asyncio.open_connection("127.0.0.1", port)
        self.writers.append(down)
        writer.write(b"HTTP/1.1 200 Go\r\n\r\n")
        await asyncio.gather(self.carry(reader, down), self.carry(up, writer), return_exceptions=True)

    async def carry(self, source: asyncio.StreamReader, to: asyncio.StreamWriter) -> None:
        while data := await source.read(4096):
            to.write(b"\x17\x03\x03\x00\x20" + b"?" * 32 if self.spoils() else data)
        to.close()


@asynccontextmanager
async def tunnel(*, refuse: bool = False) -> AsyncGenerator[Tunnel]:
    made = Tunnel(refuse=refuse)
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    async with server:
        yield made
        for writer in made.writers:
            writer.close()
        await asyncio.gather(*(writer.wait_closed() for writer in made.writers), return_exceptions=True)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, Path]:
    """A server's TLS context for localhost, and the certificate that vouches for it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    directory = tmp_path_factory.mktemp("tls")
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    (directory / "cert.pem").write_bytes(pem)
    (directory / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "cert.pem", directory / "key.pem")
    return context, directory / "cert.pem"


@pytest.mark.parametrize("name", ["NODE_EXTRA_CA_CERTS", "SSL_CERT_FILE"])
async def test_tls_trusts_the_authorities_that_the_environment_names(
    authority: tuple[ssl.SSLContext, Path], name: str
) -> None:
    async with ModelServer([REPLY, REPLY], tls=authority[0]) as server:
        async with claude(server, **{name: str(authority[1])}) as model:
            await model.warm()
            assert isinstance((await play(model))[-1], Finished)
            await play(model)
        assert server.connections == 1


async def test_a_certificate_that_nobody_vouches_for_is_no_overload(authority: tuple[ssl.SSLContext, Path]) -> None:
    async with ModelServer([REPLY], tls=authority[0]) as server, claude(server) as model:
        await model.warm()
        with pytest.raises(ModelError, match=r"certificate of localhost: .*NODE_EXTRA_CA_CERTS") as caught:
            await play(model)
        assert type(caught.value) is ModelError
        assert server.requests == []


async def test_https_goes_through_a_proxys_tunnel_end_to_end(authority: tuple[ssl.SSLContext, Path]) -> None:
    async with ModelServer([REPLY, REPLY], tls=authority[0]) as server, tunnel() as proxy:
        through = {"HTTPS_PROXY": f"http://me:pass@127.0.0.1:{proxy.port}", "NODE_EXTRA_CA_CERTS": str(authority[1])}
        async with claude(server, **through) as model:
            await play(model)
            assert isinstance((await play(model))[-1], Finished)
        assert server.connections == 1
        assert "proxy-authorization" not in server.requests[0].headers
    (asked,) = proxy.asked
    assert asked.startswith(f"CONNECT localhost:{server_port(server)} HTTP/1.1\r\n")
    assert "proxy-authorization: basic bwu6cgfzcw==\r\n" in asked.lower()
    assert KEY not in asked


async def test_a_tls_record_that_was_damaged_on_its_way_is_a_broken_stream(
    authority: tuple[ssl.SSLContext, Path],
) -> None:
    async with ModelServer([REPLY, REPLY], tls=authority[0]) as server, tunnel() as proxy:
        proxy.spoils = lambda: server.requests
        through = {"HTTPS_PROXY": f"http://127.0.0.1:{proxy.port}", "NODE_EXTRA_CA_CERTS": str(authority[1])}
        async with claude(server, **through) as model:
            with pytest.raises(BrokenStreamError, match="the connection broke"):
                await play(model)


def server_port(server: ModelServer) -> int:
    return int(server.requests[0].headers["host"].rpartition(":")[2])


async def test_a_proxy_that_refuses_is_named_without_its_password() -> None:
    async with tunnel(refuse=True) as proxy:
        environ = {"HTTPS_PROXY": f"http://me:secret@127.0.0.1:{proxy.port}"}
        async with claude("https://localhost:1", **environ) as model:
            with pytest.raises(OverloadedError, match="407 Who are you") as caught:
                await play(model)
    assert "secret" not in str(caught.value)
