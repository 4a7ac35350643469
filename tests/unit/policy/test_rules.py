"""Rules of every kind: what each speaks of, where each stands, and that no order and no slip loosens anything."""

from __future__ import annotations

import random
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.effects import (
    Decision,
    Effect,
    Match,
    Mode,
    Place,
    ReadPath,
    RuleSource,
    RunCommand,
    Source,
    WritePath,
)
from runner.errors import UsageError
from runner.policy.policy import Policy, build_policy
from runner.policy.rules import Kind, Rule, parse_rule, rule_or_strictest

CWD = PurePosixPath("/proj")
PLACE = Place(cwd=CWD, home=PurePosixPath("/home/box"), roots=(CWD,))
USER = RuleSource(layer=Source.USER, file="/home/u/.claude/settings.json", line=7)


def decide(
    effects: tuple[Effect, ...], *, tool: str, sent: Any = None, mode: Mode = Mode.BYPASS, **rules: Any
) -> Decision:
    policy = build_policy(mode=mode, place=PLACE, **rules)
    return policy.judge(policy.expand(effects, PLACE), tool=tool, place=PLACE, sent=sent or {}).decision


@pytest.mark.parametrize(
    ("rule", "tool", "sent", "fires"),
    [
        ("Agent(Explore)", "Agent", {"subagent_type": "Explore"}, True),
        ("Task(Explore)", "Agent", {"subagent_type": "Explore"}, True),
        ("Agent(Explore)", "Agent", {"subagent_type": "Plan"}, False),
        ("Agent(Explore)", "Agent", {}, False),
        ("Skill(deploy)", "Skill", {"skill": "deploy", "args": "now"}, True),
        ("Skill(deploy now)", "Skill", {"skill": "deploy", "args": "now"}, False),
        ("Skill(deploy *)", "Skill", {"skill": "deploy", "args": "now"}, True),
        ("Agent(model:opus)", "Agent", {"model": "opus"}, True),
        ("Agent(model : op*)", "Agent", {"model": "opus"}, True),
        ("Agent(model:opus)", "Agent", {"model": "sonnet"}, False),
        ("Agent(model:opus)", "Agent", {}, False),
        ("Bash(run_in_background:true)", "Bash", {"command": "x", "run_in_background": True}, True),
        ("Bash(run_in_background:true)", "Bash", {"command": "x", "run_in_background": False}, False),
        ("mcp__s__t(to:*@x.test)", "mcp__s__t", {"to": "a@x.test"}, True),
        ("mcp__s__t(to:*@x.test)", "mcp__s__t", {"to": ["a@x.test"]}, False),
        ("mcp__s(to:a)", "mcp__s__t", {"to": "a"}, True),
    ],
)
def test_a_rule_compares_a_field_of_the_input(rule: str, tool: str, sent: dict[str, Any], fires: bool) -> None:
    assert decide((), tool=tool, sent=sent, deny=(rule,)) is (Decision.DENY if fires else Decision.ALLOW)


@pytest.mark.parametrize("rule", ["Agent(model:opus)", "Bash(run_in_background:true)", "mcp__s__t(to:a)"])
def test_a_field_is_never_allowed(rule: str) -> None:
    with pytest.raises(UsageError):
        build_policy(mode=Mode.DEFAULT, place=PLACE, allow=(rule,))


@pytest.mark.parametrize(
    ("rule", "path", "denied"),
    [
        ("Read(.env)", "/proj/.ENV", True),
        ("Read(//work/**)", "/work-evil/a", False),
        ("Read(//work)", "/work-evil", False),
        ("Read(//work)", "/work/a", True),
        ("Read(secrets/)", "/proj/a/secrets/b", True),
        ("Read(./secrets/)", "/proj/secrets", True),
        ("Read(./a//b/./c)", "/proj/a/b/c", True),
        ("Read(~)", "/home/box/x", True),
        ("Read(caf\u00e9)", "/proj/cafe\u0301", True),
        ("Read(**)", "/proj/a", True),
        ("Read(//**)", "/etc/a", True),
        ("Read(**/*.pem)", "/proj/a/b.pem", True),
        ("Read(a[0-9])", "/proj/a5", True),
        ("Read(a[z-a])", "/proj/a[z-a]", False),
        ("Read(./a/*)", "/proj/a/b/c", True),
    ],
)
def test_a_deny_rule_on_a_path_is_not_walked_around(rule: str, path: str, denied: bool) -> None:
    effect = ReadPath(path=PurePosixPath(path), link=PurePosixPath(path), target=PurePosixPath(path))
    wanted = Decision.DENY if denied else Decision.ALLOW
    assert decide((effect,), tool="Read", deny=(rule,)) is wanted
    assert decide((RunCommand(command=f"cat '{path}'", cwd=CWD),), tool="Bash", deny=(rule,)) is wanted


@pytest.mark.parametrize(
    "command",
    [
        "cat sub/.env",
        "cd sub && cat .env",
        "cat <sub/.env",
        "cat 'sub/.env'",
        "cat s''ub/.en\\v",
        "cat sub/.e*",
        "cat sub/.en?",
        "cat ../proj/sub/.env",
        "head -c5 -- sub/.env",
        "python -c 'open(\"sub/.env\")'",
        "dd if=sub/.env",
        "cat ./sub//.env",
        "cat /proj/sub/.env",
        "cat sub/.ENV",
        "tar c sub/.env",
        "cp sub/.env x",
        "echo $(<sub/.env)",
        "base64 <<<$(cat sub/.env)",
    ],
)
def test_a_deny_rule_on_a_path_holds_for_what_commands_name(command: str) -> None:
    run = RunCommand(command=command, cwd=CWD)
    assert decide((run,), tool="Bash", deny=("Read(./sub/.env)",)) is Decision.DENY


def test_a_link_is_judged_with_its_target() -> None:
    policy = build_policy(mode=Mode.DEFAULT, place=PLACE, allow=("Read(./project/**)",), deny=("Read(~/.ssh/**)",))
    link = CWD / "project/key"
    for target, wanted in (("/proj/project/x", "ALLOW"), ("/home/box/.ssh/id", "DENY"), ("/etc/passwd", "ASK")):
        effect = ReadPath(path=link, link=link, target=PurePosixPath(target))
        assert policy.judge((effect,), tool="Read", place=PLACE).decision.name == wanted
        run = (RunCommand(command="ls project/key", cwd=CWD), effect)
        assert policy.judge(run, tool="Bash", place=PLACE).decision.name == wanted


def test_a_verdict_says_where_its_rule_stands_and_what_else_matched() -> None:
    project = RuleSource(layer=Source.PROJECT, file="/proj/.claude/settings.json", line=3)
    rules = (
        parse_rule("Bash(git:*)", Decision.ALLOW, USER, PLACE),
        parse_rule("Bash(git push *)", Decision.ASK, project, PLACE),
        parse_rule("Bash", Decision.ASK, USER, PLACE),
        parse_rule("Bash(ls)", Decision.DENY, USER, PLACE),
    )
    run = RunCommand(command="git push x", cwd=CWD)
    verdict = Policy(rules=rules).judge((run,), tool="Bash", place=PLACE)
    assert verdict.to_json() == {
        "decision": "ask",
        "source": "project",
        "rule": "Bash(git push *)",
        "reason": "to be asked by rule Bash(git push *)",
        "file": "/proj/.claude/settings.json",
        "line": 3,
        "matches": [
            {"rule": "Bash(git push *)", "decision": "ask", "source": "project", "file": project.file, "line": 3},
            {"rule": "Bash", "decision": "ask", "source": "user", "file": USER.file, "line": 7},
            {"rule": "Bash(git:*)", "decision": "allow", "source": "user", "file": USER.file, "line": 7},
        ],
    }
    assert verdict.matches[1] == Match(rule="Bash", decision=Decision.ASK, source=USER)


@pytest.mark.parametrize(
    ("text", "tool"),
    [
        ("Bash(", "Bash"),
        ("Read(!x) y", "Read"),
        ("WebFetch(domain:a b)", "WebFetch"),
        ("9x", "*"),
        ("", "*"),
        ("Task)", "Agent"),
    ],
)
def test_a_rule_that_makes_no_sense_is_made_as_strict_as_it_can_be(text: str, tool: str) -> None:
    for decision in (Decision.DENY, Decision.ASK):
        kept, problem = rule_or_strictest(text, decision, USER, PLACE)
        assert problem
        assert kept == Rule(text=text, decision=decision, source=USER, tool=tool, kind=Kind.USE)
    kept, problem = rule_or_strictest(text, Decision.ALLOW, USER, PLACE)
    assert (kept, bool(problem)) == (None, True)


def test_a_rule_without_place_of_its_own_starts_where_its_file_stands() -> None:
    rule = parse_rule("Read(/src/**)", Decision.DENY, USER, PLACE, anchor=PurePosixPath("/home/box/.claude"))
    policy = Policy(mode=Mode.BYPASS, rules=(rule,))
    for path, wanted in (("/home/box/.claude/src/a", "DENY"), ("/proj/src/a", "ALLOW"), ("/src/a", "ALLOW")):
        effect = ReadPath(path=PurePosixPath(path))
        assert policy.judge((effect,), tool="Read", place=PLACE).decision.name == wanted


def test_a_locked_mode_cannot_be_had() -> None:
    policy = Policy(modes=frozenset(Mode) - {Mode.BYPASS}, locks=("disableBypassPermissionsMode",))
    with pytest.raises(UsageError, match="locked"):
        policy.with_mode(Mode.BYPASS)
    with pytest.raises(UsageError, match="locked"):
        Policy(mode=Mode.AUTO, modes=frozenset({Mode.DEFAULT}))
    assert policy.with_mode(Mode.PLAN).mode is Mode.PLAN
    assert policy.digest != Policy().digest


RULES = st.sampled_from(
    [
        "Bash",
        "Bash(rm *)",
        "Bash(git *)",
        "Bash(git push)",
        "Bash(* x)",
        "Read(.env)",
        "Edit(src/**)",
        "Read(**)",
        "Edit",
        "Bash(echo *)",
        "Read(//etc/**)",
        "Edit(./a)",
    ]
)
COMMANDS = st.sampled_from(
    [
        "rm x",
        "git push",
        "echo $(rm x)",
        "cat .env",
        "echo a > src/x",
        "cd src && cat .env",
        "git log | rm -rf /",
        "ls",
        "$x",
        "sudo rm x",
        "touch a",
        "timeout 3 git push",
        "echo 'rm x'",
        "f() { git push; }; f",
        "a &&& b",
        "wc src/*",
        *(line.replace("@@", "\n") for line in Path(__file__).with_name("denied.txt").read_text("utf-8").splitlines()),
    ]
)
EFFECTS = st.one_of(
    COMMANDS.map(lambda command: RunCommand(command=command, cwd=CWD)),
    st.sampled_from(["a", ".env", "src/x", "/etc/x", ".git/config"]).map(lambda text: ReadPath(path=CWD / text)),
    st.sampled_from(["a", ".env", "src/x", "/etc/x", ".git/config"]).map(lambda text: WritePath(path=CWD / text)),
)
SOURCES = st.builds(
    RuleSource, layer=st.sampled_from(list(Source)), file=st.sampled_from(["", "/a", "/b"]), line=st.integers(0, 2)
)


@given(
    effects=st.lists(EFFECTS, max_size=2),
    tool=st.sampled_from(["Bash", "Read", "Edit"]),
    mode=st.sampled_from(list(Mode)),
    given_rules=st.lists(st.tuples(RULES, st.sampled_from(list(Decision)), SOURCES), max_size=6),
    more=st.tuples(RULES, st.sampled_from([Decision.DENY, Decision.ASK]), SOURCES),
    seed=st.integers(0, 99),
)
def test_the_order_of_rules_and_files_means_nothing_and_a_deny_never_loosens(  # noqa: PLR0917 (Hypothesis fills them)
    effects: list[Effect], tool: str, mode: Mode, given_rules: list[Any], more: Any, seed: int
) -> None:
    rules = [parse_rule(text, decision, source, PLACE) for text, decision, source in given_rules]
    mixed = list(rules)
    random.Random(seed).shuffle(mixed)

    def judged(rules: list[Rule]) -> Any:
        policy = Policy(mode=mode, rules=tuple(rules))
        return policy.judge(policy.expand(tuple(effects), PLACE), tool=tool, place=PLACE)

    verdict = judged(rules)
    assert judged(mixed) == verdict
    assert Policy(rules=tuple(mixed)).digest == Policy(rules=tuple(rules)).digest
    stricter = judged([*rules, parse_rule(more[0], more[1], more[2], PLACE)])
    assert stricter.decision >= verdict.decision
    if more[1] is Decision.DENY and stricter.decision is not Decision.DENY:
        assert stricter.decision is verdict.decision


@given(text=st.text(max_size=30), decision=st.sampled_from(list(Decision)))
def test_any_text_is_a_rule_or_is_made_one_or_is_left_out(text: str, decision: Decision) -> None:
    for given_text in (text, f"Bash({text})", f"Read({text})", f"WebFetch(domain:{text})", f"Agent({text})"):
        rule, problem = rule_or_strictest(given_text, decision, USER, PLACE)
        assert (rule is not None) or (decision is Decision.ALLOW and problem)
        policy = Policy(mode=Mode.BYPASS, rules=(rule,) if rule else ())
        run = (RunCommand(command=f"a {text}", cwd=CWD), ReadPath(path=CWD / "x"))
        policy.judge(policy.expand(run, PLACE), tool="Bash", place=PLACE)
