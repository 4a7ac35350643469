"""A locked workstation over a real box: what the README's walk-through does, with /etc of a mount namespace of the
test's own, so that the constants are tried and no file of this machine is touched.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from runner import Prompt, TurnEnded, new_spec, run
from runner.approval import ClientApprover
from runner.effects import Mode
from runner.errors import LockedError
from runner.events import Failed, Judged, PolicyLoaded
from runner.loop.operations import SetMode, SetModel
from tests.e2e.conftest import PROJECT, Bench, bash
from tests.support.policies import manage, places, put

pytestmark = [pytest.mark.box, pytest.mark.timeout(240)]


@dataclass(frozen=True)
class Fumehood:
    """`fumehood ARGUMENTS` there, and a shell."""

    start: Callable[..., subprocess.CompletedProcess[str]]
    bench: Bench

    def __call__(self, *arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
        return self.start(*self.bench.command(*arguments), **more)

    def shell(self, script: str, **more: Any) -> subprocess.CompletedProcess[str]:
        return self.start("sh", "-c", script, **more)


@pytest.fixture
def locked(repository: Bench, tmp_path: Path) -> Fumehood:
    """`fumehood ARGUMENTS` where /etc/fumehood and /etc/claude-code are directories of the test."""
    upper, work = tmp_path / "upper", tmp_path / "work"
    (upper / "fumehood").mkdir(parents=True)
    work.mkdir()
    users = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]

    def start(*argv: str, code: int | None = 0, **environ: str) -> subprocess.CompletedProcess[str]:
        more = ",userxattr" if users else ""
        script = f'mount -t overlay overlay -o "lowerdir=/etc,upperdir={upper},workdir={work}{more}" /etc && exec "$@"'
        done = subprocess.run(
            ["unshare", "--mount", *users, "sh", "-c", script, "sh", *argv],
            cwd=repository.place,
            env=repository.environ | environ,
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
            stdin=subprocess.DEVNULL,
        )
        assert code in (None, done.returncode), f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    return Fumehood(start, repository)


def test_a_workstation_is_locked_by_one_file(repository: Bench, locked: Fumehood, tmp_path: Path) -> None:
    policy = tmp_path / "upper/fumehood/managed-settings.yaml"
    locked("policy", "init", "enterprise-locked", "-o", str(policy))
    text = policy.read_text().replace("availableModels: [opus, sonnet]", 'availableModels: ["scripted:"]')
    policy.write_text(text)
    policy.chmod(0o644)
    assert "/etc/fumehood/managed-settings.yaml" in locked("policy", "show").stdout
    model = repository.script({"tools": [bash("git push; echo pushed > here")]}, {"text": "done"})
    done = locked("-p", "go", "--model", model, "--output-format", "json")
    assert json.loads(done.stdout)["result"] == "done"
    (session,) = repository.sessions()
    verdicts = [r["body"]["verdict"] for r in repository.records(session["session"]) if r["type"] == "Judged"]
    verdict = next(v for v in verdicts if v["source"] == "managed")
    assert (verdict["decision"], verdict["file"], verdict["rule"]) == (
        "deny",
        "/etc/fumehood/managed-settings.yaml",
        "Bash(git push *)",
    )
    for flags in (
        ("--dangerously-skip-permissions",),
        ("--permission-mode", "auto"),
        ("--memory", "8g"),
        ("--image", "debian"),
        ("--model", "haiku"),
        ("--resume", session["session"], "--dangerously-skip-permissions"),
    ):
        model_flags = () if "--model" in flags else ("--model", model)
        assert "managed-settings.yaml" in locked("-p", "go", *model_flags, *flags, code=8).stderr
    assert "disable" in locked("shell", session["session"], code=8).stderr
    servers = '{"mcpServers": {"a": {"command": "false"}}}'
    tool = ("--permission-prompt-tool", "mcp__a__b", "--mcp-config", servers)
    assert "managed MCP servers only" in locked("-p", "go", "--model", model, *tool, code=8).stderr
    assert "allowedImages" in locked("policy", "show").stdout
    assert "is not one of those" in locked("images", "build", "debian", code=8).stderr
    policy.write_text(text + "oops: 1\n")
    assert "unknown key 'oops'" in locked("-p", "go", "--model", model, code=7).stderr
    policy.write_text(text)
    policy.chmod(0o666)
    assert "may be written by others" in locked("-p", "go", "--model", model, code=7).stderr


def test_the_readmes_walk_through_word_for_word(repository: Bench, locked: Fumehood, tmp_path: Path) -> None:
    """What a stranger types, with a `sudo` that runs its arguments, and what the README says comes of it."""
    text = (PROJECT / "README.md").read_text()
    first, then = re.findall(r"(?:^    .*\n)+", text[text.index("### A locked workstation") :], re.MULTILINE)[:2]
    programs = tmp_path / "programs"
    programs.mkdir()
    for name, line in (("sudo", 'exec "$@"'), ("fumehood", shlex.join(repository.command()) + ' "$@"')):
        (programs / name).write_text(f"#!/bin/sh\n{line}\n")
        (programs / name).chmod(0o755)
    path = f"{programs}:{repository.environ['PATH']}"
    (tmp_path / "upper/fumehood").rmdir()
    shown = locked.shell("set -e\n" + textwrap.dedent(first), PATH=path).stdout
    assert "9 examples hold" in shown
    assert "(managed, /etc/fumehood/managed-settings.yaml:11)" in shown
    lines = textwrap.dedent(then).splitlines()
    for at in range(0, len(lines), 2):
        said = locked.shell(lines[at].removeprefix("$ "), code=None, PATH=path).stderr
        assert said.startswith(lines[at + 1]), said


async def test_locks_hold_in_a_session_of_the_python_interface(repository: Bench, tmp_path: Path) -> None:
    where = places(tmp_path / "managed")
    path = manage(where, {"permissions": {"disableBypassPermissionsMode": "disable", "deny": ["Bash(rm *)"]}})
    model = repository.script(
        {"tools": [bash("rm calc.py")]}, {"text": "one"}, {"tools": [bash("X=ls; $X")]}, {"text": "two"}
    )
    with pytest.raises(LockedError):
        new_spec(repository.place, environ=repository.environ, model=model, mode=Mode.BYPASS, places=where)
    spec = new_spec(repository.place, environ=repository.environ, model=model, places=where)
    assert spec.mode is Mode.DEFAULT
    manage(
        where,
        {
            "permissions": {"deny": ["Bash(rm *)"], "disableBypassPermissionsMode": "disable"},
            "availableModels": ["scripted:"],
        },
    )
    spec = new_spec(repository.place, environ=repository.environ, model=model, places=where)
    async with run(spec, environ=repository.environ, places=where, approver=ClientApprover()) as session:
        with pytest.raises(Exception, match="locked"):
            await session.submit(SetMode(mode=Mode.BYPASS))
        with pytest.raises(LockedError):
            await session.submit(SetModel(model="opus"))
        events = [event async for event in session.turn("go")]
        judged = next(e.body for e in events if isinstance(e.body, Judged) and e.body.tool == "Bash")
        assert (judged.verdict["decision"], judged.verdict["file"]) == ("deny", str(path))
        put(Path(repository.environ["HOME"]) / ".claude/settings.json", {"permissions": {"deny": ["Bash(ls)"]}})
        events = [event async for event in session.turn("what the user writes meanwhile counts")]
        judged = next(e.body for e in events if isinstance(e.body, Judged) and e.body.tool == "Bash")
        assert (judged.verdict["decision"], judged.verdict["source"]) == ("deny", "user")
        path.write_text("{")
        events = [event async for event in session.turn("go on")]
        assert [e.body.problem for e in events if isinstance(e.body, PolicyLoaded)] != [""]
        assert [e.body.exit_code for e in events if isinstance(e.body, Failed)] == [7]
        assert isinstance(events[-1].body, TurnEnded)
        assert (events[-1].body.reason, events[-1].body.rounds) == ("failed", 0)
        await session.submit(Prompt.text("again"))
