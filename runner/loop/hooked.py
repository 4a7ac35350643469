"""Hooks around the calls of the model and around its turns: what is told, and what is made of the answers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from importlib import import_module
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from runner.effects import AskUser, Decision, Effect, RuleSource, Source, Verdict
from runner.errors import UsageError
from runner.events import ApprovalGiven
from runner.loop.calls import Call
from runner.loop.history import reminder
from runner.loop.modes import Changed
from runner.policy.index import RuleIndex
from runner.policy.rules import parse_rule
from runner.tools.base import ToolResult, tool_error
from runner.variables import count
from sandbox.errors import PathError

if TYPE_CHECKING:
    from runner.hooks.outcome import Outcome
    from runner.hooks.run import Hooks
    from runner.loop.gate import Gate

PATHS = ("file_path", "notebook_path", "path")
LIFTED = 8  # how often in a row the end of a turn may be put off
END_SECONDS = 1.5
END_MOST = 60.0


class Hooked:
    """A session's hooks as the loop fires them. `notes`: what the model is told before the next request;
    `stopped`: why the turn ends here, "" where it does not.
    """

    def __init__(self, hooks: Hooks, gate: Gate) -> None:
        self._hooks, self._gate = hooks, gate
        self.notes: list[dict[str, Any]] = []
        self.stopped = ""
        self._put_off = 0
        self._lifted = count(gate.environment, "CLAUDE_CODE_STOP_HOOK_BLOCK_CAP", LIFTED)
        self._end_ms = count(gate.environment, "CLAUDE_CODE_SESSIONEND_HOOKS_TIMEOUT_MS", 0)
        self._begun = False
        self._results: dict[str, Any] = {}

    def renew(self) -> None:
        """A new turn."""
        self.stopped, self._put_off = "", 0

    def news(self) -> list[dict[str, Any]]:
        """What the model was not told yet."""
        notes, self.notes = self.notes, []
        return notes

    # Calls

    async def before(self, call: Call) -> tuple[dict[str, Any], Verdict | None]:
        """The input that is to be judged, and what hooks make of the call."""
        outcome = await self._fire("PreToolUse", self._told(call), call)
        self._take("PreToolUse", outcome)
        if self.stopped:
            why = Verdict(decision=Decision.DENY, source=Source.HOOK, reason=self.stopped)
            return call.input, outcome.verdict or why
        return outcome.input if outcome.input is not None else call.input, outcome.verdict

    async def asked(self, call: Call, effects: Sequence[Effect], verdict: Verdict) -> ApprovalGiven | None:
        """A hook's answer in the place of the user's; None where the user is asked. What is put to the user needs
        the answers, too, in the input that a hook gives.
        """
        if not self._hooks.any("PermissionRequest"):
            return None
        outcome = await self._fire("PermissionRequest", self._told(call), call)
        self._take("PermissionRequest", outcome)
        answer = outcome.answer(by_mode=verdict.source is Source.MODE)
        if answer is None:
            return None
        if answer.interrupt:
            self.stopped = self.stopped or answer.reason
        if answer.allowed and answer.input is None and any(isinstance(effect, AskUser) for effect in effects):
            return None
        return ApprovalGiven(call=call.id, allowed=answer.allowed, by="hook", reason=answer.reason, input=answer.input)

    async def denied(self, call: Call, reason: str) -> None:
        """The classifier of mode auto said no to a call. That stands, whatever hooks say: at most the model is told
        that it may try again, and what it tries is decided anew.
        """
        if not self._hooks.any("PermissionDenied"):
            return
        outcome = await self._fire("PermissionDenied", self._told(call) | {"reason": reason}, call)
        self._take("PermissionDenied", outcome)
        if outcome.retry:
            self.notes.append(reminder(f"PermissionDenied hook: you may try {call.name} again."))

    async def around(self, call: Call, running: Awaitable[ToolResult]) -> ToolResult:
        """Await a call that runs, and tell the hooks what came of it."""
        began = self._gate.monotonic()
        try:
            result = await running
        except PathError as error:
            result = tool_error(str(error))
        await self._after(call, result, self._gate.monotonic() - began)
        return result

    async def _after(self, call: Call, result: ToolResult, seconds: float) -> None:
        event = "PostToolUseFailure" if result.is_error else "PostToolUse"
        if not self._hooks.any(event):
            return
        told = self._told(call) | {"duration_ms": round(seconds * 1000)}
        text = result.for_model if isinstance(result.for_model, str) else ""
        told |= {"error": text} if result.is_error else {"tool_response": result.for_user or {"content": text}}
        outcome = await self._fire(event, told, call)
        self._take(event, outcome)
        if why := outcome.refusal:
            self.notes.append(reminder(f"{event}:{call.name} hook blocking error: {why}"))

    def finished(self, call: str, result: ToolResult) -> None:
        """What the model is told of a call, for the batch."""
        if self._hooks.any("PostToolBatch"):
            self._results[call] = result.for_model

    async def batch(self, calls: Sequence[Call]) -> str:
        """All calls of a reply ran. Why the turn ends here, "" where it goes on."""
        results, self._results = self._results, {}
        if self.stopped or not self._hooks.any("PostToolBatch"):
            return self.stopped
        rows = [self._told(call) | {"tool_response": results.get(call.id, "")} for call in calls]
        outcome = await self._hooks.fire("PostToolBatch", {"tool_calls": rows})
        self._take("PostToolBatch", outcome)
        self.stopped = self.stopped or outcome.refusal
        return self.stopped

    def notify(self, message: str) -> None:
        """The user is asked something. Nobody waits for these hooks."""
        if self._hooks.any("Notification"):
            fields = {"message": message, "notification_type": "permission_prompt"}
            self._gate.spawn(self._hooks.fire("Notification", fields))

    # Turns

    async def prompt(self, text: str, *, resumed: bool, model: str) -> tuple[list[dict[str, Any]], str]:
        """What the model is told with a prompt, and why the prompt is not taken, "" where it is."""
        context: list[dict[str, Any]] = []
        if not self._begun and self._hooks.any("SessionStart"):
            fields = {"source": "resume" if resumed else "startup", "model": model}
            outcome = await self._hooks.fire("SessionStart", fields)
            context += self._said("SessionStart", outcome)
            if outcome.refusal or outcome.stop:
                return context, outcome.refusal or outcome.stop or ""
        self._begun = True
        if not self._hooks.any("UserPromptSubmit"):
            return context, ""
        outcome = await self._hooks.fire("UserPromptSubmit", {"prompt": text})
        context += self._said("UserPromptSubmit", outcome)
        return context, outcome.refusal or outcome.stop or ""

    async def changed(self, files: Sequence[Changed]) -> tuple[frozenset[str], str]:
        """Settings files changed while the session runs: those, by path, that are not to count, and why the turn ends
        here, "" where it goes on.
        """
        declined: set[str] = set()
        for each in files:
            outcome = await self._hooks.fire("ConfigChange", {"source": each.source, "file_path": each.file})
            self._take("ConfigChange", outcome)
            if outcome.refusal or outcome.stop is not None:
                declined.add(each.file)
        return frozenset(declined), self.stopped

    async def goes_on(self, last: str) -> bool:
        """The agent wants to rest: whether it is told something instead."""
        if not self._hooks.any("Stop") or self._put_off >= self._lifted:
            return False
        outcome = await self._hooks.fire(
            "Stop", {"stop_hook_active": self._put_off > 0, "last_assistant_message": last}
        )
        if outcome.stop is not None:
            return False
        said = [reminder(f"Stop hook feedback: {text}") for text in outcome.contexts]
        blocked = [result.said.reason for result in outcome.results if result.said.blocks]
        said += [reminder(f"Stop hook feedback: {why}") for why in blocked]
        self.notes += said
        self._put_off += 1
        return bool(said)

    async def failed(self, error: str, message: str) -> None:
        """A turn failed."""
        if self._hooks.any("StopFailure"):
            await self._hooks.fire(
                "StopFailure", {"error": error, "error_details": message}, box_ready=self._gate.box.ready
            )

    async def ended(self) -> None:
        """The session ends: no box is started for it, and no hook holds it up for long."""
        if self._hooks.any("SessionEnd"):
            named = self._end_ms / 1000
            seconds = named or min(END_MOST, max(END_SECONDS, self._hooks.longest("SessionEnd")))
            try:
                async with asyncio.timeout(seconds):
                    await self._hooks.fire(
                        "SessionEnd", {"reason": "other"}, box_ready=self._gate.box.ready, usual=named
                    )
            except TimeoutError:
                return

    # Common to them

    async def _fire(self, event: str, told: dict[str, Any], call: Call) -> Outcome:
        return await self._hooks.fire(event, told, cause=call.id, speaks=lambda rule: self._speaks(rule, call))

    def _take(self, event: str, outcome: Outcome) -> None:
        self.notes += self._said(event, outcome)
        self.stopped = self.stopped or outcome.stop or ""

    def _said(self, event: str, outcome: Outcome) -> list[dict[str, Any]]:
        return [reminder(f"{event} hook additional context: {text}") for text in outcome.contexts]

    def _told(self, call: Call) -> dict[str, Any]:
        """What hooks are told of a call: its paths absolute."""
        cwd = self._gate.place.cwd
        paths = {
            name: str(cwd / PurePosixPath(text)) for name in PATHS if isinstance(text := call.input.get(name), str)
        }
        return {"tool_name": call.name, "tool_input": call.input | paths, "tool_use_id": call.id}

    def _speaks(self, text: str, call: Call) -> bool:
        """Whether a permission rule speaks of the call, in its widest reading."""
        gate, source = self._gate, RuleSource(layer=Source.HOOK)
        try:
            rule = parse_rule(text, Decision.DENY, source, gate.place)
        except UsageError:
            return True
        effects = call.tool.effects(call.args, gate.place) if call.tool is not None and call.args is not None else ()
        return bool(RuleIndex((rule,)).fires(call.name, effects, gate.place, call.input))


def hooked(hooks: Hooks | None, gate: Gate, **stage: Any) -> Hooked | None:
    """The session's hooks joined to its gate. Raises nothing; `stage`: fields of `runner.hooks.run.Stage`."""
    if hooks is None:
        return None
    door = import_module("runner.loop.door").HookDoor(gate)
    made = import_module("runner.hooks.run").Stage(
        door=door, record=gate.record, new_id=gate.new_id, cwd=lambda: gate.state.cwd, spawn=gate.spawn, **stage
    )
    hooks.attach(made)
    return Hooked(hooks, gate)
