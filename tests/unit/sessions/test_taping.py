"""What a spec says of recording and replaying, and where recordings are found."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from runner.errors import SessionNotFoundError, UsageError
from runner.journal import Secrets
from runner.sessions.store import Store
from runner.sessions.taping import FILE, Taping, recording_file
from runner.sessions.wayout import taping_of
from runner.spec import RootRef, SessionSpec
from sandbox.refusals import RefusedError
from sandbox.rulings import Request

SESSION = "4f2a91c0-1111-4222-8333-444455556666"
ASKED = Request(host="a.example", port=443, scheme="https", method="POST", path="/?key=a-known-secret")


@pytest.fixture
def spec(tmp_path: Path) -> SessionSpec:
    made = SessionSpec(
        session=SESSION, cwd=str(tmp_path), roots=(RootRef(host=str(tmp_path), at="/workspace/x"),), model="x:y"
    )
    Store(tmp_path / "home").save(made)
    return made


def record(spec: SessionSpec, directory: Path, *, times: int) -> str:
    secrets = Secrets()
    secrets.add("KEY", "a-known-secret")
    taping = Taping(replace(spec, record_net=1 << 20), directory, secrets)
    assert taping.tape is not None
    for number in range(times):
        take = taping.tape.begin(ASKED, [])
        take.reached(ip_address("192.0.2.1"))
        take.all_sent()
        take.answered(200, [], b"OK")
        take.received(b"answer %d" % number)
        take.close()
    taping.tape.missed(ASKED, "a reason")
    return taping.close()


def test_a_recording_is_found_by_its_session_or_its_file(spec: SessionSpec, tmp_path: Path) -> None:
    home, directory = tmp_path / "home", tmp_path / "home" / "sessions" / SESSION
    environ = {"FUMEHOOD_HOME": str(home)}
    with pytest.raises(UsageError, match="session 4f2a91c0 has no recording: it ran without --record-net"):
        recording_file("4f2a", environ)
    said = record(spec, directory, times=2)
    assert said == "2 exchanges recorded, 1 could not be kept (fumehood net recorded names them)"
    assert recording_file("4f2a", environ) == str(directory / FILE)
    assert recording_file(str(directory / FILE), environ) == str(directory / FILE)
    with pytest.raises(SessionNotFoundError):
        recording_file("5f", environ)
    other = tmp_path / "other"
    other.write_text("x")
    with pytest.raises(UsageError, match="is not a store"):
        recording_file(str(other), environ)


def test_a_replay_goes_on_where_it_was_and_finds_secrets_again(spec: SessionSpec, tmp_path: Path) -> None:
    directory = tmp_path / "home" / "sessions" / SESSION
    record(spec, directory, times=2)
    assert b"a-known-secret" not in (directory / FILE).read_bytes()
    again, wanted = tmp_path / "again", replace(spec, replay_net=str(directory / FILE))
    again.mkdir()
    secrets = Secrets()
    secrets.add("KEY", "a-known-secret")
    for number in range(2):
        taping = Taping(wanted, again, secrets)
        assert taping.replay is not None
        found = taping.replay.answer(ASKED, taping.replay.body())
        assert b"".join(found.pieces()) == b"answer %d" % number
        assert taping.close() == ""
    taping = Taping(wanted, again, secrets)
    assert taping.replay is not None
    with pytest.raises(RefusedError, match="was not recorded again: its answers were given"):
        taping.replay.answer(ASKED, taping.replay.body())
    taping.close()


def test_a_session_is_recorded_or_replayed_and_nothing_is_there_for_neither(spec: SessionSpec, tmp_path: Path) -> None:
    assert taping_of(spec, tmp_path, Secrets()) is None
    with pytest.raises(UsageError, match="recorded or replayed, not both"):
        taping_of(replace(spec, record_net=1, replay_net="/x"), tmp_path, Secrets())
    assert not (tmp_path / FILE).exists()
    done = subprocess.run(
        [sys.executable, "-m", "runner", "-p", "x", "--record-net", "--replay-net", "4f2a"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (2, "fumehood: --record-net and --replay-net exclude each other\n")
