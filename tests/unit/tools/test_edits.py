"""Where an edit matches and which bytes it changes."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from runner.tools.edits import EditError, replace
from runner.tools.text import TextForm, detect

WORDS = st.text(alphabet="abcdéλ \t", min_size=1, max_size=6)
ENDS = st.sampled_from(["\n", "\r\n"])
LINES = st.lists(st.tuples(WORDS, ENDS), min_size=0, max_size=8)


def joined(lines: list[tuple[str, str]], last: str = "") -> str:
    return "".join(word + end for word, end in lines) + last


@given(before=LINES, middle=LINES, tail=WORDS, after=LINES, last=WORDS)
def test_a_removal_changes_exactly_the_matched_characters(
    before: list[tuple[str, str]], middle: list[tuple[str, str]], tail: str, after: list[tuple[str, str]], last: str
) -> None:
    old = "\x01" + joined(middle, tail) + "\x02"  # the marks make it unique
    start, end = joined(before), joined(after, last)
    asked = old.replace("\r\n", "\n")  # as Read shows it
    if "\r\n" not in start + old + end:
        asked = old
    assert replace(start + old + end, asked, "").text == start + end


@given(lines=st.lists(st.tuples(WORDS, ENDS), min_size=1, max_size=8), new=WORDS, data=st.data())
def test_a_changed_line_keeps_every_line_end(lines: list[tuple[str, str]], new: str, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(lines) - 1))
    marked = [("\x01" + word, end) for word, end in lines]
    marked[at] = ("\x02" + marked[at][0], marked[at][1])
    text = joined(marked)
    old = "".join(word + "\n" for word, _ in marked) if "\r\n" in text else text
    asked = old.replace("\x02\x01" + lines[at][0], new + "\x03")
    wanted = [*marked[:at], (new + "\x03", marked[at][1]), *marked[at + 1 :]]
    assert replace(text, old, asked).text == joined(wanted)


@given(text=st.text(alphabet="ab\r\n", max_size=40), old=st.text(alphabet="ab\n", min_size=1, max_size=3))
def test_replacing_everywhere_leaves_what_lies_between_alone(text: str, old: str) -> None:
    assume("\r" not in text.replace("\r\n", ""))
    try:
        done = replace(text, old, "X", everywhere=True)
    except EditError:
        assert old not in text.replace("\r\n", "\n")
        return
    assert done.text.replace("\r\n", "\n") == text.replace("\r\n", "\n").replace(old, "X")
    kept = done.text.split("X")
    assert len(kept) == done.count + 1
    at = 0
    for piece in kept:
        at = text.index(piece, at) + len(piece)


@given(
    text=st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\0\x01"), max_size=60),
    where=st.integers(0, 60),
    encoding=st.sampled_from(
        [("utf-8", b""), ("utf-8", b"\xef\xbb\xbf"), ("utf-16-le", b"\xff\xfe"), ("utf-16-be", b"\xfe\xff")]
    ),
)
def test_bytes_outside_the_match_are_kept_in_every_encoding(text: str, where: int, encoding: tuple[str, bytes]) -> None:
    name, mark = encoding
    start, end = text[:where], text[where:]
    data = mark + (start + "\x01old" + end).encode(name)
    assume(not (not mark and data.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff"))))
    assume(not (mark == b"\xff\xfe" and data.startswith(b"\xff\xfe\0\0")))
    form = detect(data)
    assert form == TextForm(encoding=name, mark=mark)
    edited = form.encode(replace(form.decode(data), "\x01old", "new").text)
    assert edited == mark + start.encode(name) + "new".encode(name) + end.encode(name)


@given(data=st.binary(max_size=200))
def test_decoding_and_encoding_are_inverse_for_any_bytes(data: bytes) -> None:
    form = detect(data)
    if form is not None:
        assert form.encode(form.decode(data)) == data


@pytest.mark.parametrize(
    ("text", "old", "said"),
    [
        ("aaa", "aa", "matches 2 places"),
        ("x\ny\nx\n", "x", "lines 1, 3"),
        ("one\n", "one", "are the same"),
        ("def f():\n\treturn 1\n", "def f():\n    return 1\n", "white space"),
        ("say \u201chello\u201d\n", 'say "hello"', "quotes"),
        ("alpha\nbeta\n", "     1\talpha\n     2\tbeta", "line numbers"),
        ("the quick brown fox\njumps\n", "the quick brown cat", "line 1:\nthe quick brown fox"),
        ("short\n", "zz", "not found"),
    ],
)
def test_what_cannot_be_replaced_is_explained(text: str, old: str, said: str) -> None:
    with pytest.raises(EditError, match=said):
        replace(text, old, "one")


def test_overlapping_matches_are_replaced_from_left_to_right() -> None:
    assert replace("aaaa", "aa", "b", everywhere=True).text == "bb"


def test_the_old_text_may_stand_at_the_very_end() -> None:
    assert replace("a\r\nb", "b", "c\nd").text == "a\r\nc\r\nd"


def test_new_lines_take_the_line_end_of_the_place_they_go_to() -> None:
    mixed = "one\r\ntwo\nthree\r\n"
    assert replace(mixed, "one", "one\nand a half").text == "one\r\nand a half\r\ntwo\nthree\r\n"
    assert replace(mixed, "two", "two\nand a half").text == "one\r\ntwo\nand a half\nthree\r\n"


def test_a_file_with_a_few_bad_bytes_keeps_them() -> None:
    data = "größe änderung ok\n".encode() + b"\xff\n"
    form = detect(data)
    assert form == TextForm(errors="surrogateescape")
    assert form.encode(replace(form.decode(data), "ok", "öK").text) == "größe änderung öK\n".encode() + b"\xff\n"


def test_latin_1_is_found_and_kept() -> None:
    data = "größe\n".encode("latin-1")
    form = detect(data)
    assert form == TextForm(encoding="latin-1")
    assert form.encode(replace(form.decode(data), "größe", "Größe").text) == "Größe\n".encode("latin-1")


@pytest.mark.parametrize("data", [b"a\0b", b"\x7fELF\x02\x01\x01\0", b"\xff\xfea", bytes(range(1, 32)) * 4 + b"\xff"])
def test_what_is_no_text_is_known(data: bytes) -> None:
    assert detect(data) is None
