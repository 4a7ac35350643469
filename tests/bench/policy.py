"""What a decision costs, with very many rules: `python -m tests.bench.policy`, or with the rest by `make bench`."""

from __future__ import annotations

import sys
import time
from pathlib import PurePosixPath

from rich.console import Console

from runner.effects import Decision, Effect, Mode, Place, RuleSource, RunCommand, Source
from runner.policy.policy import Policy
from runner.policy.rules import Rule, parse_rule
from tests.bench.figures import Figure, median, show

CWD = PurePosixPath("/work/project")
PLACE = Place(cwd=CWD, home=PurePosixPath("/home/box"), roots=(CWD,))
SOURCE = RuleSource(layer=Source.USER, file="settings.json", line=1)
EXAMPLES = 200


def texts(count: int) -> list[tuple[str, Decision]]:
    """Rules of every kind, most of them about the very programs that the commands below run."""
    decisions = list(Decision)
    forms = (
        "Bash(git sub{0} *)",
        "Bash(npm run task{0}:*)",
        "Bash(tool{0} --flag *)",
        "Read(./dir{0}/**)",
        "Edit(**/name{0}.py)",
        "Read(//srv/data{0}/*.pem)",
        "WebFetch(domain:h{0}.example.test)",
        "mcp__server{0}__tool",
    )
    return [(forms[n % len(forms)].format(n), decisions[n % 3]) for n in range(count)]


def load(count: int) -> Policy:
    """Parse the rules, and make them ready."""
    rules: tuple[Rule, ...] = tuple(parse_rule(text, decision, SOURCE, PLACE) for text, decision in texts(count))
    policy = Policy(mode=Mode.DEFAULT, rules=rules)
    policy.hides("Bash")
    return policy


def calls(first: int) -> list[tuple[Effect, ...]]:
    """Commands as agents write them, each another text."""
    forms = (
        "git log --oneline -n {0} -- src/app{0}.py",
        "cd packages/api{0} && npm run build -- --watch={0}",
        "grep -rn 'def name{0}' src | head -{0}",
        "python -m pytest -q tests/test_{0}.py",
        "sed -n '{0},+20p' runner/file{0}.py",
    )
    return [(RunCommand(command=forms[n % len(forms)].format(n), cwd=CWD),) for n in range(first, first + EXAMPLES)]


def judging(policy: Policy, first: int) -> tuple[float, float]:
    """p50 in ms of judging a command as the gate does (it was expanded before, and so is parsed), and of both."""
    judged, both = [], []
    for effects in calls(first):
        began = time.perf_counter()
        expanded = policy.expand(effects, PLACE)
        middle = time.perf_counter()
        policy.judge(expanded, tool="Bash", place=PLACE)
        ended = time.perf_counter()
        judged.append((ended - middle) * 1000)
        both.append((ended - began) * 1000)
    return median(judged), median(both)


def measure() -> list[Figure]:
    """Each command is judged once, so that nothing of it is remembered from an earlier call."""
    judging(load(10), 0)
    thousand, thousand_both = judging(load(1_000), 10_000)
    loads = []
    for _ in range(5):
        began = time.perf_counter()
        policy = load(10_000)
        for effects in calls(20_000):
            policy.judge(effects, tool="Bash", place=PLACE)
        loads.append((time.perf_counter() - began) * 1000)
    many, _ = judging(policy, 30_000)
    return [
        Figure(name="judge a new command, 1,000 rules", value=thousand, unit="ms", wanted=0.2),
        Figure(name="the same with its reading", value=thousand_both, unit="ms", wanted=0.5),
        Figure(name="judge a new command, 10,000 rules", value=many, unit="ms", wanted=1),
        Figure(name=f"load 10,000 rules, check {EXAMPLES} examples", value=median(loads), unit="ms", wanted=300),
    ]


if __name__ == "__main__":
    figures = measure()
    show(figures, console=Console(width=None if sys.stdout.isatty() else 120))
    sys.exit(0 if all(figure.met for figure in figures) else 1)
