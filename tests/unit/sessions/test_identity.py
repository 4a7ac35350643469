"""The commit identity, read without git."""

from __future__ import annotations

from pathlib import Path

from runner.sessions.identity import read_identity


def test_the_users_own_file_wins_over_the_xdg_one_and_only_plain_user_sections_count(tmp_path: Path) -> None:
    (tmp_path / ".config" / "git").mkdir(parents=True)
    (tmp_path / ".config" / "git" / "config").write_text("[user]\n  name = Xdg\n  email = xdg@example.org\n")
    (tmp_path / ".gitconfig").write_text(
        '[user "work"]\nname = Wrong\n[User]\n\tName = "Ada \\"A\\" L" # a comment\n[core]\nemail = no@example.org\n'
    )
    assert read_identity({}, tmp_path) == ('Ada "A" L', "xdg@example.org")


def test_the_environment_wins_over_files_and_may_name_another_file(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("[user] name = Inline\nemail = a@b ; note\n")
    environ = {"GIT_CONFIG_GLOBAL": str(tmp_path / "other")}
    assert read_identity(environ, tmp_path) == ("Inline", "a@b")
    assert read_identity(environ | {"GIT_AUTHOR_NAME": "Env"}, tmp_path) == ("Env", "a@b")


def test_no_files_and_binary_files_give_no_identity(tmp_path: Path) -> None:
    assert read_identity({}, tmp_path) == ("", "")
    (tmp_path / ".gitconfig").write_bytes(b"\x00\xff[user\nname")
    assert read_identity({}, tmp_path) == ("", "")
