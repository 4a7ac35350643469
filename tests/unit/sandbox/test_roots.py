from __future__ import annotations

import os
import subprocess
from pathlib import Path, PurePosixPath

import pytest

from sandbox.errors import WorkspaceError
from sandbox.gitdir import find_top, read_head, read_identity
from sandbox.roots import Found, Root, _place, _unique_name, find_roots, to_box, to_host


def git(where: Path, *arguments: str) -> str:
    environment = {
        **os.environ,
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_AUTHOR_NAME": "a",
        "GIT_AUTHOR_EMAIL": "a@example.org",
        "GIT_COMMITTER_NAME": "a",
        "GIT_COMMITTER_EMAIL": "a@example.org",
    }
    command = ["git", "-c", "protocol.file.allow=always", "-c", "init.defaultBranch=main", "-C", str(where)]
    return subprocess.run(
        [*command, *arguments], env=environment, check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    top = tmp_path / "repo"
    (top / "sub" / "deep").mkdir(parents=True)
    (top / "file").write_text("x")
    git(top, "init", "-q")
    git(top, "add", ".")
    git(top, "commit", "-qm", "one")
    return top


def look(cwd: Path, *add: Path, really: bool = False, home: Path | None = None, state: Path | None = None) -> Found:
    return find_roots(
        cwd, add, home=home or Path("/nowhere/home"), state=state or Path("/nowhere/state"), really=really
    )


def test_root_is_the_repository_around_the_current_directory(repo: Path) -> None:
    found = look(repo / "sub" / "deep")
    assert [root.host for root in found.roots] == [repo]
    assert found.cwd == found.roots[0].at / "sub" / "deep"
    assert found.roots[0].head == git(repo, "rev-parse", "HEAD")


def test_root_is_the_current_directory_where_no_repository_is(tmp_path: Path) -> None:
    assert look(tmp_path).roots[0].host == tmp_path
    assert look(tmp_path).roots[0].head == ""


def test_links_in_the_way_to_the_root_are_resolved(repo: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(repo)
    assert look(tmp_path / "link" / "sub").roots[0].host == repo


def test_worktree_brings_its_common_git_directory(repo: Path, tmp_path: Path) -> None:
    git(repo, "worktree", "add", "-q", str(tmp_path / "wt"), "-b", "other")
    git(tmp_path / "wt", "commit", "-q", "--allow-empty", "-m", "two")
    found = look(tmp_path / "wt")
    assert [root.host for root in found.roots] == [tmp_path / "wt", repo / ".git"]
    assert found.roots[0].head == git(tmp_path / "wt", "rev-parse", "HEAD")
    assert [root.host for root in look(tmp_path / "wt", repo).roots] == [tmp_path / "wt", repo]


def test_submodule_brings_its_git_directory(repo: Path, tmp_path: Path) -> None:
    git(tmp_path, "init", "-q", "super")
    git(tmp_path / "super", "submodule", "--quiet", "add", str(repo), "inner")
    found = look(tmp_path / "super" / "inner")
    assert [root.host for root in found.roots] == [
        tmp_path / "super" / "inner",
        tmp_path / "super/.git/modules/inner",
    ]
    assert found.roots[0].head == git(tmp_path / "super" / "inner", "rev-parse", "HEAD")
    assert [root.host for root in look(tmp_path / "super").roots] == [tmp_path / "super"]


def test_git_file_that_names_a_directory_which_does_not_point_back_brings_nothing(repo: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "HEAD").write_text("f" * 40)
    (victim / "objects").mkdir()
    evil = tmp_path / "evil"
    evil.mkdir()
    (evil / ".git").write_text(f"gitdir: {victim}\n")
    found = look(evil)
    assert [root.host for root in found.roots] == [evil]
    assert found.roots[0].head == ""
    assert str(victim) in found.notes[0]


def test_commondir_of_another_repository_is_not_believed(repo: Path, tmp_path: Path) -> None:
    evil = tmp_path / "evil"
    fake = evil / "fake"
    fake.mkdir(parents=True)
    (evil / ".git").write_text(f"gitdir: {fake}\n")
    (fake / "gitdir").write_text(f"{evil}/.git\n")
    (fake / "commondir").write_text(f"{repo}/.git\n")
    (fake / "HEAD").write_text("ref: refs/heads/main\n")
    assert [root.host for root in look(evil).roots] == [evil]
    assert look(evil).roots[0].head == ""


def test_head_is_read_detached_packed_unborn_and_as_sha256(repo: Path, tmp_path: Path) -> None:
    commit = git(repo, "rev-parse", "HEAD")
    git(repo, "pack-refs", "--all")
    assert read_head(find_top(repo)) == commit
    git(repo, "checkout", "-q", "--detach")
    assert read_head(find_top(repo)) == commit
    git(tmp_path, "init", "-q", "--object-format=sha256", "long")
    assert read_head(find_top(tmp_path / "long")) == ""
    git(tmp_path / "long", "commit", "-q", "--allow-empty", "-m", "x")
    assert read_head(find_top(tmp_path / "long")) == git(tmp_path / "long", "rev-parse", "HEAD")
    assert len(read_head(find_top(tmp_path / "long"))) == 64


def test_head_of_a_reftable_repository_is_unknown(repo: Path) -> None:
    (repo / ".git" / "HEAD").write_text("ref: refs/heads/.invalid\n")
    assert read_head(find_top(repo)) == ""


@pytest.mark.parametrize(
    ("host", "at"),
    [
        ("/srv/app", "/srv/app"),
        ("/home/user/a b;c$d\\e", "/home/user/a b;c$d\\e"),
        ('/home/user/a b,c:d"e', "/workspace/a b_c_d_e"),
        ("/home/user/new\nline", "/workspace/new_line"),
        ("/home/user/b\udcffd", "/workspace/b_d"),
        ("/home/box", "/workspace/box"),
        ("/home/box/x", "/workspace/x"),
        ("/home", "/workspace/home"),
        ("/root/x", "/workspace/x"),
        ("/tmp/x", "/workspace/x"),
        ("/var/lib/x", "/workspace/x"),
        ("/lib64/x", "/workspace/x"),
        ("/opt", "/workspace/opt"),
        ("/opt/fume", "/opt/fume"),
        ("/etcetera", "/etcetera"),
        ("/workspace", "/workspace/workspace"),
        ("/workspace/x", "/workspace/x"),
        ("/", "/workspace/root"),
    ],
)
def test_root_keeps_its_own_path_unless_the_box_needs_that_place(host: str, at: str) -> None:
    assert _place(Path(host), []) == PurePosixPath(at)


def test_mapped_roots_of_one_name_are_numbered() -> None:
    taken = [PurePosixPath("/workspace/x"), PurePosixPath("/workspace/x-2")]
    assert _place(Path("/tmp/x"), taken) == PurePosixPath("/workspace/x-3")
    assert _place(Path("/workspace/x/y"), taken) == PurePosixPath("/workspace/y")


def test_names_of_layers_are_safe_unique_and_not_those_of_our_own_places() -> None:
    assert _unique_name(PurePosixPath("/a/.git"), []) == "git"
    assert _unique_name(PurePosixPath("/a/tmp"), []) == "tmp-2"
    assert _unique_name(PurePosixPath("/b/x y"), ["x_y"]) == "x_y-2"
    assert _unique_name(PurePosixPath("/b/..."), []) == "root"


def test_directory_inside_another_root_is_part_of_it(repo: Path, tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    assert [r.host for r in look(repo, repo / "sub", tmp_path / "more").roots] == [repo, tmp_path / "more"]
    found = look(repo / "sub", tmp_path)
    assert [r.host for r in found.roots] == [tmp_path]
    assert found.cwd == found.roots[0].at / "repo" / "sub"


def test_home_state_keys_and_the_whole_host_are_refused_without_really(tmp_path: Path) -> None:
    home = tmp_path / "home"
    for name in (".ssh", "project", "state/sessions"):
        (home / name).mkdir(parents=True)

    def there(path: Path, *, really: bool = False) -> Found:
        return look(path, really=really, home=home, state=home / "state")

    for refused in (Path("/"), tmp_path, home, home / ".ssh", home / "state", home / "state" / "sessions"):
        with pytest.raises(WorkspaceError) as raised:
            there(refused)
        assert "--really" in raised.value.hint
    assert there(home / "project").roots[0].host == home / "project"
    assert there(home, really=True).roots[0].host == home


def test_engine_data_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data" / "volumes").mkdir(parents=True)
    with pytest.raises(WorkspaceError):
        find_roots(
            tmp_path / "data" / "volumes",
            (),
            home=tmp_path / "h",
            state=tmp_path / "s",
            engine_data=str(tmp_path / "data"),
        )


def test_missing_directory_file_and_link_loop_are_clear_errors(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "loop").symlink_to("loop")
    for bad in ("missing", "file", "loop", "new\udcffname"):
        with pytest.raises(WorkspaceError):
            look(tmp_path / bad)


def test_paths_translate_both_ways() -> None:
    roots = (
        Root(host=Path("/srv/a"), at=PurePosixPath("/srv/a"), name="a"),
        Root(host=Path("/tmp/b"), at=PurePosixPath("/workspace/b"), name="b"),
    )
    assert to_box(roots, Path("/tmp/b/c")) == PurePosixPath("/workspace/b/c")
    assert to_box(roots, Path("/tmp/bb")) is None
    assert to_host(roots, PurePosixPath("/workspace/b/c/d")) == (roots[1], "c/d")
    assert to_host(roots, PurePosixPath("/srv/aa")) is None


def test_identity_is_the_users_name_and_email_only(tmp_path: Path) -> None:
    (tmp_path / ".gitconfig").write_text(
        '[credential]\n\thelper = store\n[user]\n\tname = "Ada L"\n\temail = ada@example.org\n\tsigningkey = K\n'
    )
    assert read_identity(tmp_path) == ("Ada L", "ada@example.org")
    assert read_identity(tmp_path / "none") == ("", "")
