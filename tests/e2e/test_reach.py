"""What a session reaches, and with whose keys: private git servers, registries, a company's proxy, everyday tools. All
servers are on the loopback interface of this machine.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import json
import re
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from sandbox.authority import Authority
from sandbox.injection import PLACEHOLDER
from tests.e2e.conftest import Bench, bash
from tests.support.company_proxy import CompanyProxy, company_proxy
from tests.support.everyday import mirror, tools
from tests.support.git_server import git_server

pytestmark = [pytest.mark.box, pytest.mark.network, pytest.mark.timeout(240)]
KEY = "s3cret-key-of-ours-0123456789"
DIRECT = "unset no_proxy NO_PROXY; "
WORKED = re.compile(  # what only a whole package can show
    r"tiny-1\.0-py3|from the mirror|^node_modules/tiny/package\.json|/tiny-1\.0\.0/Cargo\.toml$|tiny@v1\.0\.0/tiny\.go$"
    r"|^/tmp/a/tiny_1\.0_all\.deb$",
    re.MULTILINE,
)
OPTIONAL = frozenset({"wget", "requests", "httpx2", "uv", "npm", "cargo", "go", "apt", "node fetch", "node https"})


def settings(bench: Bench, text: str) -> None:
    path = Path(bench.environ["HOME"]) / ".config/fumehood/settings.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(text)


def outputs(bench: Bench, session: str) -> list[str]:
    return [str(r["body"]["content"]) for r in bench.records(session) if r["type"] == "ToolFinished"]


class Site(SimpleHTTPRequestHandler):
    """Files of a directory (JSON where a name does not say), and no word on standard error."""

    protocol_version = "HTTP/1.1"
    extensions_map = SimpleHTTPRequestHandler.extensions_map | {"": "application/json"}

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the library's)
        return


@contextmanager
def site(directory: Path, secure: ssl.SSLContext | None = None) -> Iterator[int]:
    """A directory that is served, by TLS where there is a context for it; the port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Site, directory=str(directory)))
    if secure is not None:
        server.socket = secure.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def proxied(names: dict[str, int]) -> Iterator[CompanyProxy]:
    """A company's proxy in a thread of its own."""
    ready, loop = threading.Event(), asyncio.new_event_loop()
    found: list[CompanyProxy] = []
    end = asyncio.Event()

    async def serve() -> None:
        async with company_proxy(names) as proxy:
            found.append(proxy)
            ready.set()
            await end.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    ready.wait(20)
    try:
        yield found[0]
    finally:
        loop.call_soon_threadsafe(end.set)
        thread.join()
        loop.close()


def kept(bench: Bench, session: str) -> list[Path]:
    """Every file that is kept of a session and of its containers' definitions."""
    top = Path(bench.environ["FUMEHOOD_HOME"]) / "sessions" / session
    return [path for path in top.rglob("*") if path.is_file()]


def test_a_private_repository_is_cloned_with_a_key_that_the_box_never_has(repository: Bench, tmp_path: Path) -> None:
    """Whether it brings a placeholder for a login, or nothing; a push is not what the key is for."""
    authority = Authority(datetime.now(UTC))
    (tmp_path / "site.pem").write_bytes(authority.certificate)
    top = tmp_path / "served"
    subprocess.run(["git", "clone", "-q", "--bare", str(repository.place), str(top / "private.git")], check=True)
    with git_server(top, authority.context("127.0.0.1"), f"user:{KEY}") as (where, heard):
        settings(
            repository,
            f"network:\n  allow: ['git:fetch https://{where}']\n"
            f"credentials:\n  - hosts: ['git:fetch https://{where}']\n    command: [cat, {tmp_path / 'key'}]\n"
            "    basic: user\n    pin: true\n",
        )
        (tmp_path / "key").write_text(f"{KEY}\n")
        push = "git -C /tmp/one -c user.name=t -c user.email=t@x commit -q --allow-empty -m two && git -C /tmp/one push"
        model = repository.script(
            {"tools": [bash(f"{DIRECT} git clone -q https://{where}/private.git /tmp/one && cat /tmp/one/calc.py")]},
            {
                "tools": [
                    bash(f"{DIRECT} git clone -q https://me:{PLACEHOLDER}@{where}/private.git /tmp/two; ls /tmp/two")
                ]
            },
            {"tools": [bash(f"{DIRECT} git clone -q https://me:somebody-elses@{where}/private.git /tmp/three")]},
            {
                "tools": [
                    bash(f"{DIRECT} {push} 2>&1; grep -rsl {KEY[:6]}[-]key /tmp /home/box /run /proc/*/environ; true")
                ]
            },
            {"text": "done"},
        )
        repository.run("-p", "go", "--model", model, SSL_CERT_FILE=str(tmp_path / "site.pem"))
    session = repository.sessions()[0]["session"]
    cloned, again, _other, pushed = outputs(repository, session)
    assert "def add" in cloned
    assert "calc.py" in again
    assert "403" in pushed
    assert "/home/box" not in pushed
    assert "/proc/" not in pushed
    assert not [line for line in heard if "receive-pack" in line]
    assert [path for path in kept(repository, session) if KEY.encode() in path.read_bytes()] == []
    rows = json.loads(repository.run("net", "log", "--json").stdout)
    assert {row["decision"] for row in rows if "upload-pack" in row["request"]} == {"allow"}
    assert [row["would_allow"] for row in rows if "receive-pack" in row["request"]] == [f"git:push https://{where}"]


def test_a_limit_is_told_in_the_box_and_in_the_log_and_counts_on_when_a_session_goes_on(
    repository: Bench, tmp_path: Path
) -> None:
    settings(repository, "network: {limits: {perHost: {down: 3000}}}\n")
    (tmp_path / "served").mkdir()
    (tmp_path / "served/file").write_bytes(b"x" * 2000)
    with site(tmp_path / "served") as port:
        where = f"127.0.0.1:{port}"
        fetch = bash(f"{DIRECT} curl -sS -w '%{{http_code}}' http://{where}/file")
        for number in range(2):
            model = repository.script({"tools": [fetch]}, {"text": "done"})
            going_on = ("--resume", repository.sessions()[0]["session"]) if number else ()
            repository.run("-p", "go", "--model", model, "--allow-host", where, *going_on)
    first, second = outputs(repository, repository.sessions()[0]["session"])
    assert first.endswith("200")
    limit = "the limit network.limits.perHost.down of 3000 is reached"
    assert f"fumehood: {limit}" in second
    assert second.endswith("403")
    assert limit in repository.run("net", "log", "--denied").stdout


def test_what_is_exposed_enters_the_one_command_and_nothing_else(repository: Bench) -> None:
    """Nor does any file hold it: of the box, of what is kept of the session, of the engine's containers."""
    settings(repository, "expose:\n  - {env: PUBLISH_WORD, command: 'sh publish.sh'}\n")
    (repository.place / "publish.sh").write_text('printf "%s" "$PUBLISH_WORD" | sha256sum; echo "got $PUBLISH_WORD"\n')
    search = (
        f"grep -asl {KEY[:6]}[-]key /proc/*/environ /proc/*/cmdline; grep -rsl {KEY[:6]}[-]key /run /tmp /home/box; env"
    )
    model = repository.script(
        {"tools": [bash(f"cd {repository.at} && echo here")]},
        {"tools": [bash("sh publish.sh")]},
        {"tools": [bash("sh publish.sh; env | grep -c PUBLISH")]},
        {"tools": [bash(search)]},
        {"text": "done"},
    )
    repository.run("-p", "go", "--model", model, PUBLISH_WORD=KEY)
    session = repository.sessions()[0]["session"]
    _, published, more, searched = outputs(repository, session)
    assert hashlib.sha256(KEY.encode()).hexdigest() in published
    assert "got [secret:PUBLISH_WORD]" in published
    assert more.splitlines()[1:3] == ["got ", "0"]
    assert "PUBLISH_WORD" not in searched
    assert "/proc/" not in searched
    assert [path for path in kept(repository, session) if KEY.encode() in path.read_bytes()] == []
    failed = repository.run("-p", "go", "--model", model, check=None)
    assert "the variable PUBLISH_WORD is not in the environment" in failed.stderr


TRIED = {
    "curl": "curl -sSf https://mirror.corp/simple/tiny/",
    "curl over SOCKS": "curl -sSf --proxy socks5h://127.0.0.1:7151 https://mirror.corp/simple/tiny/",
    "wget": "wget -q -O - https://mirror.corp/simple/tiny/",
    "urllib": "python3 -c \"import urllib.request as u; print(u.urlopen('https://mirror.corp/simple/tiny/').read())\"",
    "requests": "PYTHONPATH=$T/python python3 -c"
    " \"import requests as r; print(r.get('https://mirror.corp/simple/tiny/').text)\"",
    "httpx2": "PYTHONPATH=$T/python python3 -c"
    " \"import httpx2 as h; print(h.get('https://mirror.corp/simple/tiny/').text)\"",
    "pip": "PYTHONPATH=$(ls /usr/share/python-wheels/pip-*.whl) python3 -m pip install -q --target /tmp/p tiny;"
    " cat /tmp/p/tiny.py",
    "uv": "uv pip install -q --no-cache --target /tmp/u tiny; cat /tmp/u/tiny.py",
    "node fetch": "node -e \"fetch('https://mirror.corp/simple/tiny/').then(r => r.text()).then(console.log)\"",
    "node https": "node -e \"require('https').get('https://mirror.corp/simple/tiny/', r => r.pipe(process.stdout))\"",
    "npm": "mkdir /tmp/n; cd /tmp/n; node $T/npm/bin/npm-cli.js install --no-audit --no-fund tiny;"
    " ls node_modules/tiny/package.json",
    "cargo": "mkdir -p /tmp/c/src; cd /tmp/c; touch src/lib.rs;"
    ' printf \'[package]\\nname="c"\\nversion="1.0.0"\\n[dependencies]\\ntiny="1"\\n\' >Cargo.toml;'
    " cargo fetch; ls $HOME/.cargo/registry/src/*/tiny-1.0.0/Cargo.toml",
    "go": "mkdir /tmp/g; cd /tmp/g; export GOROOT=$T/go GONOSUMDB=* GOFLAGS=-mod=mod; go mod init g;"
    " go mod download -x example.com/tiny@v1.0.0; ls $HOME/go/pkg/mod/example.com/*/tiny.go",
    "apt": "mkdir -p /tmp/a/lists/partial /tmp/a/archives/partial; cd /tmp/a;"
    " A='-o Dir::State=/tmp/a -o Dir::State::status=/var/lib/dpkg/status -o Dir::Cache=/tmp/a';"
    ' A="$A -o APT::Sandbox::User=root";'
    " apt-get $A update --allow-insecure-repositories;"
    " apt-get $A download --allow-unauthenticated tiny; ls /tmp/a/tiny_1.0_all.deb",
    "a file that no index names": "curl -sS https://files.corp/npm/tiny",
    "a push to a registry": "curl -sS -X PUT --data x https://mirror.corp/simple/other",
    "what ignores proxies": "curl -sS --noproxy '*' --max-time 9 https://mirror.corp/simple/tiny/; echo code $?",
}


@pytest.mark.slow
def test_everyday_tools_get_packages_from_the_companys_mirror_by_its_proxy(repository: Bench, tmp_path: Path) -> None:
    """Unchanged, with nothing set but what the box sets. What this machine does not have is left out, and printed."""
    authority = Authority(datetime.now(UTC))
    (tmp_path / "site.pem").write_bytes(authority.certificate)
    served, home = tmp_path / "served", Path(repository.environ["HOME"])
    mirror(served, "https://files.corp")
    there = tools(tmp_path / "tools") | ({"apt"} if (served / "debian").exists() else set())
    named = {name: command for name, command in TRIED.items() if name not in OPTIONAL or name in there}
    configured = {
        ".config/pip/pip.conf": "[global]\nindex-url = https://mirror.corp/simple\n",
        ".npmrc": "registry=https://mirror.corp/npm/\n",
        ".cargo/config.toml": '[source.crates-io]\nreplace-with = "corp"\n'
        '[source.corp]\nregistry = "sparse+https://mirror.corp/crates/"\n',
        "apt.conf": f'Dir::Etc::SourceList "{home}/sources.list";\nDir::Etc::SourceParts "/dev/null";\n',
        "sources.list": "deb https://mirror.corp/debian stable main\n",
    }
    for name, text in configured.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(text)
    settings(repository, "registries: [pip, npm, cargo, go, apt]\n")
    setting = f"unset no_proxy NO_PROXY; export T=$(ls -d {tmp_path}/tools /workspace/tools 2>/dev/null | head -1); "
    setting += "export PATH=$T/bin:$T/go/bin:$PATH LD_LIBRARY_PATH=$T/lib; "
    replies = [{"tools": [bash(f"{setting}({command}) 2>&1")]} for command in named.values()]
    model = repository.script(*replies, {"text": "done"})
    environ = {
        "SSL_CERT_FILE": str(tmp_path / "site.pem"),
        "APT_CONFIG": str(home / "apt.conf"),
        "GOPROXY": "https://mirror.corp/go",
        "GOSUMDB": "off",
        "PATH": f"{Path(sys.executable).parent}:{repository.environ['PATH']}",
    }
    with (
        site(served, authority.context("mirror.corp")) as port,
        site(served, authority.context("files.corp")) as files,
        proxied({"mirror.corp": port, "files.corp": files}) as proxy,
    ):
        environ["HTTPS_PROXY"] = f"http://user:{KEY}@127.0.0.1:{proxy.port}"
        repository.environ.update(environ)
        repository.run("-p", "go", "--model", model, "--add-dir", str(tmp_path / "tools"))
        assert "by your proxy 127.0.0.1:" in repository.run("net", "explain", "https://mirror.corp").stdout
    session = repository.sessions()[0]["session"]
    said = dict(zip(named, outputs(repository, session), strict=True))
    print("tried:", ", ".join(named))
    for name, text in said.items():
        print(f"--- {name}\n{text[:1500]}")
    *worked, unnamed, refused, failed = said.values()
    assert [name for name, text in zip(said, worked, strict=False) if not WORKED.search(text)] == []
    assert "fumehood: no rule allows https://files.corp" in unnamed
    assert "fumehood: no rule allows" in refused
    assert "code 6" in failed
    assert {line.split()[0] for line in proxy.heard} == {"CONNECT"}
    rows = json.loads(repository.run("net", "log", "--json").stdout)
    allowed = [row for row in rows if row["decision"] == "allow"]
    assert {row["via"] for row in allowed} == {f"127.0.0.1:{proxy.port}"}
    assert all("registries" not in row["rule"] for row in allowed)
    assert {(urlsplit(row["request"].split()[-1]).hostname, row["source"]) for row in allowed} == {
        ("mirror.corp", "user"),
        ("files.corp", "fumehood"),
    }
    assert [path for path in kept(repository, session) if KEY.encode() in path.read_bytes()] == []
