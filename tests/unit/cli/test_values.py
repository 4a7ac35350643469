"""What users type, read."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from runner.cli import values
from runner.cli.values import parse_size, read_prompt, repeat_variadic, split_rules
from runner.errors import UsageError


@contextmanager
def stdin_from(fd: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with os.fdopen(fd, "rb") as raw:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(raw))
        yield


@pytest.fixture
def no_stdin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with stdin_from(os.open(os.devnull, os.O_RDONLY), monkeypatch):
        yield


@pytest.mark.parametrize(
    ("text", "size"),
    [("512m", 512 << 20), ("2g", 2 << 30), ("1.5GiB", 3 << 29), ("1048576", 1 << 20), ("8 KB", 8192), ("1t", 1 << 40)],
)
def test_sizes_are_read_as_engines_write_them(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "g", "-1", "1x", "1 2", "nan"])
def test_what_is_no_size_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError, match="is not a size"):
        parse_size(text)


def test_rules_split_outside_parentheses_only() -> None:
    assert split_rules(["Bash(git log:*, x),Edit", "Read(a b) Glob", " "]) == (
        "Bash(git log:*, x)",
        "Edit",
        "Read(a b)",
        "Glob",
    )


def test_variadic_flags_take_rules_and_leave_the_prompt() -> None:
    given = ["-p", "--allowedTools", "Bash(git log:*)", "Read", "mcp__x__*", "fix it", "--model", "m"]
    assert repeat_variadic(given) == [
        "-p",
        "--allowedTools",
        "Bash(git log:*)",
        "--allowedTools",
        "Read",
        "--allowedTools",
        "mcp__x__*",
        "fix it",
        "--model",
        "m",
    ]


def test_nothing_behind_two_dashes_is_rewritten() -> None:
    assert repeat_variadic(["--tools", "Bash", "--", "Read", "Edit"]) == ["--tools", "Bash", "--", "Read", "Edit"]


def test_the_prompt_is_words_then_file_then_what_is_piped_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "prompt.txt"
    file.write_bytes(b"\xef\xbb\xbffrom the file")
    reading, writing = os.pipe()
    os.write(writing, b"from the pipe")
    os.close(writing)
    with stdin_from(reading, monkeypatch):
        assert read_prompt(["two", "words"], file) == "two words\n\nfrom the file\n\nfrom the pipe"


def test_a_dash_reads_standard_input(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "in").write_text("all of it")
    with stdin_from(os.open(tmp_path / "in", os.O_RDONLY), monkeypatch):
        assert read_prompt([], Path("-")) == "all of it"


def test_an_open_pipe_that_stays_silent_does_not_hold_up_a_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(values, "STDIN_WAIT", 0.01)
    reading, writing = os.pipe()
    with stdin_from(reading, monkeypatch):
        assert read_prompt(["go"], None) == "go"
    os.close(writing)


def test_no_prompt_at_all_is_a_usage_error(no_stdin: None) -> None:
    with pytest.raises(UsageError, match="there is no prompt"):
        read_prompt([" "], None)


def test_a_prompt_that_is_no_text_or_too_long_is_a_usage_error(
    no_stdin: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "prompt"
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="not UTF-8"):
        read_prompt([], file)
    monkeypatch.setattr(values, "PROMPT_LIMIT", 10)
    file.write_bytes(b"x" * 11)
    with pytest.raises(UsageError, match="longer than"):
        read_prompt([], file)
    with pytest.raises(UsageError, match="cannot read"):
        read_prompt([], tmp_path / "absent")
