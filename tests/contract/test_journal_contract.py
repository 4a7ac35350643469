"""The journal's contract, over every storage."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from runner.events import (
    Body,
    Event,
    HeadMoved,
    ModelReplied,
    PromptGiven,
    Redacted,
    TaskUpdated,
    ToolFinished,
    ToolRequested,
    TurnStarted,
)
from runner.journal import Journal, MemoryJournal, Secrets, canonical, digest

Make = Callable[[], Journal]


@pytest.fixture(params=["file", "memory"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    def build() -> Journal:
        numbers, times = count(1), count(1_700_000_000)
        ids, clock = (lambda: f"id{next(numbers)}"), (lambda: float(next(times)))
        if request.param == "memory":
            return MemoryJournal("s1", clock, ids=ids)
        return Journal.create(tmp_path / "s1", "s1", clock, ids=ids)

    return build


def test_what_is_appended_is_read_back_as_it_was(make: Make) -> None:
    journal = make()
    bodies: list[Body] = [
        PromptGiven(content=[{"type": "text", "text": "naïve \u2028 \udc80 \x00"}]),
        TurnStarted(number=1),
        ToolRequested(call="t1", name="Bash", input={"command": "true", "nested": {"a": [1, 2.5, None, True]}}),
    ]
    written = [journal.append(body, turn=1, cause="c") for body in bodies]
    assert list(journal.read()) == written
    assert [event.body for event in written] == bodies
    assert [event.seq for event in written] == [0, 1, 2]
    assert list(journal.read(after=1)) == written[2:]
    assert list(journal.read(after=-1, limit=2)) == written[:2]
    assert list(journal.read(after=99)) == []
    assert journal.last_seq == 2
    assert journal.verify().ok


def test_each_record_follows_the_one_before_it(make: Make) -> None:
    journal = make()
    events = [journal.append(TurnStarted(number=n)) for n in range(3)]
    assert [event.parent for event in events] == ["", events[0].id, events[1].id]
    assert [event.prev for event in events] == ["", events[0].hash, events[1].hash]


def test_a_hash_is_that_of_the_canonical_record_without_it(make: Make) -> None:
    journal = make()
    journal.append(PromptGiven(content=[{"type": "text", "text": '"\\ü\n'}]), cause='a"b')
    journal.append(TurnStarted(number=1))
    for line in journal.lines():
        record = json.loads(line)
        own = record.pop("hash")
        assert digest(record) == own
        assert line == canonical(record)[:-1] + b',"hash":"' + own.encode() + b'"}'


def test_a_sub_agents_records_are_a_branch_of_their_own(make: Make) -> None:
    journal = make()
    root = journal.append(TurnStarted(number=1))
    theirs = journal.append(TurnStarted(number=1), agent="sub", cause="t1")
    ours = journal.append(TurnStarted(number=2))
    more = journal.append(TurnStarted(number=2), agent="sub")
    assert (theirs.parent, ours.parent, more.parent) == (root.id, root.id, theirs.id)
    assert [e.id for e in journal.path()] == [root.id, ours.id]
    assert [e.id for e in journal.path("sub")] == [theirs.id, more.id]


def test_history_is_the_path_from_the_head_to_the_root(make: Make) -> None:
    journal = make()
    events = [journal.append(TurnStarted(number=n)) for n in range(4)]
    moved = journal.append(HeadMoved(to=events[1].id, reason="undo"))
    after = journal.append(TurnStarted(number=9))
    assert moved.parent == events[1].id
    assert [e.id for e in journal.path()] == [events[0].id, events[1].id, moved.id, after.id]
    assert len(list(journal.read())) == 6


def test_a_large_payload_lies_beside_the_chain_and_reads_back_the_same(make: Make) -> None:
    journal = make()
    big = ToolFinished(call="t", name="Bash", content="x" * 5000, result={"stdout": ["y" * 5000]})
    event = journal.append(big)
    (line,) = journal.lines()
    assert len(line) < 1000
    assert event.body == big
    assert next(journal.read()).body == big
    assert journal.verify().ok


def test_a_payload_that_looks_like_a_reference_is_none(make: Make) -> None:
    journal = make()
    sly = ToolRequested(call="t", name="Bash", input={"$blob": "0" * 64, "is": "text", "size": 1})
    inner = ModelReplied(
        message="m", model="x", content=[{"$blob": "1"}], stop_reason=None, usage={"a": {"$blob": "2"}}
    )
    for body in (sly, inner):
        journal.append(body)
    assert [event.body for event in journal.read()] == [sly, inner]
    assert journal.verify().ok


def test_a_redacted_payload_leaves_a_chain_that_verifies(make: Make) -> None:
    journal = make()
    journal.append(ToolFinished(call="t", name="Bash", content="x" * 5000))
    name = json.loads(next(iter(journal.lines())))["body"]["content"]["$blob"]
    journal.append(Redacted(blobs=[name], reason="the user asked"))
    journal.forget(name)
    assert journal.verify().ok
    body = next(journal.read()).body
    assert body == ToolFinished(call="t", name="Bash", content="[redacted]")


def test_a_payload_that_is_gone_without_a_word_is_a_problem(make: Make) -> None:
    journal = make()
    journal.append(TurnStarted(number=1))
    journal.append(ToolFinished(call="t", name="Bash", content="x" * 5000))
    name = json.loads(list(journal.lines())[1])["body"]["content"]["$blob"]
    journal.forget(name)
    assert [(p.line, p.kind) for p in journal.verify().problems] == [(2, "blob_missing")]


def test_known_secrets_are_replaced_before_anything_is_hashed_or_shown(make: Make) -> None:
    journal = make()
    journal.secrets.add("api", 'se"cr\\et-ä')
    journal.secrets.add("short", "abc")
    seen: list[Event] = []
    journal.on_append.append(seen.append)
    body = ToolFinished(call="t", name="Bash", content='a se"cr\\et-ä abc', result={'se"cr\\et-ä': "x" * 9000})
    event = journal.append(body)
    wanted = ToolFinished(call="t", name="Bash", content="a [secret:api] abc", result={"[secret:api]": "x" * 9000})
    assert event.body == wanted
    assert seen == [event]
    assert next(journal.read()).body == wanted


def test_a_secret_that_looks_like_part_of_a_record_does_not_break_it(make: Make) -> None:
    journal = make()
    for name, value in {"n": "12345678", "m": "1234567890123", "k": "content", "t": "Bash-tool"}.items():
        journal.secrets.add(name, value)
    event = journal.append(
        ToolFinished(call="t", name="Bash-tool", content="content 12345678", result={"size": 1234567890123})
    )
    assert event.body == ToolFinished(
        call="t", name="[secret:t]", content="content 12345678", result={"size": 1234567890123}
    )
    assert next(journal.read()).body == event.body


def test_plain_text_is_cleared_of_secrets_too() -> None:
    secrets = Secrets()
    secrets.add("key", "sk-123456")
    assert secrets.hide("Bearer sk-123456!") == "Bearer [secret:key]!"


def test_a_list_field_that_is_a_tuple_comes_back_as_one(make: Make) -> None:
    journal = make()
    task = TaskUpdated(kind="todos", task="todos", state="updated", items=[{"content": "x"}])
    journal.append(task)
    assert next(journal.read()).body == task


def test_an_id_may_be_given_ahead(make: Make) -> None:
    journal = make()
    assert journal.append(TurnStarted(number=1), id="mine").id == "mine"
    assert journal.head() == "mine"


def test_the_last_turn_is_known(make: Make) -> None:
    journal = make()
    assert journal.last_turn == 0
    journal.append(TurnStarted(number=1), turn=3)
    journal.append(TurnStarted(number=1), turn=1)
    assert journal.last_turn == 3


def _edited(line: bytes) -> bytes:
    return line.replace(b'"number":2', b'"number":7')


def _rehashed(line: bytes) -> bytes:
    record: dict[str, Any] = json.loads(_edited(line))
    record.pop("hash")
    return canonical(record)[:-1] + b',"hash":"' + digest(record).encode() + b'"}'


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (lambda lines: [*lines[:2], _edited(lines[2]), *lines[3:]], [(3, "edited")]),
        (lambda lines: [*lines[:2], _rehashed(lines[2]), *lines[3:]], [(4, "edited")]),
        (lambda lines: [*lines[:2], *lines[3:]], [(3, "removed")]),
        (lambda lines: lines[1:], [(1, "removed")]),
        (lambda lines: [*lines[:2], lines[3], lines[2], lines[4]], [(3, "removed"), (4, "reordered")]),
        (lambda lines: [*lines[:2], lines[2], lines[2], *lines[3:]], [(4, "reordered")]),
        (lambda lines: [*lines[:2], b"nonsense", *lines[3:]], [(3, "malformed")]),
        (lambda lines: [*lines[:2], b"[]", *lines[3:]], [(3, "malformed")]),
        (lambda lines: [*lines[:2], b'{"v":2,' + lines[2][1:], *lines[3:]], [(3, "edited")]),
        (lambda lines: lines[:4], []),
    ],
)
def test_edits_removals_and_reorderings_are_located(make: Make, damage: Any, found: Any) -> None:
    journal = make()
    for number in range(5):
        journal.append(TurnStarted(number=number))
    lines = damage(list(journal.lines()))
    other = MemoryJournal("s1")
    other.storage.kept.extend(lines)  # type: ignore[attr-defined]
    assert [(p.line, p.kind) for p in other.verify().problems] == found
