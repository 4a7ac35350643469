"""SECURITY.md names tests; they exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]
SHORT = {"P": "tests/unit/policy/", "S": "tests/unit/sessions/"}


def named_tests() -> list[tuple[Path, str]]:
    """Every file that the table of others' failures names, and the test in it, "" for all of it."""
    text = (ROOT / "SECURITY.md").read_text()
    table = text[text.index("## How others failed") :]
    found: list[tuple[Path, str]] = []
    file = Path()
    for short, name, test in re.findall(r"([PS]?)`([\w/.]*\.py)?(?:::(\w+))?`", table):
        if name:
            file = ROOT / (SHORT.get(short, "") + name)
        if name or test:
            found.append((file, test))
    return found


def test_every_test_that_the_table_names_is_there() -> None:
    named = named_tests()
    assert len(named) > 25
    for file, test in named:
        assert file.is_file(), file
        assert not test or f"def {test}(" in file.read_text(), f"{file.name}::{test}"


def test_every_line_of_the_table_names_a_test_that_tries_it() -> None:
    text = (ROOT / "SECURITY.md").read_text()
    rows = [line for line in text[text.index("## How others failed") :].splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 35
    assert [row for row in rows if not re.search(r"`[\w/]*test_\w+\.py", row)] == []
    assert [row for row in rows if re.search(r"`tests/[\w/]*`", row)] == []  # a directory shows nothing


def test_every_test_that_the_network_table_names_is_there() -> None:
    text = (ROOT / "SECURITY.md").read_text()
    table = text[text.index("## How others' networks leaked") : text.index("## What is left")]
    named = set(re.findall(r"`(test_\w+)`", table))
    assert len(named) > 20
    there = {
        name
        for file in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"def (test_\w+)\(", file.read_text())
    }
    assert named - there == set()
