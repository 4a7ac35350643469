"""What `policy show` says that a rule holds in a session over a directory as it is now."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from runner.effects import Mode, Place
from runner.policy.policy import build_policy
from runner.sessions.masking import strengths
from sandbox.covers import MOST_KEPT

AT = PurePosixPath("/repo")


def test_more_places_to_keep_than_can_be_mounted_are_counted(tmp_path: Path) -> None:
    for number in range(MOST_KEPT + 3):
        (tmp_path / f"{number}.lock").touch()
    (tmp_path / "a.env").touch()
    place = Place(cwd=AT, home=PurePosixPath("/home/box"), roots=(AT,))
    deny = ("Edit(*.lock)", "Edit(*.none)", "Read(*.env)", "Grep(x)", "Bash(rm *)", "WebSearch")
    policy = build_policy(mode=Mode.BYPASS, deny=deny, place=place)
    assert {rule.text: held for rule, held in strengths(policy, {AT: tmp_path}).items()} == {
        "Edit(*.lock)": "boundary but for 3 places too many: advisory for the shell there",
        "Edit(*.none)": "boundary from the next turn",
        "Read(*.env)": "boundary",
        "Grep(x)": "advisory for the shell",
        "Bash(rm *)": "advisory for the shell",
        "WebSearch": "boundary",
    }
