"""kill -9 of the real `fumehood` in the middle of what changes a session, and a disk that is full there: nothing
is lost, nothing half done, and the next command goes on. Points are system calls that change something, drawn
at random by a seed; a few of them always, the rest with `make torture`.
"""

from __future__ import annotations

import json
import os

import pytest

from sandbox.checkpoints import Checkpoints
from tests.e2e.conftest import Bench, bash, tree_digest
from tests.support import struck
from tests.support.struck import SESSION
from tests.support.torture import bodies, layers, left_over, points, stopped

pytestmark = [pytest.mark.box, pytest.mark.timeout(900)]
FIRST = (
    "mkdir -p d/e && echo 1 > d/e/f && ln -s f d/e/l && ln d/e/f twin && head -c 300000 /dev/urandom > large; "
    "rm check.py; echo note > ~/note; echo t > /tmp/t; mkfifo pipe; chmod 600 calc.py"
)
SECOND = (
    "rm -r d; echo now a file > d; echo two >> twin; truncate -s 50M sparse; echo more >> ~/note; rm /tmp/t; "
    "mv large larger; mkdir new && for n in $(seq 40); do echo $n > new/$n; done"
)
TORTURE = (pytest.mark.slow, pytest.mark.torture)


def rounds(few: int, many: int, chunks: int) -> pytest.MarkDecorator:
    """(seed, points): few always, and `chunks` times `many` in torture."""
    rows = [pytest.param(0, few, id="few")]
    rows += [pytest.param(seed, many, id=f"many-{seed}", marks=TORTURE) for seed in range(1, chunks + 1)]
    return pytest.mark.parametrize(("seed", "count"), rows)


@pytest.fixture
def travelled(repository: Bench) -> Bench:
    """A session of two turns that changed every writable place."""
    for number, work in enumerate((FIRST, SECOND)):
        model = repository.script({"tools": [bash(work)]}, {"text": f"did {number}"})
        which = ["--session-id", SESSION] if not number else ["--continue"]
        assert repository.run("-p", *which, "--model", model, f"turn {number}").stdout == f"did {number}\n"
    assert {"d", "new/40", "larger"} <= {row["path"] for row in json.loads(repository.run("diff", "--json").stdout)}
    return repository


def walk_back_and_forth(bench: Bench, seed: int, count: int, act: str) -> None:
    ends = {"redo": layers(bench, SESSION)}
    most = {"undo": stopped(bench, "undo", at=0).count}
    ends["undo"] = layers(bench, SESSION)
    assert ends["undo"] != ends["redo"]
    most["redo"] = stopped(bench, "redo", at=0).count
    assert layers(bench, SESSION) == ends["redo"]
    next_one, moves, outcomes = "undo", 2, set()
    for drawn in points((seed, act), count, 10**6):
        at = 1 + drawn % most[next_one]
        end = stopped(bench, next_one, at=at, act=act)
        what = f"{next_one} {act} at {at} of {most[next_one]}: {end.hit}; exit {end.code}; {end.err}"
        if drawn % 2:
            bench.run("checkpoints")  # one that only reads comes first
        else:
            bench.run("rewind", "1", "--dry-run")
        now = layers(bench, SESSION)
        done = now == ends[next_one]
        assert done or now == ends[{"undo": "redo", "redo": "undo"}[next_one]], what
        assert end.code != 0 or done, what
        if drawn % 2:
            bench.run("rewind", "1", "--dry-run")
        moves += done
        kinds = [body["kind"] for body in bodies(bench, SESSION, "HeadMoved")]
        assert len(kinds) == moves, what
        assert kinds[-1] == (next_one if done else {"undo": "redo", "redo": "undo"}[next_one]), what
        rows = json.loads(bench.run("checkpoints", "--json").stdout)
        here = [turn["here"] for turn in rows["turns"]]
        assert here == [True, (next_one == "redo") == done], what
        assert left_over(bench, SESSION) == [], what
        outcomes.add(done)
        if done:
            next_one = {"undo": "redo", "redo": "undo"}[next_one]
    bench.run(next_one)
    assert layers(bench, SESSION) == ends[next_one]
    assert count < 10 or outcomes == {True, False}


@rounds(3, 20, 4)
def test_undo_and_redo_killed_anywhere_are_done_or_not_done(travelled: Bench, seed: int, count: int) -> None:
    walk_back_and_forth(travelled, seed, count, "kill")


@rounds(1, 20, 1)
def test_undo_and_redo_on_a_full_disk_are_done_or_not_done(travelled: Bench, seed: int, count: int) -> None:
    walk_back_and_forth(travelled, seed, count, "ENOSPC")


def walk_over_and_back(bench: Bench, seed: int, count: int, act: str) -> None:
    ways = {True: ("apply",), False: ("apply", "--undo")}
    digests = {False: tree_digest(bench.place)}
    whole = stopped(bench, *ways[True], at=0)
    most = {True: whole.count}
    digests[True] = tree_digest(bench.place)
    assert digests[True] != digests[False], whole
    most[False] = stopped(bench, *ways[False], at=0).count
    assert tree_digest(bench.place) == digests[False]
    forth = True
    for drawn in points((seed, act), count, 10**6):
        at = 1 + drawn % most[forth]
        end = stopped(bench, *ways[forth], at=at, act=act)
        what = f"{ways[forth]} {act} at {at} of {most[forth]}: {end.hit}; exit {end.code}; {end.err}"
        changed = [row["path"] for row in json.loads(bench.run("diff", "--json").stdout)]
        now = tree_digest(bench.place)
        done = now == digests[forth]
        assert done or now == digests[not forth], what
        assert end.code != 0 or done, what
        assert left_over(bench, SESSION) == [], what
        assert ("d" in changed) == (now == digests[False]), what
        if done:
            forth = not forth
    bench.run(*ways[forth])
    assert tree_digest(bench.place) == digests[forth]


@rounds(3, 20, 3)
def test_apply_and_its_undo_killed_anywhere_are_done_or_not_done(travelled: Bench, seed: int, count: int) -> None:
    walk_over_and_back(travelled, seed, count, "kill")


@rounds(1, 20, 1)
def test_apply_and_its_undo_on_a_full_disk_are_done_or_not_done(travelled: Bench, seed: int, count: int) -> None:
    walk_over_and_back(travelled, seed, count, "ENOSPC")


def sound(bench: Bench) -> None:
    """Every checkpoint that counts can be read to its last byte, and the journal knows no other."""
    places = bench.scratch / "state" / "sessions" / SESSION
    points = Checkpoints(None, None, directory=places / "store")  # type: ignore[arg-type]  # only its log is read
    try:
        for made in points.list():
            for state in points.state(made.id).values():
                for row in state.values():
                    if row.is_file:
                        sizes = [p if isinstance(p, int) else len(p) for p in points.pieces(row.payload)]
                        assert sum(sizes) == row.size
        known = {made.id for made in points.list()}
    finally:
        points.close()
    assert {body["checkpoint"] for body in bodies(bench, SESSION, "CheckpointTaken")} <= known


def turns_that_end(bench: Bench, seed: int, count: int, act: str) -> None:
    work = ["echo {0} > one; rm -f two; mkdir -p dir{0}; echo {0} > dir{0}/f", "echo {0} > two; echo {0} >> one"]
    bench.run("-p", "--session-id", SESSION, "--model", bench.script({"text": "hello"}), "begin")

    def arguments(number: int) -> tuple[str, ...]:
        script = bench.script(*({"tools": [bash(each.format(number))]} for each in work), {"text": "done"})
        return "-p", "--continue", "--model", script, f"turn {number}"

    most = {only: stopped(bench, *arguments(0), at=0, only=only).count for only in ("", "/store/")}
    before = layers(bench, SESSION)
    for number, at in enumerate(points((seed, act), count, 10**6), 1):
        only = "/store/" if number % 2 else ""
        prompts = len(bodies(bench, SESSION, "PromptGiven"))
        end = stopped(bench, *arguments(number), at=1 + at % most[only], act=act, only=only)
        what = f"turn {act} at {1 + at % most[only]} of {most[only]} {only}: {end.hit}; exit {end.code}; {end.err}"
        bench.run("checkpoints")
        sound(bench)
        if len(bodies(bench, SESSION, "PromptGiven")) > prompts:
            bench.run("undo")
        assert layers(bench, SESSION) == before, what
        assert left_over(bench, SESSION) == [], what
    done = bench.run(*arguments(count + 1))
    assert done.stdout == "done\n"
    bench.run("undo")
    assert layers(bench, SESSION) == before


@rounds(3, 10, 6)
def test_a_turn_killed_anywhere_is_undone_to_what_was_before(repository: Bench, seed: int, count: int) -> None:
    turns_that_end(repository, seed, count, "kill")


@rounds(1, 10, 1)
def test_a_turn_on_a_full_disk_is_undone_to_what_was_before(repository: Bench, seed: int, count: int) -> None:
    turns_that_end(repository, seed, count, "ENOSPC")


def told(bench: Bench, session: str) -> tuple[str, list[str]]:
    """What a session is to its user: its changes and its turns."""
    turns = json.loads(bench.run("checkpoints", session, "--json").stdout)["turns"]
    return bench.run("diff", session).stdout, [turn["text"] for turn in turns if turn["here"]]


def forks_and_collections(bench: Bench, command: tuple[str, ...], seed: int, count: int) -> None:
    was = told(bench, SESSION)
    most = stopped(bench, *command, at=0).count
    for drawn in points((seed, *command), count, 10**6):
        at = 1 + drawn % most
        end = stopped(bench, *command, at=at)
        what = f"{command} killed at {at} of {most}: {end.hit}; exit {end.code}; {end.err}"
        sessions = [row["session"] for row in bench.sessions()]
        assert SESSION in sessions, what
        for session in sessions:
            assert told(bench, session) == was, what
        assert bench.run("fsck", check=None).returncode == 0, what
        for session in sessions:
            if session != SESSION:
                bench.run("discard", session, "--yes")
    bench.run(*command)
    assert told(bench, SESSION) == was
    bench.run("undo", "2", "--session", SESSION)
    assert told(bench, SESSION) == ("", [])
    bench.run("redo", "--session", SESSION)
    assert told(bench, SESSION) == was


@rounds(1, 10, 2)
def test_a_fork_killed_anywhere_is_there_whole_or_not_at_all(travelled: Bench, seed: int, count: int) -> None:
    forks_and_collections(travelled, ("fork", SESSION, "-n", "2"), seed, count)


@rounds(1, 15, 2)
def test_a_collection_killed_anywhere_loses_nothing(travelled: Bench, seed: int, count: int) -> None:
    forks_and_collections(travelled, ("gc", "--max-age", "0", "--turns", "2"), seed, count)


@pytest.mark.slow
@pytest.mark.timeout(10_000)
@pytest.mark.parametrize("count", [10, pytest.param(200, marks=pytest.mark.torture)])
def test_a_session_survives_any_number_of_kills(repository: Bench, count: int) -> None:
    struck.travelled(repository)
    struck.KilledWalk(repository).walk([*struck.COMMANDS] * (count // len(struck.COMMANDS)), count)


if os.uname().machine != "x86_64":
    del test_undo_and_redo_on_a_full_disk_are_done_or_not_done
    del test_apply_and_its_undo_on_a_full_disk_are_done_or_not_done
    del test_a_turn_on_a_full_disk_is_undone_to_what_was_before
