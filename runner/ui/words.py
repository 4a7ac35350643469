"""How numbers, tool calls and outcomes are put into words, the same in every interface. Pure; what comes
from outside is made visible here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import PurePosixPath
from typing import Any

from runner.ui.safe import one_line
from runner.ui.view import BoxView, CallView, Usage

_SUBJECT = {
    "Bash": "command",
    "PowerShell": "command",
    "Read": "file_path",
    "Write": "file_path",
    "Edit": "file_path",
    "MultiEdit": "file_path",
    "NotebookEdit": "notebook_path",
    "Glob": "pattern",
    "Grep": "pattern",
    "TaskStop": "task_id",
    "WebFetch": "url",
    "WebSearch": "query",
    "ExitPlanMode": "plan",
    "Agent": "description",
}
_REASONS = {
    "completed": "done",
    "interrupted": "stopped by you",
    "max_turns": "stopped: the limit of rounds is reached",
    "max_budget": "stopped: the budget is spent",
    "max_time": "stopped: the time is up",
    "max_tokens": "stopped: the limit of tokens is reached",
    "refusal": "the model refused",
    "hook": "stopped by a hook",
    "failed": "failed",
}


def duration(seconds: float) -> str:
    """0.4 s, 12 s, 3 min 04 s, 1 h 02 min."""
    if seconds < 10:
        return f"{max(seconds, 0.0):.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def count(number: int) -> str:
    """950, 12.3k, 1.25M."""
    if number < 1000:
        return str(number)
    if number < 999_950:
        return f"{number / 1000:.1f}k"
    return f"{number / 1_000_000:.2f}M"


def size(number: int) -> str:
    """Bytes in binary units: 512 B, 12.3 KiB, 4.0 GiB."""
    value, unit = float(number), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if value < 1024 or unit == "TiB":
            break
        value /= 1024
    return f"{number} B" if unit == "B" else f"{value:.1f} {unit}"


def money(cost: float | None) -> str:
    """$0.0312, $4.20; "price unknown" for None."""
    if cost is None:
        return "price unknown"
    return f"${cost:.2f}" if cost >= 1 else f"${cost:.4f}"


def plural(number: int, noun: str) -> str:
    """1 file, 2 files."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def tokens(usage: Usage) -> str:
    """Tokens in and out, the part from the cache named."""
    cached = f" ({round(100 * usage.cached / usage.read)} % cached)" if usage.cached and usage.read else ""
    return f"{count(usage.read)} in{cached}, {count(usage.written)} out"


def ended(reason: str) -> str:
    """Why a turn ended."""
    return _REASONS.get(reason, one_line(reason))


def place(box: BoxView) -> list[str]:
    """What the box is: engine, runtime where it is not the usual one, how the roots are copied on write."""
    rungs = sorted(set(box.rungs.values()))
    runtime = box.runtime if box.runtime not in ("", "runc", "crun") else ""
    return [one_line(part) for part in (box.engine, runtime, ", ".join(rungs)) if part]


def subject(name: str, args: Mapping[str, Any], cwd: str = "", limit: int = 400) -> str:
    """What a call is about, in one visible line: its command, path or pattern, else its input as JSON."""
    key = _SUBJECT.get(name)
    if name == "TodoWrite":
        return plural(len(args.get("todos", ())), "item")
    if name == "AskUserQuestion" and isinstance(asked := args.get("questions"), list):
        texts = (each.get("question") for each in asked if isinstance(each, dict))
        return one_line(" ".join(text for text in texts if isinstance(text, str)), limit)
    if key is None or not isinstance(args.get(key), str):
        return one_line(json.dumps(args, ensure_ascii=False), limit) if args else ""
    value = args[key]
    if key.endswith("_path"):
        return one_line(_relative(value, cwd), limit)
    where = args.get("path")
    return one_line(f"{value} in {_relative(where, cwd)}" if isinstance(where, str) and where else value, limit)


def outcome(call: CallView) -> str:
    """What came of a finished call, in a few words; empty where there is nothing to say."""
    if call.state == "denied":
        said = one_line(call.message)
        return said if said.startswith("denied") else f"denied: {said}" if said else "denied"
    result = call.result if isinstance(call.result, dict) else {}
    say = _OUTCOMES.get(call.name)
    return say(result, call.message) if say else ""


def patch_lines(result: Any) -> list[str]:
    """The lines of a result's structuredPatch, each with its mark (space, + or -)."""
    hunks = result.get("structuredPatch") if isinstance(result, dict) else None
    if not isinstance(hunks, list):
        return []
    lines: list[str] = []
    for hunk in hunks:
        if isinstance(hunk, dict):
            lines += [str(line) for line in hunk.get("lines", ())]
    return lines


def patch_counts(result: Mapping[str, Any]) -> tuple[int, int]:
    """Lines added and removed by a Write or Edit."""
    if result.get("type") == "create" and isinstance(content := result.get("content"), str):
        return len(content.splitlines()), 0
    lines = patch_lines(result)
    return sum(line.startswith("+") for line in lines), sum(line.startswith("-") for line in lines)


def _bash_outcome(result: Mapping[str, Any], message: str) -> str:
    if task := result.get("backgroundTaskId"):
        return f"in the background as {one_line(str(task))}"
    if result.get("interrupted"):
        return "interrupted"
    codes = re.findall(r"^Exit code (-?\d+)$", message, re.MULTILINE)
    return f"exit {codes[-1]}" if codes else ""


def _read_outcome(result: Mapping[str, Any], _message: str) -> str:
    lines = _dict(result, "file").get("numLines")
    return plural(lines, "line") if isinstance(lines, int) else ""


def _write_outcome(result: Mapping[str, Any], _message: str) -> str:
    added, removed = patch_counts(result)
    new = "new, " if result.get("type") == "create" else ""
    return f"{new}+{added} -{removed}" if added or removed else new.rstrip(", ")


def _search_outcome(result: Mapping[str, Any], _message: str) -> str:
    files = result.get("numFiles")
    return plural(files, "file") if isinstance(files, int) else ""


def _answered(result: Mapping[str, Any], _message: str) -> str:
    return one_line(", ".join(str(answer) for answer in _dict(result, "answers").values()))


_OUTCOMES: dict[str, Callable[[Mapping[str, Any], str], str]] = {
    "Bash": _bash_outcome,
    "Read": _read_outcome,
    "Write": _write_outcome,
    "Edit": _write_outcome,
    "MultiEdit": _write_outcome,
    "Glob": _search_outcome,
    "Grep": _search_outcome,
    "AskUserQuestion": _answered,
}


def _relative(path: str, cwd: str) -> str:
    if not cwd or not path.startswith(cwd.rstrip("/") + "/"):
        return path
    return str(PurePosixPath(path).relative_to(cwd))


def _dict(data: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = data.get(key)
    return value if isinstance(value, dict) else {}
