"""The one gate: every call passes validate → resolve → judge → record → ask → run here, and nowhere else.

It is the only caller of a tool's `run` and the only one that gives a Box to anybody. It runs no
input without a Judged of its digest. Which call goes when: `orchestrate`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import field, replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Protocol

from runner.approval import Approver
from runner.dataclass import dataclass
from runner.effects import (
    AskUser,
    ConnectHost,
    Decision,
    Effect,
    Place,
    ReadPath,
    RunCommand,
    Source,
    Verdict,
    WritePath,
    effect_to_json,
    is_write,
)
from runner.events import (
    ApprovalAsked,
    ApprovalGiven,
    Body,
    Event,
    Judged,
    Resolved,
    TaskUpdated,
)
from runner.journal import digest
from runner.loop.boxes import BoxHandle
from runner.loop.calls import Call, with_arguments
from runner.loop.modes import Modes
from runner.loop.own import OwnCommands
from runner.loop.shown import Shown
from runner.loop.verdicts import answers_of, tightened
from runner.loop.waiting import Waiting
from runner.policy.grants import offer
from runner.policy.policy import Policy
from runner.tools.base import (
    Exposed,
    Planning,
    Tool,
    ToolContext,
    ToolResult,
    ToolState,
    nothing_exposed,
    tool_error,
)
from sandbox.errors import PathError, SandboxError
from sandbox.spec import Box, Process, Resolution

if TYPE_CHECKING:
    from runner.loop.background import Background
    from runner.loop.hooked import Hooked

BY_HOOK = "hook"


class Recorder(Protocol):
    """Journals a body and shows it."""

    def __call__(self, body: Body, *, cause: str = "", id: str = "", agent: str = "main") -> Event:  # noqa: A002 (the record's own word)
        """The event as written."""
        ...


Classify = Callable[[Call, Verdict], Awaitable[Verdict]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A call as it is decided: its effects, resolved, where it is made, and the verdict."""

    effects: tuple[Effect, ...]
    place: Place
    box: Box | None
    verdict: Verdict


@dataclass(slots=True, kw_only=True)
class Gate(OwnCommands):
    """`policy` gives the policy in force. `before_write` is awaited before a call that may change the box
    (checkpoints). `hooks` may replace an input and tighten the verdict. `classify` answers an ask of mode auto, and
    `allowed_by_user` is told of each yes. `failure` is set when calls cannot go on at all (no box): the turn ends
    with it. `waiting`: how long calls waited for answers.
    """

    record: Recorder
    new_id: Callable[[], str]
    tools: Mapping[str, Tool[Any]]
    policy: Callable[[], Policy]
    approver: Approver
    box: BoxHandle
    state: ToolState
    home: PurePosixPath
    roots: tuple[PurePosixPath, ...]
    spawn: Callable[[Coroutine[Any, Any, Any]], asyncio.Task[Any]]
    before_write: Callable[[str], Awaitable[None]] | None = None
    hooks: Hooked | None = None
    background: Background | None = None
    remember: Modes | None = None
    classify: Classify | None = None
    allowed_by_user: Callable[[], None] | None = None
    planning: Planning | None = None
    consult: Callable[[str], Awaitable[str]] | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    exposed: Exposed = nothing_exposed
    monotonic: Callable[[], float] = time.monotonic
    failure: SandboxError | None = None
    waiting: Waiting = field(default_factory=Waiting)
    _judged: set[tuple[str, str]] = field(default_factory=set)
    _running: dict[str, tuple[Effect, ...]] = field(default_factory=dict)
    _saved: set[str] = field(default_factory=set)
    _saving: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def place(self) -> Place:
        """Where a call is made now."""
        return Place(cwd=self.state.cwd, home=self.home, roots=self.roots)

    @property
    def cause(self) -> str:
        """The call that what happens in the box now is of: the only one that runs, "" where that is not clear."""
        return next(iter(self._running)) if len(self._running) == 1 else ""

    def fetching(self, host: str, port: int, scheme: str) -> str:
        """The running call that was allowed to fetch from there (WebFetch, WebSearch); "" where there is none."""
        for call, effects in self._running.items():
            for effect in effects:
                match effect:
                    case ConnectHost() if (effect.host, effect.port, effect.scheme) == (host, port, scheme):
                        return call
        return ""

    def renew(self) -> None:
        """A new turn: what failed in the one before is tried again."""
        self.failure = None
        self._saved.clear()
        self.box.renew()
        if self.hooks is not None:
            self.hooks.renew()

    def validated(self, call: Call) -> Call:
        """The call with its arguments parsed by the tool of its name, or with why it cannot run."""
        return with_arguments(call, None if self.policy().hides(call.name) else self.tools.get(call.name))

    async def admit(self, call: Call, shown: Shown) -> ToolResult:
        """Take one call through, step by step: its result, or why it was not run."""
        hooked: Verdict | None = None
        if not call.error and self.hooks is not None:
            replaced, hooked = await self.hooks.before(call)
            call = self.validated(replace(call, input=replaced))
        if call.error or call.tool is None or call.args is None:
            return tool_error(call.error or f"No such tool available: {call.name}")
        case = await self._look(call)
        if isinstance(case, str):
            return tool_error(case)
        verdict = case.verdict if hooked is None else tightened(case.verdict, hooked)
        if verdict.classify and self.classify is not None:
            verdict = await self.classify(call, verdict)
            if verdict.decision is Decision.DENY and self.hooks is not None:
                await self.hooks.denied(call, verdict.reason)
        refusal, given = await self._decide(call, case.effects, verdict)
        if not refusal and given is not None and given.input is not None:
            call = self.validated(replace(call, input=given.input))
            case = call.error or await self._look(call)
            if isinstance(case, str):
                return tool_error(case)
            refusal = self._answered(call, case, given)
        if refusal:
            return tool_error(refusal)
        if any(is_write(effect) for effect in case.effects):
            await self._save(call.id)
        running = self._run(call, case, shown, answers_of(given))
        return await (running if self.hooks is None else self.hooks.around(call, running))

    async def _save(self, call: str) -> None:
        """Keep a state to go back to before this call, or a hook of it, changes something."""
        if self.before_write is not None:
            async with self._saving:
                await self.before_write(call)
        self._saved.add(call)

    async def _look(self, call: Call) -> Case | str:
        """What the call would do, as it resolves in the box, and the verdict; or why it cannot be done at all."""
        assert call.tool is not None
        policy, place = self.policy(), self.place
        effects = policy.expand(call.tool.effects(call.args, place), place)
        box = await self.need_box() if any(not isinstance(effect, AskUser) for effect in effects) else None
        if box is not None:
            effects, problem = await self._resolve(call.id, box, effects)
            if problem:
                return problem
        verdict = policy.judge(effects, tool=call.name, place=place, sent=call.input)
        return Case(effects=effects, place=place, box=box, verdict=verdict)

    def _answered(self, call: Call, case: Case, given: ApprovalGiven) -> str:
        """Judge again what the user, or a hook, put in place of the call's own input; "" when nothing denies it.
        A hook has answered for the mode only.
        """
        verdict, by_hook = case.verdict, given.by == BY_HOOK
        if by_hook and verdict.decision is Decision.ASK and verdict.source is not Source.MODE:
            verdict = replace(verdict, decision=Decision.DENY, reason=f"{verdict.reason}; no hook answers that")
        if verdict.decision is not Decision.DENY:
            source = Source.HOOK if by_hook else Source.USER
            verdict = Verdict(decision=Decision.ALLOW, source=source, reason=f"as the {source.value} answered")
        self._record_judged(call.id, call.name, call.input, case.effects, verdict)
        if verdict.decision is Decision.DENY:
            return f"Permission to use {call.name} was denied: {verdict.reason}"
        self._judged.add((call.id, digest(call.input)))
        return ""

    async def need_box(self) -> Box:
        """The box, with what settings declare running in it. Raises SandboxError: the turn ends with it."""
        try:
            box = await self.box.get()
        except SandboxError as error:
            self.failure = self.failure or error
            raise
        if self.background is not None:
            await self.background.ready(box)
        return box

    async def _resolve(self, call: str, box: Box, effects: tuple[Effect, ...]) -> tuple[tuple[Effect, ...], str]:
        """Give every path effect its link and target, by one request; or the reason why one has none."""
        paths = tuple(dict.fromkeys(e.path for e in effects if isinstance(e, ReadPath | WritePath)))
        if not paths:
            return effects, ""
        found: dict[PurePosixPath, Resolution] = {r.path: r for r in await self._guard(box, box.resolve(paths))}
        self.record(
            Resolved(
                call=call,
                paths=[
                    {"path": str(r.path), "link": str(r.link), "target": str(r.target), "exists": r.kind != ""}
                    | ({"error": r.error} if r.error else {})
                    for r in found.values()
                ],
            ),
            cause=call,
        )
        # What a command names and cannot be resolved, the command cannot open either.
        command = any(isinstance(effect, RunCommand) for effect in effects)
        failed = next((r for r in found.values() if r.error and not command), None)
        if failed is not None:
            return effects, f"{failed.path} cannot be resolved: {failed.error}"
        return tuple(
            replace(e, link=found[e.path].link, target=found[e.path].target)
            if isinstance(e, ReadPath | WritePath) and not found[e.path].error
            else e
            for e in effects
        ), ""

    async def _guard(self, box: Box, work: Awaitable[Any]) -> Any:
        """Await something of the box; when the box is lost, arrange for another or give the turn up."""
        try:
            return await work
        except PathError:
            raise
        except SandboxError as error:
            if not self.box.lost(box, error):
                self.failure = self.failure or error
            raise

    async def _decide(
        self, call: Call, effects: tuple[Effect, ...], verdict: Verdict
    ) -> tuple[str, ApprovalGiven | None]:
        """Record the verdict and, where it is ask, the answer. "" when the call may run, else why not; the answer."""
        given: ApprovalGiven | None = None
        self._record_judged(call.id, call.name, call.input, effects, verdict)
        if verdict.decision is Decision.DENY:
            return f"Permission to use {call.name} was denied: {verdict.reason}", None
        if verdict.decision is Decision.ASK:
            given = await self.hooks.asked(call, effects, verdict) if self.hooks is not None else None
            if given is None:
                given = await self._ask(call, effects, verdict)
            else:
                self.record(given, cause=call.id)
            if not given.allowed:
                why = f"{verdict.reason}; {given.reason}" if given.reason else verdict.reason
                return f"Permission to use {call.name} was not given: {why}", given
        self._judged.add((call.id, digest(call.input)))
        return "", given

    async def _ask(self, call: Call, effects: tuple[Effect, ...], verdict: Verdict) -> ApprovalGiven:
        """The user's answer, recorded, and kept where it is for always."""
        always = self._offer(call.name, effects, verdict)
        asked = ApprovalAsked(
            call=call.id,
            tool=call.name,
            input=call.input,
            reason=verdict.reason,
            always=always,
            kept=self.remember.kept if self.remember is not None and always else "",
        )
        if self.approver.can_ask:
            self.record(asked, cause=call.id)
            if self.hooks is not None:
                self.hooks.notify(f"fumehood needs your permission to use {call.name}")
        with self.waiting.of(call.id, self.monotonic):
            given = await self.approver.ask(asked)
        self.record(given, cause=call.id)
        if given.allowed and self.allowed_by_user is not None:
            self.allowed_by_user()
        if given.allowed and given.always and always and self.remember is not None:
            self.remember.keep(always)
        return given

    def _offer(self, tool: str, effects: tuple[Effect, ...], verdict: Verdict) -> str:
        if self.remember is None or not self.approver.can_ask:
            return ""
        return offer(self.policy(), tool, effects, self.place, verdict)

    def _record_judged(
        self, call: str, tool: str, sent: dict[str, Any], effects: tuple[Effect, ...], verdict: Verdict
    ) -> None:
        body = Judged(
            call=call,
            tool=tool,
            digest=digest(sent),
            effects=[effect_to_json(effect) for effect in effects],
            verdict=verdict.to_json(),
        )
        self.record(body, cause=call)

    async def _run(
        self, call: Call, case: Case, shown: Shown, answers: Mapping[str, str], *, state: ToolState | None = None
    ) -> ToolResult:
        assert call.tool is not None
        assert call.args is not None
        key = (call.id, digest(call.input))
        if key not in self._judged:
            raise RuntimeError(f"call {call.id} has no Judged for this input")
        self._judged.discard(key)
        box, effects = case.box, case.effects
        targets = {e.path: e.target or e.path for e in effects if isinstance(e, ReadPath | WritePath)}
        context = ToolContext(
            call=call.id,
            box=box if box is not None else _NO_BOX,
            place=case.place,
            state=self.state if state is None else state,
            targets=targets,
            show=shown.add,
            record=lambda body: self._record_task(body, call.id),
            spawn_task=self.spawn,
            environment=self.environment,
            exposed=self.exposed,
            planning=self.planning,
            answers=answers,
            consult=self.consult,
        )
        work = call.tool.run(call.args, context)
        self._running[call.id] = effects
        shown.ran = True
        try:
            result: ToolResult = await (work if box is None else self._guard(box, work))
        finally:
            self._running.pop(call.id, None)
        return result

    async def for_declared(self, call: Call, box: Box, verdict: Verdict, effects: tuple[Effect, ...]) -> ToolResult:
        """Start a background command that settings declare, in the directory where the session began: as any other
        call, but that it was decided on already. A state to go back to is kept first.
        """
        self._record_judged(call.id, call.name, call.input, effects, verdict)
        if verdict.decision is not Decision.ALLOW:
            return tool_error(verdict.reason)
        self._judged.add((call.id, digest(call.input)))
        await self._save(call.id)
        state = replace(self.state, cwd=self.state.start)
        case = Case(effects=effects, place=replace(self.place, cwd=state.cwd), box=box, verdict=verdict)
        shown = Shown(call=call.id, id=call.id, live=lambda *_: None, record=self.record)
        return await self._run(call, case, shown, {}, state=state)

    async def for_hook(self, call: str, work: Callable[[Box], Awaitable[Process]]) -> Process:
        """Let the door of hooks start one that it admitted. A state to go back to is kept first."""
        box = await self.need_box()
        if call not in self._saved:
            await self._save(call)
        process: Process = await self._guard(box, work(box))
        return process

    def _record_task(self, body: TaskUpdated, call: str) -> None:
        self.record(body, cause=call)


class _NoBox:
    """Stands where a call without effects would find its box: it declared that it needs none."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(f"a call without effects asked for the box ({name})")


_NO_BOX: Any = _NoBox()
