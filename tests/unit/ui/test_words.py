from __future__ import annotations

from typing import Any

import pytest

from runner.ui.glyphs import ASCII, UNICODE
from runner.ui.story import finished, tail
from runner.ui.summary import ChangeCount, summary
from runner.ui.view import BoxView, CallView, TurnView, Usage, ViewState
from runner.ui.words import count, duration, money, outcome, size, subject


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.0, "0.0 s"), (-1, "0.0 s"), (9.94, "9.9 s"), (59.4, "59 s"), (59.7, "1 min 00 s"), (3725, "1 h 02 min")],
)
def test_durations(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_numbers() -> None:
    assert [count(n) for n in (0, 999, 1000, 12_345, 999_949, 1_250_000)] == [
        "0",
        "999",
        "1.0k",
        "12.3k",
        "999.9k",
        "1.25M",
    ]
    assert [money(c) for c in (0.0, 0.0312, 4.2, None)] == ["$0.0000", "$0.0312", "$4.20", "price unknown"]
    assert [size(n) for n in (0, 1023, 1536, 5 << 30)] == ["0 B", "1023 B", "1.5 KiB", "5.0 GiB"]


@pytest.mark.parametrize(
    ("name", "args", "said"),
    [
        ("Bash", {"command": "make\ntest"}, "make test"),
        ("Bash", {"command": "echo \x1b]0;x\x07"}, "echo ␛]0;x␇"),
        ("Read", {"file_path": "/work/demo/src/a.py"}, "src/a.py"),
        ("Read", {"file_path": "/work/demolition/a.py"}, "/work/demolition/a.py"),
        ("Grep", {"pattern": "x", "path": "/work/demo/src"}, "x in src"),
        ("TodoWrite", {"todos": [1, 2]}, "2 items"),
        ("AskUserQuestion", {"questions": [{"question": "Which?"}, {"question": "Why?"}, 7]}, "Which? Why?"),
        ("AskUserQuestion", {"questions": 7}, '{"questions": 7}'),
        ("ExitPlanMode", {"plan": "1. make\n2. test"}, "1. make 2. test"),
        ("mcp__x__y", {"a": 1}, '{"a": 1}'),
        ("Bash", {"command": 7}, '{"command": 7}'),
        ("Bash", {}, ""),
    ],
)
def test_what_a_call_is_about(name: str, args: dict[str, Any], said: str) -> None:
    assert subject(name, args, "/work/demo") == said


def made(name: str, *, state: str = "done", result: Any = None, message: str = "") -> CallView:
    return CallView(id="c", name=name, input={}, agent="main", since=0, state=state, result=result, message=message)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (made("Bash", state="failed", message="boom\nExit code 2"), "exit 2"),
        (made("Bash", result={"backgroundTaskId": "b7"}), "in the background as b7"),
        (made("Read", result={"file": {"numLines": 1}}), "1 line"),
        (made("Write", result={"type": "create", "content": "a\nb\n"}), "new, +2 -0"),
        (made("Edit", result={"structuredPatch": [{"lines": [" a", "-b", "+c", "+d"]}]}), "+2 -1"),
        (made("Grep", result={"numFiles": 3}), "3 files"),
        (made("AskUserQuestion", result={"answers": {"Which colour?": "blue", "And?": "a\tb"}}), "blue, a b"),
        (made("Bash", state="denied", message="mode plan"), "denied: mode plan"),
        (made("Bash", state="denied", message="denied by rule WebFetch"), "denied by rule WebFetch"),
        (made("Read", result="nonsense"), ""),
    ],
)
def test_what_came_of_a_call(call: CallView, said: str) -> None:
    assert outcome(call) == said


def test_a_finished_call_fits_the_width_and_keeps_its_outcome() -> None:
    call = CallView(
        id="c", name="Bash", input={"command": "x" * 300}, agent="main", since=0, state="done", seconds=12.0
    )
    (line,) = finished(call, "/w", UNICODE, 60)
    assert line.cell_len <= 60
    assert line.plain.endswith("…  12 s")


def test_a_failed_call_shows_the_end_of_its_error() -> None:
    call = made("Bash", state="failed", message="\n".join(f"line {n}" for n in range(20)) + "\nExit code 1")
    lines = [line.plain for line in finished(call, "", ASCII)]
    assert lines[0] == "x Bash   exit 1"
    assert lines[1:] == [f"  | line {n}" for n in range(13, 20)]


def test_an_output_s_tail_is_visible_and_shows_the_last_state_of_progress_bars() -> None:
    assert tail("a\n\x1b[32m10%\r20%\r\x1b[0m\n\n\x1b]0;t\x07", 5) == ["a", "20%", "␛]0;t␇"]


def ended(reason: str) -> ViewState:
    return ViewState(
        box=BoxView(state="running"),
        turn=TurnView(reason=reason, seconds=12, rounds=3),
        usage=Usage(read=1000, written=10, cost=0.5),
        calls=4,
    )


def test_the_summary_names_what_can_be_done_next() -> None:
    lines = [line.plain for line in summary(ended("completed"), ChangeCount(files=2, added=5, removed=1))]
    assert lines == [
        "",
        "✓ done · 12 s · 3 rounds · 4 calls · 1.0k in, 10 out · $0.5000",
        "  2 files changed in the box (+5 -1); your own files are as they were",
        "  fumehood diff             see the changes",
        "  fumehood apply            take them into your files",
        "  fumehood discard          throw them away",
        "  fumehood shell            look around in the box",
        '  fumehood --continue "…"   go on',
    ]


def test_the_summary_of_a_run_without_changes_or_box_offers_only_what_makes_sense() -> None:
    state = ViewState(turn=TurnView(reason="failed"))
    lines = [line.plain for line in summary(state, None, session="4f2a", glyphs=ASCII)]
    assert lines[1].startswith("x failed - ")
    assert lines[2:] == ['  fumehood --resume 4f2a "..."   go on']


def test_only_the_sign_of_a_finished_call_is_coloured() -> None:
    call = CallView(id="c", name="Bash", input={"command": "ls"}, agent="main", since=0, state="done")
    (line,) = finished(call, "", UNICODE)
    assert line.style == ""
    assert [(line.plain[span.start : span.end], str(span.style)) for span in line.spans] == [
        ("✓ ", "green"),
        ("Bash", "bold"),
    ]
