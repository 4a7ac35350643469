"""Packs made by the real git are read as git reads them; broken and crafted ones are refused."""

from __future__ import annotations

import hashlib
import os
import struct
import subprocess
import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sandbox.errors import WorkspaceError
from sandbox.gitdir import GitDirs
from sandbox.gitpack import PackError, connected, make_index, read_pack
from sandbox.hostgit import BranchError, HostGit, check_branch_name, ids_of

FORMATS = pytest.mark.parametrize("algorithm", ["sha1", "sha256"])


def git(where: Path, *arguments: str, stdin: bytes = b"") -> bytes:
    identity = {f"GIT_{who}_{what}": "a@b" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    environment = {**os.environ, **identity, "GIT_CONFIG_GLOBAL": "/dev/null"}
    done = subprocess.run(
        ["git", *arguments], cwd=where, env=environment, input=stdin, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def repository(where: Path, algorithm: str = "sha1") -> Path:
    """Three commits of a growing file, so that its packs have deltas."""
    where.mkdir()
    git(where, "init", "-q", "-b", "main", f"--object-format={algorithm}")
    text = b"".join(hashlib.sha1(b"%d" % number).hexdigest().encode() + b"\n" for number in range(2000))
    for number in range(3):
        (where / "big").write_bytes(text + b"%d\n" % number * 10)
        (where / f"f{number}").write_bytes(b"file %d" % number)
        (where / "d").mkdir(exist_ok=True)
        (where / "d" / "link").unlink(missing_ok=True)
        (where / "d" / "link").symlink_to(f"f{number}")
        git(where, "add", "-A")
        git(where, "commit", "-qm", f"commit {number}")
    return where


def packed(where: Path, *revisions: str) -> bytes:
    sent = "".join(f"{each}\n" for each in revisions).encode()
    return git(where, "pack-objects", "--revs", "--stdout", "--delta-base-offset", "-q", stdin=sent)


def head(where: Path) -> str:
    return git(where, "rev-parse", "HEAD").decode().strip()


@FORMATS
def test_objects_and_index_are_those_of_git_itself(tmp_path: Path, algorithm: str) -> None:
    repo = repository(tmp_path / "repo", algorithm)
    data = packed(repo, "HEAD")
    pack = read_pack(data, algorithm=algorithm)
    listed = git(repo, "rev-list", "--objects", "HEAD").decode().splitlines()
    assert {name.hex() for name in pack.objects} == {line.split()[0] for line in listed}
    connected(pack, bytes.fromhex(head(repo)), lambda _: False)
    (tmp_path / "x.pack").write_bytes(data)
    git(repo, "index-pack", str(tmp_path / "x.pack"))
    assert make_index(pack, algorithm=algorithm) == (tmp_path / "x.idx").read_bytes()


@FORMATS
def test_new_commits_go_over_and_git_finds_nothing_wrong(tmp_path: Path, algorithm: str) -> None:
    host = repository(tmp_path / "host", algorithm)
    git(tmp_path, "clone", "-q", str(host), str(tmp_path / "box"))
    (tmp_path / "box" / "new").write_bytes(b"new")
    git(tmp_path / "box", "add", "-A")
    git(tmp_path / "box", "commit", "-qm", "in the box")
    before = {path: path.read_bytes() for path in (host / ".git").rglob("*") if path.is_file()}
    with HostGit(GitDirs(top=host, git=host / ".git", common=host / ".git")) as opened:
        known = ids_of(opened.refs(), most=10, has=opened.has)
        assert known == [head(host)]
        pack = read_pack(packed(tmp_path / "box", "HEAD", *(f"^{each}" for each in known)), algorithm=algorithm)
        assert len(pack.objects) == 3
        tip = head(tmp_path / "box")
        connected(pack, bytes.fromhex(tip), opened.has)
        opened.add_pack(pack)
        opened.create_ref("refs/fumehood/session", tip)
        opened.create_ref("refs/heads/agent/work", tip)
        with pytest.raises(BranchError):
            opened.create_ref("refs/heads/agent/work", tip)
    git(host, "fsck", "--strict")
    assert git(host, "show", "agent/work:new") == b"new"
    assert {path: path.read_bytes() for path in before} == before


def test_objects_are_found_loose_packed_and_borrowed(tmp_path: Path) -> None:
    host = repository(tmp_path / "host")
    names = [line.split()[0] for line in git(host, "rev-list", "--objects", "--all").decode().splitlines()]
    git(tmp_path, "clone", "-q", "--shared", str(host), str(tmp_path / "borrower"))
    for _ in range(2):
        for top in (host, tmp_path / "borrower"):
            with HostGit(GitDirs(top=top, git=top / ".git", common=top / ".git")) as opened:
                assert all(opened.has(bytes.fromhex(name)) for name in names)
                assert not opened.has(bytes(20))
                assert not opened.has(b"\xff" * 20)
        git(host, "gc", "-q")


@pytest.mark.parametrize("name", ["main", "main/x", "taken", "taken/below"])
def test_no_ref_is_overwritten_or_stood_upon(tmp_path: Path, name: str) -> None:
    host = repository(tmp_path / "host")
    git(host, "branch", "taken")
    git(host, "pack-refs", "--all")
    refs = git(host, "show-ref")
    with HostGit(GitDirs(top=host, git=host / ".git", common=host / ".git")) as opened, pytest.raises(BranchError):
        opened.create_ref(f"refs/heads/{name}", head(host))
    assert git(host, "show-ref") == refs


def test_ref_under_gits_lock_is_left_alone(tmp_path: Path) -> None:
    host = repository(tmp_path / "host")
    (host / ".git/refs/heads/new.lock").touch()
    with HostGit(GitDirs(top=host, git=host / ".git", common=host / ".git")) as opened, pytest.raises(BranchError):
        opened.create_ref("refs/heads/new", head(host))
    assert (host / ".git/refs/heads/new.lock").exists()


def test_links_in_the_git_directory_are_not_followed(tmp_path: Path) -> None:
    host = repository(tmp_path / "host")
    outside = tmp_path / "outside"
    outside.mkdir()
    pack = read_pack(packed(host, "HEAD"), algorithm="sha1")
    for place in ("objects/pack", "refs/fumehood"):
        target = host / ".git" / place
        if target.exists():
            target.rmdir()
        target.symlink_to(outside)
    with HostGit(GitDirs(top=host, git=host / ".git", common=host / ".git")) as opened:
        with pytest.raises(BranchError):
            opened.add_pack(pack)
        with pytest.raises(BranchError):
            opened.create_ref("refs/fumehood/x", head(host))
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize("name", ["a", "a/b", "feature/x-1", "\u00e9"])
def test_names_that_git_takes_are_taken(name: str) -> None:
    check_branch_name(name)
    assert subprocess.run(["git", "check-ref-format", f"refs/heads/{name}"], check=False).returncode == 0


@pytest.mark.parametrize(
    "name",
    ["", "a..b", "a b", "a~", "^a", "a:b", "a?", "*", "[a", "a\\b", "a/", "/a", "a//b",
     ".a", "a/.b", "a.lock", "a@{b", "@", "a.", "a\n", "-a", "HEAD", "x.lock/y"],
)  # fmt: skip
def test_names_that_git_does_not_take_are_refused(name: str) -> None:
    with pytest.raises(BranchError):
        check_branch_name(name)


def entry(kind: int, content: bytes, *, size: int | None = None, base: bytes = b"") -> bytes:
    size = len(content) if size is None else size
    head, size = kind << 4 | size & 15, size >> 4
    out = bytearray()
    while size:
        out.append(head | 0x80)
        head, size = size & 0x7F, size >> 7
    out.append(head)
    return bytes(out) + base + zlib.compress(content)


def make_pack(*entries: bytes, count: int | None = None) -> bytes:
    body = struct.pack(">4sII", b"PACK", 2, len(entries) if count is None else count) + b"".join(entries)
    return body + hashlib.sha1(body).digest()


def tree(*rows: tuple[bytes, bytes]) -> bytes:
    return b"".join(mode + b" " + name + b"\0" + bytes(20) for mode, name in rows)


@pytest.mark.parametrize(
    "data",
    [
        b"", b"PACK", make_pack(entry(3, b"x"))[:-1] + b"\0", make_pack(entry(3, b"x"), count=2),
        make_pack(entry(3, b"x"), entry(3, b"x")), make_pack(entry(3, b"x", size=2)),
        make_pack(entry(3, b"xy", size=1)),
        make_pack(entry(5, b"x")), make_pack(entry(0, b"x")), make_pack(entry(7, b"\1\1\1x", base=bytes(20))),
        make_pack(entry(6, b"\1\1\1x", base=b"\x7f")), make_pack(entry(3, b"x", size=1 << 40)),
        make_pack(entry(1, b"no tree\n")), make_pack(entry(1, b"tree zz\n\n")), make_pack(entry(2, b"100644 cut")),
        make_pack(entry(2, tree((b"100644", b"a/b")))), make_pack(entry(2, tree((b"40000", b"..")))),
        make_pack(entry(2, tree((b"40000", b".git")))), make_pack(entry(2, tree((b"40000", b".GIT")))),
        make_pack(entry(2, tree((b"40000", b"git~1")))), make_pack(entry(2, tree((b"40000", ".g\u200cit".encode())))),
        make_pack(entry(2, tree((b"120000", b".gitmodules")))), make_pack(entry(2, tree((b"777", b"a")))),
        make_pack(entry(3, b"x")[:-3]),
    ],
)  # fmt: skip
def test_damaged_and_crafted_packs_are_refused(data: bytes) -> None:
    with pytest.raises(PackError):
        read_pack(data, algorithm="sha1")


def test_delta_that_reads_outside_of_its_base_is_refused() -> None:
    base = entry(3, b"base")
    for delta in (
        b"\4\x08\x91\0\x08",
        b"\4\xff\xff\xff\xff\x7f\x90\4",
        b"\5\4\x90\4",
        b"\4\4\0",
        b"\4\4\5ab",
        b"\4\4\x90\3",
    ):
        with pytest.raises(PackError):
            read_pack(make_pack(base, entry(6, delta, base=bytes([len(base)]))), algorithm="sha1")
    own = entry(6, b"\4\5\x90\4\1!", base=bytes([len(base)]))
    whole = read_pack(make_pack(base, own), algorithm="sha1")
    assert hashlib.sha1(b"blob 5\0base!").digest() in whole.objects


def test_pack_that_lacks_or_adds_something_is_not_connected(tmp_path: Path) -> None:
    repo = repository(tmp_path / "repo")
    tip = bytes.fromhex(head(repo))
    part = read_pack(packed(repo, "HEAD", "^HEAD~1"), algorithm="sha1")
    with pytest.raises(PackError, match="lacks"):
        connected(part, tip, lambda _: False)
    with pytest.raises(PackError, match="belong to none"):
        connected(read_pack(make_pack(entry(3, b"x")), algorithm="sha1"), tip, lambda _: True)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_damage_is_ever_another_error_or_a_wrong_object(data: st.DataObject, tmp_path: Path) -> None:
    where = tmp_path / "repo"
    whole = packed(where if where.exists() else repository(where), "HEAD")
    at = data.draw(st.integers(0, len(whole) - 21))
    broken = bytearray(whole[:-20])
    broken[at] ^= data.draw(st.integers(1, 255))
    try:
        found = read_pack(bytes(broken) + hashlib.sha1(broken).digest(), algorithm="sha1")
        connected(found, bytes.fromhex(head(where)), lambda _: False)
    except WorkspaceError:
        return
    assert {name: item.type for name, item in found.objects.items()} == {
        name: item.type for name, item in read_pack(whole, algorithm="sha1").objects.items()
    }
