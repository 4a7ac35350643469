"""What only the journal on disk has: modes, crashes, disks that are full, and its golden file."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import stat
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.errors import JournalError
from runner.events import ModelReplied, PromptGiven, ToolFinished, TurnStarted
from runner.journal import Journal, canonical

GOLDEN = Path(__file__).parent / "golden" / "journal-v1"


def told(directory: Path) -> Journal:
    numbers, times = count(1), count(1_700_000_000)
    return Journal.create(directory, "s1", lambda: float(next(times)), ids=lambda: f"id{next(numbers)}")


def write_golden(directory: Path) -> None:
    journal = told(directory)
    journal.append(PromptGiven(content=[{"type": "text", "text": "fix it, naïvely"}]), turn=1)
    reply = [{"type": "thinking", "thinking": "…", "signature": "c2ln"}, {"type": "text", "text": "Done."}]
    journal.append(
        ModelReplied(message="m", model="claude", content=reply, stop_reason="end_turn", usage={"input_tokens": 3}),
        turn=1,
    )
    journal.append(ToolFinished(call="t", name="Bash", content="long " * 1000, seconds=0.25), turn=1, cause="t")
    journal.close()


def test_the_form_on_disk_is_that_of_the_golden_file(tmp_path: Path) -> None:
    write_golden(tmp_path / "fresh")
    fresh = {p.relative_to(tmp_path / "fresh"): p.read_bytes() for p in _files(tmp_path / "fresh")}
    golden = {p.relative_to(GOLDEN): p.read_bytes() for p in _files(GOLDEN)}
    assert fresh == golden


def test_the_golden_file_reads_as_it_always_did(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN, tmp_path / "s1")
    journal = Journal.open(tmp_path / "s1")
    assert journal.verify().ok
    assert [e.type for e in journal.path()] == ["PromptGiven", "ModelReplied", "ToolFinished"]
    assert list(journal.read())[2].body == ToolFinished(call="t", name="Bash", content="long " * 1000, seconds=0.25)


def _files(directory: Path) -> Iterator[Path]:
    return (path for path in directory.rglob("*") if path.is_file())


def test_only_the_owner_may_read_it(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        write_golden(tmp_path / "s1")
    finally:
        os.umask(before)
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in [tmp_path / "s1", *(tmp_path / "s1").rglob("*")]}
    assert (modes["s1"], modes["blobs"], modes["journal.jsonl"]) == (0o700, 0o700, 0o600)
    assert {mode for name, mode in modes.items() if len(name) == 64} == {0o600}


def test_a_journal_goes_on_where_it_stood(tmp_path: Path) -> None:
    first = told(tmp_path / "s1")
    last = [first.append(TurnStarted(number=n), turn=n) for n in range(3)][-1]
    first.close()
    again = Journal.open(tmp_path / "s1")
    event = again.append(TurnStarted(number=9))
    assert (again.session, event.seq, event.parent, event.prev) == ("s1", 3, last.id, last.hash)
    assert again.verify().ok


@settings(max_examples=60, deadline=None)
@given(st.integers(min_value=0))
def test_a_crash_at_any_byte_loses_nothing_that_was_whole(cut: int) -> None:
    directory = Path(os.environ.get("TMPDIR", "/tmp")) / f"fumehood-test-{os.getpid()}"
    shutil.rmtree(directory, ignore_errors=True)
    try:
        journal = told(directory)
        for number in range(3):
            journal.append(TurnStarted(number=number))
        journal.close()
        path = directory / "journal.jsonl"
        data = path.read_bytes()
        kept = data[: cut % (len(data) + 1)]
        path.write_bytes(kept)
        again = Journal.open(directory)
        whole = kept[: kept.rfind(b"\n") + 1]
        assert path.read_bytes() == whole
        assert again.last_seq + 1 == whole.count(b"\n")
        again.append(TurnStarted(number=7))
        assert again.verify().ok
        again.close()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def test_a_damaged_journal_is_not_gone_on_with(tmp_path: Path) -> None:
    journal = told(tmp_path / "s1")
    for number in range(3):
        journal.append(TurnStarted(number=number))
    journal.close()
    path = tmp_path / "s1" / "journal.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"number":1', b'"number":5'))
    with pytest.raises(JournalError, match="line 2"):
        Journal.open(tmp_path / "s1")


def test_a_journal_that_is_not_there_cannot_be_opened_nor_one_that_is_made_again(tmp_path: Path) -> None:
    with pytest.raises(JournalError):
        Journal.open(tmp_path / "s1")
    told(tmp_path / "s1").close()
    with pytest.raises(JournalError):
        told(tmp_path / "s1")


def test_a_link_is_no_journal(tmp_path: Path) -> None:
    write_golden(tmp_path / "real")
    (tmp_path / "s1").mkdir()
    (tmp_path / "s1" / "journal.jsonl").symlink_to(tmp_path / "real" / "journal.jsonl")
    with pytest.raises(JournalError):
        Journal.open(tmp_path / "s1")


def test_a_disk_that_fills_up_leaves_whole_records_only(tmp_path: Path) -> None:
    journal = told(tmp_path / "s1")
    path = tmp_path / "s1" / "journal.jsonl"
    journal.append(TurnStarted(number=1))
    size = path.stat().st_size
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, before[1]))
    try:
        with pytest.raises(JournalError):
            journal.append(TurnStarted(number=2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.stat().st_size == size
    event = journal.append(TurnStarted(number=3))
    assert event.seq == 1
    assert journal.verify().ok


def test_a_half_written_blob_is_written_again(tmp_path: Path) -> None:
    journal = told(tmp_path / "s1")
    body = ToolFinished(call="t", name="Bash", content="x" * 9000)
    journal.append(body)
    (blob,) = (tmp_path / "s1" / "blobs").iterdir()
    blob.write_bytes(b'"xxx')
    assert [p.kind for p in journal.verify().problems] == ["blob_damaged"]
    journal.append(body)
    assert journal.verify().ok


def test_a_second_reader_sees_what_the_first_process_writes(tmp_path: Path) -> None:
    journal = told(tmp_path / "s1")
    journal.append(TurnStarted(number=1))
    other = Journal.view(tmp_path / "s1")
    journal.append(TurnStarted(number=2))
    assert [e.body for e in other.read()] == [TurnStarted(number=1), TurnStarted(number=2)]


def test_looking_at_a_live_journal_does_not_cut_what_is_being_written(tmp_path: Path) -> None:
    journal = told(tmp_path / "s1")
    journal.append(TurnStarted(number=1))
    path = tmp_path / "s1" / "journal.jsonl"
    with path.open("ab") as file:
        file.write(b'{"half')
    size = path.stat().st_size
    assert len(list(Journal.view(tmp_path / "s1").read())) == 1
    assert path.stat().st_size == size


def test_a_damaged_journal_can_still_be_looked_at(tmp_path: Path) -> None:
    journal = told(tmp_path / "s1")
    journal.append(TurnStarted(number=1))
    path = tmp_path / "s1" / "journal.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"number":1', b'"number":5'))
    assert not Journal.view(tmp_path / "s1").verify().ok


def test_canonical_json_is_ascii_sorted_and_dense() -> None:
    assert canonical({"b": [1, 2.5, None, True], "a": "ü\udc80"}) == b'{"a":"\\u00fc\\udc80","b":[1,2.5,null,true]}'
    with pytest.raises(ValueError, match="JSON"):
        canonical(float("nan"))
