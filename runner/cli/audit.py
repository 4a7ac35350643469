"""`fumehood audit`: whether a session's journal is what was written, and what it tells. What things mean is
`runner.sessions.anchors`'s and `runner.sessions.auditing`'s; this module reads arguments and prints.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated, TextIO, TypeAlias

import typer
from typer import Argument, Option

from runner.cli import policy_files
from runner.cli.audit_text import lines_of_audit, lines_of_part, problem_text
from runner.cli.entry import say
from runner.errors import JournalError, UsageError
from runner.journal import Journal
from runner.sessions.anchors import ANCHORS_NAME, Audit, examine, keep_anchor, make_anchor
from runner.sessions.auditing import Entry, join, parts
from runner.sessions.ledger import MAX_REQUEST, answer
from runner.sessions.store import Store, state_home
from runner.sessions.telemetry import otlp_line
from runner.ui.safe import visible

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
FORM_VERSION = 1

SessionArgument: TypeAlias = Annotated[
    str | None, Argument(metavar="SESSION", help="Default: this directory's latest.")
]
AsJson: TypeAlias = Annotated[bool, Option("--json", help="One JSON object.")]
PublicKeys: TypeAlias = Annotated[
    Path | None,
    Option(
        "--public-key",
        metavar="FILE",
        help="minisign's or ours; default: the keys pinned on this machine, and the required sink's.",
    ),
]
Copies: TypeAlias = Annotated[
    list[Path], Option("--anchors", metavar="FILE", help="Anchors kept elsewhere count too; repeatable.")
]


class Form(StrEnum):
    """How `export` writes a row."""

    JSONL = "jsonl"
    OTLP = "otlp"


@app.command()
def verify(
    session: SessionArgument = None,
    public_key: PublicKeys = None,
    anchors: Copies = [],  # noqa: B006 (typer copies it)
    as_json: AsJson = False,
) -> None:
    """Check the journal's chain, its payloads, and the anchors; ends with 5 where something is wrong.

    What stands before the last anchor cannot have been changed; what comes after it is consistent, not anchored.
    With --public-key or --anchors it is wrong that no anchor holds.
    """
    audit = _examine(_directory(session), public_key, anchors)
    if as_json:
        sys.stdout.write(json.dumps({"version": FORM_VERSION, "ok": audit.ok} | asdict(audit), indent=1) + "\n")
    else:
        for line in lines_of_audit(audit):
            _out(line)
    raise typer.Exit(0 if audit.ok else JournalError.exit_code)


@app.command()
def anchor(
    key: Annotated[
        Path, Option("--key", metavar="FILE", help="A secret key: minisign's, or of policy sign --new-key.")
    ],
    session: SessionArgument = None,
    to: Annotated[
        Path | None, Option("--to", metavar="FILE", help="Append it there instead of beside the journal.")
    ] = None,
) -> None:
    """Sign the journal as it stands: what was recorded until now cannot be changed unnoticed any more.

    Keep a copy out of reach of who may write the journal (--to): an anchor that was taken away vouches for nothing.
    """
    directory = _directory(session)
    made = make_anchor(directory, session=directory.name, key=policy_files.secret_key(key), at=time.time())
    file = to or directory / ANCHORS_NAME
    keep_anchor(made, file)
    _out(f"{directory.name[:8]}  {made.statement.records} records anchored in {file}")


@app.command()
def acknowledge(
    key: Annotated[
        Path, Option("--key", metavar="FILE", help="A secret key: minisign's, or of policy sign --new-key.")
    ],
    ledger: Annotated[Path, Option("--ledger", metavar="FILE", help="What was acknowledged is appended there.")],
) -> None:
    """Be an audit sink: read one request on standard input, keep it, and write the signature.

    For `requiredAuditSink: {command: [...]}` of managed settings, on a machine that the user does not write to (over
    ssh, say). What contradicts an earlier request of the same session is refused. The ledger is a file of anchors:
    fumehood audit verify --anchors LEDGER.
    """
    made = answer(sys.stdin.buffer.read(MAX_REQUEST + 1), ledger, policy_files.secret_key(key))
    sys.stdout.write(json.dumps({"signature": made.signature}) + "\n")


@app.command()
def report(
    session: SessionArgument = None,
    public_key: PublicKeys = None,
    anchors: Copies = [],  # noqa: B006 (typer copies it)
    as_json: AsJson = False,
) -> None:
    """Turn by turn: prompt, calls with verdict, hooks, approval and changed files, requests, applies, undo.

    The journal is verified first; ends with 5 where something is wrong with it.
    """
    directory = _directory(session)
    audit = _examine(directory, public_key, anchors)
    found = parts(_entries(directory))
    if as_json:
        turns = [
            {
                "prompt": None if part.prompt is None else part.prompt.row(),
                "entries": [entry.row() for entry in part.entries],
            }
            for part in found
        ]
        journal = {"ok": audit.ok} | asdict(audit)
        sys.stdout.write(json.dumps({"version": FORM_VERSION, "journal": journal, "turns": turns}, indent=1) + "\n")
    else:
        for line in lines_of_audit(audit):
            _out(line)
        for part in found:
            for line in lines_of_part(part):
                _out(line)
    raise typer.Exit(0 if audit.ok else JournalError.exit_code)


@app.command()
def export(
    session: SessionArgument = None,
    output: Annotated[
        Path | None, Option("--output", "-o", metavar="FILE", help="A new file (0600); default: standard output.")
    ] = None,
    form: Annotated[Form, Option("--format", help="jsonl, or otlp for a collector of OpenTelemetry.")] = Form.JSONL,
) -> None:
    """JSON lines: a flat object for each call, joined, and for each other event.

    Fields: `pydoc runner.sessions.auditing`. The chain is verified first; ends with 5 where it is damaged.
    """
    directory = _directory(session)
    audit = _examine(directory, None, [])
    entries = _entries(directory)
    with _opened(output) as file:
        for entry in entries:
            line = otlp_line(entry) if form is Form.OTLP else json.dumps(entry.row(), separators=(",", ":"))
            file.write(line + "\n")
    for problem in audit.problems:
        say(problem_text(problem))
    raise typer.Exit(0 if audit.ok else JournalError.exit_code)


def _directory(session: str | None) -> Path:
    store = Store(state_home(os.environ))
    return store.directory(store.chosen(session, Path.cwd()))


def _examine(directory: Path, public_key: Path | None, anchors: list[Path]) -> Audit:
    keys = policy_files.public_keys(public_key)
    if public_key is None:
        keys += policy_files.sink_keys(os.environ)
    if anchors and not keys:
        raise UsageError("name the key that the anchors are by: --public-key")
    for file in anchors:
        if not file.exists():
            raise UsageError(f"there is no file {file}")
    return examine(
        directory,
        session=directory.name,
        live=Store(state_home(os.environ)).lock(directory.name).held(),
        keys=keys,
        files=anchors,
        wanted=bool(public_key or anchors),
    )


def _entries(directory: Path) -> list[Entry]:
    journal = Journal.view(directory)
    try:
        return join(journal.read())
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise JournalError(f"the journal holds what no record holds: {error!r} (see: fumehood audit verify)") from error
    finally:
        journal.close()


@contextmanager
def _opened(output: Path | None) -> Iterator[TextIO]:
    if output is None:
        yield sys.stdout
        return
    try:
        fd = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError as error:
        raise UsageError(f"{output} is there already") from error
    except OSError as error:
        raise UsageError(f"{output}: {error.strerror}") from error
    with os.fdopen(fd, "w", encoding="ascii") as file:
        yield file


def _out(line: str) -> None:
    sys.stdout.write(visible(line, lines=False) + "\n")
