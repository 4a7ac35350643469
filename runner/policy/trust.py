"""Which repositories the user trusts: kept outside them, by the workspace's place and the digest of what would be
interpreted. Anything else in the files, or the files elsewhere, is not trusted.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from runner.dataclass import dataclass
from runner.errors import SettingsError
from runner.journal import digest
from runner.policy.documents import parse, read_file

VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Trusted:
    """One grant. `at`: ISO time."""

    workspace: str
    digest: str
    at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval:
    """An "always" of the user's: a rule that allows, in one workspace. `session`: in which it was given."""

    workspace: str
    rule: str
    at: str
    session: str = ""

    @property
    def id(self) -> str:
        """A short name that stays the same."""
        return digest([self.workspace, self.rule])[:8]


def content_digest(files: Mapping[str, str]) -> str:
    """Of the digests of the files that would be interpreted, by their names."""
    return digest(dict(files))


class Grants:
    """What the user granted, in two files of a directory that the user alone may write. Reading raises SettingsError
    for a file that is damaged: a grant that cannot be read is none, and nothing is written over it.
    """

    def __init__(self, home: Path) -> None:
        self._trust, self._approvals = home / "trust.json", home / "approvals.json"

    @property
    def approvals_file(self) -> Path:
        """Where "always" is kept."""
        return self._approvals

    @property
    def files(self) -> tuple[Path, Path]:
        """Where all of it is kept."""
        return self._trust, self._approvals

    def is_trusted(self, workspace: Path, content: str) -> bool:
        """Whether this content was trusted in this place."""
        return any(one.workspace == str(workspace) and one.digest == content for one in self.trusted())

    def trusted(self) -> list[Trusted]:
        """All grants of trust, oldest first."""
        return [Trusted(**row) for row in _rows(self._trust, Trusted)]

    def trust(self, workspace: Path, content: str, now: datetime) -> None:
        """Trust what lies there now; what was trusted there before is not any more."""
        kept = [one for one in self.trusted() if one.workspace != str(workspace)]
        made = Trusted(workspace=str(workspace), digest=content, at=now.isoformat(timespec="seconds"))
        _write(self._trust, [asdict(one) for one in (*kept, made)])

    def revoke(self, workspace: Path) -> bool:
        """Trust it no more; whether it was."""
        before = self.trusted()
        kept = [one for one in before if one.workspace != str(workspace)]
        if len(kept) != len(before):
            _write(self._trust, [asdict(one) for one in kept])
        return len(kept) != len(before)

    def approvals(self, workspace: Path | None = None) -> list[Approval]:
        """All "always" answers, or those of one workspace, oldest first."""
        found = [Approval(**row) for row in _rows(self._approvals, Approval)]
        return [one for one in found if workspace is None or one.workspace == str(workspace)]

    def approve(self, workspace: Path, rule: str, now: datetime, session: str) -> Approval:
        """Keep an "always"."""
        made = Approval(workspace=str(workspace), rule=rule, at=now.isoformat(timespec="seconds"), session=session)
        kept = [one for one in self.approvals() if one.id != made.id]
        _write(self._approvals, [asdict(one) for one in (*kept, made)])
        return made

    def withdraw(self, *ids: str) -> int:
        """Take "always" answers back; how many."""
        before = self.approvals()
        kept = [one for one in before if one.id not in ids]
        if len(kept) != len(before):
            _write(self._approvals, [asdict(one) for one in kept])
        return len(before) - len(kept)


def _kept(path: Path) -> bytes | None:
    """A file of ours; None where there is none, or where its directory is none: nothing can start there anyway."""
    return read_file(path, owner=os.geteuid(), links=False) if path.parent.is_dir() else None


def _rows(path: Path, kind: type[Any]) -> list[dict[str, str]]:
    data = _kept(path)
    if data is None:
        return []
    value = parse(data, str(path)).value
    fields = {name for name in kind.__dataclass_fields__ if name != "session"}
    rows = value.get("granted")
    if value.get("version") != VERSION or not isinstance(rows, list):
        raise SettingsError(f"is of a version that this program does not read ({value.get('version')})", file=str(path))
    for row in rows:
        if not isinstance(row, dict) or not fields <= row.keys() or not all(isinstance(v, str) for v in row.values()):
            raise SettingsError("is damaged", file=str(path))
    return rows


def _write(path: Path, rows: list[dict[str, str]]) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)  # 0600
    try:
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            json.dump({"version": VERSION, "granted": rows}, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def read_serials(home: Path) -> dict[str, int]:
    """The highest serial number of each managed file that was in force here; empty where none is kept."""
    data = _kept(home / "serials.json")
    found = parse(data, str(home / "serials.json")).value if data else {}
    return {name: number for name, number in found.items() if isinstance(number, int)}


def keep_serials(home: Path, serials: Mapping[str, int]) -> None:
    """Remember them for the next start."""
    known = read_serials(home)
    if any(number > known.get(name, -1) for name, number in serials.items()):
        path = home / "serials.json"
        merged = known | {name: max(number, known.get(name, -1)) for name, number in serials.items()}
        fd, name = tempfile.mkstemp(dir=home, prefix=path.name)
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            json.dump(merged, file)
        Path(name).replace(path)
