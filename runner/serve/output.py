"""The output of a run without a terminal interface: the result as text or JSON, or every message as it
comes. One object per run; `follow` gives the exit code.
"""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any, TextIO

from runner.events import Event, Failed, TurnEnded
from runner.serve.result import exit_code
from runner.serve.stream_json import MAIN, Message, Messages
from runner.ui.safe import visible
from runner.ui.words import subject

LINE_LIMIT = 1 << 20  # what SDK clients read as one message
FORMATS = ("text", "json", "stream-json")


class Output:
    """Prints what `messages` makes of the events to `out`, in one of FORMATS. `verbose` with json: the
    array of all messages instead of the result. `notify` hears of waits and of denied calls in forms that do not show
    them.
    """

    def __init__(
        self,
        form: str,
        messages: Messages,
        *,
        out: TextIO = sys.stdout,
        verbose: bool = False,
        notify: Callable[[str], None] | None = None,
    ) -> None:
        self._notify = notify if form != "stream-json" else None
        self._form = form
        self._messages = messages
        self._out = out
        self._verbose = verbose
        self._kept: list[Message] = []
        self._told: dict[str, str] = {}

    async def follow(self, events: AsyncIterator[Event]) -> int:
        """Print until the main agent's turn ends; returns the exit code."""
        async for event in events:
            self.feed(event)
            if isinstance(event.body, TurnEnded) and event.agent == MAIN:
                return self.finish()
        return self.abort("the session ended before the turn did")

    def feed(self, event: Event) -> None:
        """Take one event."""
        if self._notify is not None and isinstance(event.body, Failed) and event.body.retrying:
            self._notify(retry_line(event.body))
        for message in self._messages.of(event):
            self._tell_denial(message)
            self._take(message)

    def _tell_denial(self, message: Message) -> None:
        """A line for what was not allowed, once; the result alone would not say it."""
        if self._notify is None or message.get("subtype") != "permission_denied":
            return
        name, args = message["tool_name"], self._messages.denials[-1]["tool_input"]
        line = f"denied: {name} {args.get('to') or subject(name, args, limit=200)}: {message['decision_reason']}"
        if line not in self._told:
            self._told[line] = "to" if args.get("to") else "call"
            self._notify(line)

    def _tell_ways_on(self) -> None:
        session = str((self._messages.last or {}).get("session_id", ""))[:8]
        kinds = set(self._told.values())
        if self._notify is not None and "call" in kinds:
            self._notify(f"what would allow a call: fumehood policy explain --session {session} --call 1 (2, 3 …)")
        if self._notify is not None and "to" in kinds:
            self._notify(f"what would allow a request: fumehood net log {session}")

    def abort(self, reason: str, code: int = 1) -> int:
        """End a run that came to no result: it gets one that says why. Returns `code`."""
        for message in self._messages.abort(reason):
            self._take(message)
        self.finish()
        return code

    def finish(self) -> int:
        """Print what is printed at the end; returns the exit code."""
        result = self._messages.last
        assert result is not None, "finish comes after a TurnEnded or an abort"
        if self._form == "json":
            self._out.write(encode(self._kept if self._verbose else result) + "\n")
        elif self._form == "text":
            text = result_text(result)
            self._out.write((visible(text) if self._out.isatty() else _valid(text)) + "\n")
        self._out.flush()
        self._tell_ways_on()
        return exit_code(result, self._messages.failure)

    def _take(self, message: Message) -> None:
        if self._form == "stream-json":
            self._out.write(encode_line(message) + "\n")
            self._out.flush()
        elif self._form == "json" and self._verbose:
            self._kept.append(message)


def retry_line(failed: Failed) -> str:
    """Why a request is sent again, after how long, and for the which time of how many."""
    delay, detail = float(failed.detail.get("delay") or 0), failed.detail
    wait = f"trying again in {delay:.1f} s" if delay else "trying again now"
    return f"{failed.message}; {wait} (attempt {detail.get('attempt', '?')} of {detail.get('attempts', '?')})"


def result_text(result: Message) -> str:
    """What `text` prints: the answer, or why there is none."""
    if "result" in result:
        return str(result["result"]).rstrip("\n")
    return "Error: " + "; ".join(str(error) for error in result["errors"])


def encode_line(message: Message) -> str:
    """One line of NDJSON. A tool's structured result that would make it too long for clients is left out;
    the model's own copy stays.
    """
    line = encode(message)
    if len(line) >= LINE_LIMIT and "tool_use_result" in message:
        return encode({key: value for key, value in message.items() if key != "tool_use_result"})
    return line


def encode(value: Any) -> str:
    """JSON in ASCII, safe on any terminal; half surrogate pairs, which strict readers refuse, become ?."""
    line = json.dumps(value, separators=(",", ":"))
    if "\\ud" not in line:
        return line
    return json.dumps(json.loads(_valid(json.dumps(value, ensure_ascii=False))), separators=(",", ":"))


def _valid(text: str) -> str:
    return text.encode("utf-8", "replace").decode()
