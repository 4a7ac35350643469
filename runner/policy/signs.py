"""The signs of a command: whether each is what the grammar takes it for. Where bash might read one differently,
the reading as a whole is doubted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from runner.policy.words import doubtful, names

MOST_LEAVES = 40_000
RESERVED = names("{ } ! [[ ]] if then elif else fi case esac for select while until do done in function coproc")
_GAP = re.compile(rb"(?:[ \t\n]|\\\n)*")
_PLAIN = re.compile(rb"[\w./:=@%,+-]+")  # in such a word nothing can be doubted
_BLANK = re.compile(rb"[ \t\n]")
_ENDS = b" \t\n;&|()<>`"


def doubt_about(source: bytes, root: Any) -> str:
    """Why some byte may be read differently by bash; "" when every byte is part of a sign of a known form, or stands
    for nothing in bash too.
    """
    end, last, kind = 0, b"", ""
    for count, node in enumerate(_leaves(root)):
        start = node.start_byte
        gap = source[end:start]
        if count > MOST_LEAVES:
            return "it is too long to be understood"
        if gap and gap != b" " and (reason := _doubt_before(node, gap)):
            return reason
        before, kind, end = kind, node.type, node.end_byte
        text = source[start:end]
        if not (kind == "word" and node.is_named and _PLAIN.fullmatch(text)) and (
            reason := _doubt_at(source, node, gap, last, before)
        ):
            return reason
        last = text[-1:]
    return "" if _GAP.fullmatch(source[end:]) else "a part of it is not understood"


def _doubt_before(node: Any, gap: bytes) -> str:
    """About what stands between two signs."""
    if not _GAP.fullmatch(gap):
        if not _in_heredoc(node) or doubtful("heredoc_content", gap):
            return "a part of it is not understood"
    elif b"\\\n" in gap and not _BLANK.search(gap.replace(b"\\\n", b"")):
        return "a line goes on in the middle of a word"
    return ""


def _doubt_at(source: bytes, node: Any, gap: bytes, last: bytes, kind: str) -> str:
    text = node.text
    lead = 0 if node.is_named else len(text) - len(text.lstrip(b" \t\n"))
    if not node.is_named and (node.is_missing or text[lead:] != node.type.encode()):
        return "it is not understood"
    if node.type == "comment" and not (gap or last in b";&|()" or node.start_byte == 0):
        return "a comment may be none"
    if not node.is_named and node.type in RESERVED and not _alone(source, node, node.start_byte + lead):
        return "a reserved word may be none"
    if node.type == "heredoc_body" and not node.child_count and node.parent.children[1].text[:1] not in b"'\"":
        return doubtful("heredoc_content", text)  # the grammar sees no backticks there
    if text and text[:1] in b"<>" and last in b"0123456789}" and not gap and kind != "file_descriptor":
        return "a number before a redirection"
    return doubtful(node.type, text[lead:])


def _alone(source: bytes, node: Any, start: int) -> bool:
    """Whether a reserved word stands by itself: only then it is one to bash."""
    if node.type == "}" and node.parent.type == "expansion":
        return True
    before, after = source[start - 1 : start], source[node.end_byte : node.end_byte + 1]
    if node.type in {"{", "!", "[["}:
        after = after if after in b" \t\n" else b"x"
    if node.type == "]]":
        before = before if before in b" \t\n" else b"x"
    return before in _ENDS and after in _ENDS


def _in_heredoc(node: Any) -> bool:
    """Whether the text before it may be that of a here-document, which the grammar gives no sign of its own."""
    while node is not None and node.type != "heredoc_body":
        node = node.parent
    return node is not None


def _leaves(root: Any) -> Iterator[Any]:
    """The nodes without children, in order."""
    cursor = root.walk()
    while True:
        if cursor.goto_first_child():
            continue
        yield cursor.node
        while not cursor.goto_next_sibling():
            if not cursor.goto_parent():
                return
