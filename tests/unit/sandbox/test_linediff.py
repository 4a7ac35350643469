from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox.linediff import Span, changed_spans

lines = st.lists(st.sampled_from([b"a", b"b", b"c", b"d", b"unique", b""]), max_size=40)


def rebuild(old: list[bytes], new: list[bytes], spans: list[Span]) -> list[bytes]:
    out: list[bytes] = []
    at = 0
    for a0, a1, b0, b1 in spans:
        out += old[at:a0] + new[b0:b1]
        at = a1
    return out + old[at:]


@settings(max_examples=500, deadline=None)
@given(old=lines, new=lines)
def test_spans_turn_the_old_text_into_the_new_one(old: list[bytes], new: list[bytes]) -> None:
    spans = changed_spans(old, new)
    assert rebuild(old, new, spans) == new
    for before, after in pairwise(spans):
        assert after[0] > before[1]
        assert after[2] > before[3]
        assert after[0] - before[1] == after[2] - before[3]
    assert all(a0 < a1 or b0 < b1 for a0, a1, b0, b1 in spans)


@given(text=lines)
def test_equal_texts_have_no_spans(text: list[bytes]) -> None:
    assert changed_spans(text, list(text)) == []


def test_single_line_change_in_a_large_repetitive_text_is_found_alone() -> None:
    old = [b"{", b"}", b""] * 20000
    new = list(old)
    new[30001] = b"changed"
    assert changed_spans(old, new) == [(30001, 30002, 30001, 30002)]


def test_entirely_different_large_texts_end_as_one_replacement() -> None:
    old = [b"%d" % (i % 7) for i in range(30000)]
    new = [b"%d" % (i * i % 11) for i in range(30000)]
    assert rebuild(old, new, changed_spans(old, new)) == new


def test_moved_block_keeps_the_longer_part_in_place() -> None:
    old = [b"%d" % i for i in range(100)]
    assert changed_spans(old, old[10:] + old[:10]) == [(0, 10, 0, 0), (100, 100, 90, 100)]
