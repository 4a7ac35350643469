"""Session: THE loop. Prompts come in as operations, everything that happens goes out as events.

It owns the turn: prompt → request → reply → calls through the gate → next request, until the agent
rests or a limit is reached. What a call may do is the gate's, what a request holds is history's.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Self, assert_never

from runner.approval import Approver
from runner.effects import Mode
from runner.errors import UsageError
from runner.events import (
    Body,
    Event,
    HeadMoved,
    ModelReplied,
    TaskUpdated,
    TurnEnded,
)
from runner.journal import Journal
from runner.loop.boxes import BoxHandle
from runner.loop.classifier import CLASSIFIER, Classifier
from runner.loop.context import Context
from runner.loop.feed import Feed
from runner.loop.gate import Gate
from runner.loop.gitstate import GitState
from runner.loop.history import History
from runner.loop.hooked import hooked
from runner.loop.modes import Change, Modes, Remember
from runner.loop.operations import (
    Answer,
    Close,
    Interrupt,
    Operation,
    Prompt,
    SetMode,
    SetModel,
    Undo,
    given_by_client,
)
from runner.loop.orchestrate import SIDE_BY_SIDE, Calls
from runner.loop.reply import Asker, CostOf
from runner.loop.restore import restore
from runner.loop.rounds import Rounds
from runner.loop.usage import Usage
from runner.models.base import Model
from runner.policy.policy import Policy
from runner.spec import TurnLimits
from runner.tools.base import Exposed, Tool, ToolState, nothing_exposed
from runner.tools.registry import tool_spec
from runner.variables import count
from sandbox.spec import Box

if TYPE_CHECKING:
    from runner.hooks.run import Hooks
    from runner.loop.background import Background

MAX_OUTPUT_TOKENS = 32_000
READER, READER_TOKENS = "reader", 4000
_NO_TASK: asyncio.Task[None] | None = None


class Session:
    """An async context manager; leaving it closes the session. `box` is awaited at the first need and must
    give the same box each time; `restart_box` gives a new one over the same layers. `between` hears that
    calls have ended and the model is asked next. `resolve_model`
    serves SetModel, `small_model` what needs no large one. Whoever made journal, models and boxes closes them.
    """

    def __init__(
        self,
        *,
        journal: Journal,
        model: Model,
        tools: Sequence[Tool[Any]],
        policy: Policy,
        approver: Approver,
        box: Callable[[], Awaitable[Box]],
        context: Context,
        cost_of: CostOf,
        limits: TurnLimits | None = None,
        restart_box: Callable[[], Awaitable[Box]] | None = None,
        resolve_model: Callable[[str], Model] | None = None,
        small_model: Callable[[], Model | None] | None = None,
        before_write: Callable[[str], Awaitable[None]] | None = None,
        before_turn: Callable[[bool], Awaitable[None]] | None = None,
        after_turn: Callable[[], Awaitable[None]] | None = None,
        between: Callable[[], None] | None = None,
        undo: Callable[[int], Awaitable[object]] | None = None,
        hooks: Hooks | None = None,
        background: Callable[[Gate], Background] | None = None,
        look: Callable[[Mode, str], Change | None] | None = None,
        remember: Remember | None = None,
        environment: Mapping[str, str] | None = None,
        exposed: Exposed = nothing_exposed,
        max_output_tokens: int | None = None,
        thinking_tokens: int | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.journal = journal
        self.usage = Usage()
        self._model, self._resolve_model = model, resolve_model
        self._modes = modes = Modes(policy, self.record, look=look, remember=remember)
        self._approver, self._undo = approver, undo
        self._feed, self._history = Feed(journal, lambda: self._number), History()
        self._number = self._given = journal.last_turn
        self._prompts: asyncio.Queue[tuple[int, Prompt]] = asyncio.Queue()
        self._running, self._working, self._closing = _NO_TASK, _NO_TASK, _NO_TASK
        self._still = asyncio.Lock()
        self._background: set[asyncio.Task[Any]] = set()
        self.gate = Gate(
            record=self.record,
            new_id=journal.ids,
            tools={tool.name: tool for tool in tools},
            policy=lambda: modes.policy,
            approver=approver,
            box=BoxHandle(box, restart_box, self.record),
            state=ToolState(cwd=context.cwd),
            home=context.box_home,
            roots=context.roots,
            spawn=self._spawn,
            before_write=before_write,
            remember=modes if remember is not None else None,
            environment=environment or {},
            exposed=exposed,
            monotonic=monotonic,
            planning=modes,
        )
        classifier = Classifier(
            model=lambda: self._model,
            messages=lambda: self._history.messages,
            record=self._record_aside,
            cost_of=cost_of,
        )
        self.gate.classify, self.gate.allowed_by_user = classifier, classifier.forget
        self._git = GitState(self.gate.helper)
        self.gate.consult, self._small = self._consult, small_model
        self.gate.hooks = self._hooks = hooked(hooks, self.gate, mode=lambda: self.mode.value, ask=self._ask_for_hook)
        self.gate.background = background(self.gate) if background is not None else None
        most = count(self.gate.environment, "CLAUDE_CODE_MAX_TOOL_USE_CONCURRENCY", SIDE_BY_SIDE)
        calls = Calls(gate=self.gate, live=self._feed.show, most=most)
        self._asker = Asker(
            record=self.record,
            show=self._feed.show,
            calls=calls,
            cost_of=cost_of,
            system=context.system(),
            tools=tuple(
                tool_spec(tool) for tool in tools if not policy.hides(tool.name) and (approver.can_ask or not tool.asks)
            ),
            max_output_tokens=max_output_tokens or MAX_OUTPUT_TOKENS,
            thinking_tokens=thinking_tokens,
            monotonic=monotonic,
        )
        self._rounds = Rounds(
            record=self.record,
            gate=self.gate,
            calls=calls,
            asker=self._asker,
            model=lambda: self._model,
            history=self._history,
            usage=self.usage,
            modes=modes,
            context=context,
            git=self._git,
            hooks=self._hooks,
            limits=limits if limits is not None else TurnLimits(),
            before_turn=before_turn,
            after_turn=after_turn,
            between=between,
            monotonic=monotonic,
        )

    async def __aenter__(self) -> Self:
        """Takes the journal up where it stands, and begins to take operations."""
        self.journal.on_append.append(self._fold)
        restore(self.journal, history=self._history, usage=self.usage, state=self.gate.state, record=self.record)
        self._working = asyncio.create_task(self._work())
        if self.gate.background is not None:
            self._spawn(self.gate.background.begin())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def history(self) -> tuple[dict[str, Any], ...]:
        """The conversation as the model was sent it."""
        return tuple(self._history.messages)

    @property
    def mode(self) -> Mode:
        """The permission mode in force."""
        return self._modes.policy.mode

    @property
    def model(self) -> str:
        """The name of the model that the next request goes to."""
        return self._model.name

    def enforce(self, change: Change) -> None:
        """Another policy, from the next call on."""
        self._modes.enforce(change)

    def record(self, body: Body, *, cause: str = "", id: str = "", agent: str = "main") -> Event:  # noqa: A002 (the record's own word)
        """Journal something that happened in this session, and show it. Raises JournalError."""
        return self.journal.append(body, agent=agent, turn=self._number, cause=cause, id=id)

    def _record_aside(self, body: Body, *, cause: str = "") -> Event:
        """Journal what mode auto's classifier said: no part of the conversation."""
        return self.journal.append(body, agent=CLASSIFIER, turn=self._number, cause=cause)

    def _fold(self, event: Event) -> None:
        """Take in a record, whoever of this process wrote it."""
        if isinstance(event.body, HeadMoved):
            self._turn_back()
        elif event.agent == "main":
            self._history.fold(event)
        if isinstance(event.body, ModelReplied):
            self.usage.add(event.body)
            if self._rounds.turn is not None:
                self._rounds.turn.add(event.body, says=event.agent == "main")

    def _turn_back(self) -> None:
        """Take up the branch that history goes on from now. What was read must be read again."""
        self._history.begin()
        state = self.gate.state
        if self._hooks is not None:
            self._hooks.notes.clear()
        state.todos = []
        for event in self.journal.path():
            self._history.fold(event)
            if isinstance(event.body, TaskUpdated) and event.body.kind == "todos":
                state.todos = list(event.body.items) if event.body.state != "cleared" else []
        state.seen.clear()
        state.partial.clear()

    @asynccontextmanager
    async def quiet(self) -> AsyncIterator[None]:
        """No turn runs meanwhile; the rest of one that has ended is waited for. Raises UsageError where one runs or
        waits.
        """
        still = self._running is None and not self._still.locked()
        if not self._prompts.empty() or not (still or self._rounds.over):
            raise UsageError("a turn is running: stop it first (Ctrl-C there), or wait for its end")
        async with self._still:
            yield

    async def submit(self, operation: Operation) -> None:
        """Hand an operation in; returns when it is accepted, not when it is done. Raises UsageError."""
        match operation:
            case Prompt():
                self._take(operation)
            case Interrupt():
                self._interrupt()
            case Answer():
                self._approver.answer(given_by_client(operation))
            case SetMode(mode=mode):
                self._modes.change(mode, "client")
            case SetModel(model=model):
                if self._resolve_model is None:
                    raise UsageError("the model of this session cannot be changed")
                self._model = self._resolve_model(model)
            case Undo(steps=steps):
                if self._undo is None:
                    raise UsageError("this session has no checkpoints to go back to")
                await self._undo(steps)
            case Close():
                self._spawn(self.close())
            case _:
                assert_never(operation)

    def _take(self, prompt: Prompt) -> int:
        """Queue a prompt; the number of its turn."""
        if self._closing or self._working is None or self._working.done():
            raise UsageError("this session is closed")
        self._given += 1
        self._prompts.put_nowait((self._given, prompt))
        return self._given

    def events(self, after: int = -1) -> AsyncIterator[Event]:
        """Records with seq > `after`, then what happens; ends when the session is closed."""
        return self._feed.events(after)

    async def turn(self, text: str) -> AsyncIterator[Event]:
        """Give a prompt and follow its turn to the end. Leaving early does not stop it: submit Interrupt."""
        after = self.journal.last_seq
        number = self._take(Prompt.text(text))
        async for event in self.events(after):
            if event.turn == number:
                yield event
            if isinstance(event.body, TurnEnded) and event.body.number == number:
                return
        if self._working is not None and self._working.done():
            self._working.result()

    async def close(self) -> None:
        """Interrupt what runs, stop background commands, end every reader; again is no harm. Raises JournalError."""
        if self._working is not None:
            self._closing = self._closing or asyncio.create_task(self._close(self._working))
            await asyncio.shield(self._closing)

    async def _close(self, working: asyncio.Task[None]) -> None:
        self._interrupt()
        if self._running is not None:
            await asyncio.wait({self._running})
        if self._hooks is not None:
            await self._hooks.ended()
        self._git.cancel()
        tasks = {working, *self._background}
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        self.journal.on_append.remove(self._fold)
        await asyncio.to_thread(self.journal.sync)
        if not working.cancelled():
            working.result()

    def _interrupt(self) -> None:
        if self._running is not None:
            # Not before its first step: a task that never began records nothing.
            asyncio.get_running_loop().call_soon(self._running.cancel)

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task

    async def _work(self) -> None:
        """One turn after the other. An error of the journal ends the session: nothing is shown unrecorded."""
        try:
            while self._closing is None:
                number, prompt = await self._prompts.get()
                async with self._still:
                    self._number = number
                    self._rounds.over = False
                    self._running = asyncio.create_task(self._rounds.run(prompt, number))
                    await asyncio.wait({self._running})
                    finished, self._running = self._running, None
                finished.result()
                await asyncio.to_thread(self.journal.sync)
        finally:
            self._feed.close()

    async def _consult(self, prompt: str) -> str:
        """A small model's answer about what a tool found; the session's own model's where there is no smaller one."""
        small = self._small() if self._small is not None else None
        return await self._asker.aside(small or self._model, prompt, agent=READER, tokens=READER_TOKENS)

    async def _ask_for_hook(self, prompt: str, name: str) -> str:
        """The model's answer to a hook's question: no tools, nothing of the conversation."""
        model = self._model if not name or self._resolve_model is None else self._resolve_model(name)
        return await self._asker.aside(model, prompt)
