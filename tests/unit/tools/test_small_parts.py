"""Patches, terminal output, exit codes, and the lists of todos."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from runner.events import TaskUpdated
from runner.tools.exitcodes import interpretation
from runner.tools.matches import Entries, counted, listed, matched
from runner.tools.output import Live, clean
from runner.tools.patch import NO_NEWLINE, structured_patch
from runner.tools.text import split_lines
from runner.tools.todowrite import TodoWrite
from tests.support.toolbench import ToolBench

TEXT = st.lists(st.sampled_from(["a", "b", "c", "", "d\r"]), max_size=30).map("\n".join)


@given(before=TEXT, after=TEXT)
def test_a_patch_turns_one_text_into_the_other(before: str, after: str) -> None:
    old = [line.removesuffix("\n") + ("" if line.endswith("\n") else "\0") for line in split_lines(before)]
    result, at = [], 0
    for hunk in structured_patch(before, after):
        lines: list[str] = []
        for line in hunk["lines"]:
            if line == NO_NEWLINE:
                lines[-1] += "\0"
            else:
                lines.append(line)
        start = hunk["oldStart"] - (hunk["oldLines"] > 0)
        result += old[at:start]
        at = start + hunk["oldLines"]
        assert [line[1:] for line in lines if line[0] != "+"] == old[start:at]
        assert hunk["newStart"] - (hunk["newLines"] > 0) == len(result)
        result += [line[1:] for line in lines if line[0] != "-"]
        assert hunk["newLines"] == sum(line[0] != "-" for line in lines)
    result += old[at:]
    assert result == [line.removesuffix("\n") + ("" if line.endswith("\n") else "\0") for line in split_lines(after)]


def test_a_huge_rewrite_is_one_replacement() -> None:
    before, after = ("".join(f"{word}{n}\n" for n in range(15_000)) for word in ("a", "b"))
    (hunk,) = structured_patch(before, after)
    assert (hunk["oldLines"], hunk["newLines"]) == (15_000, 15_000)


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (b"plain\n", "plain\n"),
        (b"a\r\nb\r\n", "a\nb\n"),
        (b"10%\r100%\r\n", "100%\n"),
        (b"x\x08y bold b\x08b\n", "y bold b\n"),
        (b"\x1b[1;31mred\x1b[m \x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\\n", "red link\n"),
        (b"\x1b]52;c;aGk=\x07clip", "clip"),
        (b"\x1b(B\x1b=\x1b7ok\x1b8", "ok"),
        (b"bell\x07 del\x7f", "bell␇ del␡"),
        ("c1 \x9b31m".encode(), "c1 \N{REPLACEMENT CHARACTER}31m"),
    ],
)
def test_terminal_output_is_settled(data: bytes, shown: str) -> None:
    assert clean(data) == shown


@given(
    data=st.lists(st.sampled_from([b"\x1b", b"[", b"3", b"1m", b"]0;t", b"\x07", "é".encode(), b"\n", b"x"])),
    cuts=st.data(),
)
def test_live_output_is_the_same_however_it_arrives(data: list[bytes], cuts: st.DataObject) -> None:
    whole = b"".join(data)
    at = cuts.draw(st.lists(st.integers(0, len(whole)), max_size=4).map(sorted))
    live, once = Live(), Live()
    pieces = [whole[a:b] for a, b in zip([0, *at], [*at, len(whole)], strict=True)]
    assert "".join(map(live.feed, pieces)) == once.feed(whole)


@pytest.mark.parametrize(
    ("command", "meaning"),
    [
        ("grep x f", "No matches found"),
        ("cat f | /usr/bin/rg x", "No matches found"),
        ("FOO=1 command grep x f", "No matches found"),
        ("git -C sub diff --exit-code", "Files differ"),
        ("git grep x", "No matches found"),
        ("[ -f x ]", "Condition is false"),
        ("make\ndiff a b", "Files differ"),
        ("diff <(sort a) <(sort b)", "Files differ"),
        ("grep x f | head", ""),
        ("grep x f; make", ""),
        ("git commit", ""),
        ("make 'grep'", ""),
        ("echo 'unclosed", ""),
        ("", ""),
    ],
)
def test_exit_code_one_is_read_by_the_last_command(command: str, meaning: str) -> None:
    assert interpretation(command, 1) == meaning
    assert interpretation(command, 2) == ""


@given(st.text(max_size=60))
def test_no_command_line_breaks_the_reading_of_exit_codes(command: str) -> None:
    interpretation(command, 1)


def test_what_rg_prints_is_parsed() -> None:
    assert listed(b"./a b\0./c\n:d\0", bytes.decode) == Entries(lines=["./a b", "./c\n:d"], files=["./a b", "./c\n:d"])
    assert counted(b"a\x002\nb:1\x0010\n", bytes.decode) == Entries(
        lines=["a:2", "b:1:10"], files=["a", "b:1"], matches=12
    )
    assert matched(b"a\x001-x\na\x002:y:\n--\nb\x007:z\n", bytes.decode) == Entries(
        lines=["a-1-x", "a:2:y:", "--", "b:7:z"], files=["a", "b"]
    )
    odd = b"./two\nlines\x001:x\n./bin: binary file matches\n"
    assert matched(odd, bytes.decode).lines == ["./two\nlines:1:x", "./bin: binary file matches"]
    assert matched(b"", bytes.decode) == Entries(lines=[], files=[])


async def test_the_list_of_todos_is_replaced_and_journalled(bench: ToolBench) -> None:
    first = {"content": "Run the tests", "status": "in_progress", "activeForm": "Running the tests"}
    done = first | {"status": "completed"}
    result = await bench.use(TodoWrite(), todos=[first])
    assert result.for_user == {"oldTodos": [], "newTodos": [first]}
    assert bench.effects == ()
    result = await bench.use(TodoWrite(), todos=[done])
    assert result.for_user == {"oldTodos": [first], "newTodos": [done]}
    assert bench.state.todos == []
    assert bench.records == [
        TaskUpdated(kind="todos", task="todos", state="updated", items=[first]),
        TaskUpdated(kind="todos", task="todos", state="cleared", items=[done]),
    ]


def test_a_todo_of_another_shape_is_refused() -> None:
    with pytest.raises(ValidationError):
        TodoWrite.args.model_validate({"todos": [{"content": "x", "status": "later", "activeForm": "y"}]})
