"""Commands whose words only become what they are when they run, by every trick: denied by rule, and never unasked."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.effects import Decision, Mode, Place, RunCommand, Verdict
from runner.policy.becoming import Values
from runner.policy.calls import judge
from runner.policy.policy import build_policy
from runner.policy.runs import readings
from runner.policy.shell import parse

HERE = Path(__file__).parent
CWD = PurePosixPath("/proj")
PLACE = Place(cwd=CWD, home=PurePosixPath("/home/u"), roots=(CWD,))


def decide(command: str, *, mode: Mode, allow: tuple[str, ...] = (), deny: tuple[str, ...] = ()) -> Verdict:
    policy = build_policy(mode=mode, allow=allow, deny=deny, place=PLACE)
    return judge(policy, "Bash", (RunCommand(command=command, cwd=CWD),), PLACE)


def lines(name: str) -> list[str]:
    """The commands of a file, one a line; `@@` stands for the end of a line within one."""
    return [line.replace("@@", "\n") for line in (HERE / name).read_text("utf-8").splitlines()]


def test_a_deny_rule_finds_its_command_behind_every_trick_where_the_mode_allows_all() -> None:
    missed = [
        command
        for command in lines("denied.txt")
        if decide(command, mode=Mode.BYPASS, deny=("Bash(rm:*)",)).decision is not Decision.DENY
    ]
    assert missed == []


def test_no_prefix_rule_for_other_commands_and_no_read_only_list_lets_one_of_them_pass() -> None:
    rules = ("Bash(echo:*)", "Bash(cat:*)", "Bash(printf:*)", "Bash(test:*)", "Bash(true)", "Bash(ls:*)", "Bash(fd:*)")
    assert [
        c for c in lines("denied.txt") if decide(c, mode=Mode.DEFAULT, allow=rules).decision is Decision.ALLOW
    ] == []


def test_what_runs_unasked_in_mode_default_is_what_the_list_says() -> None:
    for line in lines("unasked.txt"):
        allowed = decide(line[2:], mode=Mode.DEFAULT).decision is Decision.ALLOW
        assert allowed == (line[0] == "+"), line


@pytest.mark.parametrize(
    "command",
    [
        'git commit -m "rm old files"',
        'echo "rm y"',
        "X=rm; echo $X",
        "git rm y",
        "grep -r 'rm -rf' .",
        'log() { echo "$1"; }; log "rm y"',
        'run() { echo "+ $*"; "$@"; }; run ls rm',
        "cat <<E > f\nrm y\nE",
        'MSG="rm y"; git commit -m "$MSG"',
        'cmd="ls -l"; $cmd rm',
        'for x in a b; do echo "rm $x"; done',
        "docker run --rm x",
        "sed 's/rm/x/' y",
        "awk '/rm/' x",
        "$PYTHON -m pytest rm",
        "${CC:-gcc} -c rm.c",
        "git rebase -i HEAD~2",
        "cp rm.py b.py; python b.py",
        "cp /bin/rm x; ls",
        "cp a rm; cat a",
        "mv old.sh new.sh && ./new.sh",
        "cat rm > b; cat b",
        "ln -s ../rm lib && ls lib",
        "cat rm.txt > run.sh; ./other.sh",
        "enable -n rm",
        "bind -p rm",
        "mapfile -t lines < rm",
        "echo cm0geQ== | base64 -d",
        "rg rm src",
        "psql -h rm -c 'select 1'",
        "git -C rm status",
        "sort -k2 rm",
        "printf '%s\\n' rm",
        "echo -e 'rm\\ty'",
    ],
)
def test_a_command_that_only_names_another_is_not_taken_for_it(command: str) -> None:
    assert decide(command, mode=Mode.BYPASS, deny=("Bash(rm:*)",)).decision is Decision.ALLOW


@pytest.mark.parametrize(
    ("source", "texts"),
    [
        ("$A", ("rm", "ls")),
        ("${A}x", ("rmx", "lsx")),
        ("'$A'\"$A\"", ("$Arm", "$Als")),
        ("${A^^}", ("RM", "LS", "rm", "ls")),
        ("{a,b$A}", ("a brm", "a bls")),
        ("{a,b}c", ("ac bc",)),
        ("$N", ("",)),
        ("${N:-x}", ("x",)),
        ("$(echo $A)", ("rm",)),
        ("$'\\u0041'", ("A",)),
        ("a\\\nb", ("ab",)),
    ],
)
def test_a_word_becomes_what_the_text_says_of_its_variables(source: str, texts: tuple[str, ...]) -> None:
    values = Values()
    values.learn(parse("A=rm; A=ls"))
    assert values.texts(source) == texts


@pytest.mark.parametrize(
    ("command", "deny"),
    [
        ("D=.e; cat ${D}nv", "Read(.env)"),
        ("D=.e; cat < ${D}nv", "Read(.env)"),
        ("D=.git; echo x > $D/config", "Edit(.git/**)"),
        ("D=git; cp x .$D/config", "Edit(.git/**)"),
        ("X='push --force'; git $X", "Bash(git push *)"),
        ("git {push,-f}", "Bash(git push *)"),
    ],
)
def test_arguments_and_redirections_become_too(command: str, deny: str) -> None:
    assert decide(command, mode=Mode.BYPASS, deny=(deny,)).decision is Decision.DENY


def test_a_critical_removal_by_a_variable_is_asked_for() -> None:
    assert decide("X=rm; $X -rf /", mode=Mode.BYPASS).decision is Decision.ASK
    assert decide("D=/; rm -rf $D", mode=Mode.BYPASS).decision is Decision.ASK


WIDE = ("echo", "cp", "sed", "tee", "cat", "touch", "mkdir", "mv", "rm", "ln", "sort", "uniq", "tree", "curl", "tar")


def test_no_mode_but_bypass_and_no_prefix_rule_lets_a_command_write_what_programs_obey() -> None:
    rules = tuple(f"Bash({name} *)" for name in WIDE)
    for command in lines("obeyed.txt"):
        for mode in set(Mode) - {Mode.BYPASS}:
            for allow in ((), rules):
                assert decide(command, mode=mode, allow=allow).decision is not Decision.ALLOW, (command, mode)


@given(st.text(alphabet="XY=rm ;$(){}\"'`\\\n@*!#%/,:-+[]<", max_size=40))
def test_no_reading_raises_and_what_is_known_stays(command: str) -> None:
    texts = readings(command).texts
    assert all(simple.text == "" or " ".join(simple.text.split()) in texts for simple in parse(command).simples)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "command",
    [
        "X=$X$X;" * 1_200 + "$X",
        "X={a,b}{a,b}{a,b}{a,b}{a,b}{a,b}{a,b}{a,b}{a,b}; $X" * 100,
        "{a,b}" * 1_900 + " y",
        "".join(f"A{n}=$A{n - 1}$A{n - 1};" for n in range(1, 400)) + "$A399",
        "$(" * 800 + "echo a" + ")" * 800,
        "f() { $1; }; " + "f a;" * 1_900,
        "X='eval $X'; eval $X; " * 400,
    ],
    ids=lambda command: f"{command[:12]!r}x{len(command)}",
)
def test_the_worst_is_read_in_time(command: str) -> None:
    assert readings(command).texts


@pytest.mark.parametrize(
    ("command", "denied"),
    [
        ("git -C x push", True),
        ("git --no-pager -c a=b push origin", True),
        ("git --git-dir .git push", True),
        ("sudo git -P push", True),
        ('git -C "$x" push', True),
        ("kubectl -n x delete pod y", True),
        ("git -C x commit -m push", False),
        ("git log push", False),
        ("git --no-pager log -- push", False),
        ("git stash push", False),
        ("kubectl -n x get delete", False),
        ("echo -n git push", False),
    ],
)
def test_a_rule_on_a_programs_command_finds_it_behind_the_programs_own_options(command: str, *, denied: bool) -> None:
    rules = ("Bash(git push *)", "Bash(kubectl delete *)")
    assert (decide(command, mode=Mode.BYPASS, deny=rules).decision is Decision.DENY) == denied
