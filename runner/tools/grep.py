"""Grep: search file contents with ripgrep, in the box."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Any, Literal

from pydantic import Field

from runner.effects import Effect, Place, ReadPath
from runner.tools.arguments import Arguments
from runner.tools.base import OUTPUT_LIMIT, Tool, ToolContext, ToolResult, described, tool_error
from runner.tools.helpers import TOOLBOX, Answer, Helpers, run_helper
from runner.tools.matches import Entries, counted, listed, matched
from runner.tools.paths import beside, judged, located
from runner.tools.text import show_path
from runner.tools.textfile import BoxPathText
from sandbox.errors import PathError

DESCRIPTION = described(__file__)
HEAD_LIMIT = 250
SECONDS = 20.0
KEPT = 8 << 20
LIMIT = 1 << 30
COLUMNS = 500
UNREAD = 2  # rg's exit code where it had an error, a file that may not be read too
UNSEEN = (".git", ".svn", ".hg", ".bzr", ".jj", ".sl")
_GLOBS = re.compile(r"(?:\{[^{}]*\}|[^\s,{}]|[{}])+")


class GrepArguments(Arguments):
    """What a Grep call may say; the short names are ripgrep's."""

    pattern: str = Field(min_length=1, description="Regular expression in ripgrep's syntax")
    path: BoxPathText | None = Field(None, description="File or directory; leave out for the working directory")
    glob: str | None = Field(None, description='Only files that match, such as "*.js" or "src/**/*.{ts,tsx}"')
    type: str | None = Field(None, description="Only files of a type that rg knows: py, js, rust, go, java …")
    output_mode: Literal["content", "files_with_matches", "count"] = Field(
        "files_with_matches", description="Lines, names of files (newest first), or matches per file"
    )
    before: int | None = Field(None, ge=0, alias="-B", description="Lines to show before each match (content only)")
    after: int | None = Field(None, ge=0, alias="-A", description="Lines to show after each match (content only)")
    around: int | None = Field(None, ge=0, alias="-C", description="Lines before and after (content only)")
    context: int | None = Field(None, ge=0, description="The same as -C")
    numbers: bool = Field(default=True, alias="-n", description="Line numbers (content only; default true)")
    ignore_case: bool = Field(default=False, alias="-i", description="Ignore case")
    only_matching: bool = Field(default=False, alias="-o", description="Only the matching part (content only)")
    multiline: bool = Field(default=False, description="Let a match span lines, and `.` match a newline")
    head_limit: int | None = Field(None, ge=0, description="How many entries to show (default 250, 0 for all)")
    offset: int = Field(0, ge=0, description="How many entries to leave out first")


class Grep(Tool[GrepArguments]):
    """One fixed argument vector of rg; hidden files are searched, ignored ones are not, links not followed."""

    name = "Grep"
    args = GrepArguments

    def __init__(self, helpers: Helpers = TOOLBOX) -> None:
        self.helpers = helpers

    @property
    def description(self) -> str:
        """The text for the model."""
        return DESCRIPTION

    def effects(self, args: GrepArguments, place: Place) -> tuple[Effect, ...]:
        """It reads below one path."""
        return (ReadPath(path=located(args.path or ".", place)),)

    async def run(self, args: GrepArguments, ctx: ToolContext) -> ToolResult:
        """In the directory itself, so that globs are relative to it; a file is searched by its path."""
        if any("\0" in text for text in (args.pattern, args.glob or "", args.type or "")):
            return tool_error("A NUL character cannot be searched for.")
        path = located(args.path or ".", ctx.place)
        target = judged(path, ctx)
        newest = (*self.helpers.helper, "newest") if args.output_mode == "files_with_matches" else ()
        flags = (*newest, *self.helpers.rg, *_flags(args))
        try:
            answer = await run_helper((*flags, "./"), ctx, cwd=target, seconds=SECONDS, keep=KEPT, limit=LIMIT)
            base = target
        except PathError:
            argv = (*flags, str(target))
            answer = await run_helper(argv, ctx, cwd=PurePosixPath("/"), seconds=SECONDS, keep=KEPT, limit=LIMIT)
            base = PurePosixPath("/")
        return _result(args, answer, _Naming(base=base, cwd=ctx.state.cwd), path)


class _Naming:
    """How rg's paths are told to the model: relative to the working directory where they lie in it."""

    def __init__(self, *, base: PurePosixPath, cwd: PurePosixPath) -> None:
        self._base = base
        self._cwd = cwd

    @property
    def in_directory(self) -> bool:
        """Whether a directory was searched, which could be entered: what else may not be read is passed over."""
        return self._base != PurePosixPath("/")

    def __call__(self, name: bytes) -> str:
        path = self._base / name.decode("utf-8", "surrogateescape")
        return show_path(beside(path, self._cwd)).replace("\n", "\\n")


def _flags(args: GrepArguments) -> tuple[str, ...]:
    flags = ["--no-config", "--color=never", "--hidden", "--null", "--with-filename", "--no-heading"]
    flags += ["--max-columns", str(COLUMNS), "--max-columns-preview", "--no-messages"]
    match args.output_mode:
        case "files_with_matches":
            flags.append("--files-with-matches")
        case "count":
            flags += ["--count", "--sort", "path"]
        case "content":
            flags += ["--sort", "path", *_content_flags(args)]
    if args.ignore_case:
        flags.append("--ignore-case")
    if args.multiline:
        flags += ["--multiline", "--multiline-dotall"]
    if args.type:
        flags += [f"--type={args.type}"]
    for piece in _GLOBS.findall(args.glob or ""):
        flags.append(f"--glob={piece}")
    flags += [f"--glob=!{name}" for name in UNSEEN]
    return (*flags, "-e", args.pattern, "--")


def _content_flags(args: GrepArguments) -> list[str]:
    flags = ["--line-number" if args.numbers else "--no-line-number"]
    around = args.context if args.context is not None else args.around
    if around is not None:
        flags.append(f"--context={around}")
    if args.before is not None:
        flags.append(f"--before-context={args.before}")
    if args.after is not None:
        flags.append(f"--after-context={args.after}")
    if args.only_matching:
        flags.append("--only-matching")
    return flags


def _result(args: GrepArguments, answer: Answer, naming: _Naming, path: PurePosixPath) -> ToolResult:
    end = answer.end
    incomplete = end.size > len(answer.out) or bool(end.killed)
    if end.killed and not answer.out:
        reason = f"took longer than {SECONDS:g} s" if end.killed == "timeout" else f"was killed ({end.killed})"
        return tool_error(f"The search {reason}. Use a narrower path, glob or pattern.")
    unread = end.code == UNREAD and not answer.complaint and naming.in_directory
    if end.code not in {0, 1} and not answer.out and not unread:
        complaint = (
            answer.complaint or f"{show_path(str(path))} cannot be searched: it does not exist, or may not be read."
        )
        return tool_error(complaint.removeprefix("rg: "))
    match args.output_mode:
        case "files_with_matches":
            entries = listed(answer.out, naming)
        case "count":
            entries = counted(answer.out, naming)
        case "content":
            entries = matched(answer.out, naming)
    return _page(args, entries, incomplete=incomplete, timed_out=end.killed == "timeout")


def _page(args: GrepArguments, entries: Entries, *, incomplete: bool, timed_out: bool) -> ToolResult:
    limit = HEAD_LIMIT if args.head_limit is None else args.head_limit
    end = args.offset + limit if limit else len(entries.lines)
    lines = entries.lines[args.offset : end]
    cut = end < len(entries.lines)
    content, lines = _bounded(lines)
    user: dict[str, Any] = {"mode": args.output_mode, "numFiles": len(entries.files), "filenames": []}
    if args.output_mode == "files_with_matches":
        user |= {"filenames": lines, "numFiles": len(lines), "totalFiles": len(entries.files)}
    else:
        user |= {"content": content, "numLines": len(lines)}
    if args.output_mode == "count":
        user["numMatches"] = entries.matches
    if args.output_mode == "content":
        user["totalLines"] = len(entries.lines)
    if cut:
        user["appliedLimit"] = limit
    if args.offset:
        user["appliedOffset"] = args.offset
    if timed_out:
        user["timedOut"] = True
    text = _text(args, entries, content, shown=len(lines), cut=cut, incomplete=incomplete)
    return ToolResult(for_model=text, for_user=user, truncated=cut or incomplete)


def _text(args: GrepArguments, entries: Entries, content: str, *, shown: int, cut: bool, incomplete: bool) -> str:
    if not entries.lines:
        return "No files found" if args.output_mode == "files_with_matches" else "No matches found"
    if not shown:
        return f"No entries at this offset: there are {len(entries.lines)} in all."
    parts = [content]
    if args.output_mode == "files_with_matches":
        parts.insert(0, f"Found {len(entries.files)} file{'s' * (len(entries.files) != 1)}")
    if args.output_mode == "count":
        files = f"{len(entries.files)} file{'s' * (len(entries.files) != 1)}"
        parts.append(f"Found {entries.matches} matching line{'s' * (entries.matches != 1)} in {files}.")
    last = args.offset + shown
    if cut or last < len(entries.lines):
        parts.append(f"[Entries {args.offset + 1}-{last} of {len(entries.lines)}; go on with offset {last}]")
    if incomplete:
        parts.append("[There is more than could be searched or kept: use a narrower path, glob or pattern]")
    return "\n".join(parts)


def _bounded(lines: list[str]) -> tuple[str, list[str]]:
    """As many whole entries as fit the bound on output, at least one."""
    used = 0
    for at, line in enumerate(lines):
        used += len(line) + 1
        if used > OUTPUT_LIMIT and at:
            return "\n".join(lines[:at]), lines[:at]
    return "\n".join(lines), lines
