"""`fumehood apply`: bring what a session changed over to the host."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Annotated, Any

import typer
from typer import Argument, Option

from runner import app as runner_app
from runner.cli.picking import Picked, files_of, from_words, pick
from runner.cli.selecting import absolute, split_session
from runner.errors import UsageError
from runner.sessions.access import Selection
from runner.ui.diff import wants_colour
from runner.ui.safe import one_line

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
_SIGNS = {"write": "M", "delete": "D", "rmdir": "D", "mkdir": "A", "link": "L", "chmod": "m"}


@app.command()
def apply(  # noqa: PLR0917  # the command line is this long
    arguments: Annotated[
        list[str] | None, Argument(metavar="[SESSION] [PATH]...", help="Default: all of this directory's latest.")
    ] = None,
    include: Annotated[
        list[str] | None, Option("--include", metavar="PATH", help="Take this held-back path too.")
    ] = None,
    held: Annotated[bool, Option("--held", help="Take everything that is held back too.")] = False,
    merge: Annotated[bool, Option("--3way", help="Where the host changed too: join both sides' lines.")] = False,
    markers: Annotated[
        bool, Option("--markers", help="With --3way: write conflict markers where lines collide, instead of refusing.")
    ] = False,
    theirs: Annotated[
        bool, Option("--theirs", "--force", help="Where the host changed too: the box's version.")
    ] = False,
    ours: Annotated[bool, Option("--ours", help="Where the host changed too: the host's stays.")] = False,
    hunks: Annotated[bool, Option("--hunks", "-p", help="Ask for each hunk.")] = False,
    hunk: Annotated[
        list[str] | None, Option("--hunk", metavar="FILE:1,3", help="Only these hunks of a file, as diff shows them.")
    ] = None,
    as_patch: Annotated[
        Path | None, Option("--as-patch", metavar="FILE", help="Write a patch for git apply instead (- is stdout).")
    ] = None,
    as_branch: Annotated[
        str, Option("--as-branch", metavar="NAME", help="Make a new branch of the box's commits instead.")
    ] = "",
    message: Annotated[
        str, Option("--message", "-m", help="With --as-branch: for the commit of what is not committed.")
    ] = "",
    undo: Annotated[bool, Option("--undo", help="Take the latest apply back.")] = False,
    dry: Annotated[bool, Option("--dry-run", "-n", help="Only say what would be done.")] = False,
    as_json: Annotated[bool, Option("--json", help="The report as one JSON object.")] = False,
) -> None:
    """Bring the session's changes over to your directory: all of what is chosen, or nothing."""
    session, paths = split_session(arguments or [])
    _check_resolving(merge=merge, theirs=theirs, ours=ours, markers=markers)
    if bool(hunks) + bool(hunk) + (as_patch is not None) + bool(as_branch) + undo > 1:
        raise UsageError("choose one of --hunks, --hunk, --as-patch, --as-branch and --undo")
    selection = Selection(
        paths=absolute(paths),
        include=absolute(tuple(include or ())),
        held=held,
        force=theirs,
        ours=ours,
        merge=merge,
        markers=markers,
        dry=dry,
    )
    if as_branch:
        if paths or dry:
            raise UsageError("--as-branch takes all that is committed or can be")
        _say_branch(asyncio.run(_branch(session, as_branch, message)), as_json=as_json)
        return
    if as_patch is not None:
        report = _write_patch(session, selection, as_patch)
    elif undo:
        if paths or dry:
            raise UsageError("--undo takes back the whole of the latest apply")
        report = asyncio.run(_undo(session))
    else:
        report = asyncio.run(_apply(session, selection, words=tuple(hunk or ()), asks=hunks))
    if as_json:
        sys.stdout.write(json.dumps(report, indent=1) + "\n")
    elif str(as_patch) != "-":
        _print(report, done=_DONE["patch" if as_patch else "undo" if undo else "apply"])


def _check_resolving(*, merge: bool, theirs: bool, ours: bool, markers: bool) -> None:
    if merge + theirs + ours > 1:
        raise UsageError("choose one of --3way, --theirs and --ours")
    if markers and not merge:
        raise UsageError("--markers goes with --3way")


async def _apply(session: str | None, selection: Selection, *, words: tuple[str, ...], asks: bool) -> dict[str, Any]:
    async with runner_app.reach(session, cwd=Path.cwd(), environ=os.environ, writes=True) as access:
        if not (words or asks):
            return await access.apply(selection)
        if words:
            picked = from_words(words, await access.hunks(files_of(words)))
        else:
            picked = await asyncio.to_thread(_ask, await access.hunks(selection.paths))
        chosen = tuple(picked.whole) + tuple(file for file, _ in picked.hunks)
        if not chosen:
            return {"applied": [], "dry": selection.dry, "refs": [], **{name: [] for name in _TITLES}}
        extra = selection.paths if words else ()
        return await access.apply(
            replace(selection, paths=chosen + extra, hunks=tuple(picked.hunks), seen=tuple(picked.seen))
        )


def _ask(rows: list[dict[str, Any]]) -> Picked:
    if not sys.stdin.isatty():
        raise UsageError("nobody can be asked here: name hunks with --hunk FILE:1,3")
    out = sys.stdout

    def ask(question: str) -> str:
        out.write(question)
        out.flush()
        return sys.stdin.readline()

    return pick(rows, ask=ask, show=out.write, colour=wants_colour(os.environ, terminal=out.isatty()))


async def _branch(session: str | None, name: str, message: str) -> dict[str, Any]:
    async with runner_app.reach(session, cwd=Path.cwd(), environ=os.environ, box=True, writes=True) as access:
        return await access.branch(name, message or f"Work of a fumehood session\n\nBranch {name}\n")


def _say_branch(made: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps(made, indent=1) + "\n")
        return
    sys.stdout.write(
        f"branch {one_line(made['branch'])} at {made['commit'][:12]}, {made['objects']} new objects\n"
        f"kept by {one_line(made['ref'])} too; no other branch was touched\n"
    )


async def _undo(session: str | None) -> dict[str, Any]:
    async with runner_app.reach(session, cwd=Path.cwd(), environ=os.environ, writes=True) as access:
        return {"dry": False, "refs": [], **{name: [] for name in _TITLES}, **await access.undo_apply()}


async def _patch(session: str | None, selection: Selection) -> tuple[dict[str, Any], bytes]:
    async with runner_app.reach(session, cwd=Path.cwd(), environ=os.environ) as access:
        report = await access.apply(replace(selection, dry=True))
        return report, b"".join([piece async for piece in access.patch(selection)])


def _write_patch(session: str | None, selection: Selection, file: Path) -> dict[str, Any]:
    """The patch as a file that is there whole or not at all."""
    report, text = asyncio.run(_patch(session, selection))
    if str(file) == "-":
        sys.stdout.buffer.write(text)
        sys.stdout.flush()
    else:
        try:
            with NamedTemporaryFile(dir=file.absolute().parent, prefix=f".{file.name}-", delete=False) as opened:
                opened.write(text)
            Path(opened.name).chmod(0o644)
            Path(opened.name).replace(file)
        except OSError as error:
            raise UsageError(f"cannot write {file}: {error.strerror}") from error
    return report | {"dry": False, "conflicts": [], "kept": [], "merged": []}


_TITLES = {
    "held_back": "held back",
    "dropped": "left out",
    "pointed_out": "look at",
    "merged": "merged",
    "kept": "not taken",
    "conflicts": "conflict",
}
_DONE = {"apply": "applied", "undo": "taken back", "patch": "written to the patch"}


def _print(report: dict[str, Any], *, done: str) -> None:
    out = sys.stdout.write
    would = "would be " if report["dry"] else ""
    for row in report["applied"]:
        out(f"{_sign(row)} {one_line(row['path'])}\n")
    for row in report["refs"]:
        moved = f"{_short(row['old'])} to {_short(row['new'])}"
        out(f"git: {one_line(row['ref'])} went from {moved} in the box; commits stay there\n")
    for key, title in _TITLES.items():
        for row in report[key]:
            named = row["file"] if row["path"] == "." and "file" in row else row["path"]
            out(f"{title}: {one_line(named)} ({one_line(row['why'])})\n")
    count = len(report["applied"])
    out(f"{count} {'path' if count == 1 else 'paths'} {would}{done}\n" if count else f"nothing {would}{done}\n")
    if report["held_back"]:
        out("take what is held back with --include PATH or --held\n")


def _short(value: str) -> str:
    """An object's id as people write it, a symbolic ref whole."""
    return one_line(value if "/" in value else value[:12]) or "nothing"


def _sign(row: dict[str, Any]) -> str:
    return "A" if row["action"] == "write" and row.get("new") else _SIGNS.get(row["action"], "?")
