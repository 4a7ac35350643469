"""Text from outside made safe to show: every character that could drive a terminal, reorder a line or
hide in it is replaced by something that can be seen. Pure and standard library only.

Sources: ECMA-48 (C0, C1, CSI, OSC, DCS), Unicode TR 36 and TR 39 (bidirectional and invisible
characters), CVE-2021-42574 (source code reordered by bidirectional controls).
"""

from __future__ import annotations

import re

_DELETE = 0x7F
# Invisible or reordering, by code point range: soft hyphen, grapheme joiner, Arabic letter mark, Hangul
# fillers, Mongolian separators, zero widths and direction marks, line and paragraph separators, embeddings,
# invisible operators, isolates, variation selectors but the two that emoji use, byte order mark, half-width
# filler, interlinear marks, musical formatting, tags, more selectors.
_HIDDEN = (
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164"
    "\ufe00-\ufe0d\ufeff\uffa0\ufff0-\ufffb\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
_KEEP_LINES = re.compile(f"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff{_HIDDEN}]")
_KEEP_NONE = re.compile(f"[\x00-\x1f\x7f-\x9f\ud800-\udfff{_HIDDEN}]")
_ASCII_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f]")


def visible(text: str, *, lines: bool = True) -> str:
    r"""The text with what would act on a terminal shown instead: C0 and DEL as control pictures (␛, ␇, ␡),
    C1 as \x9b, bytes that were no UTF-8 as \xff, everything else hidden as \u202e.

    `lines`: newline and tab stay; else they are shown too, for text that must keep to one line. The result
    is never ambiguous to a terminal, but it cannot be turned back.
    """
    if text.isascii() and (text.isprintable() or (lines and not _ASCII_CONTROL.search(text))):
        return text
    pattern = _KEEP_LINES if lines else _KEEP_NONE
    return pattern.sub(_show, text)


def one_line(text: str, limit: int = 200) -> str:
    """The first `limit` characters as one visible line; runs of white space become one space."""
    head = " ".join(text[: limit * 4].split())
    shown = visible(head, lines=False)
    return shown if len(shown) <= limit and len(text) <= limit * 4 else shown[: limit - 1] + "…"


def encodable(text: str, encoding: str) -> str:
    r"""The text with what `encoding` cannot hold written as \u escapes (a terminal that is not UTF-8)."""
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return text.replace("…", "...").encode(encoding, "backslashreplace").decode(encoding)
    return text


def _show(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x20:
        return chr(0x2400 + code)
    if code == _DELETE:
        return "\u2421"
    if code <= 0x9F:
        return f"\\x{code:02x}"
    if 0xDC80 <= code <= 0xDCFF:  # PEP 383: a byte that was no UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
