from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.ui.safe import encodable, one_line, visible

ANY_TEXT = st.text(st.characters(codec=None, exclude_categories=()))  # lone surrogates too


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain\n\ttext", "plain\n\ttext"),
        ("\x1b[31mred\x1b[0m", "␛[31mred␛[0m"),
        ("\x1b]52;c;aGk=\x07", "␛]52;c;aGk=␇"),
        ("\x1b]0;title\x1b\\", "␛]0;title␛\\"),
        ("\x1bP1$r\x1b\\", "␛P1$r␛\\"),
        ("\x9b31m", "\\x9b31m"),
        ("progress 10%\rprogress 20%", "progress 10%␍progress 20%"),
        ("\x00\x7f\x08", "␀␡␈"),
        ("user\u202egpj.exe", "user\\u202egpj.exe"),
        ("\u2066isolate\u2069", "\\u2066isolate\\u2069"),
        ("pay\u200bpal", "pay\\u200bpal"),
        ("\ufeffbom", "\\ufeffbom"),
        ("tag\U000e0041", "tag\\U000e0041"),
        ("line\u2028line", "line\\u2028line"),
        (b"caf\xe9".decode(errors="surrogateescape"), "caf\\xe9"),
        ("\ud800", "\\ud800"),
        ("naïve 日本語 👍️", "naïve 日本語 👍️"),
    ],
)
def test_what_would_act_on_a_terminal_is_shown(text: str, shown: str) -> None:
    assert visible(text) == shown


@given(ANY_TEXT)
def test_no_control_survives_but_newline_and_tab(text: str) -> None:
    shown = visible(text)
    assert not [c for c in shown if c not in "\n\t" and not _harmless(c)]
    assert shown.encode().decode() == shown
    assert visible(shown) == shown


@given(ANY_TEXT)
def test_one_line_is_one_line(text: str) -> None:
    shown = one_line(text, 40)
    assert len(shown.splitlines()) <= 1
    assert len(shown) <= 40
    assert not [c for c in shown if not _harmless(c)]


def test_newline_and_tab_are_shown_where_a_line_must_stay_one() -> None:
    assert visible("a\nb\tc", lines=False) == "a␊b␉c"


def test_text_that_the_locale_cannot_hold_is_escaped() -> None:
    assert encodable("größe 日", "ascii") == "gr\\xf6\\xdfe \\u65e5"
    assert encodable("größe 日", "latin-1") == "größe \\u65e5"
    assert encodable("größe 日", "utf-8") == "größe 日"


def test_a_megabyte_of_escapes_keeps_every_visible_character() -> None:
    assert visible("\x1b[2Jx" * 200_000) == "␛[2Jx" * 200_000


def _harmless(char: str) -> bool:
    code = ord(char)
    hidden = (0x200B, 0x200F), (0x2028, 0x202E), (0x2060, 0x206F), (0xD800, 0xDFFF), (0xE0000, 0xE0FFF)
    return code >= 0x20 and not 0x7F <= code <= 0x9F and not any(low <= code <= high for low, high in hidden)
