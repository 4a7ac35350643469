"""The calls of a reply: taken in as the stream completes them, reads side by side, writes in order, each with
exactly one end. Whether a call runs at all, the gate decides (`runner.loop.gate`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from runner.dataclass import dataclass
from runner.effects import Effect, is_write
from runner.events import Failed, ToolChunk, ToolFinished, ToolRequested
from runner.loop.boxes import LOST
from runner.loop.calls import Call
from runner.loop.gate import Gate
from runner.loop.shown import Shown, plain
from runner.tools.base import ToolResult, tool_error
from sandbox.errors import PathError, SandboxError

SIDE_BY_SIDE = 10
INTERRUPTED = "This call was interrupted, by the user or by a limit. What it had done until then may be done."
NOT_BEGUN = "Not run: the user or a limit ended the turn before this call began."
INTERRUPTED_OUTPUT = 10_000
REFUSED = "The model's provider ended this reply as a refusal; the call was not run."


@dataclass(frozen=True, slots=True, kw_only=True)
class Calls:
    """`live` shows a chunk of output of (call, number) while it runs. `most`: how many calls run side by side."""

    gate: Gate
    live: Callable[[ToolChunk, str, int], None]
    most: int = SIDE_BY_SIDE

    def request(self, block: Mapping[str, Any], invalid: str | None = None) -> Call:
        """Take in a tool_use block as the stream completed it: validated and recorded, not yet run."""
        given = block.get("input")
        name, sent = str(block.get("name", "")), given if isinstance(given, dict) else {}
        call = self.gate.validated(Call(id=str(block.get("id", "")), name=name, input=sent))
        raw = ""
        if invalid is not None:
            raw, call.error = invalid, "The input of this call was not valid JSON. Send it again as a JSON object."
        elif not isinstance(given, dict):
            raw, call.error = repr(given)[:2000], "The input of a call must be a JSON object."
        self.gate.record(ToolRequested(call=call.id, name=name, input=sent, error=call.error, raw=raw), cause=call.id)
        return call

    def begin(self, calls: Sequence[Call]) -> None:
        """Start the last call of a reply that still streams when it, like all before it, only reads. Its end is
        recorded after the reply, by `run` or `abandon`, one of which follows.
        """
        call = calls[-1]
        if call.error or len(calls) > self.most or not all(before.task for before in calls[:-1]):
            return
        effects = self._effects(call)
        if effects and not any(is_write(effect) for effect in effects):
            call.task = asyncio.create_task(self._one(call))

    async def run(self, calls: Sequence[Call]) -> None:
        """Run the calls of one recorded reply: neighbours that only read side by side, the others in order.
        Each ends with exactly one ToolFinished, when this is cancelled too.
        """
        waiting = list(calls)
        for call in calls:
            call.replied.set()
        try:
            while waiting and self.gate.failure is None:
                group = [waiting.pop(0)]
                if not self._writes(group[0]):
                    while waiting and len(group) < self.most and not self._writes(waiting[0]):
                        group.append(waiting.pop(0))
                async with asyncio.TaskGroup() as tasks:
                    for call in group:
                        tasks.create_task(self._join(call))
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from group
        finally:
            await self.abandon(calls, NOT_BEGUN if self.gate.failure is None else f"Not run: {self.gate.failure}")

    async def _join(self, call: Call) -> None:
        await (call.task or self._one(call))

    async def abandon(self, calls: Sequence[Call], why: str) -> None:
        """End whatever of these calls has not ended: what runs is cancelled, the others were never run."""
        for call in calls:
            call.replied.set()
        running = {call.task for call in calls if call.task is not None}
        if running:
            _, late = await asyncio.wait(running, timeout=0)
            for task in late:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
        for call in calls:
            if not call.done:
                self._finish(call, tool_error(why), self.gate.monotonic())

    def _effects(self, call: Call) -> tuple[Effect, ...]:
        if call.tool is None or call.args is None:
            return ()
        return call.tool.effects(call.args, self.gate.place)

    def _writes(self, call: Call) -> bool:
        return any(is_write(effect) for effect in self._effects(call))

    async def _one(self, call: Call) -> None:
        started = self.gate.monotonic()
        shown = Shown(call=call.id, id=self.gate.new_id(), live=self.live, record=self.gate.record)
        try:
            result = await self.gate.admit(call, shown)
        except asyncio.CancelledError:
            shown.finish()
            until = shown.text[-INTERRUPTED_OUTPUT:]
            why = f"{INTERRUPTED}\nIts output until then:\n{until}" if until else INTERRUPTED
            self._finish(call, tool_error(why if shown.ran else NOT_BEGUN), started)
            raise
        except PathError as error:
            result = tool_error(str(error))
        except SandboxError as error:
            result = self._without_box(error)
        except Exception as error:  # noqa: BLE001 (a fault of ours must not leave a call open)
            self.gate.record(
                Failed(error=type(error).__name__, message=f"{call.name}: {error}", exit_code=1, retrying=True),
                cause=call.id,
            )
            result = tool_error(f"Internal error in {call.name}: {type(error).__name__}: {error}")
        if call.task is not None:
            await call.replied.wait()
        shown.finish()
        self._finish(call, result, started)

    def _finish(self, call: Call, result: ToolResult, started: float) -> None:
        call.done = True
        if self.gate.hooks is not None:
            self.gate.hooks.finished(call.id, result)
        self.gate.record(
            ToolFinished(
                call=call.id,
                name=call.name,
                content=plain(result.for_model),
                result=result.for_user or None,
                is_error=result.is_error,
                truncated=result.truncated,
                seconds=round(self.gate.monotonic() - started - self.gate.waiting.take(call.id), 6),
            ),
            cause=call.id,
        )

    def _without_box(self, error: SandboxError) -> ToolResult:
        text = "; ".join(part.rstrip(".") for part in (str(error), error.hint) if part) + "."
        if self.gate.failure is not None:
            return tool_error(f"The box cannot be used: {text}")
        self.gate.record(Failed(error=type(error).__name__, message=text, exit_code=error.exit_code, retrying=True))
        again = " The next call gets a new one: files are kept, processes are gone." if isinstance(error, LOST) else ""
        return tool_error(f"{text}{again}")
