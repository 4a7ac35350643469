"""One run from prompt to exit code: starts the session, shows its events in the asked form, and turns
signals into operations.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from importlib import import_module
from pathlib import Path, PurePosixPath
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Self

from runner import __version__
from runner import app as runner_app
from runner.app import Running
from runner.approval import ClientApprover
from runner.cli.entry import EXIT_INTERRUPTED, EXIT_TERMINATED, find_known, report, say
from runner.cli.start import Look, Start
from runner.errors import FumehoodError
from runner.events import Event, Failed, ModelAsked, TurnEnded
from runner.loop.operations import Answer, Interrupt, Prompt
from runner.sessions.chain import SOURCES
from runner.sessions.specs import silent
from runner.spec import SessionSpec
from sandbox.errors import SandboxError

if TYPE_CHECKING:
    from runner.loop.session import Session
    from runner.mcp.prompt_tool import PromptTool
    from runner.serve.output import Output
    from runner.ui.summary import ChangeCount
    from runner.ui.view import ViewState

EXIT_HANGUP = 129
YOUNG = 10_000  # objects of a session at work, at which the collector looks at the young ones
_ENDINGS = {"completed": 0, "interrupted": EXIT_INTERRUPTED}


def drive(start: Start, text: str, look: Look) -> int:
    """Run the prompt; returns the exit code."""
    signals = Signals()
    try:
        with asyncio.Runner() as runner:
            return runner.run(_drive(start, text, look, signals))
    except asyncio.CancelledError:
        if not signals.ended:
            raise RuntimeError("the run was cancelled from within") from None
        return signals.exit_code


class Signals:
    """The first Ctrl-C interrupts the turn, the second ends the program, as SIGTERM and SIGHUP do at once."""

    def __init__(self) -> None:
        self.exit_code = EXIT_INTERRUPTED
        self.ended = False
        self.session: Session | None = None
        self._asked = False
        self._main: asyncio.Task[Any] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def __enter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._main = asyncio.current_task()
        loop.add_signal_handler(signal.SIGINT, self._interrupt)
        loop.add_signal_handler(signal.SIGTERM, self._end, EXIT_TERMINATED)
        loop.add_signal_handler(signal.SIGHUP, self._end, EXIT_HANGUP)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.remove_signal_handler(number)
        signal.signal(signal.SIGINT, _exit_now)

    def _interrupt(self) -> None:
        if self._asked or self.session is None:
            self._end(EXIT_INTERRUPTED)
            return
        self._asked = True
        task = asyncio.get_running_loop().create_task(self.session.submit(Interrupt()))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _end(self, code: int) -> None:
        self.exit_code, self.ended = code, True
        assert self._main is not None
        self._main.cancel()


def _exit_now(_number: int, _frame: FrameType | None) -> None:
    """Ctrl-C while everything is being closed already: the kernel drops the lock, the box ends itself."""
    os._exit(EXIT_INTERRUPTED)


async def _drive(start: Start, text: str, look: Look, signals: Signals) -> int:
    with signals:
        if look.asks and start.resume is None and not start.latest:
            sources = tuple(start.fields.get("setting_sources", SOURCES))
            import_module("runner.cli.trust").ask_before_run(Path.cwd(), os.environ, sources)
        spec = make_spec(start)
        try:
            return await _run(spec, text, look, signals, _prompt_tool(start))
        except (FumehoodError, SandboxError, ExceptionGroup) as error:
            known = find_known(error)
            if known is None or not look.headless or look.format == "text":
                raise
            report(known)
            return int(_output(spec, (), look).abort(str(known), known.exit_code))


def _prompt_tool(start: Start) -> PromptTool | None:
    """Who is asked in place of the user, where the command line says so. Raises UsageError."""
    if start.prompt_tool is None:
        return None
    made: PromptTool = import_module("runner.mcp.prompt_tool").prompt_tool(
        start.prompt_tool, start.mcp_config, os.environ, Path.cwd()
    )
    return made


async def _run(spec: SessionSpec, text: str, look: Look, signals: Signals, prompt_tool: PromptTool | None) -> int:
    async with runner_app.own(
        spec,
        environ=os.environ,
        approver=ClientApprover() if look.asks else None,
        prompt_tool=prompt_tool,
        progress=silent if look.quiet else say,
    ) as running:
        session = signals.session = running.session
        number = session.journal.last_turn + 1
        await session.submit(Prompt.text(text))
        watch = Ending(number)
        events = await _asked(watch.follow(session.events(after=running.before)))
        gc.freeze()  # what is there by now stays: it is not looked through for garbage
        gc.set_threshold(YOUNG)
        if look.headless:
            output = await asyncio.to_thread(_output, spec, tuple(session.gate.tools), look)
            return int(await output.follow(events))
        if look.quiet:
            async for _ in events:
                pass
        elif look.live:
            await _draw(running, events, look, spec)
        else:
            await _tell(running, events, spec)
        return watch.exit_code


async def _asked(events: AsyncIterator[Event]) -> AsyncIterator[Event]:
    """The same events, once the first request to the model is on its way (or none will be): what prints
    them is imported only then.
    """
    held: list[Event] = []
    async for event in events:
        held.append(event)
        if isinstance(event.body, ModelAsked | TurnEnded):
            break

    async def again() -> AsyncIterator[Event]:
        for event in held:
            yield event
        async for event in events:
            yield event

    return again()


def make_spec(start: Start) -> SessionSpec:
    """The new session's spec, or that of the one to go on with, with what the command line changes in it."""
    cwd = Path.cwd()
    changes: dict[str, Any] = {"fields": start.fields, "turn": start.turn, "box": start.box}
    if start.resume is not None or start.latest:
        return runner_app.resume_spec(start.resume, cwd=cwd, environ=os.environ, notify=say, **changes)
    return runner_app.new_spec(
        cwd,
        environ=os.environ,
        session=start.session,
        add_dirs=start.add_dirs,
        really=start.really,
        notify=say,
        **changes,
    )


class Ending:
    """Watches events go by for how turn `number` ends. The end of an earlier one, noted when a session that
    was cut off is taken up, is left out.
    """

    def __init__(self, number: int) -> None:
        self.exit_code = 1
        self._number = number

    async def follow(self, events: AsyncIterator[Event]) -> AsyncIterator[Event]:
        """The same events, to the turn's end."""
        failed = 0
        async for event in events:
            match event.body:
                case Failed(retrying=False, exit_code=code):
                    failed = code
                case TurnEnded(number=number) if number != self._number:
                    continue
                case TurnEnded(reason=reason):
                    self.exit_code = failed or _ENDINGS.get(reason, 1)
                    yield event
                    return
                case _:
                    pass
            yield event


def _output(spec: SessionSpec, tools: tuple[str, ...], look: Look) -> Output:
    serve, messages = import_module("runner.serve.output"), import_module("runner.serve.stream_json")
    prices = import_module("runner.models.prices")
    init = messages.Init(
        session=spec.session,
        cwd=spec.cwd,
        model=spec.model.partition(":")[2],
        mode=spec.mode.value,
        version=__version__,
        tools=tools,
        api_key_source="ANTHROPIC_API_KEY" if os.environ.get("ANTHROPIC_API_KEY") else "none",
    )
    translator = messages.Messages(init, partial=look.partial, sizes=prices.sizes_of)
    notify = None if look.quiet else say
    made: Output = serve.Output(look.format, translator, verbose=look.verbose, notify=notify)
    return made


async def _draw(running: Running, events: AsyncIterator[Event], look: Look, spec: SessionSpec) -> None:
    """Live, in a terminal. Its drawing library is read beside the first model request."""
    live = await asyncio.to_thread(import_module, "runner.ui.live")

    async def answer(call: str, allowed: bool, always: bool) -> None:
        await running.session.submit(Answer(call=call, allowed=allowed, always=always))

    async def choose(call: str, sent: dict[str, Any]) -> None:
        await running.session.submit(Answer(call=call, allowed=True, input=sent))

    asked = {"answer": answer, "choose": choose} if look.asks else {}
    shown = live.Live(sys.stdout, keys=sys.stdin, state=await _past(running, spec), **asked)
    await _summarise(running, await shown.follow(events))


async def _tell(running: Running, events: AsyncIterator[Event], spec: SessionSpec) -> None:
    """Plain lines, where there is no terminal to draw on."""
    plain = await asyncio.to_thread(import_module, "runner.ui.plain")
    shown = plain.Plain(sys.stdout, state=await _past(running, spec))
    await _summarise(running, await shown.follow(events))


async def _past(running: Running, spec: SessionSpec) -> ViewState | None:
    """Where a session that goes on stands; None for a new one."""
    if running.before < 0:
        return None
    view = import_module("runner.ui.view")
    state: ViewState = view.ViewState()
    for event in running.session.journal.read(limit=running.before + 1):
        state = view.fold(state, event)
    taken: ViewState = view.take_up(state, spec)
    return taken


async def _summarise(running: Running, view: ViewState) -> None:
    """The last lines of a run: what it came to, what changed, and the commands that go on from here."""
    summary = import_module("runner.ui.summary")
    changes = await _count(running, summary.ChangeCount) if view.box.state != "starting" else None
    glyphs = import_module("runner.ui.glyphs").glyphs_for(sys.stdout.encoding)
    import_module("runner.ui.plain").print_lines(sys.stdout, summary.summary(view, changes, glyphs=glyphs))


async def _count(running: Running, count: Callable[..., ChangeCount]) -> ChangeCount | None:
    try:
        rows = [row for row in await running.access.changes() if ".git" not in str(row["path"]).split("/")]
    except SandboxError as error:
        say(f"what changed could not be counted: {error}", hint=error.hint)
        return None
    filled = {(row["root"], str(above)) for row in rows for above in PurePosixPath(row["path"]).parents}
    rows = [row for row in rows if not (_is_directory(row) and (row["root"], row["path"]) in filled)]
    return count(files=len(rows), added=sum(row["added"] for row in rows), removed=sum(row["removed"] for row in rows))


def _is_directory(row: dict[str, Any]) -> bool:
    """Not a file that became one, which is a change of its own."""
    return bool(row["kind"] != "type" and (row["new"] or row["old"] or {}).get("type") == "directory")
