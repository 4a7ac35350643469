"""A small world without a way out: in a network namespace of its own, it has a package index, an npm registry, a git
server and a web site, all over TLS, and one command that runs beside them.

    python -m tests.support.closed_world DIRECTORY COMMAND...

DIRECTORY: the certificate to trust is `world.pem`, what git serves lies in `git/`, what was asked for goes into
`heard`. Standard library and `cryptography` only.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import threading
import zipfile
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

from sandbox.authority import Authority
from tests.support.closed_network import own_addresses
from tests.support.git_server import backend

HOST = "10.1.2.3"
INDEX, REGISTRY, GIT, SITE = (f"https://{HOST}:{port}" for port in (8441, 8442, 8443, 8444))
PAGE = "<html><head><title>T</title></head><body><h1>A page of this world</h1><p>It is <b>small</b>.</p></body></html>"


def namespace() -> list[str]:
    """Before a command: a network namespace of its own, for the user who runs it."""
    return ["unshare", "--net", *([] if os.geteuid() == 0 else ["--user", "--map-current-user", "--keep-caps"]), "--"]


def wheel(name: str, code: str, *requires: str) -> bytes:
    """A wheel of one module, the same bytes each time."""
    info = f"{name}-1.0.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: 1.0\n"
    files = {
        f"{name}.py": code,
        f"{info}/METADATA": metadata + "".join(f"Requires-Dist: {each}\n" for each in requires),
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    rows = [f"{path},sha256={_digest(text.encode())},{len(text)}" for path, text in files.items()]
    files[f"{info}/RECORD"] = "\n".join([*rows, f"{info}/RECORD,,"]) + "\n"
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for path, text in files.items():
            archive.writestr(zipfile.ZipInfo(path), text)
    return made.getvalue()


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")


def package(name: str, code: str, **more: object) -> tuple[dict[str, object], bytes]:
    """An npm package: its document in the registry, and its tarball."""
    described = {"name": name, "version": "1.0.0", "main": "index.js", **more}
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for path, text in (("package/package.json", json.dumps(described)), ("package/index.js", code)):
            member = tarfile.TarInfo(path)
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    packed = gzip.compress(made.getvalue(), mtime=0)
    integrity = "sha512-" + base64.b64encode(hashlib.sha512(packed).digest()).decode()
    tarball = f"{REGISTRY}/{name}/-/{name}-1.0.0.tgz"
    dist = {"tarball": tarball, "integrity": integrity, "shasum": hashlib.sha1(packed).hexdigest()}
    document: dict[str, object] = {
        "name": name,
        "dist-tags": {"latest": "1.0.0"},
        "versions": {"1.0.0": {**described, "dist": dist}},
    }
    return document, packed


class Server(BaseHTTPRequestHandler):
    """Answers by `answer`; what was asked for is noted."""

    heard: ClassVar[list[str]] = []

    def answer(self, body: bytes) -> None:
        """To a request."""
        raise NotImplementedError

    def _request(self) -> None:
        Server.heard.append(f"{self.command} {self.path}")
        body = b""
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        self.answer(body or self.rfile.read(int(self.headers.get("Content-Length", 0))))

    do_GET = do_POST = do_PUT = _request  # noqa: N815 (the library's names)

    def say(self, body: bytes, kind: str, code: int = 200) -> None:
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the library's)
        return


class Index(Server):
    """PEP 503."""

    wheels: ClassVar[dict[str, bytes]] = {
        "demo_world": wheel("demo_world", "import world_part\nVALUE = world_part.VALUE + 1\n", "world-part>=1"),
        "world_part": wheel("world_part", "VALUE = 41\n"),
    }

    def answer(self, body: bytes) -> None:
        """A project's page, or a wheel."""
        _, where, name, *_ = self.path.split("/")
        if where == "simple" and (found := self.wheels.get(name.replace("-", "_"))):
            file = f"{name.replace('-', '_')}-1.0-py3-none-any.whl"
            link = f"/files/{file}#sha256={hashlib.sha256(found).hexdigest()}"
            self.say(f'<!DOCTYPE html><a href="{link}">{file}</a>'.encode(), "text/html")
        elif where == "files" and (found := self.wheels.get(name.partition("-")[0])):
            self.say(found, "application/octet-stream")
        else:
            self.say(b"no such project", "text/plain", 404)


class Registry(Server):
    """npm's."""

    packages: ClassVar[dict[str, tuple[dict[str, object], bytes]]] = {
        "demo-world": package(
            "demo-world", "module.exports = require('world-part') + 1\n", dependencies={"world-part": "^1.0.0"}
        ),
        "world-part": package("world-part", "module.exports = 41\n"),
    }

    def answer(self, body: bytes) -> None:
        """A package's document, its tarball, or that there is nothing to be warned of."""
        found = self.packages.get(self.path.split("/")[1])
        if self.command == "POST" and self.path.startswith("/-/npm/v1/security/"):
            self.say(b"{}", "application/json")
        elif found is None:
            self.say(b"{}", "application/json", 404)
        elif "/-/" in self.path:
            self.say(found[1], "application/octet-stream")
        else:
            self.say(json.dumps(found[0]).encode(), "application/json")


class Git(Server):
    """Git's own CGI program."""

    root: ClassVar[Path]

    def answer(self, body: bytes) -> None:
        """What it says."""
        code, headers, content = backend(self.root, self, body)
        self.say(content, headers["Content-Type"], code)


class Site(Server):
    """One page."""

    def answer(self, body: bytes) -> None:
        """It."""
        self.say(PAGE.encode(), "text/html; charset=utf-8")


def repository(root: Path) -> None:
    """One that anybody may fetch from and push to."""
    work, bare = root / "work", root / "tool.git"
    work.mkdir(parents=True)
    (work / "tool.py").write_text("print('a tool')\n")
    when = {"GIT_AUTHOR_DATE": "2026-01-01T00:00:00Z", "GIT_COMMITTER_DATE": "2026-01-01T00:00:00Z"}
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", "-C", str(work)]
    for words in (["init", "-q", "-b", "main"], ["add", "tool.py"], ["commit", "-q", "-m", "one"]):
        subprocess.run([*git, *words], check=True, env=os.environ | when)
    subprocess.run(["git", "clone", "-q", "--bare", str(work), str(bare)], check=True)
    subprocess.run(["git", "-C", str(bare), "config", "http.receivepack", "true"], check=True)


def main() -> int:
    """The command's exit code."""
    directory, *command = sys.argv[1:]
    own_addresses()
    Git.root = Path(directory) / "git"
    repository(Git.root)
    authority = Authority(datetime.now(UTC))
    (Path(directory) / "world.pem").write_bytes(authority.certificate)
    servers = []
    for at, kind in ((INDEX, Index), (REGISTRY, Registry), (GIT, Git), (SITE, Site)):
        server = ThreadingHTTPServer((HOST, int(at.rpartition(":")[2])), kind)
        server.socket = authority.context(HOST).wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
    done = subprocess.run(command, check=False, env=os.environ | {"SSL_CERT_FILE": f"{directory}/world.pem"})
    for server in servers:
        server.shutdown()
        server.server_close()
    (Path(directory) / "heard").write_text("\n".join(Server.heard))
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
