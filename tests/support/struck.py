"""What must be so when something strikes a command that changes a session: it is done or not done, nothing is lost,
and the next command goes on.
"""

from __future__ import annotations

import json
import uuid

from tests.e2e.conftest import Bench, bash, tree_digest
from tests.support.torture import bodies, layers, left_over, points, stopped

SESSION = str(uuid.uuid4())  # one of this process, since several test side by side
WORK = "mkdir -p d/e && echo {0} > d/e/f; ln -sf f d/e/l; echo {0} >> calc.py; echo {0} > ~/note; rm -f check.py"
COMMANDS = ("checkpoint", "undo", "fork", "apply", "gc")


def turn(bench: Bench, number: int) -> str:
    """A model that changes every writable place."""
    return bench.script({"tools": [bash(WORK.format(number))]}, {"tools": [bash("cat d/e/f")]}, {"text": "done"})


def travelled(bench: Bench) -> None:
    """A session of two turns."""
    for number in range(2):
        which = ["--session-id", SESSION] if not number else ["--continue"]
        bench.run("-p", *which, "--model", turn(bench, number), f"turn {number}")


class Walk:
    """Commands that are struck, each with what must be so afterwards. What strikes is a subclass's."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.what = ""

    def struck(self, *arguments: str, drawn: int) -> bool:
        """Run a command that is struck; whether it says that it was done."""
        raise NotImplementedError

    def counted(self, *arguments: str) -> bool:
        """Run a command to its end, where that has to be known first; whether it was run."""
        return False

    def walk(self, names: list[str], seed: int) -> None:
        """Strike these one after the other."""
        for name, drawn in zip(names, points((seed, *names), len(names), 10**6), strict=True):
            getattr(self, name)(drawn)
            assert left_over(self.bench, SESSION) == [], self.what
            found = self.bench.run("fsck", check=None)
            assert found.returncode == 0, f"{self.what}: {found.stdout}"

    def checkpoint(self, drawn: int) -> None:
        before = layers(self.bench, SESSION)
        if self.counted("-p", "--continue", "--model", turn(self.bench, 6), "one more"):
            self.bench.run("undo")
        prompts = len(bodies(self.bench, SESSION, "PromptGiven"))
        self.struck("-p", "--continue", "--model", turn(self.bench, 7), "one more", drawn=drawn)
        self.bench.run("checkpoints")
        if len(bodies(self.bench, SESSION, "PromptGiven")) > prompts:
            self.bench.run("undo")
        assert layers(self.bench, SESSION) == before, self.what

    def undo(self, drawn: int) -> None:
        before = layers(self.bench, SESSION)
        if not self.counted("undo"):
            self.bench.run("undo")
        after = layers(self.bench, SESSION)
        self.bench.run("redo")
        assert layers(self.bench, SESSION) == before
        done = self.struck("undo", drawn=drawn)
        self.bench.run("rewind", "1", "--dry-run")
        now = layers(self.bench, SESSION)
        assert now == after or (now == before and not done), self.what
        if now == after:
            self.bench.run("redo")
        assert layers(self.bench, SESSION) == before, self.what

    def fork(self, drawn: int) -> None:
        was = self.told(SESSION)
        if self.counted("fork", SESSION, "-n", "2"):
            self.alone()
        self.struck("fork", SESSION, "-n", "2", drawn=drawn)
        sessions = [row["session"] for row in self.bench.sessions()]
        assert SESSION in sessions, self.what
        assert all(self.told(each) == was for each in sessions), self.what
        self.alone()

    def alone(self) -> None:
        """The forks go."""
        for row in self.bench.sessions():
            if row["session"] != SESSION:
                self.bench.run("discard", row["session"], "--yes")

    def apply(self, drawn: int) -> None:
        digests = [tree_digest(self.bench.place)]
        if not self.counted("apply"):
            self.bench.run("apply")
        digests.append(tree_digest(self.bench.place))
        self.bench.run("apply", "--undo")
        assert tree_digest(self.bench.place) == digests[0] != digests[1]
        done = self.struck("apply", drawn=drawn)
        self.bench.run("diff", "--json")
        now = tree_digest(self.bench.place)
        assert now == digests[1] or (now == digests[0] and not done), self.what
        if now == digests[1]:
            self.bench.run("apply", "--undo")
        assert tree_digest(self.bench.place) == digests[0], self.what

    def gc(self, drawn: int) -> None:
        was = self.told(SESSION)
        collect = ("gc", "--max-age", "0", "--turns", "2")
        self.counted(*collect)
        self.struck(*collect, drawn=drawn)
        assert self.told(SESSION) == was, self.what

    def told(self, session: str) -> tuple[str, list[str]]:
        turns = json.loads(self.bench.run("checkpoints", session, "--json").stdout)["turns"]
        return self.bench.run("diff", session).stdout, [row["text"] for row in turns if row["here"]]


class KilledWalk(Walk):
    """The controller is killed at one of the command's calls that change something; or whoever `act` names."""

    def __init__(self, bench: Bench) -> None:
        super().__init__(bench)
        self.most: dict[str, int] = {}

    @property
    def act(self) -> str:
        """As the tracer takes it."""
        return "kill"

    def struck(self, *arguments: str, drawn: int) -> bool:
        at = 1 + drawn % self.most[arguments[0]]
        end = stopped(self.bench, *arguments, at=at, act=self.act)
        self.what = f"{arguments}: {self.act} at {at} ({end.hit}); exit {end.code}; {end.out} {end.err}"
        assert self.act == "kill" or end.code == 0 or (end.out + end.err).strip(), self.what
        return end.code == 0

    def counted(self, *arguments: str) -> bool:
        if arguments[0] in self.most:
            return False
        self.most[arguments[0]] = stopped(self.bench, *arguments, at=0).count
        return True
