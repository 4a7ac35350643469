"""The lines that stay: what an event adds to the record on the screen. Pure; `live` prints them above its
moving part, `plain` prints nothing else.
"""

from __future__ import annotations

import re

from rich.text import Text

from runner.events import (
    BoxEnded,
    BoxStarted,
    Compacted,
    Drifted,
    Event,
    Failed,
    HookRan,
    ModeChanged,
    ModelReplied,
    TaskUpdated,
    ToolFinished,
)
from runner.ui.glyphs import Glyphs
from runner.ui.safe import one_line, visible
from runner.ui.view import MAIN, CallView, ViewState, text_of
from runner.ui.words import duration, outcome, patch_lines, place, plural, subject

PATCH_LINES = 16
OUTPUT_LINES = 3
ERROR_LINES = 8
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_QUIET = frozenset({"TodoWrite"})
_ENDED = {"lost": "the box was lost", "disk": "the box was stopped: no disk space", "killed": "the box was killed"}


def tell(after: ViewState, event: Event, glyphs: Glyphs, width: int | None = None) -> list[Text]:
    """The lines for one event; `after` is the state with the event folded in. A call's line fits `width`.
    Replies of the main agent are told by whoever shows them as they stream, see `reply`.
    """
    match event.body:
        case BoxStarted():
            return _box(after, glyphs)
        case BoxEnded(reason=reason, detail=detail) if reason in _ENDED:
            return [Text(f"{glyphs.failed} {_with(_ENDED[reason], detail)}", "bold red")]
        case ToolFinished() if after.last is not None:
            return finished(after.last, after.cwd, glyphs, width)
        case Failed(retrying=False, message=message):
            return [Text(f"{glyphs.failed} {one_line(message, 2000)}", "bold red")]
        case Drifted(paths=paths, count=count) if count:
            names = ", ".join(one_line(_name(path), 60) for path in paths[:3])
            more = "" if count <= 3 else f" and {count - 3} more"
            said = f"{glyphs.warn} {plural(count, 'file')} changed on the host meanwhile: {names}{more}"
            return [Text(said, "yellow")]
        case _:
            return _small(event, glyphs)


def header(state: ViewState, glyphs: Glyphs) -> Text:
    """The first line: which session, model and mode."""
    provider, _, model = state.model.rpartition(":")
    named = f"{provider}:{model.rpartition('/')[2]}" if provider == "scripted" else model
    parts = (state.session[:8], named, state.mode)
    return Text(glyphs.dot.join(one_line(part, 80) for part in parts if part), "dim")


def _small(event: Event, glyphs: Glyphs) -> list[Text]:
    match event.body:
        case TaskUpdated(kind="command", task=task, state=state) if state != "running":
            return [Text(f"  background command {one_line(task)}: {one_line(state)}", "dim")]
        case HookRan() as ran:
            return _hook(ran, glyphs)
        case Compacted():
            return [Text("  the conversation was shortened", "dim")]
        case ModeChanged(mode=mode):
            return [Text(f"  mode {one_line(mode)}", "dim")]
        case ModelReplied(partial=True) if event.agent == MAIN:
            return [Text(f"  {glyphs.retry} the reply broke off here", "yellow")]
        case _:
            return []


def _hook(ran: HookRan, glyphs: Glyphs) -> list[Text]:
    """What a hook says to the user, and that one failed or stopped something."""
    lines = []
    if said := ran.output.get("systemMessage"):
        lines.append(Text(f"  {one_line(str(said))}"))
    if ran.outcome in ("error", "blocked"):
        why = ran.output.get("failure") or ran.output.get("stderr") or ran.verdict
        words = "failed" if ran.outcome == "error" else "says no"
        lines.append(Text(f"  {glyphs.failed} {ran.event} hook {words}: {one_line(str(why))}", "yellow"))
    return lines


def finished(call: CallView, cwd: str, glyphs: Glyphs, width: int | None = None) -> list[Text]:
    """A finished call: its line, and below it what is worth seeing of a change, an output or an error."""
    sign, style = {
        "done": (glyphs.done, "green"),
        "denied": (glyphs.denied, "yellow"),
    }.get(call.state, (glyphs.failed, "red"))
    indent = "" if call.agent == MAIN else "  "
    end = Text()
    if says := outcome(call):
        end.append(f"  {says}", "" if call.state == "done" else style)
    if call.seconds >= 0.1:
        end.append(f"  {duration(call.seconds)}", "dim")
    head = Text().append(f"{indent}{sign} ", style).append(call_title(call, cwd))
    if width is not None:
        head.truncate(max(width - 1 - end.cell_len, width // 2), overflow="ellipsis")
    return [head.append(end), *(_below(detail, f"{indent}  {glyphs.bar} ") for detail in _details(call))]


def _below(detail: Text, bar: str) -> Text:
    return Text(no_wrap=True, overflow="ellipsis").append(bar, "dim").append(detail)


def call_title(call: CallView, cwd: str, limit: int = 400) -> Text:
    """`Bash pytest -q`, the name in bold."""
    return Text().append(one_line(call.name, 60), "bold").append(f" {subject(call.name, call.input, cwd, limit)}")


def reply(text: str) -> Text:
    """A line of the model's text, its Markdown marks kept: headings and fences are only set off."""
    shown = visible(text.expandtabs(4))
    if shown.startswith("#"):
        return Text(shown, "bold")
    made = Text(shown)
    made.highlight_regex(r"`[^`\n]+`", "cyan")
    made.highlight_regex(r"\*\*[^*\n]+\*\*", "bold")
    return made


def reply_text(content: str | list[object]) -> list[Text]:
    """All text of a finished reply, line by line."""
    return [reply(line) for line in text_of(content).strip("\n").split("\n")] if text_of(content).strip() else []


def tail(output: str, count: int) -> list[str]:
    """The last lines of an output that say something, visible and without colours; of a line that was
    drawn over itself the last state.
    """
    plain = _COLOUR.sub("", output)
    lines = [line.rstrip("\r").rsplit("\r", 1)[-1] for line in plain.split("\n")]
    return [visible(line.expandtabs(4), lines=False) for line in lines if line.strip()][-count:]


def _details(call: CallView) -> list[Text]:
    if call.state == "denied" or call.name in _QUIET:
        return []
    if call.state == "failed":
        plain = call.message.removeprefix("<tool_use_error>").removesuffix("</tool_use_error>")
        return [Text(line, "red") for line in tail(plain, ERROR_LINES) if not line.startswith("Exit code ")]
    if patch := patch_lines(call.result):
        shown = [_patch_line(line) for line in patch[:PATCH_LINES]]
        left = len(patch) - PATCH_LINES
        return [*shown, Text(f"and {plural(left, 'line')} more", "dim")] if left > 0 else shown
    if call.name == "Bash":
        return [Text(line, "dim") for line in tail(call.output or _stdout(call), OUTPUT_LINES)]
    return []


def _patch_line(line: str) -> Text:
    style = {"+": "green", "-": "red"}.get(line[:1], "dim")
    return Text(visible(line.expandtabs(4), lines=False), style)


def _stdout(call: CallView) -> str:
    value = call.result.get("stdout") if isinstance(call.result, dict) else None
    return value[-4096:] if isinstance(value, str) else ""


def _box(state: ViewState, glyphs: Glyphs) -> list[Text]:
    ready = glyphs.dot.join([f"box ready in {duration(state.box.seconds)}", *place(state.box)])
    lines = [Text(f"  {ready}", "dim")]
    if state.box.missing:
        names = ", ".join(one_line(name) for name in state.box.missing)
        lines.append(Text(f"{glyphs.warn} this engine cannot give: {names} (fumehood doctor says more)", "yellow"))
    return lines


def _with(text: str, detail: str) -> str:
    return f"{text}: {one_line(detail)}" if detail else text


def _name(path: object) -> str:
    return str(path.get("path", path)) if isinstance(path, dict) else str(path)
