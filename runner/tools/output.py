"""What a command printed, made fit for a model: no escape sequences, progress bars collapsed, bytes that are
no text replaced, and only head and tail of what is too long. Pure.
"""

from __future__ import annotations

import codecs
import re

HELD = 4096
PREVIEW_HEAD = 4_000
PREVIEW_TAIL = 6_000
# CSI; OSC, DCS, SOS, PM, APC up to their terminator; two- and three-byte escapes; C1 forms are no UTF-8.
_WHOLE = r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)|[ -/]+[0-~]|[0-OQ-WYZ\\`-~])"
_OPEN = r"\x1b(?:\[[0-?]*[ -/]*|[\]PX^_][^\x07\x1b]*\x1b?|[ -/]*)\Z"
_ESCAPE = re.compile(_WHOLE)
_ESCAPE_OR_BEGINNING = re.compile(f"{_WHOLE}|(?P<open>{_OPEN})")
_PICTURES = {
    **{code: 0x2400 + code for code in range(32) if code not in (9, 10)},
    0x7F: 0x2421,
    **dict.fromkeys(range(0x80, 0xA0), 0xFFFD),
}


class Live:
    """Decodes output as it arrives: UTF-8 cut anywhere, escape sequences cut anywhere."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""

    def feed(self, data: bytes) -> str:
        """The text that is complete by now, without escape sequences."""
        text, pieces, at = self._held + self._decoder.decode(data), [], 0
        self._held = ""
        for found in _ESCAPE_OR_BEGINNING.finditer(text):
            pieces.append(text[at : found.start()])
            at = found.end()
            if found["open"] is not None and len(found["open"]) <= HELD:
                self._held = found["open"]
        return "".join([*pieces, text[at:]])


def clean(data: bytes) -> str:
    """Output as a reader of the terminal would have it at the end."""
    text = _ESCAPE.sub("", data.decode("utf-8", "replace")).replace("\r\n", "\n")
    if "\r" in text or "\x08" in text:
        text = "\n".join(map(_settled, text.split("\n")))
    return text.translate(_PICTURES)


def _settled(line: str) -> str:
    """A line as it stands after its carriage returns (the last writing counts) and backspaces."""
    if "\r" in line:
        line = next((part for part in reversed(line.split("\r")) if part), "")
    if "\x08" not in line:
        return line
    kept: list[str] = []
    for character in line:
        if character != "\x08":
            kept.append(character)
        elif kept:
            kept.pop()
    return "".join(kept)


def is_binary(data: bytes) -> bool:
    """Whether the output is no text: many NULs, or bytes that are not UTF-8: many, or some beside a NUL."""
    sample = data[:4096]
    wrong = sample.decode("utf-8", "replace").count("\N{REPLACEMENT CHARACTER}")
    nulls = sample.count(0)
    return nulls * 4 > len(sample) or wrong * (20 if nulls else 4) > len(sample)


def human_size(size: int) -> str:
    """1 B, 2.0 KB, 3.5 MB."""
    value = float(size)
    for unit in ("B", "KB", "MB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} GB"


def shortened(head: str, tail: str, *, between: str) -> str:
    """The beginning of `head`, what to know about the rest, the end of `tail`, cut at lines where that is near."""
    start = head[:PREVIEW_HEAD]
    if (cut := start.rfind("\n")) > PREVIEW_HEAD // 2:
        start = start[: cut + 1]
    end = tail[-PREVIEW_TAIL:]
    if len(tail) > PREVIEW_TAIL and 0 <= (cut := end.find("\n")) < PREVIEW_TAIL // 2:
        end = end[cut + 1 :]
    return f"{start.rstrip(chr(10))}\n\n{between}\n\n{end}"
