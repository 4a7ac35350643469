from __future__ import annotations

from dataclasses import replace

import pytest

from sandbox.changes import Change, Kind
from sandbox.held import HeldBack, Rule

HELD = HeldBack.load()
CHANGE = Change(root="r", path="", kind=Kind.ADDED, old=None, new=None)


def why(path: str, before: bytes | None = None, after: bytes | None = b"") -> str:
    return HELD.why(replace(CHANGE, path=path), lambda _: (before, after))


@pytest.mark.parametrize(
    "path",
    [
        ".git", ".git/config", "sub/.git/hooks/pre-commit", ".gitmodules", ".gitattributes", ".claude/settings.json",
        "deep/down/.claude/hooks/x.sh", ".claude", ".mcp.json", ".vscode/tasks.json", ".idea/runConfigurations/x.xml",
        ".envrc", "app/.envrc", ".husky/pre-push", ".pre-commit-config.yaml", ".github/workflows/ci.yml",
        ".gitlab-ci.yml", ".circleci/config.yml", "Jenkinsfile", ".npmrc", "x.code-workspace", "sitecustomize.py",
        ".forgejo/workflows/x.yml", ".windsurf/rules/x.md", ".env.local", "lefthook.toml", ".config/mise.toml",
        "mcp.json",
        ".cargo/config.toml", ".bashrc", ".github/copilot-instructions.md", ".python-version", ".hg/hgrc",
    ],
)  # fmt: skip
def test_what_the_host_would_obey_is_held_back(path: str) -> None:
    assert why(path)


@pytest.mark.parametrize(
    "path",
    [
        ".GIT/config", ".Git/hooks/x", ".VSCODE/tasks.json", ".ENVRC", ".g\u200cit/config", ".git./config",
        ".git /config", "\uff0egit/config", "JENKINSFILE", ".claude\u2060/settings.json",
    ],
)  # fmt: skip
def test_names_that_some_file_system_takes_for_these_are_held_back_too(path: str) -> None:
    assert why(path)


@pytest.mark.parametrize(
    "path", ["src/main.py", ".gitignore", "git/config", "my.envrc.txt", ".github/ISSUE_TEMPLATE/x.md", "Makefile"]
)  # fmt: skip
def test_ordinary_files_are_not_held_back(path: str) -> None:
    assert why(path) == ""


def test_package_json_is_held_back_only_when_what_runs_changes() -> None:
    assert why("package.json", b'{"scripts":{"a":"b"},"version":"1"}', b'{"version":"2","scripts":{"a":"b"}}') == ""
    assert why("web/package.json", b'{"scripts":{"a":"b"}}', b'{"scripts":{"a":"c"}}')
    assert why("package.json", b"{}", b"not json")
    assert why("package.json", b"{}", b"[" * 100_000)
    assert why("package.json", None, b'{"name":"x"}') == ""
    assert why("package.json", None, b'{"scripts":{"postinstall":"x"}}')
    assert why("package.json", b'{"scripts":{"a":"b"}}', None)


def test_makefiles_and_lock_files_are_pointed_out() -> None:
    assert HELD.remark(replace(CHANGE, path="Makefile"))
    assert HELD.remark(replace(CHANGE, path="web/package-lock.json"))
    assert HELD.remark(replace(CHANGE, path="package.json"))
    assert HELD.remark(replace(CHANGE, path="sub/CMakeLists.txt"))
    assert HELD.remark(replace(CHANGE, path="main.py")) == ""


def test_windows_short_names_streams_and_case_of_the_turkish_i_are_held_back_too() -> None:
    for path in (
        "GIT~1/config",
        "git~1/hooks/x",
        ".git::$INDEX_ALLOCATION/config",
        ".g\u0131t/config",
        "sub\\.git/config",
    ):
        assert why(path), path


def test_policy_can_add_rules() -> None:
    extended = HeldBack.load([Rule(glob="deploy/**", why="it deploys")])
    assert extended.why(replace(CHANGE, path="deploy/prod.sh"), lambda _: (None, None)) == "it deploys"
