"""`fumehood audit` as a user types it. No engine is needed."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest

from runner.cli.entry import run_command_line
from runner.events import Failed, HookRan
from runner.journal import Secrets
from runner.policy.signing import new_key
from runner.sessions.store import Store
from tests.support.audited import SESSION, Told, lines_of, made_anew, put_lines, tell

REPORT = Path(__file__).parents[1] / "golden" / "audit-report.txt"
SECRET = "sk-live-0123456789"


class Desk:
    """A session of that id, a key pair, and `fumehood audit`."""

    def __init__(self, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        store = Store(root / "state")
        store.prepare()
        self.store, self.directory, self.root = store, store.directory(SESSION), root
        self._capsys = capsys
        made = new_key()
        self.key, self.public = root / "company.key", root / "company.pub"
        self.key.write_text(made.text())
        self.public.write_text(made.public.text())
        self.err = ""

    def tell(self, secrets: Secrets | None = None, word: str = "word") -> Told:
        told = Told(self.directory, secrets=secrets)
        tell(told, word)
        return told

    def audit(self, *arguments: str, code: int = 0) -> str:
        self._capsys.readouterr()
        assert run_command_line(["audit", *arguments]) == code, self._capsys.readouterr()
        said = self._capsys.readouterr()
        self.err = said.err
        return said.out

    def json(self, *arguments: str, code: int = 0) -> Any:
        return json.loads(self.audit(*arguments, "--json", code=code))


@pytest.fixture
def desk(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.setenv("FUMEHOOD_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    return Desk(tmp_path, capsys)


def test_a_session_is_anchored_and_verified_and_what_was_rewritten_is_located(desk: Desk) -> None:
    told = desk.tell()
    count = len(lines_of(desk.directory))
    said = desk.audit("verify", SESSION[:8])
    assert said.splitlines()[1] == f"not anchored  records 0 to {count - 1}: consistent, not anchored"
    said = desk.audit("anchor", SESSION, "--key", str(desk.key))
    assert said == f"4f2a91c0  {count} records anchored in {desk.directory}/anchors.jsonl\n"
    told.prompt("more")
    lines = desk.audit("verify", SESSION, "--public-key", str(desk.public)).splitlines()
    assert lines[1].startswith(f"anchored      records 0 to {count - 1}, at 20")
    assert lines[2] == f"not anchored  records {count} to {count + 1}: consistent, not anchored"
    before = lines_of(desk.directory)
    put_lines(desk.directory, made_anew([*before[:4], *before[5:]]))
    said = desk.audit("verify", SESSION, "--public-key", str(desk.public), code=5)
    assert "WRONG         record 4 (line 5): anchor_rewritten: record 4 is not as anchored\n" in said
    assert "not anchored" not in said
    found = desk.json("verify", SESSION, "--public-key", str(desk.public), code=5)
    assert (found["version"], found["ok"], found["problems"][0]["seq"]) == (1, False, 4)
    desk.audit("verify", SESSION)  # no key: the chain alone is consistent


def test_the_exit_code_tells_damage_and_that_no_anchor_holds(desk: Desk) -> None:
    desk.tell()
    assert "anchor_missing" in desk.audit("verify", SESSION, "--public-key", str(desk.public), code=5)
    lines = lines_of(desk.directory)
    put_lines(desk.directory, [*lines[:3], b"nonsense", *lines[4:]])
    assert "record 3 (line 4): malformed" in desk.audit("verify", SESSION, code=5)
    for command in ("report", "export"):
        desk.audit(command, SESSION, code=5)
    desk.audit("verify", "ffff", code=3)
    desk.audit("verify", SESSION, "--public-key", str(desk.root / "none"), code=2)
    desk.audit("verify", SESSION, "--anchors", str(desk.public), code=2)
    desk.audit("anchor", SESSION, "--key", str(desk.public), code=2)
    desk.audit("anchor", SESSION, "--key", str(desk.key), code=5)
    assert "is not anchored" in desk.err


def test_anchors_may_be_kept_elsewhere(desk: Desk) -> None:
    desk.tell()
    kept = desk.root / "kept.jsonl"
    desk.audit("anchor", SESSION, "--key", str(desk.key), "--to", str(kept))
    assert not (desk.directory / "anchors.jsonl").exists()
    put_lines(desk.directory, lines_of(desk.directory)[:9])
    desk.audit("verify", SESSION)
    told = ("--public-key", str(desk.public), "--anchors", str(kept))
    assert "record 9 (line 10): anchor_cut: records 9 to " in desk.audit("verify", SESSION, *told, code=5)


def test_looking_changes_nothing_and_works_beside_an_owner(desk: Desk) -> None:
    desk.tell()

    def state() -> list[tuple[str, bytes]]:
        return [(str(path), path.read_bytes()) for path in sorted(desk.directory.rglob("*")) if path.is_file()]

    with desk.store.lock(SESSION):
        before = state()
        assert "(live)" in desk.audit("verify", SESSION)
        for command in ("report", "export"):
            desk.audit(command, SESSION)
        assert state() == before
        desk.audit("anchor", SESSION, "--key", str(desk.key))


def test_the_report_reads_as_in_the_golden_file(desk: Desk) -> None:
    desk.tell()
    said = desk.audit("report", SESSION)
    assert said == REPORT.read_text()
    assert "\x1b" not in said


def test_the_report_for_programs_has_every_row_of_the_export(desk: Desk) -> None:
    desk.tell()
    found = desk.json("report", SESSION)
    assert (found["version"], found["journal"]["ok"], len(found["turns"])) == (1, True, 3)
    rows = [row for turn in found["turns"] for row in ([turn["prompt"]] if turn["prompt"] else []) + turn["entries"]]
    assert rows == [json.loads(line) for line in desk.audit("export", SESSION).splitlines()]


def test_an_export_for_collectors_holds_what_the_other_holds(desk: Desk) -> None:
    desk.tell()
    rows = [json.loads(line) for line in desk.audit("export", SESSION).splitlines()]
    requests = [json.loads(line) for line in desk.audit("export", SESSION, "--format", "otlp").splitlines()]
    assert len(requests) == len(rows)
    for row, request in zip(rows, requests, strict=True):
        (logs,) = request["resourceLogs"]
        (scope,) = logs["scopeLogs"]
        (record,) = scope["logRecords"]
        assert {"key": "session.id", "value": {"stringValue": SESSION}} in logs["resource"]["attributes"]
        assert record["timeUnixNano"] == f"{1_700_000_000 + row['seq']}000000000"
        attributes = {one["key"].removeprefix("fumehood."): one["value"] for one in record["attributes"]}
        left_out = {name for name, value in row.items() if value is None} | {"version", "session", "time"}
        assert attributes.keys() == row.keys() - left_out
        assert attributes["seq"] == {"intValue": str(row["seq"])}
        denied = row.get("decision") == "deny"
        assert (record["severityText"], record["body"]) == ("WARN" if denied else "INFO", {"stringValue": row["type"]})
    call = next(r for r in requests if '"c1"' in json.dumps(r) and '"Call"' in json.dumps(r))
    attributes = call["resourceLogs"][0]["scopeLogs"][0]["logRecords"][0]["attributes"]
    assert {"key": "fumehood.asked", "value": {"boolValue": False}} in attributes
    assert {"key": "fumehood.seconds", "value": {"doubleValue": 0.25}} in attributes
    paths = [{"stringValue": "root/out"}, {"stringValue": "root/log"}]
    assert {"key": "fumehood.changed", "value": {"arrayValue": {"values": paths}}} in attributes


def test_an_export_goes_to_a_new_file_that_only_its_owner_reads(desk: Desk) -> None:
    desk.tell()
    file = desk.root / "out.jsonl"
    assert desk.audit("export", SESSION, "--output", str(file)) == ""
    assert file.read_text() == desk.audit("export", SESSION)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    desk.audit("export", SESSION, "--output", str(file), code=2)
    (desk.root / "link").symlink_to(desk.root / "elsewhere")
    desk.audit("export", SESSION, "--output", str(desk.root / "link"), code=2)
    assert not (desk.root / "elsewhere").exists()


def test_a_known_secret_is_in_no_export_report_or_anchor(desk: Desk) -> None:
    secrets = Secrets()
    secrets.add("api", SECRET)
    told = desk.tell(secrets, word=SECRET)
    told.say(Failed(error="X", message=f"at {SECRET}", exit_code=1, detail={"k": SECRET}))
    told.say(HookRan(hook=SECRET, event="Stop", where="box", source=SECRET, outcome="error", output={"stderr": SECRET}))
    desk.audit("anchor", SESSION, "--key", str(desk.key))
    said = desk.audit("export", SESSION)
    assert said.count("[secret:api]") > 5
    for text in (
        said,
        desk.audit("report", SESSION),
        desk.audit("report", SESSION, "--json"),
        desk.audit("export", SESSION, "--format", "otlp"),
        desk.audit("verify", SESSION, "--json"),
        (desk.directory / "anchors.jsonl").read_text(),
    ):
        assert SECRET not in text
        assert SECRET[3:] not in text


def test_an_edited_journal_is_reported_and_said_to_be_wrong(desk: Desk) -> None:
    desk.tell()
    lines = lines_of(desk.directory)
    put_lines(desk.directory, [line.replace(b"git push", b"git pull") for line in lines])
    said = desk.audit("report", SESSION, code=5)
    assert "WRONG" in said
    assert "git pull" in said
    desk.audit("export", SESSION, code=5)
    assert "edited: record" in desk.err
