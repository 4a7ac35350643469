"""A session with network rules, as users have it: everyday tools through the proxy, and `fumehood net`. All servers
are on the loopback interface of this machine.
"""

from __future__ import annotations

import functools
import json
import subprocess
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from sandbox.authority import Authority
from tests.e2e.conftest import Bench, bash

pytestmark = [pytest.mark.box, pytest.mark.network, pytest.mark.timeout(240)]


class Site(SimpleHTTPRequestHandler):
    """Files of a directory, and no word on standard error."""

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the library's)
        return


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A directory that is served, and where."""
    directory = tmp_path / "site"
    directory.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Site, directory=str(directory)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield directory, f"127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def git_repository(site: Path) -> None:
    """A repository that a server of plain files can serve."""
    work = site.parent / "upstream"
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", "-C", str(work)]
    work.mkdir()
    (work / "read.me").write_text("from upstream\n")
    for words in (["init", "-q", "-b", "main"], ["add", "-A"], ["commit", "-q", "-m", "one"]):
        subprocess.run([*git, *words], check=True)
    subprocess.run(["git", "clone", "-q", "--bare", str(work), str(site / "upstream.git")], check=True)
    subprocess.run(["git", "-C", str(site / "upstream.git"), "update-server-info"], check=True)


def outputs(bench: Bench, session: str) -> list[str]:
    return [str(r["body"]["content"]) for r in bench.records(session) if r["type"] == "ToolFinished"]


def test_by_default_nothing_leaves_and_the_refusal_names_the_rule(repository: Bench, site: tuple[Path, str]) -> None:
    _, where = site
    model = repository.script(
        {"tools": [bash(f"env -u no_proxy -u NO_PROXY curl -sS http://{where}/"), bash("curl -sS https://a.example/")]},
        {"text": "done"},
    )
    repository.run("-p", "go", "--model", model)
    session = repository.sessions()[0]["session"]
    first, second = outputs(repository, session)
    assert f"fumehood: no rule allows http://{where}; --allow-host http://{where} would" in first
    assert "response 403" in second
    log = repository.run("net", "log").stdout
    assert f"deny   GET http://{where}/" in log
    assert "--allow-host 'https://a.example'" in log


def test_everyday_tools_work_where_a_rule_lets_them(repository: Bench, site: tuple[Path, str]) -> None:
    directory, where = site
    (directory / "file").write_text("served\n")
    git_repository(directory)
    through = "unset no_proxy NO_PROXY; "
    python = f"import urllib.request as u; print(u.urlopen('http://{where}/file').read())"
    model = repository.script(
        {"tools": [bash(f"{through} curl -sS http://{where}/file")]},
        {"tools": [bash(f"{through} curl -sS --proxy socks5h://127.0.0.1:7151 http://{where}/file")]},
        {"tools": [bash(f"{through} curl -sS -p http://{where}/file")]},
        {"tools": [bash(f'{through} python3 -c "{python}"')]},
        {"tools": [bash(f"{through} git clone -q http://{where}/upstream.git /tmp/clone && cat /tmp/clone/read.me")]},
        {"tools": [bash(f"{through} curl -sS -X POST http://{where}/file")]},
        {"text": "done"},
    )
    arguments = ("--allow-host", f"GET http://{where}/file", "--allow-host", f"git:fetch http://{where}")
    repository.run("-p", "go", "--model", model, *arguments, "--allow-host", f"GET http://{where}/upstream.git/*")
    session = repository.sessions()[0]["session"]
    *fetched, cloned, posted = outputs(repository, session)
    assert [one.strip() for one in fetched] == ["served", "served", "served", "b'served\\n'"]
    assert cloned.strip() == "from upstream"
    assert "fumehood: no rule allows" in posted
    rows = json.loads(repository.run("net", "log", "--json").stdout)
    assert {row["decision"] for row in rows[:-1]} == {"allow"}
    assert (rows[-1]["decision"], rows[-1]["request"]) == ("deny", f"POST http://{where}/file")
    assert rows[0]["rule"] == f"Network(GET http://{where}/file)"
    assert rows[0]["received"] > 7
    calls = {r["body"]["call"] for r in repository.records(session) if r["type"] == "ToolRequested"}
    causes = {r["cause"] for r in repository.records(session) if r["type"] == "Egress"}
    assert causes == calls


def test_rules_stay_in_force_when_a_session_goes_on_or_is_forked(repository: Bench, site: tuple[Path, str]) -> None:
    directory, where = site
    (directory / "file").write_text("served\n")
    ask = bash(f"env -u no_proxy -u NO_PROXY curl -sS http://{where}/file; curl -sS http://b.example/")
    model = repository.script({"tools": [ask]}, {"text": "done"})
    repository.run("-p", "go", "--model", model, "--allow-host", where)
    session = repository.sessions()[0]["session"]
    again = repository.script({"tools": [ask]}, {"text": "done"})
    repository.run("-p", "go on", "--resume", session, "--model", again)
    fork = repository.run("fork", session).stdout.split()[-1]
    third = repository.script({"tools": [ask]}, {"text": "done"})
    repository.run("-p", "go on", "--resume", fork, "--model", third)
    for one in (*outputs(repository, session), *outputs(repository, fork)):
        assert "served" in one
        assert "no rule allows http://b.example" in one


def test_a_url_is_tried_and_explained_without_sending_anything(repository: Bench, tmp_path: Path) -> None:
    settings = Path(repository.environ["HOME"]) / ".config/fumehood/settings.yaml"
    settings.parent.mkdir(parents=True)
    settings.write_text("network:\n  allow: [a.example, 'GET http://b.example/x/*']\n  deny: ['*.a.example']\n")
    assert repository.run("net", "test", "https://a.example/x").stdout.startswith("allow  https://a.example")
    assert "Network(*.a.example)" in repository.run("net", "test", "https://x.a.example", check=1).stdout
    assert repository.run("net", "test", "http://b.example/x/y").stdout.startswith("allow")
    assert repository.run("net", "test", "POST http://b.example/x/y", check=1).stdout.startswith("ask")
    assert "--allow-host https://b.example would" in repository.run("net", "test", "b.example", check=1).stdout
    said = repository.run("net", "test", "https://0x7f.1/", check=2).stderr
    assert "no such host is asked" in said
    told = repository.run("net", "explain", "https://x.a.example").stdout
    assert "decides   deny Network(*.a.example)" in told
    assert "settings.yaml:3" in told


def test_rules_on_methods_and_paths_hold_inside_of_tls(repository: Bench, tmp_path: Path) -> None:
    """The box trusts the session's own authority beside its image's; the controller the site's."""
    authority = Authority(datetime.now(UTC))
    (tmp_path / "site.pem").write_bytes(authority.certificate)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    server.socket = authority.context("127.0.0.1").wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    where = f"127.0.0.1:{server.server_port}"
    through = "unset no_proxy NO_PROXY; "
    python = f"import urllib.request as u; print(u.urlopen('https://{where}/').status)"
    post = f"curl -sS -X POST https://{where}/"
    model = repository.script(
        {"tools": [bash(f"{through} curl -sS -o /dev/null -w '%{{http_code}}' https://{where}/")]},
        {"tools": [bash(f'{through} python3 -c "{python}"')]},
        {"tools": [bash(f"{through} {post}; grep -c 'BEGIN CERT' $SSL_CERT_FILE; grep -rl PRIVATE /run $HOME; true")]},
        {"text": "done"},
    )
    try:
        arguments = ("--model", model, "--allow-host", f"GET https://{where}")
        repository.run("-p", "go", *arguments, SSL_CERT_FILE=str(tmp_path / "site.pem"))
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    session = repository.sessions()[0]["session"]
    fetched, opened, refused = outputs(repository, session)
    assert (fetched.strip(), opened.strip()) == ("200", "200")
    said, count = refused.strip().splitlines()
    assert f"fumehood: no rule allows https://{where}" in said
    assert int(count) >= 1
    log = repository.run("net", "log").stdout
    assert f"allow  GET https://{where}/" in log
    assert f"deny   POST https://{where}/" in log


class Echo(Site):
    """Answers with what it was sent, and keeps it."""

    heard: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        said = str(self.headers)
        Echo.heard.append(said)
        self.send_response(200)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said.encode())


def test_a_key_reaches_its_host_and_is_nowhere_else(repository: Bench, tmp_path: Path) -> None:
    """Not in the box's environment, files and process lists, nor in anything that is kept of the session."""
    key = "s3cret-key-of-ours-0123456789"
    authority = Authority(datetime.now(UTC))
    (tmp_path / "site.pem").write_bytes(authority.certificate)
    Echo.heard.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    server.socket = authority.context("127.0.0.1").wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    where = f"127.0.0.1:{server.server_port}"
    settings = Path(repository.environ["HOME"]) / ".config/fumehood/settings.yaml"
    settings.parent.mkdir(parents=True)
    settings.write_text(
        f"network:\n  allow: ['https://{where}']\n"
        f"credentials:\n  - hosts: ['https://{where}']\n    env: SITE_KEY\n    pin: true\n"
    )
    through = "unset no_proxy NO_PROXY; "
    fetch = f'{through} curl -sS -H "Authorization: Bearer $SITE_KEY" https://{where}/'
    search = (
        "env | grep SITE_KEY; cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline 2>/dev/null | grep -ac 3cret[-]key; "
        "grep -rsl 3cret[-]key /run /tmp /home/box /etc . && echo found"
    )
    model = repository.script(
        {"tools": [bash(fetch)]},
        {"tools": [bash(search)]},
        {"tools": [bash(f"{through} curl -sS -H 'Authorization: Bearer somebody-elses' https://{where}/")]},
        {"text": "done"},
    )
    try:
        arguments = ("-p", "go", "--model", model, "--record-net")
        repository.run(*arguments, SSL_CERT_FILE=str(tmp_path / "site.pem"), SITE_KEY=key)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert [key in said for said in Echo.heard] == [True]
    session = repository.sessions()[0]["session"]
    fetched, searched, refused = outputs(repository, session)
    assert "*" * len(key) in fetched
    assert searched.splitlines()[0] == "SITE_KEY=fumehood-placeholder"
    assert searched.splitlines()[1] == "0"
    assert "found" not in searched.splitlines()
    assert "this host takes its own key only" in refused
    for output in (fetched, searched, refused, repository.run("net", "log", "--json").stdout):
        assert key not in output
    kept = Path(repository.environ["FUMEHOOD_HOME"]) / "sessions" / session
    files = [path for path in kept.rglob("*") if path.is_file()]
    assert {"journal.jsonl", "net.recording"} <= {path.name for path in files}
    assert b"somebody-elses" not in (kept / "net.recording").read_bytes()
    assert [path for path in files if key.encode() in path.read_bytes()] == []
