"""A journal against its anchors: who rewrites, cuts or swaps it is caught, and where is said."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.errors import JournalError
from runner.events import Redacted, ToolFinished, TurnStarted
from runner.journal import Journal, canonical
from runner.policy.signing import SecretKey, new_key
from runner.policy.signing import verify as check_signature
from runner.sessions.anchors import (
    ANCHORS_NAME,
    Anchor,
    Audit,
    Statement,
    examine,
    keep_anchor,
    make_anchor,
    read_anchors,
)
from tests.support.audited import SESSION, Told, lines_of, made_anew, put_lines, tell

KEY = new_key()
FIXED = SecretKey(id=b"fumehood", seed=bytes(range(32)))
GOLDEN = Path(__file__).parents[1] / "golden" / "anchors-v1.jsonl"
Lines = list[bytes]


@pytest.fixture
def session(tmp_path: Path) -> Path:
    """Anchored after its first 20 records; more follow."""
    told = Told(tmp_path / SESSION)
    for number in range(20):
        told.say(TurnStarted(number=number))
    anchored(told.directory)
    for number in range(20, 30):
        told.say(TurnStarted(number=number))
    told.journal.close()
    return told.directory


def anchored(directory: Path, key: SecretKey = KEY, at: float = 1_700_000_000.0) -> Anchor:
    made = make_anchor(directory, session=SESSION, key=key, at=at)
    keep_anchor(made, directory / ANCHORS_NAME)
    return made


def look(directory: Path, *keys: SecretKey, **more: Any) -> Audit:
    public = tuple(key.public for key in keys or (KEY,))
    return examine(directory, session=SESSION, live=False, keys=public, **more)


def found(audit: Audit) -> list[tuple[int, str]]:
    return [(each.seq, each.kind) for each in audit.problems]


def test_what_follows_the_last_anchor_is_consistent_and_not_anchored(session: Path) -> None:
    audit = look(session)
    assert (audit.ok, audit.records, audit.anchored, audit.anchored_at) == (True, 30, 20, 1_700_000_000.0)
    anchored(session, at=1_700_000_100.0)
    audit = look(session)
    assert (audit.anchored, [each.state for each in audit.anchors]) == (30, ["holds", "holds"])


def edited(line: bytes) -> bytes:
    changed = line.replace(b'{"number":', b'{"number":9')
    assert changed != line
    return changed


@pytest.mark.parametrize(
    ("tamper", "problems"),
    [
        (lambda ls: [*ls[:5], edited(ls[5]), *ls[6:]], [(5, "edited")]),
        (lambda ls: [*ls[:5], *ls[6:]], [(5, "removed")]),
        (lambda ls: [*ls[:5], ls[6], ls[5], *ls[7:]], [(5, "removed"), (5, "reordered")]),
        (lambda ls: ls[:12], [(12, "anchor_cut")]),
        (lambda ls: [], [(0, "anchor_cut")]),
    ],
    ids=["edited", "removed", "swapped", "cut", "emptied"],
)
def test_what_is_changed_before_an_anchor_is_caught_and_located(
    session: Path, tamper: Callable[[Lines], Lines], problems: list[tuple[int, str]]
) -> None:
    put_lines(session, tamper(lines_of(session)))
    assert found(look(session)) == problems


@pytest.mark.parametrize(
    ("tamper", "first"),
    [
        (lambda ls: [*ls[:5], edited(ls[5]), *ls[6:]], 5),
        (lambda ls: [*ls[:5], *ls[6:]], 5),
        (lambda ls: [*ls[:5], ls[6], ls[5], *ls[7:]], 5),
        (lambda ls: [*ls[:5], ls[4], *ls[5:]], 5),
        (lambda ls: ls[1:], 0),
        (lambda ls: [*ls[:19], edited(ls[19]), *ls[20:]], 19),
    ],
    ids=["edited", "removed", "swapped", "added", "beheaded", "last"],
)
def test_who_computes_the_whole_chain_again_is_caught_by_the_anchor(
    session: Path, tamper: Callable[[Lines], Lines], first: int
) -> None:
    put_lines(session, made_anew(tamper(lines_of(session))))
    assert Journal.view(session).verify().ok  # the chain alone tells nothing
    assert examine(session, session=SESSION, live=False).ok
    audit = look(session)
    assert found(audit) == [(first, "anchor_rewritten")]
    assert (audit.anchored, audit.anchors[0].state) == (0, "broken")


@pytest.mark.parametrize("tamper", [lambda ls: ls[:25], lambda ls: made_anew([*ls[:22], edited(ls[22]), *ls[23:]])])
def test_what_is_changed_after_the_last_anchor_is_said_not_to_be_anchored(
    session: Path, tamper: Callable[[Lines], Lines]
) -> None:
    lines = tamper(lines_of(session))
    put_lines(session, lines)
    audit = look(session)
    assert (audit.ok, audit.anchored, audit.records) == (True, 20, len(lines))


def test_of_several_anchors_the_last_that_holds_and_the_first_difference_are_told(session: Path) -> None:
    anchored(session)
    lines = lines_of(session)
    put_lines(session, made_anew([*lines[:24], edited(lines[24]), *lines[25:]]))
    audit = look(session)
    assert (audit.anchored, found(audit)) == (20, [(24, "anchor_rewritten")])
    put_lines(session, lines[:3])
    assert [(p.seq, p.kind, p.detail) for p in look(session).problems] == [
        (3, "anchor_cut", "records 3 to 29 were anchored and are gone")
    ]
    put_lines(session, made_anew([edited(lines[0]), *lines[1:]]))
    assert found(look(session)) == [(0, "anchor_rewritten")]


def test_only_anchors_by_a_key_that_was_given_count(session: Path) -> None:
    lines = lines_of(session)
    put_lines(session, made_anew([*lines[:5], *lines[6:]]))
    (session / ANCHORS_NAME).unlink()
    other = new_key()
    anchored(session, other)
    assert look(session, other).anchored == 29
    audit = look(session, wanted=True)
    assert (audit.anchored, found(audit)) == (0, [(-1, "anchor_missing")])
    assert audit.anchors[0].state == "by a key that is not given"
    audit = examine(session, session=SESSION, live=False)
    assert (audit.ok, audit.anchored, audit.anchors[0].state) == (True, 0, "not checked: no key is given")


def test_a_copy_kept_elsewhere_catches_who_takes_the_anchors_away_too(session: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept.jsonl"
    kept.write_bytes((session / ANCHORS_NAME).read_bytes())
    (session / ANCHORS_NAME).unlink()
    put_lines(session, lines_of(session)[:12])
    assert look(session).ok
    assert found(look(session, files=[kept], wanted=True)) == [(12, "anchor_cut")]


def test_an_anchor_whose_statement_was_changed_is_none(session: Path) -> None:
    (made,), _ = read_anchors(session / ANCHORS_NAME)
    lines = made_anew(lines_of(session)[:5])
    put_lines(session, lines)
    head = json.loads(lines[-1])["hash"]
    statement = replace(made.statement, records=5, head=head, marks="")
    (session / ANCHORS_NAME).write_bytes(Anchor(statement=statement, signature=made.signature).line())
    assert found(look(session)) == [(-1, "anchor_invalid")]


def test_another_sessions_journal_and_anchors_do_not_stand_in_for_this_one(session: Path) -> None:
    other = "99999999-1111-4111-8111-111111111111"
    audit = examine(session, session=other, live=False, keys=(KEY.public,), wanted=True)
    assert found(audit) == [(0, "foreign"), (-1, "anchor_missing")]


def test_a_damaged_journal_is_not_anchored(session: Path) -> None:
    lines = lines_of(session)
    put_lines(session, [*lines[:25], edited(lines[25]), *lines[26:]])
    with pytest.raises(JournalError, match="record 25"):
        anchored(session)
    put_lines(session, lines[:7])
    with pytest.raises(JournalError, match="records 7 to 19 were anchored and are gone"):
        anchored(session)


@pytest.mark.parametrize(
    "text",
    [b"", b"nonsense", b"[]", b'{"statement": 1}', b'{"statement": {}, "signature": ""}', b"[" * 100_000, b"\xff"],
)
def test_what_is_no_anchor_is_told_and_stops_nothing(session: Path, text: bytes) -> None:
    with (session / ANCHORS_NAME).open("ab") as file:
        file.write(text + b"\n")
    audit = look(session)
    assert (audit.ok, audit.anchored) == (True, 20)
    assert audit.remarks == (("1 lines among the anchors are none",) if text else ())


@pytest.mark.parametrize(
    "change",
    [{"at": float("nan")}, {"records": 0}, {"since": 99}, {"records": "20"}, {"version": 2}, {"marks": None}],
)
def test_a_statement_of_another_form_is_no_anchor(session: Path, change: dict[str, Any]) -> None:
    (made,), _ = read_anchors(session / ANCHORS_NAME)
    body = {"statement": asdict(made.statement) | change, "signature": made.signature}
    (session / ANCHORS_NAME).write_text(json.dumps(body) + "\n")
    assert read_anchors(session / ANCHORS_NAME) == ([], 1)


def test_payloads_are_looked_at_and_redacted_ones_stay_verifiable(tmp_path: Path) -> None:
    told = Told(tmp_path / SESSION)
    for number in range(3):
        told.say(ToolFinished(call=f"t{number}", name="Bash", content=str(number) * 9000))
    names = [json.loads(line)["body"]["content"]["$blob"] for line in lines_of(told.directory)]
    told.say(Redacted(blobs=[names[0]], reason="asked for"))
    told.journal.forget(names[0])
    anchored(told.directory)
    assert (look(told.directory).ok, look(told.directory).remarks) == (True, ())
    blobs = told.directory / "blobs"
    (blobs / names[1]).write_bytes(b"other")
    (blobs / names[2]).unlink()
    assert found(look(told.directory)) == [(1, "blob_damaged"), (2, "blob_missing")]


def test_a_payload_that_is_redacted_only_after_the_anchor_is_remarked(tmp_path: Path) -> None:
    told = Told(tmp_path / SESSION)
    told.say(ToolFinished(call="t", name="Bash", content="x" * 9000))
    anchored(told.directory)
    name = json.loads(lines_of(told.directory)[0])["body"]["content"]["$blob"]
    told.say(Redacted(blobs=[name], reason="hush"))
    told.journal.forget(name)
    audit = look(told.directory)
    assert audit.ok
    assert audit.remarks == ("1 payloads of anchored records are redacted by records that are not anchored",)


@pytest.mark.parametrize("name", ["../../../etc/passwd", "x", "0" * 64])
def test_a_reference_that_leads_out_of_the_blobs_is_not_followed(tmp_path: Path, name: str) -> None:
    told = Told(tmp_path / SESSION)
    told.say(ToolFinished(call="t", name="Bash", content="x" * 9000))
    (line,) = lines_of(told.directory)
    record = json.loads(line)
    record["body"]["content"]["$blob"] = name
    put_lines(told.directory, made_anew([canonical(record)]))
    kind = "blob_missing" if name == "0" * 64 else "blob_damaged"
    assert found(look(told.directory)) == [(0, kind)]


@pytest.mark.parametrize(
    "change", [{"type": 1}, {"turn": "x"}, {"body": []}, {"session": None}, {"agent": {}}, {"at": "now"}, {"at": 1e300}]
)
def test_a_record_of_another_shape_is_located(session: Path, change: dict[str, Any]) -> None:
    lines = lines_of(session)
    lines[25] = canonical(json.loads(lines[25]) | change)
    put_lines(session, lines)
    assert found(look(session)) == [(25, "malformed")]


def test_a_session_that_goes_on_beside_it_is_anchored_as_far_as_it_is_written(tmp_path: Path) -> None:
    told = Told(tmp_path / SESSION)
    tell(told)
    with (told.directory / "journal.jsonl").open("ab") as file:
        file.write(b'{"half')
    count = len(lines_of(told.directory)) - 1
    assert anchored(told.directory).statement.records == count
    assert look(told.directory).anchored == count
    assert stat.S_IMODE((told.directory / ANCHORS_NAME).stat().st_mode) == 0o600


def test_the_statement_is_what_minisign_would_check(session: Path) -> None:
    (made,), _ = read_anchors(session / ANCHORS_NAME)
    signed = canonical(asdict(made.statement))
    comment = check_signature(signed, made.signature, (KEY.public,))
    assert comment.startswith(f"fumehood anchor\tsession:{SESSION}\trecords:20\thead:{made.statement.head}")
    assert made.statement == Statement(
        session=SESSION,
        records=20,
        head=json.loads(lines_of(session)[19])["hash"],
        at=1_700_000_000.0,
        marks="".join(json.loads(line)["hash"][:8] for line in lines_of(session)[:20]),
    )


def test_the_form_on_disk_is_that_of_the_golden_file_and_it_holds_as_it_always_did(tmp_path: Path) -> None:
    told = Told(tmp_path / SESSION)
    tell(told)
    anchored(told.directory, FIXED)
    told.prompt("more")
    anchored(told.directory, FIXED, at=1_700_000_100.5)
    assert (told.directory / ANCHORS_NAME).read_bytes() == GOLDEN.read_bytes()
    assert [each.state for each in look(told.directory, FIXED).anchors] == ["holds", "holds"]


def test_an_anchor_is_kept_whole_behind_one_that_a_crash_tore(session: Path) -> None:
    with (session / ANCHORS_NAME).open("ab") as file:
        file.write(b'{"statement": {"sess')
    anchored(session)
    audit = look(session)
    assert (audit.anchored, audit.remarks) == (30, ("1 lines among the anchors are none",))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_no_change_before_an_anchor_goes_unnoticed_and_none_makes_it_raise(data: st.DataObject) -> None:
    with TemporaryDirectory() as made:
        directory = Path(made) / SESSION
        told = Told(directory)
        tell(told)
        told.journal.close()
        anchored(directory)
        before = (directory / "journal.jsonl").read_bytes()
        lines = before.splitlines(keepends=True)
        at = data.draw(st.integers(0, len(before) - 1))
        number = before[:at].count(b"\n")
        kind = data.draw(st.sampled_from(["flip", "insert", "cut", "line", "swap"]))
        changed = bytearray(before)
        match kind:
            case "flip":
                changed[at] ^= data.draw(st.integers(1, 255))
            case "insert":
                changed[at:at] = data.draw(st.binary(min_size=1, max_size=5))
            case "cut":
                del changed[at : at + data.draw(st.integers(1, 400))]
            case "line":
                changed = bytearray(b"".join(lines[:number] + lines[number + 1 :]))
            case _:
                other = data.draw(st.integers(0, len(lines) - 1).filter(lambda n: n != number))
                lines[number], lines[other] = lines[other], lines[number]
                changed = bytearray(b"".join(lines))
        (directory / "journal.jsonl").write_bytes(changed)
        assert look(directory).ok == (bytes(changed) == before)
        if kind in ("line", "swap"):
            put_lines(directory, made_anew(lines_of(directory)))
            assert not look(directory).ok
