"""The merge of lines against `git merge-file`, and what apply makes of it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox.merge import merge

LABELS = ("-L", "host", "-L", "base", "-L", "box")


def git_merge(where: Path, base: bytes, host: bytes, box: bytes) -> tuple[bytes, int]:
    for name, text in (("host", host), ("base", base), ("box", box)):
        (where / name).write_bytes(text)
    command = ["git", "merge-file", "-p", "--diff3", *LABELS, "host", "base", "box"]
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null"}
    done = subprocess.run(command, cwd=where, capture_output=True, env=environment, check=False)
    assert 0 <= done.returncode < 128, done.stderr
    return done.stdout, done.returncode


@st.composite
def edits(draw: st.DrawFn, *, ending: bytes = b"\n") -> tuple[bytes, bytes, bytes]:
    """A text of different lines, and two edits of it, each of lines of its own or shared ones."""
    count = draw(st.integers(0, 12))
    base = [b"line %d" % number for number in range(count)]
    sides = []
    for side in (b"host", b"box"):
        lines = list(base)
        for _ in range(draw(st.integers(0, 3))):
            start = draw(st.integers(0, len(lines)))
            end = draw(st.integers(start, min(start + 3, len(lines))))
            who = draw(st.sampled_from([side, side, b"both"]))
            lines[start:end] = [b"%s %d" % (who, draw(st.integers(0, 1000))) for _ in range(draw(st.integers(0, 2)))]
        sides.append(lines)
    texts = []
    for lines in (base, *sides):
        text = b"".join(line + ending for line in lines)
        texts.append(text.removesuffix(ending) if draw(st.integers(0, 5)) == 0 else text)
    return texts[0], texts[1], texts[2]


@settings(max_examples=120, deadline=None)
@given(texts=edits())
def test_merges_as_git_merge_file_does(
    texts: tuple[bytes, bytes, bytes], tmp_path_factory: pytest.TempPathFactory
) -> None:
    text, conflicts = git_merge(tmp_path_factory.getbasetemp(), *texts)
    found = merge(*texts)
    assert (found.text, found.conflicts) == (text, conflicts)


@settings(max_examples=100, deadline=None)
@given(texts=edits())
def test_one_side_alone_and_the_same_on_both_are_clean(texts: tuple[bytes, bytes, bytes]) -> None:
    base, host, _ = texts
    for mine, theirs in ((host, base), (base, host), (host, host)):
        assert merge(base, mine, theirs) == merge(base, host, host)
        assert (merge(base, mine, theirs).text, merge(base, mine, theirs).conflicts) == (host, 0)


lines = st.lists(st.sampled_from([b"a\n", b"b\n", b"\n", b"c\r\n", b"end"]), max_size=8).map(b"".join)


@settings(max_examples=120, deadline=None)
@given(base=lines, host=lines, box=lines)
def test_swapping_the_sides_changes_no_clean_merge(base: bytes, host: bytes, box: bytes) -> None:
    one, other = merge(base, host, box), merge(base, box, host)
    assert one.conflicts == other.conflicts
    if not one.conflicts:
        assert one.text == other.text


def test_conflict_stands_between_markers_with_all_three_versions() -> None:
    found = merge(b"1\n2\n3\n", b"1\nhost\n3\n", b"1\nbox\n3\n")
    assert found.text == b"1\n<<<<<<< host\nhost\n||||||| base\n2\n=======\nbox\n>>>>>>> box\n3\n"
    assert found.conflicts == 1


def test_markers_end_as_the_lines_around_them() -> None:
    found = merge(b"1\r\n2\r\n", b"1\r\nhost\r\n", b"1\r\nbox\r\n")
    assert b"\n" not in found.text.replace(b"\r\n", b"")
