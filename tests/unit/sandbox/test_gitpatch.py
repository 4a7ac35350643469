"""Our patches against the real git: what we print, `git apply` turns into the new tree."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox.bases import Bases
from sandbox.diff import FileDiff, Sides, format_stat, with_renames
from sandbox.gitpatch import Blob, Patch, format_patch, quoted
from sandbox.manifest import Manifest
from sandbox.trees import LocalTree
from tests.support.layers_by_hand import Node, Shape, Stage, build, read

FILE, EXEC, LINK = stat.S_IFREG | 0o644, stat.S_IFREG | 0o755, stat.S_IFLNK | 0o777


def git_apply(where: Path, patch: bytes) -> None:
    command = ["git", "-c", "core.autocrlf=false", "apply", "--whitespace=nowarn", "--unidiff-zero"]
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CEILING_DIRECTORIES": str(where.parent)}
    done = subprocess.run(command, cwd=where, input=patch, capture_output=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr.decode() + patch.decode("utf-8", "backslashreplace")


def diffs(stage: Stage) -> list[FileDiff]:
    manifest = Manifest(stage.base / "manifest")
    with LocalTree(stage.upper) as upper, LocalTree(stage.root) as lower:
        sides = Sides(upper, lower, Bases("root", manifest, None, began_ns=0))
        found = [FileDiff(change=c, patch=sides.patch(c)) for c in with_renames(stage.changes(), upper, lower)]
    manifest.close()
    return found


def text(stage: Stage) -> bytes:
    return b"".join(diff.patch.text for diff in diffs(stage))


def patched(stage: Stage, tmp: Path) -> Shape:
    """The root after `git apply` of our diff."""
    target = tmp / "target"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    build(target, as_git_sees(stage.lower))
    patch = text(stage)
    if patch:
        git_apply(target, patch)
    return read(target)


def as_git_sees(shape: Shape) -> Shape:
    """Git knows no empty directory."""
    seen: Shape = {}
    for name, node in shape.items():
        if isinstance(node, dict):
            inner = as_git_sees(node)
            if inner:
                seen[name] = inner
        else:
            seen[name] = node
    return seen


lines = st.lists(st.sampled_from([b"a\n", b"b\n", b"\n", b"c\r\n", b"  d\n", b"\xff\n", b"-- x\n"]), max_size=12)
contents = st.builds(lambda body, tail: b"".join(body) + tail, lines, st.sampled_from([b"", b"no newline", b"\r"]))
names = st.sampled_from(["a", "b c", "d\te", 'q"uote', "back\\slash", "new\nline", "caf\u00e9", "b\udcffyte", "-x"])
files: st.SearchStrategy[Node] = st.tuples(st.sampled_from([0o644, 0o755]), contents)
links: st.SearchStrategy[Node] = st.sampled_from(["nowhere", "../x", "/etc/passwd", "odd\nlink"])
nodes = st.recursive(st.one_of(files, files, links), lambda inner: st.dictionaries(names, inner, max_size=3))
shapes: st.SearchStrategy[Shape] = st.dictionaries(names, nodes, max_size=4)


@settings(max_examples=60, deadline=None)
@given(before=shapes, after=shapes, opaque=st.booleans())
def test_git_apply_of_our_diff_gives_the_new_tree(
    before: Shape, after: Shape, opaque: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    tmp = tmp_path_factory.mktemp("git")
    stage = Stage(tmp, before)
    stage.change(after, opaque=opaque)
    assert as_git_sees(patched(stage, tmp)) == as_git_sees(after)


@settings(max_examples=40, deadline=None)
@given(old=contents, new=contents)
def test_git_apply_takes_every_change_of_text(old: bytes, new: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    tmp = tmp_path_factory.mktemp("text")
    (tmp / "f").write_bytes(old)
    patch = format_patch(b"f", b"f", Blob(mode=FILE, content=old), Blob(mode=FILE, content=new))
    if patch.text:
        git_apply(tmp, patch.text)
    assert (tmp / "f").read_bytes() == new


def test_the_same_words_as_git_itself(tmp_path: Path) -> None:
    before: Shape = {"f": (0o644, b"".join(b"%d\n" % i for i in range(40))), "gone": (0o755, b"x\n"), "e": (0o644, b"")}
    after: Shape = {"f": (0o644, b"".join(b"%d\n" % i for i in range(40) if i not in (3, 20)) + b"end"), "sp ace": "l"}
    stage = Stage(tmp_path, before)
    stage.change(after)
    repo = tmp_path / "repo"
    repo.mkdir()
    build(repo, before)
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null"}

    def git(*arguments: str) -> bytes:
        return subprocess.run(["git", *arguments], cwd=repo, env=environment, check=True, capture_output=True).stdout

    git("init", "-q")
    git("add", ".")
    git("-c", "user.name=a", "-c", "user.email=a@example.org", "commit", "-qm", "before")
    for name in os.listdir(repo):  # noqa: PTH208 - names only
        if name != ".git":
            (repo / name).unlink()
    build(repo, after)
    git("add", "-A", ".")
    theirs = [
        line
        for line in git("diff", "--cached", "--no-renames", "--patience").splitlines()
        if not line.startswith(b"@@")
    ]
    ours = [line for line in text(stage).splitlines() if not line.startswith(b"@@")]
    assert ours == theirs


def test_renames_are_found_by_content_and_by_likeness(tmp_path: Path) -> None:
    many = b"".join(b"line %d\n" % i for i in range(20))
    stage = Stage(tmp_path, {"a": (0o644, b"same\n"), "b": (0o644, many), "c": (0o644, b"other\n")})
    stage.change({"d": {"a": (0o644, b"same\n")}, "b2": (0o755, many + b"more\n"), "new": (0o644, b"all else\n")})
    found = [(d.change.kind.value, d.change.source, d.change.path, d.change.similarity) for d in diffs(stage)]
    assert found == [
        ("renamed", "b", "b2", 96),
        ("deleted", "", "c", 0),
        ("added", "", "d", 0),
        ("renamed", "a", "d/a", 100),
        ("added", "", "new", 0),
    ]
    assert patched(stage, tmp_path) == {
        "d": {"a": (0o644, b"same\n")},
        "b2": (0o755, many + b"more\n"),
        "new": (0o644, b"all else\n"),
    }


def test_binary_files_are_noted_not_shown() -> None:
    old, new = Blob(mode=FILE, content=b"a\0b"), Blob(mode=FILE, content=b"a\0c")
    patch = format_patch(b"x", b"x", old, new)
    assert patch == Patch(
        text=b"diff --git a/x b/x\nindex 20b5be9..88f3700 100644\nBinary files a/x and b/x differ\n", binary=True
    )
    assert format_patch(b"x", b"x", None, Blob(mode=EXEC, content=None)).binary


def test_mode_change_alone_has_no_hunk() -> None:
    patch = format_patch(b"x", b"x", Blob(mode=FILE, content=b"1"), Blob(mode=EXEC, content=b"1"))
    assert patch.text == b"diff --git a/x b/x\nold mode 100644\nnew mode 100755\n"
    same = format_patch(b"x", b"x", Blob(mode=FILE, content=b"1"), Blob(mode=stat.S_IFREG | 0o600, content=b"1"))
    assert same.text == b""


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (b"plain", b"a/plain"),
        (b"sp ace", b"a/sp ace"),
        (b"t\tab", b'"a/t\\tab"'),
        (b"caf\xc3\xa9", b'"a/caf\\303\\251"'),
        (b'q"b\\', b'"a/q\\"b\\\\"'),
        (b"\x1b]0;x\x07", b'"a/\\033]0;x\\a"'),
    ],
)
def test_names_are_quoted_as_git_does(name: bytes, shown: bytes) -> None:
    assert quoted(b"a/", name) == shown


def test_stat_counts_lines_and_names_what_has_none(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {"f": (0o644, b"1\n2\n"), "bin": (0o644, b"\0")})
    stage.change({"f": (0o644, b"1\n3\n4\n"), "bin": (0o644, b"\0\0"), "empty": {}})
    os.mkfifo(stage.upper / "pipe")
    assert format_stat(diffs(stage)) == (
        " bin   |   Bin\n empty |   directory\n f     | 3 ++-\n pipe  |   fifo\n"
        " 4 files changed, 2 insertions(+), 1 deletion(-)\n"
    )
    assert format_stat([]) == ""


def test_stat_counts_a_file_that_became_a_directory(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {"f": (0o644, b"1\n2\n")})
    (stage.upper / "f").mkdir()
    (stage.upper / "f" / "g").write_bytes(b"3\n")
    assert format_stat(diffs(stage)) == (" f   | 2 --\n f/g | 1 +\n 2 files changed, 1 insertion(+), 2 deletions(-)\n")


def test_json_has_both_sides(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {"f": (0o644, b"1\n")})
    stage.change({"f": (0o755, b"2\n")})
    [found] = diffs(stage)
    assert found.to_json() == {
        "root": "root",
        "path": "f",
        "kind": "modified",
        "source": "",
        "similarity": 0,
        "old": {"type": "file", "mode": "0644", "size": 2},
        "new": {"type": "file", "mode": "0755", "size": 2},
        "added": 1,
        "removed": 1,
        "binary": False,
        "base": "host",
        "drifted": False,
        "special": "",
        "held": "",
    }
