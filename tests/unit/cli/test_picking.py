from __future__ import annotations

import stat
from typing import Any

import pytest

from runner.cli.picking import Picked, from_words, pick, seen_digest
from runner.errors import UsageError
from sandbox.changes import Change, Kind
from sandbox.diff import FileDiff
from sandbox.gitpatch import Blob, format_patch
from sandbox.hunks import to_hunks
from sandbox.mixing import chosen_lines
from sandbox.selection import PlanError

OLD = b"".join(b"%d\n" % number for number in range(40))
NEW = OLD.replace(b"\n3\n", b"\nthree\n").replace(b"\n7\n", b"\nseven\n").replace(b"\n30\n", b"\nthirty\n")


def row(path: str = "f", old: bytes = OLD, new: bytes = NEW, kind: Kind = Kind.MODIFIED) -> dict[str, Any]:
    mode = stat.S_IFREG | 0o644
    sides = (Blob(mode=mode, content=old) if kind is not Kind.ADDED else None, Blob(mode=mode, content=new))
    change = Change(root="r", path=path, kind=kind, old=None, new=None)
    patch = format_patch(path.encode(), path.encode(), *sides)
    found = to_hunks(FileDiff(change=change, patch=patch, sides=sides))
    assert found is not None
    return {**found, "file": f"/at/{path}"}


def choose(answers: str, *rows: dict[str, Any]) -> tuple[Picked, str]:
    said: list[str] = []
    lines = iter(answers)
    picked = pick(rows, ask=lambda _: next(lines, ""), show=said.append, colour=False)
    return picked, "".join(said)


def test_hunks_are_those_of_the_diff_and_hold_runs() -> None:
    assert [[run["number"] for run in hunk["runs"]] for hunk in row()["hunks"]] == [[0, 1], [2]]
    assert row()["hunks"][1]["text"].startswith("@@ -28,7 +28,7 @@\n")
    assert row()["text"] == row()["header"] + "".join(hunk["text"] for hunk in row()["hunks"])


@pytest.mark.parametrize(
    ("answers", "whole", "hunks"),
    [
        ("yy", ["/at/f"], []),
        ("ny", [], [("/at/f", (2,))]),
        ("yn", [], [("/at/f", (0, 1))]),
        ("a", ["/at/f"], []),
        ("d", [], []),
        ("na", [], [("/at/f", (2,))]),
        ("syny", [], [("/at/f", (0, 2))]),
        ("snyn", [], [("/at/f", (1,))]),
        ("yq", [], [("/at/f", (0, 1))]),
        ("y", [], [("/at/f", (0, 1))]),
        ("x?Yn", [], [("/at/f", (0, 1))]),
    ],
)
def test_answers_choose(answers: str, whole: list[str], hunks: list[Any]) -> None:
    picked, _ = choose(answers, row())
    assert (picked.whole, picked.hunks) == (whole, hunks)
    assert [file for file, _ in picked.seen] == (["/at/f"] if whole or hunks else [])


def test_quitting_leaves_all_later_files_and_help_is_shown() -> None:
    picked, said = choose("?yyq", row(), row("g"), row("h"))
    assert picked.whole == ["/at/f"]
    assert "s - split" in said


def test_what_has_no_hunks_is_taken_or_left_as_a_whole() -> None:
    new = row("n", kind=Kind.ADDED)
    assert choose("y", new)[0].whole == ["/at/n"]
    assert choose("n", new)[0].whole == []
    assert choose("yy", row("b", b"\0", b"\0\0"))[0].whole == ["/at/b"]


def test_what_is_shown_cannot_drive_the_terminal() -> None:
    _, said = choose("n", row("f", b"a\n", b"\x1b[2Jb\n"))
    assert "\x1b" not in said


def test_words_name_hunks_as_the_diff_counts_them() -> None:
    assert from_words(["/at/f:1"], [row()]).hunks == [("/at/f", (0, 1))]
    assert from_words(["/at/f:2,1"], [row()]).whole == ["/at/f"]
    assert from_words(["/at/f:2"], [row()]).seen == [("/at/f", seen_digest(row()))]
    for word in ("/at/f:3", "/at/f:0", "/at/g:1", "/at/f", "/at/f:x"):
        with pytest.raises(UsageError):
            from_words([word], [row()])


def test_chosen_runs_make_the_text() -> None:
    assert chosen_lines(OLD, NEW, frozenset()) == OLD
    assert chosen_lines(OLD, NEW, frozenset({0, 1, 2})) == NEW
    assert chosen_lines(OLD, NEW, frozenset({1})) == OLD.replace(b"\n7\n", b"\nseven\n")
    with pytest.raises(PlanError):
        chosen_lines(OLD, NEW, frozenset({3}))
