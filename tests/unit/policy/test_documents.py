"""Reading settings files: what is bad input is refused with its place, and nothing of it is believed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.errors import SettingsError
from runner.journal import canonical
from runner.policy.documents import MAX_DEPTH, MAX_SIZE, parse, read_file

BOMB = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{b}: &{b} [{','.join([f'*{a}'] * 10)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)

BAD = {
    "empty": (b"", "is empty"),
    "only white space": (b" \n\n", "is empty"),
    "truncated": (b'{"permissions": {"deny": ["Bash', "this is no JSON"),
    "truncated YAML": (b"permissions:\n  deny: [Bash", "is no YAML"),
    "a list": (b"- a\n", "holds no object"),
    "a word": (b"deny", "holds no object"),
    "nested deeply": (b"a: " + b"[" * 500, f"is nested deeper than {MAX_DEPTH}"),
    "nested deeply, JSON": (b'{"a":' * 500, f"is nested deeper than {MAX_DEPTH}"),
    "duplicate keys": (b"a: 1\na: 2\n", "stands here twice"),
    "duplicate keys, JSON": (b'{"a": 1, "a": 2}', "stands here twice"),
    "duplicate keys by an escape": (b'{"a": 1, "\\u0061": 2}', "stands here twice"),
    "a tag": (b"a: !!python/object/apply:os.system [id]\n", "tags such as"),
    "a tag of ours": (b"a: !x y\n", "tags such as"),
    "a merge key": (b"a: &a {x: 1}\nb:\n  <<: *a\n", "merge keys"),
    "a billion laughs": (BOMB.encode(), "aliases counted"),
    "an alias of itself": (b"a: &a [*a]\n", "nothing that is finished"),
    "an alias of nothing": (b"a: *b\n", "nothing that is finished"),
    "a second document": (b"a: 1\n---\nb: 2\n", "a second document"),
    "NUL": (b"a: x\0y\n", "U+0000"),
    "NUL by an escape": (b'{"a": "\\u0000"}', "NUL"),
    "a bell": (b"a: \x07\n", "U+0007"),
    "UTF-16": ("a: 1\n".encode("utf-16"), "is no UTF-8"),
    "Latin-1": ("a: \u00e9\n".encode("latin-1"), "is no UTF-8"),
    "half a character": (b'{"a": "\\ud800"}', "half a character"),
    "NaN": (b'{"a": NaN}', "this is no JSON"),
    "a comment in JSON": (b'{"a": 1 /* no */}', "this is no JSON"),
    "a comma too much": (b'{"a": 1,}', "a key is expected"),
    "something behind": (b'{"a": 1} {}', "something behind the end"),
    "a long number": (b'{"a": ' + b"9" * 5000 + b"}", "this number is too long"),
    "a key that is no text": (b"? [a]\n: b\n", "a key is a text"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_with_the_reason(name: str) -> None:
    data, reason = BAD[name]
    file = "settings.json" if data.lstrip().startswith(b"{") else "settings.yaml"
    with pytest.raises(SettingsError) as caught:
        parse(data, file)
    assert reason in caught.value.problem or reason in str(caught.value)
    assert caught.value.file == file
    assert caught.value.exit_code == 6


def test_a_byte_order_mark_changes_nothing() -> None:
    assert parse(b"\xef\xbb\xbfa: 1\n", "x.yaml").value == {"a": 1}


def test_every_value_knows_its_line_and_column() -> None:
    yaml = parse(b"a: 1\nb:\n  - x\n  - c: d\n", "x.yaml")
    assert {where: yaml.mark(where) for where in (("a",), ("b", 0), ("b", 1, "c"))} == {
        ("a",): (1, 1),
        ("b", 0): (3, 5),
        ("b", 1, "c"): (4, 5),
    }
    json = parse(b'{\n  "b": ["x",\n    {"c": "d"}]}', "x.json")
    assert [json.mark(("b", 0)), json.mark(("b", 1, "c")), json.mark(("b", 7))] == [(2, 9), (3, 6), (2, 3)]


def test_yes_and_no_are_words_and_not_truth() -> None:
    assert parse(b"a: yes\nb: no\nc: on\nd: 0x10\ne: 2026-01-01\nf: true\ng: 1.5\n", "x.yaml").value == {
        "a": "yes",
        "b": "no",
        "c": "on",
        "d": "0x10",
        "e": "2026-01-01",
        "f": True,
        "g": 1.5,
    }


def test_an_alias_is_the_value_it_names() -> None:
    assert parse(b"a: &a [1, {b: 2}]\nc: *a\n", "x.yaml").value == {"a": [1, {"b": 2}], "c": [1, {"b": 2}]}


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**15), 10**15)
    | st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8).filter(str.isprintable), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(st.dictionaries(st.text(max_size=8).filter(str.isprintable), VALUES, max_size=5))
def test_any_object_of_json_is_read_as_it_is(value: dict[str, object]) -> None:
    assert parse(canonical(value), "x.json").value == value


@given(st.binary(max_size=200))
def test_no_bytes_do_anything_but_parse_or_be_refused(data: bytes) -> None:
    for name in ("x.json", "x.yaml"):
        try:
            assert isinstance(parse(data, name).value, dict)
        except SettingsError as error:
            assert error.file == name  # noqa: PT017


def test_there_may_be_no_file(tmp_path: Path) -> None:
    assert read_file(tmp_path / "none") is None


def test_a_hundred_megabytes_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "large.yaml"
    with path.open("wb") as file:
        file.truncate(100 << 20)
    with pytest.raises(SettingsError, match=f"longer than {MAX_SIZE >> 20} MiB"):
        read_file(path)


def test_what_is_no_file_is_refused_and_never_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", tmp_path, Path("/dev/zero")):
        with pytest.raises(SettingsError, match="is no regular file"):
            read_file(path)


def test_a_link_is_followed_only_where_that_is_said(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("a: 1")
    (tmp_path / "link").symlink_to("real")
    assert read_file(tmp_path / "link") == b"a: 1"
    with pytest.raises(SettingsError, match="is a symbolic link"):
        read_file(tmp_path / "link", links=False)


def test_a_file_of_somebody_else_or_writable_by_others_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text("a: 1")
    path.chmod(0o644)
    assert read_file(path, owner=os.getuid()) == b"a: 1"
    with pytest.raises(SettingsError, match=f"belongs to uid {os.getuid()}, not to uid 4711"):
        read_file(path, owner=4711)
    for mode in (0o664, 0o646):
        path.chmod(mode)
        with pytest.raises(SettingsError, match="may be written by others"):
            read_file(path, owner=os.getuid())


def _read_until(path: Path, limit: float) -> None:
    while time.monotonic() < limit:
        read_file(path)


def test_a_file_that_keeps_changing_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_bytes(b"#" * MAX_SIZE)
    code = "import os, sys\nwhile True:\n for size in (4 << 20, 3 << 20): os.truncate(sys.argv[1], size)"
    with subprocess.Popen([sys.executable, "-c", code, str(path)]) as writer:
        try:
            limit = time.monotonic() + 60
            with pytest.raises(SettingsError, match="changes while it is read"):
                _read_until(path, limit)
        finally:
            writer.kill()


def test_a_file_below_what_is_no_directory_is_not_there(tmp_path: Path) -> None:
    (tmp_path / ".claude").write_text("a file of that name")
    assert read_file(tmp_path / ".claude" / "settings.json") is None


def test_yaml_may_begin_with_a_brace_and_is_as_strict() -> None:
    assert parse(b"{permissions: {deny: [WebSearch]}}", "a.yaml").value == {"permissions": {"deny": ["WebSearch"]}}
    for text, name, match in (
        (b"{a: 1}", "a.json", "no JSON"),
        (b"{a: 1}", "--settings", "no JSON"),
        (b'{"a": 1, "a": 2}', "a.yaml", "twice"),
        (b"{a: 1, a: 2}", "a.yaml", "twice"),
        (b"{a: 1", "a.yaml", "no YAML"),
    ):
        with pytest.raises(SettingsError, match=match):
            parse(text, name)
