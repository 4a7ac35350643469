"""Six modes, and what none of them lifts: protected paths, critical removals, and what only the user answers."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

import pytest

from runner.effects import AskUser, Decision, Effect, Mode, Place, RunCommand, Verdict, WritePath
from runner.policy.policy import build_policy

CWD = PurePosixPath("/work/proj")
PLACE = Place(cwd=CWD, home=PurePosixPath("/home/box"), roots=(CWD, PurePosixPath("/work/other")))
MODES = (Mode.DEFAULT, Mode.ACCEPT_EDITS, Mode.PLAN, Mode.AUTO, Mode.DONT_ASK, Mode.BYPASS)


def judged(effect: Effect | str, mode: Mode, **rules: Any) -> Verdict:
    tool = "Bash" if isinstance(effect, str | RunCommand) else "Edit"
    made: Effect = RunCommand(command=effect, cwd=CWD) if isinstance(effect, str) else effect
    policy = build_policy(mode=mode, place=PLACE, **rules)
    return policy.judge(policy.expand((made,), PLACE), tool=tool, place=PLACE)


def letter(verdict: Verdict) -> str:
    """a(llow), ?(ask), d(eny), c(lassifier)."""
    return "c" if verdict.classify else {Decision.ALLOW: "a", Decision.ASK: "?", Decision.DENY: "d"}[verdict.decision]


def write(path: str) -> WritePath:
    full = CWD / path
    return WritePath(path=full, link=full, target=full)


@pytest.mark.parametrize(
    ("effect", "letters"),
    [
        # default, acceptEdits, plan, auto, dontAsk, bypassPermissions
        ("ls -la", "aaaaaa"),
        ("make", "??dcda"),
        ("mkdir -p a/b", "?adada"),
        ("touch a", "?adada"),
        ("rm -rf build", "?adada"),
        ("mv a b && cp c d", "?adada"),
        ("sed -i s/a/b/ f", "?adada"),
        ("sed -i 's/a/b/e' f", "??dcda"),
        ("sed -n 1,5p .git/config", "aaaaaa"),
        ("sed -n '/^a/,/^b/p' f", "aaaaaa"),
        ("sed '/a/d' f; sed -n '/x\\/y/p' f", "aaaaaa"),
        ("sed -n '/a/w f' g", "??dcda"),
        ("sed -n '/a/e' f", "??dcda"),
        ("sed -n 1p .git/config -i", "??dcda"),
        ("touch /etc/x", "??dcda"),
        ("touch $x", "??dcda"),
        ("touch .git/hooks/x", "??dcda"),
        ("cp a .claude/settings.json", "??dcda"),
        ("LANG=C touch a", "?adada"),
        ("PATH=x touch a", "??dcda"),
        ("ls > out", "?adada"),
        ("ls > .envrc", "??dcda"),
        ("ls > /dev/null 2>&1", "aaaaaa"),
        (write("a"), "?adada"),
        (write("/work/other/a"), "?adada"),
        (write("/work/proj-evil/a"), "??dcda"),
        (write("/etc/a"), "??dcda"),
        (write(".vscode/tasks.json"), "??dcda"),
        (write(".GIT/config"), "??dcda"),
        (write(".claude/worktrees/x/a"), "?adada"),
        (AskUser(about="plan"), "????d?"),
    ],
)
def test_what_each_mode_makes_of_what_no_rule_speaks_of(effect: Effect | str, letters: str) -> None:
    assert "".join(letter(judged(effect, mode)) for mode in MODES) == letters


@pytest.mark.parametrize(
    ("command", "decision"),
    [
        ("sed -n 1,5p f", Decision.ALLOW),
        ("sed -n '/x/p' f", Decision.ALLOW),
        ("sed -n 1,5p g", Decision.DENY),
        ("sed -i s/a/b/ f", Decision.DENY),
        ("sed -n '1w f' h", Decision.DENY),
        ("sed -n '1W f' h", Decision.DENY),
        ("sed -f script f", Decision.DENY),
    ],
)
def test_a_sed_that_edits_nothing_in_place_reads_its_files(command: str, decision: Decision) -> None:
    assert judged(command, Mode.BYPASS, deny=("Edit(f)", "Read(g)")).decision is decision


@pytest.mark.parametrize(
    "command",
    [
        "rm -rf /",
        "rm -rf /etc",
        "rmdir /usr",
        "rm -rf ~",
        "rm -rf ~/",
        "rm -rf .",
        "rm -rf ..",
        "rm -rf /work/proj",
        "rm -rf /work",
        "rm -rf *",
        "rm -rf ./*",
        "rm -rf /work/other/*",
        "rm -rf $X/",
        'rm -rf "$X"/*',
        "rm -rf ${X}/",
        "a; rm -rf /",
        "echo $(rm -rf /)",
        "echo `rm -rf /`",
        "cat <(rm -rf /)",
        "sudo rm -rf /",
        "bash -c 'rm -rf /'",
        "/bin/rm -rf //",
        "rm -rf /./",
        "cd / && rm -rf *",
        "cd .. && rm -rf proj",
        "rm -rf /work/proj/../../etc",
    ],
)
@pytest.mark.parametrize("rules", [{}, {"allow": ("Bash", "Bash(rm *)", "Bash(rmdir *)")}])
def test_a_critical_removal_is_asked_whatever_allows_it(command: str, rules: dict[str, Any]) -> None:
    assert "".join(letter(judged(command, mode, **rules)) for mode in MODES) == "??dcd?"


@pytest.mark.parametrize(
    "command",
    [
        "rm -rf build",
        "rm -rf /tmp/x",
        "cd build && rm -rf *",
        "rm -rf build/*",
        "rm *.o",
        "rm -rf $X",
        "rm /work/proj/a",
        "echo rm -rf /",
        "rm -rf node_modules dist",
        "git rm -r .",
        "rm -rf ./build/",
        "docker run x rm -rf /",
        "rm -rf /home/box/a",
    ],
)
def test_an_ordinary_removal_is_not_held_up(command: str) -> None:
    assert judged(command, Mode.BYPASS).decision is Decision.ALLOW


@pytest.mark.parametrize(
    "effect", [write(".git/config"), "echo x > .git/config", "tee .mcp.json", "cd .claude && echo x > a"]
)
def test_an_allow_rule_does_not_lift_the_protection_of_a_path(effect: Effect | str) -> None:
    rules = {"allow": ("Bash(echo *)", "Bash(tee *)", "Edit", "Edit(**)", "Edit(//**)")}
    assert "".join(letter(judged(effect, mode, **rules)) for mode in MODES) == "??dcda"


@pytest.mark.parametrize(
    "rule", ["Bash", "Bash(*)", "Bash(python *)", "Bash(npm run *)", "Bash(* x)", "Bash(bash *)", "Monitor"]
)
def test_modes_auto_and_plan_take_no_notice_of_rules_that_allow_nearly_anything(rule: str) -> None:
    for command in ("python a.py x", "npm run x", "bash a.sh x"):
        assert letter(judged(command, Mode.AUTO, allow=(rule,))) == "c"
        assert letter(judged(command, Mode.PLAN, allow=(rule,))) == "d"
    assert letter(judged("npm test", Mode.AUTO, allow=(rule, "Bash(npm test *)"))) == "a"


def test_an_ask_rule_is_put_to_the_user_in_mode_auto_not_to_the_classifier() -> None:
    assert letter(judged("make", Mode.AUTO, ask=("Bash(make *)",))) == "?"
    assert letter(judged("rm -rf /", Mode.AUTO, ask=("Bash(rm *)",))) == "?"


def test_nothing_allows_what_only_the_user_answers() -> None:
    policy = build_policy(mode=Mode.BYPASS, place=PLACE, allow=("AskUserQuestion", "ExitPlanMode"))
    for tool in ("AskUserQuestion", "ExitPlanMode"):
        assert policy.judge((AskUser(about="x"),), tool=tool, place=PLACE).decision is Decision.ASK


@pytest.mark.parametrize(
    ("rules", "command", "letter_"),
    [
        (("Bash(make *)",), "make > out", "?"),
        (("Bash(make *)", "Edit(./out)"), "make > out", "a"),
        (("Bash(make *)", "Edit(./out)"), "make > out2", "?"),
        (("Bash(make *)", "Edit(./out)"), "make > $x", "?"),
        (("Bash(make *)",), "make < /etc/passwd", "?"),
        (("Bash(make *)", "Read(//etc/passwd)"), "make < /etc/passwd", "a"),
        (("Bash(make *)",), "make < in", "a"),
        (("Bash(make *)",), "make $(cat x)", "?"),
        (("Bash(make *)", "Bash(cat *)"), "make $(cat x)", "a"),
        (("Bash(make *)",), "if true; then make; fi", "a"),
        (("Bash(make *)",), "for i in a; do make $i; done", "a"),
        (("Bash(make *)",), "for PATH in a; do make; done", "?"),
        (("Bash(make *)",), "make; f() { rm x; }; f", "?"),
        (("Bash(make *)",), "cat <<E | make\n$(x)\nE", "?"),
        (("Bash(make)",), "xargs make", "?"),
        (("Bash(make *)",), "xargs make", "a"),
        (("Bash(make *)",), "timeout 5 make x", "a"),
        (("Bash(timeout *)",), "timeout 5 make x", "?"),
        (("Bash(eval make)",), "eval make", "a"),
        (("Bash(eval *)",), "eval make", "?"),
        (("Bash(find *)",), "find . -name x", "a"),
        (("Bash(find *)",), "find . $(echo -delete)", "?"),
        (("Bash(echo *)",), "echo ${x@P}", "?"),
        (("Bash(a *)", "Bash(b *)"), "a x && b y || a", "a"),
        (("Bash(git status)",), "'git status'", "?"),
        (("Bash(git commit *)",), "git commit -m \"$(cat <<'E'\na $(x) `y`\nE\n)\"", "a"),
        (("Bash(git commit *)",), 'git commit -m "$(cat <<E\na $(x)\nE\n)"', "?"),
        (("Bash(git commit *)",), 'git commit -m "$(cat x)"', "?"),
    ],
)
def test_a_line_is_allowed_when_all_of_it_is(rules: tuple[str, ...], command: str, letter_: str) -> None:
    assert letter(judged(command, Mode.DEFAULT, allow=rules)) == letter_
