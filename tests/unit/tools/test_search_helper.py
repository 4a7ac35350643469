"""Patterns as shells have them, and walking where the files are."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sandbox.server.regular import RefusedError, open_regular
from sandbox.server.search import glob, lines, translate


@pytest.mark.parametrize(
    ("pattern", "matches", "others"),
    [
        ("*.py", ["a.py", "b/c.py", ".h.py"], ["a.pyc", "a.py/b"]),
        ("src/*.py", ["src/a.py"], ["src/b/a.py", "x/src/a.py"]),
        ("**/*.py", ["a.py", "b/c/d.py"], ["a.txt"]),
        ("src/**", ["src/a", "src/b/c"], ["src", "srcx/a"]),
        ("src/**/t*.py", ["src/t.py", "src/a/b/test.py"], ["src/x.py"]),
        ("**/test/**/*.js", ["test/a.js", "a/test/b/c.js"], ["tests/a.js"]),
        ("*.{ts,tsx}", ["a.ts", "b/a.tsx"], ["a.tsxx", "a.{ts,tsx}"]),
        ("{src,lib}/{a,b{1,2}}.c", ["src/a.c", "lib/b2.c"], ["lib/b.c"]),
        ("{**/a,b}/*.x", ["a/1.x", "c/a/1.x", "b/1.x"], ["c/b/1.x"]),
        ("[ab]?.[!x]", ["a1.c", "bb.y"], ["c1.c", "a1.x", "a/.c"]),
        ("[]a].c", ["].c", "a.c"], ["b.c"]),
        ("a[", ["a["], ["a"]),
        ("a{b", ["a{b"], ["ab"]),
        ("a}b", ["a}b"], ["ab"]),
        (r"a\*b", ["a*b"], ["axb"]),
        ("a**b", ["axxb", "ab"], ["a/b"]),
        ("/top.md", ["top.md"], ["a/top.md"]),
        (".*", [".env", "a/.env"], ["env"]),
    ],
)
def test_patterns_match_as_expected(pattern: str, matches: list[str], others: list[str]) -> None:
    compiled = translate(pattern)
    assert [name for name in [*matches, *others] if compiled.match(name)] == matches


@given(pattern=st.text(alphabet="ab*?[]{},!/\\-^.", min_size=1, max_size=15), name=st.text(alphabet="ab/.", max_size=8))
@example(pattern="[?--]", name="-")
def test_any_pattern_is_translated_or_refused(pattern: str, name: str) -> None:
    with contextlib.suppress(RefusedError):
        translate(pattern).match(name)


def test_names_not_contents_of_links_are_found_newest_first(tmp_path: Path) -> None:
    (tmp_path / "d/.git").mkdir(parents=True)
    for age, name in enumerate(["new.c", "d/old.c", ".hid.c", "d/.git/x.c"]):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (1000 - age, 1000 - age))
    (tmp_path / "loop").symlink_to(".")
    (tmp_path / "link.c").symlink_to("/etc/passwd")

    def names(pattern: str, *, hidden: str = "1", limit: str = "10") -> list[str]:
        found = glob(str(tmp_path), pattern, limit, "5", hidden)
        return [bytes.fromhex(name).decode() for name in found["files"]]

    assert names("*.c") == ["link.c", "new.c", "d/old.c", ".hid.c"]
    assert names("*.c", hidden="0") == ["link.c", "new.c", "d/old.c"]
    assert names("*.c", limit="2") == ["link.c", "new.c"]
    assert glob(str(tmp_path), "*.c", "2", "5", "1")["total"] == 4
    assert glob(str(tmp_path), "*.c", "2", "-1", "1") == {"files": [], "total": 0, "timed_out": True}
    with pytest.raises(RefusedError, match="does not exist"):
        glob(str(tmp_path / "no"), "*", "1", "5", "1")


@given(
    texts=st.lists(st.text(alphabet="ab é", max_size=6), min_size=1, max_size=30),
    start=st.integers(1, 35),
    count=st.integers(1, 10),
    encoding=st.sampled_from(["utf-8", "utf-16-le"]),
    ended=st.booleans(),
)
def test_a_page_in_the_box_is_the_page_of_the_text(
    tmp_path_factory: pytest.TempPathFactory, *, texts: list[str], start: int, count: int, encoding: str, ended: bool
) -> None:
    text = "\n".join(texts) + ("\n" if ended else "")
    every = text.split("\n")
    if not every[-1]:
        every.pop()
    file = tmp_path_factory.mktemp("page") / "f"
    file.write_bytes(text.encode(encoding))
    page = lines(str(file), encoding, "0", str(start), str(count), "100000", "2000")
    assert page["lines"] == every[start - 1 : start - 1 + count]
    assert page["total"] == len(every)


def test_no_link_is_opened(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d/f").write_text("x")
    (tmp_path / "link").symlink_to("d")
    (tmp_path / "d/l").symlink_to("f")
    os.mkfifo(tmp_path / "pipe")
    descriptor, status = open_regular(str(tmp_path / "d/f"))
    os.close(descriptor)
    assert status.st_size == 1
    for path in ("link/f", "d/l", "d", "pipe", "none"):
        with pytest.raises(RefusedError):
            open_regular(str(tmp_path / path))
