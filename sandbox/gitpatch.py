"""A file's change as git writes it: header, hunks, quoting. What comes out, `git apply` takes."""

from __future__ import annotations

import base64
import hashlib
import stat
import zlib
from collections.abc import Iterator, Sequence

from sandbox.dataclass import dataclass
from sandbox.linediff import Span, changed_spans

CONTEXT = 3
_ESCAPES = {7: b"\\a", 8: b"\\b", 9: b"\\t", 10: b"\\n", 11: b"\\v", 12: b"\\f", 13: b"\\r", 34: b'\\"', 92: b"\\\\"}
_NO_NEWLINE = b"\\ No newline at end of file\n"
_BINARY_LOOK = 8000


@dataclass(frozen=True, slots=True, kw_only=True)
class Blob:
    """One side of a file: its st_mode and content. `content` None: too large to be shown."""

    mode: int
    content: bytes | None

    @property
    def git_mode(self) -> bytes:
        """The mode as git knows it."""
        if stat.S_ISLNK(self.mode):
            return b"120000"
        return b"100755" if self.mode & stat.S_IXUSR else b"100644"

    @property
    def is_binary(self) -> bool:
        """By git's rule: a NUL among the first 8,000 bytes. What is too large counts as binary."""
        return self.content is None or b"\0" in self.content[:_BINARY_LOOK]

    @property
    def id(self) -> bytes:
        """The blob's object id; zeros for what is too large."""
        if self.content is None:
            return b"0" * 40
        head = b"blob %d\0" % len(self.content)
        return hashlib.sha1(head + self.content, usedforsecurity=False).hexdigest().encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Patch:
    """The text of one file's change, and its counts of lines."""

    text: bytes
    added: int = 0
    removed: int = 0
    binary: bool = False


def quoted(prefix: bytes, path: bytes) -> bytes:
    """A path as git prints it (core.quotePath on)."""
    name = prefix + path
    if all(32 <= byte < 127 and byte not in _ESCAPES for byte in name):
        return name
    escaped = b"".join(_ESCAPES.get(byte) or (bytes([byte]) if 32 <= byte < 127 else b"\\%03o" % byte) for byte in name)
    return b'"' + escaped + b'"'


def format_patch(
    old_path: bytes,
    new_path: bytes,
    old: Blob | None,
    new: Blob | None,
    *,
    similarity: int = 0,
    binary: bool = False,
) -> Patch:
    """One file's change; empty text where git would see none. A change of type (file, link) is a
    deletion and a creation, as git has it. `binary`: with the contents of binary files.
    """
    if old and new and stat.S_IFMT(old.mode) != stat.S_IFMT(new.mode):
        gone, come = (
            format_patch(old_path, old_path, old, None, binary=binary),
            format_patch(new_path, new_path, None, new, binary=binary),
        )
        return Patch(
            text=gone.text + come.text, added=come.added, removed=gone.removed, binary=gone.binary or come.binary
        )
    head = _header(old_path, new_path, old, new, similarity)
    differs = old is None or new is None or old.content != new.content or old.content is None
    if not differs:
        return Patch(text=b"".join(head) if len(head) > 1 else b"")
    is_binary = (old is not None and old.is_binary) or (new is not None and new.is_binary)
    digits = 40 if is_binary and binary else 7
    index = b"index " + (old.id if old else b"0" * 40)[:digits] + b".." + (new.id if new else b"0" * 40)[:digits]
    if old and new and old.git_mode == new.git_mode:
        index += b" " + new.git_mode
    head.append(index + b"\n")
    before = quoted(b"a/", old_path) if old else b"/dev/null"
    after = quoted(b"b/", new_path) if new else b"/dev/null"
    if is_binary and binary:
        head += [b"GIT binary patch\n", *_literal(new), *_literal(old)]
        return Patch(text=b"".join(head), binary=True)
    if is_binary:
        head.append(b"Binary files " + before + b" and " + after + b" differ\n")
        return Patch(text=b"".join(head), binary=True)
    old_lines, new_lines = _lines(old), _lines(new)
    spans = changed_spans(old_lines, new_lines)
    if spans:
        head.append(b"--- " + before + _tab(before) + b"\n+++ " + after + _tab(after) + b"\n")
        head += _hunks(old_lines, new_lines, spans)
    return Patch(
        text=b"".join(head),
        added=sum(span[3] - span[2] for span in spans),
        removed=sum(span[1] - span[0] for span in spans),
    )


def _literal(side: Blob | None) -> Iterator[bytes]:
    """A whole content as git has it in patches: deflated, 52 bytes a line in base 85."""
    content = (side.content or b"") if side else b""
    yield b"literal %d\n" % len(content)
    packed = zlib.compress(content)
    for at in range(0, len(packed), 52):
        line = packed[at : at + 52]
        length = len(line) + (64 if len(line) <= 26 else 70)
        yield bytes([length]) + base64.b85encode(line, pad=True) + b"\n"
    yield b"\n"


def _header(old_path: bytes, new_path: bytes, old: Blob | None, new: Blob | None, similarity: int) -> list[bytes]:
    head = [b"diff --git " + quoted(b"a/", old_path) + b" " + quoted(b"b/", new_path) + b"\n"]
    if old is None and new is not None:
        head.append(b"new file mode " + new.git_mode + b"\n")
    elif new is None and old is not None:
        head.append(b"deleted file mode " + old.git_mode + b"\n")
    elif old and new and old.git_mode != new.git_mode:
        head.append(b"old mode " + old.git_mode + b"\nnew mode " + new.git_mode + b"\n")
    if old_path != new_path:
        head.append(b"similarity index %d%%\n" % similarity)
        head.append(b"rename from " + quoted(b"", old_path) + b"\nrename to " + quoted(b"", new_path) + b"\n")
    return head


def _tab(name: bytes) -> bytes:
    """Git ends a name with blanks in it by a tab, so that it can be told from a time."""
    return b"\t" if b" " in name and not name.startswith(b'"') else b""


def _lines(side: Blob | None) -> list[bytes]:
    return split_lines(side.content or b"") if side else []


def split_lines(text: bytes) -> list[bytes]:
    """Lines with their newline; the last may have none."""
    lines = text.split(b"\n")
    last = lines.pop()
    ended = [line + b"\n" for line in lines]
    return [*ended, last] if last else ended


def grouped(spans: Sequence[Span]) -> list[list[Span]]:
    """The spans of each hunk: those whose context touches."""
    groups: list[list[Span]] = []
    for span in spans:
        if groups and span[0] - groups[-1][-1][1] <= 2 * CONTEXT:
            groups[-1].append(span)
        else:
            groups.append([span])
    return groups


def _hunks(old: Sequence[bytes], new: Sequence[bytes], spans: list[Span]) -> list[bytes]:
    return [line for group in grouped(spans) for line in format_hunk(old, new, group)]


def format_hunk(old: Sequence[bytes], new: Sequence[bytes], group: Sequence[Span]) -> list[bytes]:
    """A hunk of these spans, its `@@` line first."""
    start_old = max(group[0][0] - CONTEXT, 0)
    start_new = group[0][2] - (group[0][0] - start_old)
    end_old = min(group[-1][1] + CONTEXT, len(old))
    end_new = group[-1][3] + (end_old - group[-1][1])
    out = [b"@@ -%s +%s @@\n" % (_range(start_old, end_old - start_old), _range(start_new, end_new - start_new))]
    at = start_old
    for a0, a1, b0, b1 in group:
        out += [_line(b" ", line) for line in old[at:a0]]
        out += [_line(b"-", line) for line in old[a0:a1]]
        out += [_line(b"+", line) for line in new[b0:b1]]
        at = a1
    return out + [_line(b" ", line) for line in old[at:end_old]]


def _range(start: int, count: int) -> bytes:
    if count == 1:
        return b"%d" % (start + 1)
    return b"%d,%d" % (start + 1 if count else start, count)


def _line(sign: bytes, line: bytes) -> bytes:
    return sign + line if line.endswith(b"\n") else sign + line + b"\n" + _NO_NEWLINE
