"""Every row of shell_permissions.jsonl, decided as expected or named here with the reason why not."""

from __future__ import annotations

import json
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import pytest

from runner.effects import (
    CallServer,
    ConnectHost,
    Decision,
    Effect,
    Mode,
    Place,
    ReadPath,
    RuleSource,
    RunCommand,
    Source,
    Verdict,
    WritePath,
)
from runner.policy.policy import Policy
from runner.policy.rules import rule_or_strictest
from tests.support.cases import CASES

FILE = CASES / "shell_permissions.jsonl"
EXPECTED = {
    "allow": {Decision.ALLOW},
    "ask": {Decision.ASK},
    "deny": {Decision.DENY},
    "not_allow": {Decision.ASK, Decision.DENY},
    "not_deny": {Decision.ALLOW, Decision.ASK},
}
# What is decided otherwise, always more strictly, and why.
OTHERWISE = {
    "P137": "an allow rule in another program's grammar names no tool: it is reported, and allows nothing",
    "P288": "a repository's own configuration can make `git status` run a program (core.fsmonitor), so no form of git "
    "is in the read-only set; rows P019, P021 and P023 want the same",
}


def rows() -> list[Any]:
    if not FILE.exists():
        reason = f"no cases at {FILE}: set FUMEHOOD_CASES to the directory that holds shell_permissions.jsonl"
        return [pytest.param({}, id="absent", marks=pytest.mark.skip(reason=reason))]
    return [pytest.param(row, id=row["id"]) for row in map(json.loads, FILE.read_text("utf-8").splitlines())]


def decide(row: dict[str, Any]) -> Verdict:
    """As the gate does it: rules read (of what is none, the strictest), effects expanded, resolved, judged."""
    cwd = PurePosixPath(row["cwd"])
    place = Place(cwd=cwd, home=PurePosixPath(row["home"]), roots=(cwd,))
    settings = PurePosixPath(row.get("settings", row["cwd"] + "/.claude/settings.json"))
    source = RuleSource(layer=Source.PROJECT, file=str(settings), line=1)
    rules = [
        rule_or_strictest(text, decision, source, place, anchor=settings.parent.parent)[0]
        for decision in Decision
        for text in row[decision.name.lower()]
    ]
    policy = Policy(mode=Mode(row["mode"]), rules=tuple(rule for rule in rules if rule is not None))
    effects = policy.expand(_effects(row), place)
    return policy.judge(tuple(map(resolved, effects)), tool=row["tool"], place=place)


def _effects(row: dict[str, Any]) -> tuple[Effect, ...]:
    text = row["input"]
    link, _, target = text.partition(" -> ")
    match row["tool"]:
        case "Bash":
            return (RunCommand(command=text, cwd=PurePosixPath(row["cwd"])),)
        case "Read" | "Grep" | "Glob":
            return (ReadPath(path=PurePosixPath(link), target=PurePosixPath(target) if target else None),)
        case "Edit" | "Write" | "MultiEdit" | "NotebookEdit":
            return (WritePath(path=PurePosixPath(link), target=PurePosixPath(target) if target else None),)
        case "WebFetch":
            return (ConnectHost(host=str(urlsplit(text).hostname), port=443, scheme="https"),)
        case str(name) if name.startswith("mcp__"):
            _, server, tool = name.split("__", 2)
            return (CallServer(server=server, tool=tool, outside=False),)
        case _:
            return ()


def resolved(effect: Effect) -> Effect:
    """Stands in for the box: a file called `link_to_etc_passwd` is a link to /etc/passwd."""
    if isinstance(effect, ReadPath) and effect.path.name.startswith("link_to_"):
        target = PurePosixPath("/", *effect.path.name.removeprefix("link_to_").split("_"))
        return ReadPath(path=effect.path, link=effect.path, target=target)
    return effect


@pytest.mark.parametrize("row", rows())
def test_a_row_is_decided_as_expected(row: dict[str, Any]) -> None:
    verdict = decide(row)
    if row["id"] in OTHERWISE:
        assert verdict.decision > min(EXPECTED[row["expected"]])
    else:
        assert verdict.decision in EXPECTED[row["expected"]], verdict
