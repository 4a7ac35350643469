"""What a session reaches, and with whose keys: private git servers, registries, a company's proxy, everyday tools. All
servers are on the loopback interface of this machine.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest

from sandbox.authority import Authority
from sandbox.injection import PLACEHOLDER
from tests.e2e.conftest import Bench, bash
from tests.support.git_server import git_server

pytestmark = [pytest.mark.box, pytest.mark.network, pytest.mark.timeout(240)]
KEY = "s3cret-key-of-ours-0123456789"
DIRECT = "unset no_proxy NO_PROXY; "


def settings(bench: Bench, text: str) -> None:
    path = Path(bench.environ["HOME"]) / ".config/fumehood/settings.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(text)


def outputs(bench: Bench, session: str) -> list[str]:
    return [str(r["body"]["content"]) for r in bench.records(session) if r["type"] == "ToolFinished"]


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
    assert [row["would_allow"] for row in rows if "receive-pack" in row["request"]] == [f"https://{where}"]


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
