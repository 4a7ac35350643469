"""The lines that move: what runs now, for how long, and what the session has used so far. Pure in the
state, the time and the size of the terminal.
"""

from __future__ import annotations

from io import StringIO

from rich.console import Console
from rich.text import Text

from runner.ui.glyphs import Glyphs
from runner.ui.safe import one_line, visible
from runner.ui.story import call_title, reply, tail
from runner.ui.view import CallView, ViewState
from runner.ui.words import count, duration, money, plural

_WIDE = 60
_LONG = 16_384
_WRAPPER = Console(file=StringIO())  # rich wraps text only with a console at hand


def status_lines(
    state: ViewState, now: float, width: int, height: int, glyphs: Glyphs, *, unfinished: str = ""
) -> list[Text]:
    """At most `height` lines, each to be cut at `width`, the most important ones last. `unfinished`: the
    line of the reply that streams in and has no end yet.
    """
    room = max(height, 1)
    foot = [_status(state, now, width, glyphs)]
    if (todo := _todo(state, glyphs)) and room > 3:
        foot.insert(0, todo)
    body: list[Text] = []
    if unfinished:
        body += _wrapped(unfinished, width, max(room - len(foot), 0))
    elif state.thinking and not state.text:
        body += [Text(f"  {line}", "dim italic") for line in tail(state.thinking, 2)]
    for call in at_work(state):
        body += _call(call, state.cwd, now, glyphs, tail_lines=_tail_room(state, room - len(foot)))
    left = room - len(foot)
    return [*body[-left:], *foot] if left > 0 else foot


def _tail_room(state: ViewState, room: int) -> int:
    return max(0, min(5, room // max(len(at_work(state)), 1) - 1))


def at_work(state: ViewState) -> tuple[CallView, ...]:
    """The calls that run or wait for an answer; those that only were requested have not begun."""
    return tuple(call for call in state.running if call.state != "requested")


def _call(call: CallView, cwd: str, now: float, glyphs: Glyphs, *, tail_lines: int) -> list[Text]:
    line = Text().append(f"{_spin(now, glyphs)} ", "cyan")
    elapsed = duration(now - call.since)
    if call.state == "asking":
        line.append("asks for permission ", "yellow")
    else:
        line.append(f"{elapsed} ", "dim")
    line.append(call_title(call, cwd, 400))
    shown = [Text(f"  {glyphs.bar} {text}", "dim") for text in tail(call.output, tail_lines)] if tail_lines else []
    return [line, *shown]


def _wrapped(text: str, width: int, rows: int) -> list[Text]:
    """The last rows of a line that has no end yet."""
    if rows <= 0:
        return []
    shown = visible(text.expandtabs(4), lines=False)
    start = max(0, (len(shown) // _LONG - 1) * _LONG)  # a line of megabytes is not wrapped whole on every draw
    return list(reply(shown[start:]).wrap(_WRAPPER, max(width - 1, 1)))[-rows:]


def _status(state: ViewState, now: float, width: int, glyphs: Glyphs) -> Text:
    elapsed = duration(now - state.turn.since) if state.turn.since else ""
    pieces = [elapsed]
    if state.turn.rounds:
        pieces.append(plural(state.turn.rounds, "round"))
    if state.usage.read or state.usage.written:
        pieces.append(f"{count(state.usage.read)} in, {count(state.usage.written)} out")
        pieces.append("" if state.usage.cost is None else money(state.usage.cost))
    if running := sum(task.state == "running" for task in state.tasks):
        pieces.append(f"{running} in background")
    if width >= _WIDE:
        pieces.append("Ctrl-C stops")
    line = Text().append(f"{_spin(now, glyphs)} ", "cyan").append(_doing(state, now, glyphs))
    for piece in filter(None, pieces):
        if line.cell_len + len(piece) + 4 > width:
            break
        line.append(glyphs.dot, "dim").append(piece, "dim")
    return line


def _doing(state: ViewState, now: float, glyphs: Glyphs) -> Text:
    if state.retry is not None:
        wait = max(0.0, state.retry.until - now)
        tries = f" ({state.retry.attempt}/{state.retry.attempts})" if state.retry.attempts else ""
        why = one_line(state.retry.error, 60)
        return Text(f"{glyphs.retry} again in {duration(wait)}{tries}: {why}", "yellow")
    if state.asks:
        return Text("waits for your answer", "yellow")
    if running := at_work(state):
        waiting_for_box = state.box.state == "starting" and not any(call.output for call in running)
        return Text("starting the box" if waiting_for_box else f"running {_names(state)}")
    if state.thinking and not state.text:
        return Text("thinking")
    if state.running:
        return Text(f"writing a call of {one_line(state.running[-1].name, 30)}" if state.waiting else "working")
    return Text("writing" if state.text else "waiting for the model" if state.waiting else "working")


def _names(state: ViewState) -> str:
    names = list(dict.fromkeys(one_line(call.name, 30) for call in at_work(state)))
    return ", ".join(names[:3])


def _todo(state: ViewState, glyphs: Glyphs) -> Text | None:
    if not state.todos:
        return None
    done = sum(item.get("status") == "completed" for item in state.todos)
    now = next((item for item in state.todos if item.get("status") == "in_progress"), None)
    if done == len(state.todos):
        return None
    doing = f"{glyphs.dot}{one_line(str(now.get('activeForm') or now.get('content') or ''), 120)}" if now else ""
    return Text().append(f"  {done} of {len(state.todos)} done", "magenta").append(doing, "dim")


def _spin(now: float, glyphs: Glyphs) -> str:
    return glyphs.spin[int(now * 8) % len(glyphs.spin)]
