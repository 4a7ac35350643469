"""The user goes on working in the repository while a session has it: another branch, an edit, a deletion, a rename.
Going back mixes nothing, and what is applied afterwards loses neither side.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.e2e.conftest import Bench, bash, tree_digest

pytestmark = [pytest.mark.box, pytest.mark.timeout(240)]
LINES = "".join(f"line {number}\n" for number in range(1, 31))
NAMES = ("both", "edited", "deleted", "renamed", "ours", "theirs")


def git(place: Path, *words: str) -> None:
    subprocess.run(["git", "-c", "user.name=n", "-c", "user.email=e@example.org", *words], cwd=place, check=True)


def in_box(bench: Bench) -> dict[str, str]:
    """Every file of the repository as the box has it."""
    look = "for f in *; do printf '%s\\0' \"$f\"; cat \"$f\"; printf '\\0'; done"
    parts = bench.run("shell", "-c", look).stdout.split("\0")[:-1]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def test_the_host_moves_under_a_session_and_neither_side_is_lost(repository: Bench) -> None:
    place = repository.place
    for name in NAMES:
        (place / name).write_text(LINES)
    for words in (["add", "."], ["commit", "-qm", "lines"], ["checkout", "-qb", "other"]):
        git(place, *words)
    (place / "theirs").write_text(LINES.replace("line 3\n", "their line 3\n"))
    (place / "both").write_text(LINES.replace("line 3\n", "their line 3\n"))
    git(place, "commit", "-qam", "theirs")
    git(place, "checkout", "-q", "-")

    first = "for f in both edited deleted renamed ours; do sed -i 's/^line 25$/our line 25/' $f; done; echo n > new"
    second = "sed -i 's/^line 27$/our line 27/' both; rm ours"
    for number, work in enumerate((first, second)):
        model = repository.script({"tools": [bash(work)]}, {"text": "did"})
        repository.run("-p", *(["--continue"] if number else []), "--model", model, f"turn {number}")
    repository.run("undo")
    after_first = in_box(repository)
    repository.run("redo")
    after_second = in_box(repository)

    git(place, "checkout", "-q", "other")
    (place / "edited").write_text(LINES.replace("line 3\n", "my line 3\n"))
    (place / "deleted").unlink()
    (place / "renamed").rename(place / "moved")
    theirs = (place / "theirs").read_text()
    host = {path.name: path.read_text() for path in place.iterdir() if path.is_file()}
    before = tree_digest(place)

    # What nobody touched in the box shows the host as it is; all else is as it was at that point, none is a mixture.
    shown = {"theirs": theirs, "moved": LINES}
    repository.run("undo")
    assert in_box(repository) == after_first | shown
    repository.run("redo")
    assert in_box(repository) == after_second | shown
    assert tree_digest(place) == before

    refused = repository.run("apply", check=53)
    told = refused.stdout + refused.stderr
    assert all(name in told for name in ("both", "edited", "deleted", "renamed")), told
    assert tree_digest(place) == before
    repository.run("apply", "--3way", "both", "edited", "new", "ours")
    ours = LINES.replace("line 25\n", "our line 25\n")
    assert (place / "edited").read_text() == ours.replace("line 3\n", "my line 3\n")
    assert (place / "both").read_text() == ours.replace("line 3\n", "their line 3\n").replace("line 27", "our line 27")
    assert not (place / "ours").exists()
    left = {row["path"] for row in json.loads(repository.run("diff", "--json").stdout)}
    assert left == {"deleted", "renamed"}
    assert repository.run("apply", "--3way", check=53).stderr
    repository.run("apply", "--theirs")
    assert (place / "deleted").read_text() == (place / "renamed").read_text() == ours
    assert (place / "moved").read_text() == LINES
    repository.run("apply", "--undo")
    repository.run("apply", "--undo")
    assert {path.name: path.read_text() for path in place.iterdir() if path.is_file()} == host
