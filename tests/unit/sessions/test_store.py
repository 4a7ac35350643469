"""The store of sessions: where they lie, how they are found, who owns one."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import textwrap
import uuid
from pathlib import Path

import pytest

from runner.errors import SessionBusyError, SessionNotFoundError, UsageError
from runner.events import ModelReplied, PromptGiven, SessionStarted, TurnEnded, TurnStarted
from runner.journal import Journal
from runner.sessions.glance import beginning
from runner.sessions.lock import Lock
from runner.sessions.store import State, Store, Stored, state_home
from runner.sessions.usage import size_of
from runner.spec import RootRef, SessionSpec


def make_spec(cwd: str = "/work/here", session: str = "") -> SessionSpec:
    return SessionSpec(
        session=session or str(uuid.uuid4()),
        cwd=cwd,
        roots=(RootRef(host=cwd, at=cwd, name="here"),),
        model="scripted:/x.yaml",
    )


def save(store: Store, spec: SessionSpec, *, updated: float = 0.0) -> Stored:
    stored = store.save(spec)
    if updated:
        os.utime(stored.directory / "spec.json", (updated, updated))
    return store.load(spec.session)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "home")


def test_the_state_home_is_named_by_the_environment_then_xdg_then_home() -> None:
    assert state_home({"FUMEHOOD_HOME": "/a", "XDG_STATE_HOME": "/b", "HOME": "/c"}) == Path("/a")
    assert state_home({"XDG_STATE_HOME": "/b", "HOME": "/c"}) == Path("/b/fumehood")
    assert state_home({"XDG_STATE_HOME": "relative", "HOME": "/c"}) == Path("/c/.local/state/fumehood")


def test_a_relative_state_home_is_refused() -> None:
    with pytest.raises(UsageError, match="absolute"):
        state_home({"FUMEHOOD_HOME": "here"})


def test_a_session_is_kept_privately_and_read_back_equal(store: Store) -> None:
    spec = make_spec(cwd="/odd\udcff/näme")
    stored = store.save(spec)
    assert store.load(spec.session).spec == spec
    for path, mode in ((store.home, 0o700), (stored.directory, 0o700), (stored.directory / "spec.json", 0o600)):
        assert stat.S_IMODE(path.stat().st_mode) == mode


def test_a_home_that_cannot_hold_state_is_a_clear_error(tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("")
    with pytest.raises(UsageError, match="cannot keep sessions"):
        Store(blocker / "home").prepare()


def test_sessions_are_listed_newest_first_and_damaged_ones_left_out(store: Store) -> None:
    old, new = make_spec(), make_spec()
    save(store, old, updated=1000)
    save(store, new, updated=2000)
    damaged = store.save(make_spec())
    (damaged.directory / "spec.json").write_text("{")
    assert [stored.session for stored in store] == [new.session, old.session]


def test_a_unique_prefix_finds_a_session_and_an_ambiguous_one_does_not(store: Store) -> None:
    first, second = "aaaa0000-0000-4000-8000-000000000001", "aaaa1111-0000-4000-8000-000000000002"
    save(store, make_spec(session=first))
    save(store, make_spec(session=second))
    assert store.find("aaaa0").session == first
    assert store.find(second).session == second
    with pytest.raises(SessionNotFoundError, match="fits 2 sessions"):
        store.find("aaaa")
    with pytest.raises(SessionNotFoundError, match="no session begins"):
        store.find("bbbb")
    with pytest.raises(SessionNotFoundError):
        store.find("")


def test_the_latest_session_is_this_directorys_own_or_else_its_roots(store: Store) -> None:
    own, around, elsewhere = make_spec("/r/sub"), make_spec("/r"), make_spec("/other")
    save(store, own, updated=1000)
    save(store, around, updated=2000)
    save(store, elsewhere, updated=3000)
    assert store.latest(Path("/r/sub")).session == own.session
    assert store.latest(Path("/r/deep/er")).session == around.session
    with pytest.raises(SessionNotFoundError, match="no session was started"):
        store.latest(Path("/rest"))


def test_a_session_whose_model_never_answered_is_the_latest_only_where_there_is_no_other(store: Store) -> None:
    worked, failed = make_spec("/r"), make_spec("/r")
    save(store, failed, updated=2000)
    assert store.latest(Path("/r")).session == failed.session
    journal = store.directory(worked.session) / "journal.jsonl"
    save(store, worked, updated=1000)
    opened = Journal.create(store.directory(worked.session), worked.session)
    opened.append(PromptGiven(content=[]))
    opened.append(ModelReplied(message="m", model="x", content=[], stop_reason="end_turn", usage={}))
    opened.close()
    os.utime(journal, (1000, 1000))
    assert [stored.session for stored in store] == [failed.session, worked.session]
    assert store.latest(Path("/r")).session == worked.session
    with store.lock(failed.session):
        assert store.latest(Path("/r")).session == failed.session, "it may be about to"


def test_only_one_owner_at_a_time_and_a_dead_one_does_not_count(store: Store) -> None:
    stored = store.save(make_spec())
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            textwrap.dedent(
                """
                import sys, time
                from pathlib import Path
                from runner.sessions.lock import Lock
                Lock(Path(sys.argv[1])).take()
                print("mine", flush=True)
                time.sleep(60)
                """
            ),
            str(stored.directory / "lock"),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "mine\n"
        lock = store.lock(stored.session)
        assert lock.held()
        assert store.state(stored) is State.RUNNING
        with pytest.raises(SessionBusyError, match=str(holder.pid)):
            lock.take()
    finally:
        holder.kill()
        holder.wait()
        assert holder.stdout is not None
        holder.stdout.close()
    assert not lock.held()
    with lock:
        assert lock.held()
    assert not lock.held()


def test_a_probe_never_keeps_an_owner_out(tmp_path: Path) -> None:
    lock = Lock(tmp_path / "lock")
    assert not lock.held()
    with Lock(tmp_path / "lock"):
        assert lock.held()


def test_title_start_and_state_come_from_the_journal(store: Store) -> None:
    stored = store.save(make_spec())
    assert beginning(stored.journal).title == ""
    journal = Journal.create(stored.directory, stored.session, clock=lambda: 1700000000.0)
    journal.append(SessionStarted(spec=stored.spec.to_json(), version="0"))
    journal.append(PromptGiven(content=[{"type": "text", "text": "mend\n the  \x1b[31mroof"}]))
    journal.append(TurnStarted(number=1))
    assert beginning(stored.journal).title == "mend the \x1b[31mroof"
    assert beginning(stored.journal).at == 1700000000.0
    assert store.state(stored) is State.STALE
    journal.append(
        TurnEnded(number=1, reason="completed", result="", rounds=1, seconds=1, api_seconds=1, usage={}, cost=None)
    )
    journal.close()
    assert store.state(stored) is State.IDLE


def test_a_title_too_long_for_a_record_is_read_from_its_blob(store: Store) -> None:
    stored = store.save(make_spec())
    journal = Journal.create(stored.directory, stored.session)
    journal.append(PromptGiven(content=[{"type": "text", "text": "word " * 4000}]))
    journal.close()
    assert beginning(stored.journal).title.startswith("word word")
    assert len(beginning(stored.journal).title) == 199


def test_size_counts_what_lies_below_and_survives_what_it_may_not_read(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").write_bytes(os.urandom(100_000))
    assert size_of(tmp_path, set()).disk >= 100_000
    assert size_of(tmp_path / "absent", set()).disk == 0


def test_a_spec_of_a_later_version_is_an_error_with_the_sessions_name(store: Store) -> None:
    stored = store.save(make_spec())
    text = json.loads((stored.directory / "spec.json").read_text())
    (stored.directory / "spec.json").write_text(json.dumps(text | {"version": 99}))
    with pytest.raises(Exception, match=f"session {stored.session} cannot be read: .*version 99"):
        store.load(stored.session)
