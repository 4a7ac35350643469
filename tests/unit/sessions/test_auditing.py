"""What an auditor reads: calls joined with all that belongs to them, and every other event, in a form that stays."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from runner.events import (
    BODY_TYPES,
    ApprovalGiven,
    HeadMoved,
    HookRan,
    Judged,
    PromptGiven,
    TextDelta,
    ThinkingDelta,
    ToolChunk,
    ToolFinished,
    ToolRequested,
)
from runner.sessions.auditing import FIELDS, JOINED, Call, join, parts
from tests.support.audited import Told, tell

GOLDEN = Path(__file__).parents[1] / "golden" / "audit-export-v1.jsonl"
LIVE = {kind.__name__ for kind in (TextDelta, ThinkingDelta, ToolChunk)}


@pytest.fixture
def told(tmp_path: Path) -> Told:
    return Told(tmp_path / "s")


def rows(told: Told) -> list[dict[str, Any]]:
    return [entry.row() for entry in join(told.journal.read())]


def test_the_form_is_that_of_the_golden_file(told: Told) -> None:
    tell(told)
    assert rows(told) == [json.loads(line) for line in GOLDEN.read_text().splitlines()]


def test_every_kind_of_event_is_joined_or_has_a_row() -> None:
    assert FIELDS.keys().isdisjoint(JOINED)
    assert FIELDS.keys() | JOINED | LIVE == BODY_TYPES.keys()


def test_rows_are_flat_and_say_which_record_they_begin_with(told: Told) -> None:
    tell(told)
    hashes = {event.seq: (event.id, event.hash) for event in told.journal.read()}
    found = rows(told)
    assert [row["seq"] for row in found] == sorted(row["seq"] for row in found)
    assert {row["seq"] for row in found if not row["in_history"]} == {19, 20, 21, 24, 25}
    for row in found:
        assert (row["id"], row["hash"]) == hashes[row["seq"]]
        for value in row.values():
            flat = value if isinstance(value, list) else [value]
            assert all(one is None or isinstance(one, str | int | float) for one in flat)
            assert not isinstance(value, list) or all(isinstance(one, str) for one in value)


def test_every_event_is_in_exactly_one_row(told: Told) -> None:
    tell(told)
    others = [event.seq for event in told.journal.read() if event.type not in JOINED]
    found = rows(told)
    assert [row["seq"] for row in found if row["type"] != "Call"] == others
    assert [row["call"] for row in found if row["type"] == "Call"] == ["c1", "c2", "c3"]


def test_a_call_is_joined_with_verdict_hook_approval_files_and_end(told: Told) -> None:
    tell(told)
    first, second, third = (entry.call for entry in join(told.journal.read()) if entry.call is not None)
    assert first == Call(
        call="c1",
        tool="Bash",
        input='{"command":"make word"}',
        effects=["RunCommand make word"],
        decision="allow",
        rule="Bash(make *)",
        decided_by="user",
        file="~/s.yaml",
        line=3,
        reason="a rule",
        digest=first.digest,
        verdicts=1,
        hooks=["PreToolUse box user:~/s.yaml:9: success"],
        changed=["root/out", "root/log"],
        outcome="ok",
        seconds=0.25,
    )
    assert (second.asked, second.approved, second.approved_by, second.approved_always) == (True, True, "terminal", True)
    assert (second.effects, second.changed) == (["WritePath /proj/a -> /proj/real"], ["root/a"])
    assert (third.decision, third.rule, third.decided_by, third.outcome) == (
        "deny",
        "Bash(git push *)",
        "managed",
        "error",
    )
    assert (third.changed, third.egress) == ([], ["GET h:443/word: deny by r"])


def test_what_was_taken_back_is_marked_and_stays(told: Told) -> None:
    tell(told)
    found = parts(join(told.journal.read()))
    prompts = [(part.prompt.event.turn, part.prompt.here) if part.prompt is not None else None for part in found]
    assert prompts == [None, (1, True), (2, False)]
    assert [entry.event.type for entry in found[1].entries][-2:] == ["TurnEnded", "Applied"]
    assert found[2].entries[-1].event.type == "HeadMoved"
    assert found[2].entries[-1].here


def judged(told: Told, call: str, command: str, decision: str = "allow") -> None:
    effects = [{"type": "RunCommand", "command": command, "cwd": "/"}]
    verdict = {"decision": decision, "source": "mode", "rule": "", "reason": "mode"}
    told.say(Judged(call=call, tool="Bash", digest=command, effects=effects, verdict=verdict), cause=call)


def test_files_that_several_calls_may_have_changed_name_all_of_them(told: Told) -> None:
    told.prompt("x")
    judged(told, "a", "one")
    told.keep(1, "start of turn", before="a")
    judged(told, "b", "two")
    judged(told, "no", "three", "deny")
    told.keep(2, "end of turn", "root/f")
    judged(told, "c", "four")
    told.keep(3, "end of turn", "root/g")
    calls = {row["call"]: (row["changed"], row["changed_with"]) for row in rows(told) if row["type"] == "Call"}
    assert calls == {
        "a": (["root/f"], ["b"]),
        "b": (["root/f"], ["a"]),
        "no": ([], []),
        "c": (["root/g"], []),
    }


def test_a_call_that_was_refused_changed_nothing_and_one_that_waits_for_an_answer_nothing_yet(told: Told) -> None:
    told.prompt("x")
    judged(told, "a", "one")
    judged(told, "no", "two", "ask")
    judged(told, "yes", "three", "ask")
    told.keep(1, "call", "root/f")  # taken while the user thinks
    told.say(ApprovalGiven(call="no", allowed=False, by="terminal"), cause="no")
    told.say(ApprovalGiven(call="yes", allowed=True, by="terminal"), cause="yes")
    told.keep(2, "end of turn", "root/g")
    calls = {row["call"]: (row["changed"], row["changed_with"]) for row in rows(told) if row["type"] == "Call"}
    assert calls == {"a": (["root/f"], []), "no": ([], []), "yes": (["root/g"], [])}


def test_what_was_taken_back_is_not_said_to_change_what_comes_later(told: Told) -> None:
    told.prompt("x")
    judged(told, "a", "one")
    told.say(HeadMoved(to="", reason="back"))
    judged(told, "b", "two")
    told.keep(1, "end of turn", "root/f")
    assert [row["changed"] for row in rows(told) if row["type"] == "Call"] == [[], ["root/f"]]


def test_a_replaced_input_and_a_second_verdict_are_told(told: Told) -> None:
    told.ask("a", "Bash", {"command": "one"})
    judged(told, "a", "one")
    judged(told, "a", "two", "deny")
    (row,) = rows(told)
    assert (row["input"], row["effects"]) == ('{"command":"one"}', ["RunCommand two"])
    assert (row["decision"], row["verdicts"], row["input_replaced"], row["outcome"]) == ("deny", 2, True, "open")


def test_calls_of_the_same_id_are_not_mixed_up(told: Told) -> None:
    for number in range(2):
        told.ask("a", "Bash", {"command": str(number)})
        told.say(ToolFinished(call="a", name="Bash", content="", is_error=number == 0), cause="a")
    assert [(row["input"], row["outcome"]) for row in rows(told)] == [
        ('{"command":"0"}', "error"),
        ('{"command":"1"}', "ok"),
    ]


def test_a_hook_that_belongs_to_no_call_has_a_row_only(told: Told) -> None:
    hook = HookRan(hook="h", event="Stop", where="host", source="managed:/m:1", outcome="blocked", verdict="block")
    told.say(hook)
    told.say(ToolRequested(call="a", name="Bash", input={}, error="unknown tool"), cause="a")
    first, second = rows(told)
    assert (first["type"], first["event"], first["verdict"]) == ("HookRan", "Stop", "block")
    assert (second["hooks"], second["invalid"], second["decision"]) == ([], "unknown tool", "")


def test_a_prompt_of_other_blocks_names_them(told: Told) -> None:
    told.say(PromptGiven(content=[{"type": "image"}, {"type": "text", "text": "look"}]))
    assert rows(told)[0]["text"] == "[image]\nlook"
