"""Progress where there is no terminal (a pipe, a log file, TERM=dumb): whole lines, no colours, no
movement, each flushed when it is complete.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import TextIO

from rich.console import Console
from rich.text import Text

from runner.events import ApprovalAsked, BoxStarted, Event, Failed, Judged, ModelReplied, TurnEnded, TurnStarted
from runner.ui.glyphs import glyphs_for
from runner.ui.safe import encodable, one_line
from runner.ui.story import call_title, header, reply_text, tell
from runner.ui.view import MAIN, RETRYING, ViewState, fold
from runner.ui.words import duration


class Plain:
    """Writes the story of one session to `out`. With `quiet` nothing but failures is told: the caller
    prints the result (`-p`).
    """

    def __init__(self, out: TextIO, *, state: ViewState | None = None, quiet: bool = False) -> None:
        self.state = state or ViewState()
        self._out = out
        self._quiet = quiet
        self._glyphs = glyphs_for(out.encoding)
        self._begun = False

    async def follow(self, events: AsyncIterator[Event]) -> ViewState:
        """Write until the events end or the main agent's turn does; returns the last state."""
        async for event in events:
            self.feed(event)
            if isinstance(event.body, TurnEnded) and event.agent == MAIN:
                break
        return self.state

    def feed(self, event: Event) -> None:
        """Fold one event and write what it adds."""
        self.state = fold(self.state, event)
        if self._quiet:
            return
        match event.body:
            case TurnStarted() | BoxStarted() if not self._begun:
                self._begun = True
                self.write([header(self.state, self._glyphs)])
            case ModelReplied(content=content) if event.agent == MAIN:
                self.write(reply_text(content))
            case Judged(call=call, tool="Bash", verdict=verdict) if verdict["decision"] != "deny":
                begun = self.state.call(call)
                self.write([Text(f"{self._glyphs.begun} ").append(call_title(begun, ""))] if begun else [])
            case Failed(retrying=True, error=error, message=message, detail=detail) if error == RETRYING:
                wait = duration(float(detail.get("delay", 0.0)))
                self.write([Text(f"{self._glyphs.retry} again in {wait}: {one_line(message)}")])
            case ApprovalAsked(tool=tool, reason=reason):
                self.write([Text(f"? {one_line(tool, 60)} asks for permission: {one_line(reason)}")])
            case _:
                pass
        self.write(tell(self.state, event, self._glyphs))

    def write(self, lines: Iterable[Text]) -> None:
        """Write lines as they are, without their styles."""
        text = "".join(line.plain.rstrip() + "\n" for line in lines)
        self._out.write(encodable(text, self._out.encoding or "ascii"))
        self._out.flush()


def print_lines(out: TextIO, lines: Iterable[Text]) -> None:
    """Print lines: in colours on a terminal that has them, plain elsewhere, in whatever encoding."""
    if out.isatty():
        console = Console(file=out, highlight=False, markup=False, emoji=False)
        with console.capture() as capture:
            for line in lines:
                console.print(line, no_wrap=line.no_wrap, overflow=line.overflow)
        text = capture.get()
    else:
        text = "".join(line.plain.rstrip() + "\n" for line in lines)
    out.write(encodable(text, out.encoding or "ascii"))
    out.flush()
