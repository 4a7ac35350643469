"""How the bytes of a text file are written (encoding, byte order mark), so that an edit keeps them.

Decoding and encoding are exact inverses: bytes that nobody touched come back as they were.
"""

from __future__ import annotations

import codecs
import re

from runner.dataclass import dataclass

SAMPLE = 8192
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_CONTROLS = re.compile(rb"[\x00-\x06\x0e-\x1a\x1c-\x1f]")
_ESCAPED = re.compile("[\udc80-\udcff]")
_WIDE = re.compile("[^\x00-\x7f\udc80-\udcff]")
_UNSHOWABLE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True, kw_only=True)
class TextForm:
    """A file's encoding. `errors` is surrogateescape for UTF-8 with a few bytes that are not."""

    encoding: str = "utf-8"
    mark: bytes = b""
    errors: str = "strict"

    def decode(self, data: bytes) -> str:
        """The text after the byte order mark."""
        return data[len(self.mark) :].decode(self.encoding, self.errors)

    def encode(self, text: str) -> bytes:
        """The inverse of decode. Raises UnicodeEncodeError for what the encoding cannot hold."""
        return self.mark + text.encode(self.encoding, self.errors)

    @property
    def note(self) -> str:
        """What a reader should know, "" for plain UTF-8."""
        if self.errors != "strict":
            return "not all of it is valid UTF-8: \N{REPLACEMENT CHARACTER} stands for bytes that are not"
        return "" if self.encoding == "utf-8" else f"encoded as {self.encoding}"


def detect(data: bytes) -> TextForm | None:
    """The form of a file of which `data` is the whole; None for what is not text."""
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return _marked(data, mark, encoding)
    if b"\0" in data:
        return None
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return _eight_bit(data)
    return TextForm()


def _marked(data: bytes, mark: bytes, encoding: str) -> TextForm | None:
    try:
        text = data[len(mark) :].decode(encoding)
    except UnicodeDecodeError:
        if encoding != "utf-8" or b"\0" in data:
            return None
        return TextForm(mark=mark, errors="surrogateescape")
    return None if "\0" in text else TextForm(encoding=encoding, mark=mark)


def _eight_bit(data: bytes) -> TextForm | None:
    sample = data[:SAMPLE]
    if len(_CONTROLS.findall(sample)) * 20 > len(sample):
        return None
    text = data.decode("utf-8", "surrogateescape")
    if len(_WIDE.findall(text)) > len(_ESCAPED.findall(text)):
        return TextForm(errors="surrogateescape")
    return TextForm(encoding="latin-1")


def showable(text: str) -> str:
    """The text without lone surrogates, which no wire can carry."""
    return _UNSHOWABLE.sub("\N{REPLACEMENT CHARACTER}", text)


def show_path(path: str) -> str:
    """A file name as text for the model: bytes that are not UTF-8 as backslash, x and two digits."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def line_end_of(text: str) -> str:
    """The line end that a new line of this text should have: its only one, else its most frequent."""
    crlf = text.count("\r\n")
    return "\r\n" if crlf * 2 > text.count("\n") else "\n"


def split_lines(text: str) -> list[str]:
    """Lines with their ends, cut after every newline and nowhere else."""
    lines = text.split("\n")
    last = lines.pop()
    return [line + "\n" for line in lines] + ([last] if last else [])
