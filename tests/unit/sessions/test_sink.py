"""The required audit sink over a real HTTP server and as a command: what it acknowledged cannot be changed unnoticed,
and nothing but its own signature in time is an acknowledgement.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from runner.errors import AuditSinkError, JournalError, ManagedError, UsageError
from runner.events import PromptGiven
from runner.journal import Journal, canonical
from runner.policy.signing import new_key
from runner.sessions.anchors import Statement, examine, signed
from runner.sessions.ledger import answer
from runner.sessions.sink import MAX_REPLY, Sink
from tests.support.audited import SESSION
from tests.support.sink import SECRET, SinkServer, serving_sink

HERE = Path(__file__).resolve().parents[3]
ENVIRON = {"SINK_SECRET": SECRET}


@pytest.fixture
def server() -> Iterator[SinkServer]:
    with serving_sink() as made:
        yield made


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    made = Journal.create(tmp_path / "session", SESSION)
    say(made, "one")
    yield made
    made.close()


def given(reply: tuple[int, bytes], _told: Statement) -> tuple[int, bytes]:
    return reply


def say(journal: Journal, text: str) -> None:
    journal.append(PromptGiven(content=[{"type": "text", "text": text}]))


def sink(journal: Journal, tmp_path: Path, setting: dict[str, Any]) -> Sink:
    return Sink(setting, directory=tmp_path / "session", journal=journal, environ=ENVIRON)


async def test_what_was_acknowledged_is_an_anchor_and_the_rest_is_told_only_once(
    server: SinkServer, journal: Journal, tmp_path: Path
) -> None:
    made = sink(journal, tmp_path, server.setting())
    await made.begin()
    await made.acknowledge()
    say(journal, "two")
    say(journal, "three")
    await made.acknowledge()
    say(journal, "four")
    assert [(told.since, told.records) for told in server.heard] == [(0, 1), (1, 3)]
    assert server.forged == 0
    audit = examine(tmp_path / "session", session=SESSION, live=True, keys=(server.key.public,), wanted=True)
    assert (audit.ok, audit.records, audit.anchored) == (True, 4, 3)


async def test_a_journal_that_was_changed_since_is_not_acknowledged_again(
    server: SinkServer, journal: Journal, tmp_path: Path
) -> None:
    await sink(journal, tmp_path, server.setting()).begin()
    journal.close()
    (tmp_path / "session" / "journal.jsonl").unlink()
    other = Journal.create(tmp_path / "again", SESSION)
    say(other, "another one")
    other.close()
    (tmp_path / "again" / "journal.jsonl").rename(tmp_path / "session" / "journal.jsonl")
    changed = Journal.open(tmp_path / "session")
    with pytest.raises(JournalError, match="not as anchored"):
        await sink(changed, tmp_path, server.setting()).begin()
    changed.close()
    assert len(server.heard) == 1
    audit = examine(tmp_path / "session", session=SESSION, live=False, keys=(server.key.public,))
    assert [problem.kind for problem in audit.problems] == ["anchor_rewritten"]


async def test_nothing_but_its_own_signature_is_an_acknowledgement(
    server: SinkServer, journal: Journal, tmp_path: Path
) -> None:
    replies: dict[str, tuple[int, bytes]] = {
        "status 503": (503, b""),
        "status 302": (302, b""),
        "did not sign": (200, b"{}"),
        "did  not sign": (200, b"[" * 9000),
        "too long": (200, b"x" * (MAX_REPLY + 1)),
    }
    for words, reply in replies.items():
        server.answer = partial(given, reply)
        with pytest.raises(AuditSinkError, match=words.replace("  ", " ")):
            await sink(journal, tmp_path, server.setting()).begin()
    stranger = new_key()
    server.answer = lambda told: (200, json.dumps({"signature": signed(told, stranger).signature}).encode())
    with pytest.raises(AuditSinkError, match="did not sign"):
        await sink(journal, tmp_path, server.setting()).begin()
    server.answer = lambda told: server.acknowledge(replace(told, records=told.records + 1))
    with pytest.raises(AuditSinkError, match="did not sign"):
        await sink(journal, tmp_path, server.setting()).begin()
    assert not (tmp_path / "session" / "anchors.jsonl").exists()


async def test_silence_and_nobody_there_are_no_acknowledgement(
    server: SinkServer, journal: Journal, tmp_path: Path
) -> None:
    server.open.clear()
    with pytest.raises(AuditSinkError, match="does not answer within"):
        await sink(journal, tmp_path, server.setting(deadline=0.2)).begin()
    with pytest.raises(AuditSinkError, match="cannot be reached"):
        await sink(journal, tmp_path, server.setting(url="http://127.0.0.1:1/")).begin()


def test_a_key_or_secret_that_is_none_starts_nothing(server: SinkServer, journal: Journal, tmp_path: Path) -> None:
    with pytest.raises(ManagedError, match="publicKey"):
        sink(journal, tmp_path, server.setting(publicKey="R" * 56))
    with pytest.raises(ManagedError, match="secret"):
        sink(journal, tmp_path, server.setting(secretEnv="NOT_SET"))


COMMANDS = {
    "ends with 3": "raise SystemExit(3)",
    "did not sign": "print('{}')",
    "too long": "print('x' * 100_000)",
    "does not answer within": "import time; time.sleep(60)",
}


@pytest.mark.parametrize("words", COMMANDS)
async def test_a_command_that_fails_is_no_acknowledgement(
    server: SinkServer, journal: Journal, tmp_path: Path, words: str
) -> None:
    setting = {"publicKey": server.setting()["publicKey"], "deadline": 3 if "answer" in words else 30}
    with pytest.raises(AuditSinkError, match=words):
        await sink(journal, tmp_path, setting | {"command": [sys.executable, "-c", COMMANDS[words]]}).begin()


async def test_a_command_acknowledges_and_keeps_a_ledger(journal: Journal, tmp_path: Path) -> None:
    key = new_key()
    (tmp_path / "sink.key").write_text(key.text())
    command = [sys.executable, "-m", "runner", "audit", "acknowledge"]
    command += ["--key", str(tmp_path / "sink.key"), "--ledger", str(tmp_path / "ledger")]
    setting = {"command": command, "publicKey": key.public.text().splitlines()[1]}
    made = Sink(
        setting | {"command": ["env", "-C", str(HERE), *command]},
        directory=tmp_path / "session",
        journal=journal,
        environ={},
    )
    await made.begin()
    say(journal, "two")
    await made.acknowledge()
    (tmp_path / "session" / "anchors.jsonl").unlink()
    found = examine(
        tmp_path / "session",
        session=SESSION,
        live=True,
        keys=(key.public,),
        files=(tmp_path / "ledger",),
        wanted=True,
    )
    assert (found.ok, found.anchored) == (True, 2)


async def test_a_ledger_refuses_what_contradicts_it(server: SinkServer, journal: Journal, tmp_path: Path) -> None:
    say(journal, "two")
    await sink(journal, tmp_path, server.setting()).begin()
    (told,) = server.heard

    def request(**changes: Any) -> bytes:
        return canonical({"version": 1, "statement": asdict(replace(told, **changes)), "nonce": "", "at": 0})

    ledger, key = tmp_path / "ledger", new_key()
    answer(request(), ledger, key)
    answer(request(), ledger, key)
    cut = {"records": 1, "marks": told.marks[:8], "head": told.head}
    other = {"records": 3, "marks": "0" * 24, "head": "0" * 64}
    gap = {"records": 4, "since": 3, "marks": "0" * 8, "head": "0" * 64}
    for changes, words in ((cut, "now there are 1"), (other, "not the one"), (gap, "begin at 3")):
        with pytest.raises(JournalError, match=words):
            answer(request(**changes), ledger, key)
    for bad in (b"", b"[]", b"{}", b'{"version": 1, "statement": {}}', request(marks="")):
        with pytest.raises(UsageError):
            answer(bad, ledger, key)
    assert len(ledger.read_bytes().splitlines()) == 2
