"""Matchers: what JavaScript's patterns find, in time that no pattern makes grow."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.hooks.matchers import LONGEST_TEXT, matcher_of

CASES = [
    ("", "Bash", True),
    ("*", "Bash", True),
    ("Bash", "Bash", True),
    ("Bash", "BashOutput", False),
    ("Edit|Write", "Write", True),
    ("Edit, Write", "Write", True),
    ("Edit|Write", "MultiEdit", False),
    ("mcp__memory", "mcp__memory__read", False),
    ("mcp__memory__.*", "mcp__memory__read", True),
    (".*Edit", "NotebookEdit", True),
    ("^(Edit|Write)$", "Write", True),
    ("^Edit$", "MultiEdit", False),
    ("Notebook(Edit|Read)", "NotebookRead", True),
    ("mcp__.+__write.*", "mcp__fs__write_file", True),
    (r"\bEdit\b", "Edit", True),
    (r"[^a-z]{2}\d?", "aBB", True),
    ("Bash(git push:*)", "Bash", True),
    ("Bash(git push:*)", "Read", False),
]


@pytest.mark.parametrize(("text", "name", "found"), CASES)
def test_names_lists_and_patterns(text: str, name: str, found: bool) -> None:
    made = matcher_of(text)
    assert made.matches(name) is found
    assert not made.problem
    assert made.rule == (text if text.startswith("Bash(") else "")


@pytest.mark.parametrize("text", ["(", "(?=x)y", r"(a)\1", "(?i)bash", "[", "x{1,9999}", "a" * 2000 + ".", "(?<name>x"])
def test_what_is_not_understood_matches_everything_and_says_so(text: str) -> None:
    made = matcher_of(text)
    assert made.problem
    assert made.matches("Bash")


@pytest.mark.parametrize("text", ["(a+)+$", "(a|a)*$", "(a|aa)+$", "(.*)*x", "((((a*)*)*)*)*y", "(a?){900}a{900}"])
def test_no_pattern_explodes(text: str) -> None:
    began = time.process_time()
    matcher_of(text).matches("a" * LONGEST_TEXT + "!")
    assert time.process_time() - began < 30  # hours in a matcher that goes back


ATOMS = st.sampled_from(["a", "b", ".", "[ab]", "[^a]", r"\w", "c", "_"])
PATTERNS = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["*", "+", "?", "{1,2}", "*?"])).map(lambda t: f"(?:{t[0]}){t[1]}"),
        st.lists(inner, min_size=1, max_size=3).map("".join),
        st.lists(inner, min_size=2, max_size=3).map(lambda parts: f"(?:{'|'.join(parts)})"),
        inner.map(lambda text: f"^{text}"),
        inner.map(lambda text: f"{text}$"),
    ),
    max_leaves=8,
)


@given(pattern=PATTERNS, text=st.text("abc_-", max_size=12))
def test_a_pattern_finds_what_pythons_own_engine_finds(pattern: str, text: str) -> None:
    pattern = f"(?:{pattern})"  # never a plain list of names
    made = matcher_of(pattern)
    assert not made.problem
    assert made.matches(text) is (re.search(pattern, text) is not None)
