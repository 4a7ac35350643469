"""judge: what rules and modes decide together, and what no rule can do."""

from __future__ import annotations

import fnmatch
from pathlib import PurePosixPath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.effects import (
    CallServer,
    ConnectHost,
    Decision,
    Effect,
    Match,
    Mode,
    Place,
    ReadPath,
    RuleSource,
    RunCommand,
    Source,
    StopTask,
    UseProvider,
    Verdict,
    WritePath,
)
from runner.errors import UsageError
from runner.policy.patterns import command_pattern, path_pattern
from runner.policy.policy import Policy, build_policy

CWD = PurePosixPath("/proj")
PLACE = Place(cwd=CWD, home=PurePosixPath("/home/box"), roots=(CWD, PurePosixPath("/other")))
OUTSIDE = (
    ConnectHost(host="example.com", port=443, scheme="https"),
    CallServer(server="s", tool="t", outside=True),
    UseProvider(tool="web_search"),
)


def judged(effect: Effect | None, *, tool: str = "Bash", mode: Mode = Mode.DEFAULT, **rules: Any) -> Verdict:
    policy = build_policy(mode=mode, place=PLACE, **rules)
    effects = policy.expand(() if effect is None else (effect,), PLACE)
    return policy.judge(effects, tool=tool, place=PLACE)


def run(command: str) -> RunCommand:
    return RunCommand(command=command, cwd=CWD)


def read(path: str, target: str = "") -> ReadPath:
    full = CWD / path
    return ReadPath(path=full, link=full, target=PurePosixPath(target) if target else full)


def write(path: str, target: str = "") -> WritePath:
    full = CWD / path
    return WritePath(path=full, link=full, target=PurePosixPath(target) if target else full)


@pytest.mark.parametrize("effect", OUTSIDE)
@pytest.mark.parametrize("mode", list(Mode))
def test_no_mode_allows_what_leaves_the_box(effect: Effect, mode: Mode) -> None:
    wanted = Decision.DENY if mode is Mode.DONT_ASK else Decision.ASK
    assert judged(effect, tool="WebFetch", mode=mode).decision is wanted


@pytest.mark.parametrize("effect", OUTSIDE)
def test_a_rule_allows_what_leaves_the_box(effect: Effect) -> None:
    assert judged(effect, tool="WebFetch", mode=Mode.BYPASS, allow=("WebFetch",)).decision is Decision.ALLOW


def test_bypass_allows_everything_inside() -> None:
    for effect in (run("rm -rf sub ; $(x"), read("/etc/shadow"), write("/etc/x"), StopTask(task="1")):
        assert judged(effect, mode=Mode.BYPASS).decision is Decision.ALLOW


def test_a_deny_rule_binds_in_bypass_too() -> None:
    verdict = judged(run("a; rm x"), mode=Mode.BYPASS, deny=("Bash(rm *)",))
    assert verdict == Verdict(
        decision=Decision.DENY,
        source=Source.COMMAND_LINE,
        rule="Bash(rm *)",
        reason="denied by rule Bash(rm *)",
        matches=(Match(rule="Bash(rm *)", decision=Decision.DENY, source=RuleSource(layer=Source.COMMAND_LINE)),),
    )


@pytest.mark.parametrize(
    ("mode", "effect", "decision"),
    [
        (Mode.DEFAULT, read("a"), Decision.ALLOW),
        (Mode.DEFAULT, read("/other/a"), Decision.ALLOW),
        (Mode.DEFAULT, read("/tmp/out"), Decision.ALLOW),
        (Mode.DEFAULT, read("/etc/passwd"), Decision.ASK),
        (Mode.DEFAULT, read("/proj-evil/a"), Decision.ASK),
        (Mode.DEFAULT, read("/proj/../etc/passwd"), Decision.ASK),
        (Mode.DEFAULT, write("a"), Decision.ASK),
        (Mode.DEFAULT, run("make"), Decision.ASK),
        (Mode.DEFAULT, run("ls -la src | head -3"), Decision.ALLOW),
        (Mode.DEFAULT, run("cat /etc/passwd"), Decision.ASK),
        (Mode.DEFAULT, run("cd .. ; cat x"), Decision.ASK),
        (Mode.DEFAULT, run("cd sub; cat ../../x"), Decision.ASK),
        (Mode.DEFAULT, StopTask(task="1"), Decision.ALLOW),
        (Mode.DEFAULT, None, Decision.ALLOW),
        (Mode.PLAN, read("a"), Decision.ALLOW),
        (Mode.PLAN, run("ls"), Decision.ALLOW),
        (Mode.PLAN, run("make"), Decision.DENY),
        (Mode.PLAN, write("a"), Decision.DENY),
        (Mode.ACCEPT_EDITS, write("a"), Decision.ALLOW),
        (Mode.ACCEPT_EDITS, write("/etc/a"), Decision.ASK),
        (Mode.ACCEPT_EDITS, write("link", "/etc/a"), Decision.ASK),
        (Mode.ACCEPT_EDITS, write(".git/config"), Decision.ASK),
        (Mode.ACCEPT_EDITS, write("sub/.mcp.json"), Decision.ASK),
        (Mode.ACCEPT_EDITS, write("x", "/proj/.claude/settings.json"), Decision.ASK),
        (Mode.ACCEPT_EDITS, run("make"), Decision.ASK),
        (Mode.DONT_ASK, read("a"), Decision.ALLOW),
        (Mode.DONT_ASK, run("make"), Decision.DENY),
        (Mode.AUTO, run("make"), Decision.ASK),
    ],
)
def test_a_mode_decides_where_no_rule_does(mode: Mode, effect: Effect | None, decision: Decision) -> None:
    assert judged(effect, mode=mode).decision is decision


def test_plan_mode_holds_against_an_allow_rule_for_edits() -> None:
    assert judged(write("a"), tool="Edit", mode=Mode.PLAN, allow=("Edit", "Edit(**)")).decision is Decision.DENY


@pytest.mark.parametrize(
    ("rule", "tool", "effect", "allowed"),
    [
        ("Bash", "Bash", run("a && $(b)"), True),
        ("Bash(*)", "Bash", run("a && $(b)"), True),
        ("Bash(make test)", "Bash", run("make test"), True),
        ("Bash(make test)", "Bash", run("make test "), True),
        ("Bash(make test)", "Bash", run("make test x"), False),
        ("Bash(make *)", "Bash", run("make 'a b'"), True),
        ("Bash(make *)", "Bash", run('make "$(rm x)"'), False),
        ("Bash(make *)", "Bash", run("make \\\nx"), True),
        ("Bash(make *)", "Bash", run("make >out"), False),
        ("Bash(make *)", "Bash", run("make &"), True),
        ("Bash(make *)", "Bash", run("X=1 make"), False),
        ("Bash(make *)", "Bash", run("make `x`"), False),
        ("Bash(make *)", "Bash", run("make {a,b}"), True),
        ("Bash(make *)", "Bash", run("make ; make"), True),
        ("Bash(make *)", "Bash", run("make\nrm x"), False),
        ("Bash(env *)", "Bash", run("env rm x"), False),
        ("Bash(sh *)", "Bash", run("sh -c x"), False),
        ("Bash(sh -c x)", "Bash", run("sh -c x"), True),
        ("Edit(src/**)", "Write", write("src/a/b"), True),
        ("Edit(src/**)", "Write", write("a/src/b"), False),
        ("Edit(src/**)", "Write", write("src/link", "/etc/passwd"), False),
        ("Edit(src/**)", "Write", write("src/../x"), False),
        ("Edit(*.py)", "Edit", write("deep/down/a.py"), True),
        ("Edit(//etc/**)", "Edit", write("/etc/a"), True),
        ("Edit(~/x)", "Edit", write("/home/box/x"), True),
        ("Edit(./a?c.[tp]xt)", "Edit", write("abc.txt"), True),
        ("Edit(./a?c.[tp]xt)", "Edit", write("a/c.txt"), False),
        ("Write(a)", "Edit", write("a"), False),
        ("Write(a)", "Write", write("a"), True),
        ("Read(//etc/**)", "Grep", read("/etc/hosts"), True),
        ("Edit(//etc/**)", "Read", read("/etc/hosts"), True),
        ("Edit", "Write", write("a"), False),
    ],
)
def test_an_allow_rule_covers_what_it_says_and_no_more(rule: str, tool: str, effect: Effect, allowed: bool) -> None:
    decision = judged(effect, tool=tool, allow=(rule,)).decision
    assert decision is (Decision.ALLOW if allowed else Decision.ASK)


@pytest.mark.parametrize(
    ("rule", "tool", "effect"),
    [
        ("Bash(rm *)", "Bash", run("rm x")),
        ("Bash(rm *)", "Bash", run("true;rm x")),
        ("Bash(rm *)", "Bash", run("A=1 B='c d' sudo -n env X=1 /bin/rm x")),
        ("Bash(rm *)", "Bash", run("r\\m x")),
        ("Bash(rm *)", "Bash", run("'rm' x")),
        ("Bash(rm *)", "Bash", run("timeout 5 rm x")),
        ("Bash(rm *)", "Bash", run("bash -c 'rm x'")),
        ("Bash(rm *)", "Bash", run('eval "rm x"')),
        ("Bash(rm *)", "Bash", run("if true; then rm x; fi")),
        ("Bash(rm *)", "Bash", run("rm\tx")),
        ("Bash(rm *)", "Bash", run("r\\\nm x")),
        ("Bash(rm *)", "Bash", run("cat <(rm x)")),
        ("Bash(rm *)", "Bash", run("{ rm x; }")),
        ("Bash(rm *)", "Bash", run("find . | xargs -n1 rm x")),
        ("Bash(rm *)", "Bash", run("sudo " * 40 + "rm x")),
        ("Read(.env)", "Bash", run("cat .env")),
        ("Read(.env)", "Bash", run("grep x <sub/.env")),
        ("Read(.env)", "Bash", run("cat sub/../.env")),
        ("Read(~/.ssh/**)", "Bash", run("cp ~/.ssh/id x")),
        ("Read(.env)", "Grep", read("sub/.env")),
        ("Read(.env)", "Read", read("link", "/proj/.env")),
        ("Read(.env)", "Write", write(".env")),
        ("Edit(src/**)", "Bash", run("sed -i s/a/b/ src/x")),
        ("Edit(src/**)", "Bash", run("echo x > src/x")),
        ("Edit(src/**)", "MultiEdit", write("deep/src/x")),
        ("WebFetch(domain:*.evil.test)", "WebFetch", ConnectHost(host="A.evil.test.", port=1, scheme="x")),
        ("mcp__s", "mcp__s__t", CallServer(server="s", tool="t", outside=False)),
        ("mcp__*", "mcp__s__t", CallServer(server="s", tool="t", outside=False)),
        ("*", "Bash", run("ls")),
    ],
)
def test_a_deny_rule_fires_in_every_reading(rule: str, tool: str, effect: Effect) -> None:
    everything = ("Bash", "Edit", "Read", "Write", "WebFetch", "MultiEdit", "mcp__s")
    verdict = judged(effect, tool=tool, mode=Mode.BYPASS, allow=everything, deny=(rule,))
    assert (verdict.decision, verdict.rule) == (Decision.DENY, rule)


@pytest.mark.parametrize(
    ("rule", "tool", "effect"),
    [
        ("Bash(rm *)", "Bash", run("git commit -m 'rm old files'")),
        ("Bash(rm *)", "Bash", run("rmdir x")),
        ("Bash(git push *)", "Bash", run("git pull")),
        ("Read(.env)", "Read", read("env")),
        ("Read(.env)", "Read", read("/else/.env")),
        ("Edit(src/**)", "Bash", run("cat src/x")),
        ("Edit(src/**)", "Read", read("src/x")),
        ("Read(x)", "NotebookEdit", write("x")),
        ("mcp__pup", "mcp__puppeteer__x", CallServer(server="puppeteer", tool="x", outside=False)),
    ],
)
def test_a_deny_rule_leaves_the_rest_alone(rule: str, tool: str, effect: Effect) -> None:
    assert judged(effect, tool=tool, mode=Mode.BYPASS, deny=(rule,)).decision is Decision.ALLOW


def test_ask_stands_between_deny_and_allow() -> None:
    rules: dict[str, Any] = {"allow": ("Bash",), "ask": ("Bash(git *)",), "deny": ("Bash(git push *)",)}
    assert judged(run("ls"), mode=Mode.BYPASS, **rules).decision is Decision.ALLOW
    assert judged(run("git log"), mode=Mode.BYPASS, **rules).decision is Decision.ASK
    assert judged(run("git push"), mode=Mode.BYPASS, **rules).decision is Decision.DENY


def test_the_strictest_effect_decides() -> None:
    policy = build_policy(mode=Mode.ACCEPT_EDITS, place=PLACE)
    verdict = policy.judge((write("a"), write("/etc/a"), read("b")), tool="MultiEdit", place=PLACE)
    assert verdict.decision is Decision.ASK


@pytest.mark.parametrize(
    "rule",
    [
        "Bash(",
        "Bash)",
        "(x)",
        "Bash(a) b)",
        "Bash()",
        "Read()",
        "Bash(:*)",
        "Read(!x)",
        "Read(a/../b)",
        "WebFetch(path:x)",
        "WebFetch(domain:a b)",
        "WebFetch(domain:)",
        "TodoWrite(x)",
        "9x",
        "Read(//)",
    ],
)
@pytest.mark.parametrize("kind", ["allow", "deny"])
def test_a_rule_that_makes_no_sense_is_an_error(rule: str, kind: str) -> None:
    rules: dict[str, Any] = {kind: (rule,)}
    with pytest.raises(UsageError):
        build_policy(mode=Mode.DEFAULT, place=PLACE, **rules)


@pytest.mark.parametrize("rule", ["*", "mcp__*", "Ba*", "mcp__s__t*(x)"])
def test_an_allow_rule_names_its_tool(rule: str) -> None:
    with pytest.raises(UsageError):
        build_policy(mode=Mode.DEFAULT, place=PLACE, allow=(rule,))


def test_rules_are_split_outside_parentheses() -> None:
    policy = build_policy(mode=Mode.DEFAULT, place=PLACE, allow=("Bash(git log:*, x) Edit,Read", "Write"))
    assert [rule.text for rule in policy.of(Decision.ALLOW)] == ["Bash(git log:*, x)", "Edit", "Read", "Write"]


def test_a_bare_deny_takes_the_tool_away() -> None:
    policy = build_policy(mode=Mode.BYPASS, place=PLACE, deny=("Bash(*)", "Read(x)", "mcp__*"))
    assert [policy.hides(tool) for tool in ("Bash", "Read", "mcp__a__b")] == [True, False, True]


def test_the_digest_tells_policies_apart() -> None:
    digests = {
        build_policy(mode=mode, place=PLACE, allow=allow).digest
        for mode in (Mode.PLAN, Mode.DEFAULT)
        for allow in ((), ("Bash",), ("Bash(x)",))
    }
    assert len(digests) == 6


COMMANDS = st.one_of(
    st.sampled_from(["rm x", "ls", "git push", "a && rm x", "echo 'x", "cat .env", "$(rm x)", "env rm x", "cd a; ls"]),
    st.text(alphabet="rmls g.;&|$()`'\"\\{}<>\n\t=~*#!x-/", max_size=30),
    st.text(max_size=30),
)
EFFECTS: st.SearchStrategy[Effect] = st.one_of(
    COMMANDS.map(run),
    st.sampled_from(["a", ".env", "src/x", "/etc/passwd", "x\ny", "\udc80"]).map(read),
    st.sampled_from(["a", ".env", "src/x", "/etc/passwd", ".git/config"]).map(write),
    st.sampled_from(OUTSIDE),
)
RULES = st.sampled_from(
    ["Bash", "Bash(rm *)", "Bash(git *)", "Bash(ls)", "Read(.env)", "Edit(src/**)", "Read(**)", "Edit", "Write(a)"]
)
DENIES = RULES | st.sampled_from(["*", "mcp__*", "B*"])


@given(
    effects=st.lists(EFFECTS, max_size=3),
    tool=st.sampled_from(["Bash", "Read", "Edit", "Write", "WebFetch"]),
    mode=st.sampled_from(list(Mode)),
    allow=st.lists(RULES, max_size=3),
    ask=st.lists(DENIES, max_size=2),
    deny=st.lists(DENIES, max_size=2),
    more=DENIES,
)
def test_adding_a_deny_or_an_ask_never_loosens(  # noqa: PLR0917 (Hypothesis fills them by name)
    effects: list[Effect], tool: str, mode: Mode, allow: list[str], ask: list[str], deny: list[str], more: str
) -> None:
    def decide(ask: list[str], deny: list[str]) -> Decision:
        policy = build_policy(mode=mode, allow=allow, ask=ask, deny=deny, place=PLACE)
        return policy.judge(policy.expand(tuple(effects), PLACE), tool=tool, place=PLACE).decision

    before = decide(ask, deny)
    assert decide(ask, [*deny, more]) >= before
    assert decide([*ask, more], deny) >= before


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "command",
    [
        "a " * 50_000 + ";" + "true; " * 10_000,
        "x " + "y " * 50_000,
        "X=" + "a" * 100_000,
        "X='" * 30_000,
        "x" * 100_000,
        "$(" * 50_000,
        "sudo " * 20_000,
    ],
)
def test_a_long_command_is_judged_in_time(command: str) -> None:
    policy = build_policy(
        mode=Mode.DEFAULT,
        place=PLACE,
        allow=("Bash(a * b * c * d)",),
        deny=("Bash(x * y * z)", "Read(x*x*x*x*x*y)", "Read(a/**/b/**/c)"),
    )
    assert policy.judge((run(command),), tool="Bash", place=PLACE).decision is Decision.ASK


SMALL = st.text(alphabet="ab *", min_size=1, max_size=8)


@given(pattern=SMALL, text=st.text(alphabet="ab ", max_size=10))
def test_a_command_pattern_means_what_a_plain_glob_means(pattern: str, text: str) -> None:
    wanted = pattern.strip()
    if not wanted or wanted == "*" or wanted.startswith(" ") or "  " in wanted:
        return
    expected = fnmatch.fnmatchcase(text, wanted) or (wanted.endswith(" *") and fnmatch.fnmatchcase(text, wanted[:-2]))
    found = command_pattern(wanted).matches(text)
    # White space of any width counts as one space: what the plain glob finds is always found.
    assert found or not expected
    if "  " not in text:
        assert found == expected


@given(pattern=st.text(alphabet="ab*?", min_size=1, max_size=8), text=st.text(alphabet="ab", min_size=1, max_size=10))
def test_a_file_name_pattern_means_what_a_plain_glob_means(pattern: str, text: str) -> None:
    if "**" in pattern:
        return
    found = path_pattern(f"./{pattern}", PLACE, anywhere=False).matches(f"/proj/{text}")
    assert found == fnmatch.fnmatchcase(text, pattern)


def test_a_policy_is_frozen() -> None:
    policy = Policy()
    with pytest.raises(AttributeError):
        policy.mode = Mode.BYPASS  # type: ignore[misc]
