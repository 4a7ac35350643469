"""What fsck finds, and what it says a damaged object takes with it; and what du counts."""

from __future__ import annotations

import os
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest

from runner.errors import SessionBusyError
from runner.events import PromptGiven
from runner.sessions.checking import Finding, Report, check
from runner.sessions.store import Store
from runner.sessions.usage import measure
from sandbox.checkpoints import Checkpoints
from sandbox.compaction import repack
from sandbox.fsck import check_stores
from sandbox.pool import Pool
from sandbox.spec import Owner
from sandbox.store import CONTENT, PACK, digest_of
from sandbox.store import Store as Log
from sandbox.workspace import Workspace
from tests.support.kept_sessions import KeptSession
from tests.support.layers_by_hand import Shape


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path / "home")
    made.prepare()
    return made


@pytest.fixture
def session(store: Store, tmp_path: Path) -> KeptSession:
    """Four turns: `a` is written in the first, changed in the third; `b` in the second, and stays."""
    made = KeptSession(store, tmp_path / "s")
    f: Shape = {"f": (0o644, b"begun\n")}
    made.turn(f | {"a": (0o644, b"first a\n")})
    made.turn(f | {"a": (0o644, b"first a\n"), "b": (0o644, b"only b\n")})
    made.turn(f | {"a": (0o644, b"second a\n"), "b": (0o644, b"only b\n")})
    made.turn(f | {"a": (0o644, b"second a\n"), "b": (0o644, b"only b\n"), "c": (0o644, b"c\n")})
    made.rest()
    return made


def flip(file: Path, text: bytes, *, after: int = 0) -> None:
    data = bytearray(file.read_bytes())
    data[data.index(text, after)] ^= 1
    file.write_bytes(data)


def found(report: Report) -> list[Finding]:
    return report.findings


def test_a_session_that_is_well_has_no_findings(store: Store, session: KeptSession) -> None:
    report = check(store, session.id)
    assert (report.findings, report.torn, report.live) == ([], {}, False)
    assert report.records > 15
    repack(session.log)
    assert check(store, session.id).findings == []


def test_a_damaged_content_names_the_checkpoints_paths_and_turns_that_had_it(
    store: Store, session: KeptSession
) -> None:
    flip(session.log, b"first a\n")
    (finding,) = found(check(store, session.id))
    first, second = session.points[1:3]
    assert finding == Finding(
        object="store/checkpoints",
        what=finding.what,
        checkpoints=(first, second),
        paths=("root/a",),
        turns=(1, 2),
    )
    assert digest_of(b"first a\n").hex()[:12] in finding.what


def test_a_damaged_index_takes_all_that_builds_on_it(store: Store, session: KeptSession) -> None:
    with Log(session.log, writable=False) as log:
        notes = [note for note in log.notes() if note["type"] == "checkpoint"]
    flip(session.log, b'"version"', after=_index_at(session, notes[2]["index"]))
    (finding,) = found(check(store, session.id))
    assert finding.checkpoints == tuple(session.points[2:])
    assert finding.turns == (2, 3, 4)


def _index_at(session: KeptSession, digest: str) -> int:
    with Log(session.log, writable=False) as log:
        return dict(log.places())[digest]


def test_a_damaged_pack_names_all_that_it_held(store: Store, session: KeptSession) -> None:
    repack(session.log)
    with Log(session.log, writable=False) as log:
        (pack,) = [record for record in log.records if record.kind == PACK]
    data = bytearray(session.log.read_bytes())
    data[pack.at + pack.size - 1] ^= 1
    session.log.write_bytes(data)
    findings = found(check(store, session.id))
    assert "is damaged" in findings[0].what
    assert {point for finding in findings for point in finding.checkpoints} == set(session.points)


def test_a_head_that_is_damaged_is_told_with_what_cannot_be_read(store: Store, session: KeptSession) -> None:
    with Log(session.log, writable=False) as log:
        record = [record for record in log.records if record.kind == CONTENT][2]
    data = bytearray(session.log.read_bytes())
    data[record.at - 5] ^= 1
    session.log.write_bytes(data)
    whats = [finding.what for finding in found(check(store, session.id))]
    assert any("bytes from there on cannot be read" in what for what in whats)


def test_a_damaged_line_of_the_journal_is_told_with_its_turn(store: Store, session: KeptSession) -> None:
    flip(session.directory / "journal.jsonl", b"turn 3")
    (finding,) = [each for each in found(check(store, session.id)) if each.object == "journal.jsonl"]
    assert finding.turns == (3,)
    assert "edited" in finding.what
    flip(session.directory / "journal.jsonl", b"{", after=200)
    assert any(each.object == "journal.jsonl" for each in found(check(store, session.id)))


def test_a_missing_or_damaged_payload_is_told(store: Store, tmp_path: Path) -> None:
    made = KeptSession(store, tmp_path / "blobs")
    made.journal.append(PromptGiven(content=[{"type": "text", "text": "long " * 2000}]), turn=1)
    made.rest()
    (blob,) = (made.directory / "blobs").iterdir()
    blob.write_bytes(b"other")
    assert ["blob_damaged" in each.what for each in found(check(store, made.id))] == [True]
    blob.unlink()
    assert ["blob_missing" in each.what for each in found(check(store, made.id))] == [True]


def test_spec_layers_and_manifest_are_checked_too(store: Store, session: KeptSession) -> None:
    for name in ("spec.json", "layers/layers.json"):
        (session.directory / name).write_text("{")
    assert {each.object for each in found(check(store, session.id))} == {"spec.json", "layers/layers.json"}
    repaired = KeptSession(store, session.directory.parent.parent / "again")
    repaired.rest()
    (repaired.directory / "layers/root/manifest").write_bytes(b"x")
    (repaired.directory / "layers/home/upper").rmdir()
    assert {each.object for each in found(check(store, repaired.id))} == {"layers/root/manifest", "layers/home"}


def test_torn_ends_are_no_damage_and_are_cut_only_when_asked(store: Store, session: KeptSession) -> None:
    for name in ("store/checkpoints", "journal.jsonl"):
        with (session.directory / name).open("ab") as file:
            file.write(b"fhr" if name.startswith("store") else b'{"v":')
    torn = {"store/checkpoints": 3, "journal.jsonl": 5}
    for _ in range(2):
        report = check(store, session.id)
        assert (report.findings, report.torn, report.cut) == ([], torn, False)
    with store.lock(session.id):
        assert check(store, session.id).torn == {}
        with pytest.raises(SessionBusyError):
            check(store, session.id, repair=True)
    report = check(store, session.id, repair=True)
    assert (report.torn, report.cut) == (torn, True)
    assert check(store, session.id) == Report(session=session.id, records=report.records)


def test_what_bases_and_applies_hold_is_checked(store: Store, session: KeptSession) -> None:
    with Log(session.directory / "store/log", writable=True) as log:
        digest = log.put([b"the base"], 8)
        stamp = {"mode": 33188, "size": 8, "mtime_ns": 0, "ctime_ns": 0, "inode": 1}
        log.note({"type": "base", "root": "root", "path": "f", "stamp": stamp, "digest": digest})
        log.note({"type": "base", "root": "root", "path": "g", "stamp": stamp, "digest": "0" * 64})
    assert [(each.object, each.paths) for each in found(check(store, session.id))] == [("store/log", ("root/g",))]
    flip(session.directory / "store/log", b"the base")
    assert {each.paths for each in found(check(store, session.id))} == {("root/f",), ("root/g",)}


def test_usage_counts_shared_files_once_and_holes_apart(store: Store, session: KeptSession, tmp_path: Path) -> None:
    other = KeptSession(store, tmp_path / "other")
    other.rest()
    big = session.directory / "layers/root/upper/big"
    big.write_bytes(b"x" * 1_000_000)
    os.link(big, other.directory / "layers/root/upper/big")
    with (session.directory / "layers/root/upper/sparse").open("wb") as file:
        file.truncate(1 << 30)
    (store.cache / "images").mkdir()
    (store.cache / "images/x").write_bytes(b"x" * 50_000)
    usage = measure(store)
    rows = {row.session: row for row in usage.sessions}
    parts = [rows[name].parts["layers"] for name in (session.id, other.id)]
    assert sum(part.disk for part in parts) < 1_500_000
    assert sum(part.shared for part in parts) >= 1_000_000
    assert rows[session.id].parts["layers"].apparent > 1 << 30
    assert rows[session.id].parts["store"].disk >= session.log.stat().st_size // 2
    assert rows[session.id].parts["journal"].apparent == (session.directory / "journal.jsonl").stat().st_size
    assert usage.common["cache/images"].disk >= 50_000
    assert usage.total.disk == sum(row.total.disk for row in usage.sessions) + sum(
        size.disk for size in usage.common.values()
    )
    assert [row.session for row in measure(store, other.id).sessions] == [other.id]
    assert asdict(usage)["sessions"][0]["directory"].endswith("/host")


def test_a_frozen_layer_that_was_touched_names_who_stands_on_it(store: Store, tmp_path: Path) -> None:
    made = KeptSession(store, tmp_path / "frozen")
    made.turn({"f": (0o644, b"begun\n")})
    second, third = made.frozen_turn("a", at=1.0), made.frozen_turn("b", at=2.0)
    made.rest()
    assert check(store, made.id).findings == []
    upper, lower = made.stage.open().layers[0].lowers
    (made.pool.tree(lower) / "a7").write_text("evil")
    (finding,) = found(check(store, made.id))
    assert (finding.object, finding.checkpoints, finding.paths) == (f"frozen layer {lower}", (second, third), ("a7",))
    data = bytearray((made.pool.place(upper) / "rows").read_bytes())
    data[-5] ^= 1
    (made.pool.place(upper) / "rows").write_bytes(data)
    assert {each.object: each.checkpoints for each in found(check(store, made.id))} == {
        f"frozen layer {lower}": (second, third),
        f"frozen layer {upper}": (third,),
    }


def test_a_frozen_layer_is_the_sessions_that_alone_stands_on_it(store: Store, tmp_path: Path) -> None:
    made, fork = KeptSession(store, tmp_path / "frozen"), "99999999-1111-4111-8111-111111111111"
    made.frozen_turn("a", at=1.0)
    made.rest()
    (name,) = made.stage.open().layers[0].lowers
    (made.pool.tree(name) / "weight").write_bytes(b"x" * 1_000_000)
    alone = measure(store)
    (row,) = alone.sessions
    assert row.parts["layers"].disk > 1_000_000
    assert (row.with_others.disk, alone.common["layers"].disk < 100_000) == (0, True)
    assert row.total.disk == sum(part.disk for part in row.parts.values())

    (store.directory(fork) / "layers").mkdir(parents=True)
    shutil.copyfile(made.directory / "layers/layers.json", store.directory(fork) / "layers/layers.json")
    shared = measure(store)
    rows = {each.session: each for each in shared.sessions}
    for session in (made.id, fork):
        assert rows[session].parts["layers"].disk < 1_000_000 < rows[session].with_others.disk
    assert shared.common["layers"].disk > 1_000_000
    everything = [each.total.disk for each in shared.sessions] + [each.disk for each in shared.common.values()]
    assert shared.total.disk == sum(everything)
    assert measure(store, fork).sessions[0].with_others.disk == rows[fork].with_others.disk


def test_a_fork_is_checked_with_what_it_took_over_from_its_origin(store: Store, session: KeptSession) -> None:
    fork = "99999999-1111-4111-8111-111111111111"
    session.stage.workspace = session.stage.open()
    directory = store.directory(fork)
    directory.mkdir()
    session.stage.workspace.checkpoints.fork(session.points[2], [(fork, directory)])
    session.stage.workspace.checkpoints.close()
    pool = Pool(store.layers, sessions=store.sessions)
    assert check_stores(directory, pool=pool).damages == []
    repack(session.log)
    assert check_stores(directory, pool=pool).damages == []
    with Checkpointed(session, fork, directory) as checkpoints:
        (directory / "layers/root/upper/new").write_text("of the fork")
        made = checkpoints.take("x")
        assert made is not None
    assert check_stores(directory, pool=pool).damages == []
    flip(directory / "store/checkpoints.from-000", b"only b\n")
    (damage,) = check_stores(directory, pool=pool).damages
    assert (damage.file, damage.paths) == ("store/checkpoints.from-000", ("root/b",))
    assert session.points[2] in damage.checkpoints


class Checkpointed:
    """The checkpoints of a fork."""

    def __init__(self, session: KeptSession, fork: str, directory: Path) -> None:
        owner = Owner(uid=os.getuid(), gid=os.getgid())
        self.workspace = Workspace(
            None, session=fork, state=directory, roots=session.stage.workspace.roots, owner=owner, pool=session.pool
        )

    def __enter__(self) -> Checkpoints:
        return self.workspace.checkpoints

    def __exit__(self, *_: object) -> None:
        self.workspace.checkpoints.close()
