"""Bash: run a shell command in the box, in the foreground or as a background task."""

from __future__ import annotations

import hashlib
import signal
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from pydantic import Field

from runner.effects import Effect, Place, RunCommand
from runner.tools.arguments import Arguments
from runner.tools.base import Task, Tool, ToolContext, ToolResult, described, tool_error
from runner.tools.exitcodes import interpretation
from runner.tools.output import Live, clean, human_size, is_binary, shortened
from runner.tools.tasks import follow, started
from runner.tools.textfile import changed_since_seen
from runner.tools.viewed import viewed_file
from runner.variables import count, says
from sandbox.errors import PathError
from sandbox.spec import Capture, Command, Exited, Process, Stdout

DESCRIPTION = described(__file__)
DEFAULT_TIMEOUT_MS = 120_000
MAX_TIMEOUT_MS = 600_000
DEFAULT_OUTPUT = 30_000
TAIL = 16 << 10
COMMAND_ENVIRONMENT = {"CLAUDECODE": "1", "GIT_EDITOR": "true", "GIT_TERMINAL_PROMPT": "0"}
SANDBOX_NOTE = "dangerouslyDisableSandbox has no effect here: every command runs in the box."


class BashArguments(Arguments):
    """What a Bash call may say."""

    command: str = Field(min_length=1, description="The command line, run by bash in the box")
    description: str | None = Field(None, description="What the command does, in five to ten words")
    timeout: float | None = Field(None, gt=0, description="Milliseconds until it is killed (at most 600000)")
    run_in_background: bool = Field(
        default=False, description="Return at once; the output goes to a file that Read can open"
    )
    dangerously_disable_sandbox: bool = Field(
        default=False, alias="dangerouslyDisableSandbox", description="Accepted and without effect"
    )


class Bash(Tool[BashArguments]):
    """Runs one command; the working directory carries over to the next, nothing else does."""

    name = "Bash"
    args = BashArguments

    @property
    def description(self) -> str:
        """The text for the model."""
        return DESCRIPTION

    def effects(self, args: BashArguments, place: Place) -> tuple[Effect, ...]:
        """One command, wherever it leads."""
        return (RunCommand(command=args.command, cwd=place.cwd, background=args.run_in_background),)

    async def run(self, args: BashArguments, ctx: ToolContext) -> ToolResult:
        """Run it, or start it and come back."""
        if "\0" in args.command:
            return tool_error("The command contains a NUL character, which no command line can hold.")
        if len(args.command.encode()) > 120_000:
            return tool_error("The command is longer than 120,000 bytes. Write a script with Write and run that.")
        started_in = ctx.state.cwd
        try:
            process = await _start(args, ctx)
        except PathError as error:
            return tool_error(f"The command could not be started: {error}")
        notes = [SANDBOX_NOTE] if args.dangerously_disable_sandbox else []
        if ctx.state.cwd != started_in:
            notes.append(f"{started_in} no longer exists. Shell cwd was reset to {ctx.state.cwd}")
        if args.run_in_background:
            return _in_background(args, ctx, process, notes)
        live, data, end = Live(), bytearray(), None
        async for item in process:
            match item:
                case Stdout():
                    data += item.data
                    ctx.show(live.feed(item.data))
                case Exited():
                    end = item
        if end is None:
            return tool_error("The command's end was never reported.")
        await _remember_viewed(args.command, end, ctx)
        notes += _moved(end, ctx)
        return _result(args, ctx, bytes(data), end, notes)


async def _start(args: BashArguments, ctx: ToolContext) -> Process:
    """Start in the shell's cwd; where that is gone, in the first directory of the session that is there."""
    places = dict.fromkeys((ctx.state.cwd, ctx.state.start, *ctx.place.roots))
    for last, cwd in enumerate(places, start=1 - len(places)):
        try:
            process = await ctx.box.exec(_command(args, ctx, cwd))
        except PathError:
            if not last:
                raise
        else:
            ctx.state.cwd = cwd
            return process
    raise AssertionError  # the last place returned or raised


def _command(args: BashArguments, ctx: ToolContext, cwd: PurePosixPath) -> Command:
    inline = 0 if args.run_in_background else output_limit(ctx.environment)
    return Command(  # noqa: S604 - in the box
        argv=(args.command,),
        cwd=cwd,
        environment=COMMAND_ENVIRONMENT | dict(ctx.exposed(args.command)),
        shell=True,
        merge=True,
        timeout=None if args.run_in_background else timeout_ms(args.timeout, ctx.environment) / 1000,
        capture=Capture(inline=inline, tail=TAIL, path=output_path(ctx.call, args.command)),
        detach=args.run_in_background,
    )


def output_path(call: str, command: str) -> PurePosixPath:
    """Where the output of a call is kept in the box, when it is kept. The box never writes over a file that is
    there, so what comes twice (ids of a scripted model) differs by its command.
    """
    return PurePosixPath("/tmp", f"fumehood-{_digest(call + chr(0) + command)}.output")  # noqa: S108 - a path in the box


def _digest(call: str) -> str:
    return hashlib.sha256(call.encode()).hexdigest()[:10]


def timeout_ms(asked: float | None, environment: Mapping[str, str]) -> float:
    """The timeout in force: asked for or the default, never over the maximum."""
    usual = count(environment, "BASH_DEFAULT_TIMEOUT_MS", DEFAULT_TIMEOUT_MS)
    return min(asked or usual, count(environment, "BASH_MAX_TIMEOUT_MS", MAX_TIMEOUT_MS))


def output_limit(environment: Mapping[str, str]) -> int:
    """Bytes of output that the model gets in full."""
    return count(environment, "BASH_MAX_OUTPUT_LENGTH", DEFAULT_OUTPUT)


async def _remember_viewed(command: str, end: Exited, ctx: ToolContext) -> None:
    """A file that the command showed counts as read."""
    viewed = viewed_file(command) if end.code == 0 and not end.killed else None
    if viewed is None:
        return
    try:
        (resolution,) = await ctx.box.resolve((ctx.state.cwd / viewed.path,))
        stat = await ctx.box.stat(resolution.target)
    except PathError:
        return
    if stat.kind != "file":
        return
    target = resolution.target
    if not viewed.whole or end.path is not None:
        if target not in ctx.state.seen or changed_since_seen(ctx.state, target, stat):
            ctx.state.partial.add(target)
    else:
        ctx.state.partial.discard(target)
    ctx.state.seen[target] = stat


def _moved(end: Exited, ctx: ToolContext) -> list[str]:
    """Keep the cwd that the command ended in, where that lies in a root."""
    state = ctx.state
    if says(ctx.environment, "CLAUDE_BASH_MAINTAIN_PROJECT_WORKING_DIR"):
        state.cwd = state.start
        return []
    if end.cwd is None or end.cwd == state.cwd:
        return []
    if any(end.cwd.is_relative_to(root) for root in ctx.place.roots):
        state.cwd = end.cwd
        return []
    state.cwd = state.start
    return [f"Shell cwd was reset to {state.cwd}"]


def _result(args: BashArguments, ctx: ToolContext, data: bytes, end: Exited, notes: list[str]) -> ToolResult:
    binary = is_binary(data)
    text, truncated = _shown(data, end, binary=binary)
    meaning = interpretation(args.command, end.code) if not end.killed else ""
    status = _status(args, ctx, end)
    parts = [text.strip("\n"), f"Exit code {end.code}" if status == "exit" and not meaning else "", meaning]
    if status not in {"", "exit"}:
        parts.append(status)
    is_error = bool(status) and not meaning
    if not any(parts):
        parts.append("(no output)")
    user: dict[str, Any] = {"stdout": text, "stderr": "", "interrupted": bool(end.killed), "isImage": False}
    if meaning:
        user["returnCodeInterpretation"] = meaning
    if not end.size:
        user["noOutputExpected"] = True
    if end.killed == "timeout":
        user["timedOutAfterMs"] = int(timeout_ms(args.timeout, ctx.environment))
    if end.path is not None:
        user |= {"persistedOutputPath": str(end.path), "persistedOutputSize": end.size}
    if args.dangerously_disable_sandbox:
        user["dangerouslyDisableSandbox"] = False
    shown = "\n".join(part for part in [*parts, *notes] if part)
    return ToolResult(for_model=shown, for_user=user, is_error=is_error, truncated=truncated)


def _shown(data: bytes, end: Exited, *, binary: bool) -> tuple[str, bool]:
    """The output as the model sees it, and whether something of it was left out."""
    whole = clean(data)
    kept = f"All of it is in {end.path}" if end.path is not None else "The rest was not kept"
    if binary:
        note = f"[binary output, {human_size(end.size)}; {kept}]" if end.size > len(data) else "[binary output]"
        return f"{note}\n{whole[:500]}", len(whole) > 500 or end.size > len(data)
    if end.size <= len(data):
        return whole, False
    between = f"[… {human_size(end.size)} of output in all. {kept}: look into it with Read (offset, limit) or Grep …]"
    tail = clean(end.tail) if end.tail else whole
    return shortened(whole, tail, between=between), True


def _status(args: BashArguments, ctx: ToolContext, end: Exited) -> str:
    """Empty for success, "exit" for a plain failure, else what ended the command."""
    match end.killed:
        case "timeout":
            seconds = timeout_ms(args.timeout, ctx.environment) / 1000
            return (
                f"Command timed out after {seconds:g} s and was killed with everything it had started. Give a longer "
                "timeout (at most 600000 ms), or run_in_background for what is to go on."
            )
        case "output":
            return "Command was killed: it wrote more output than a file of the box may hold."
        case "memory":
            return "Command was killed: the box ran out of memory."
        case "":
            pass
        case other:
            return f"Command was killed ({other})."
    if end.code == 0:
        return ""
    return _signalled(end.code) or "exit"


def _signalled(code: int) -> str:
    number = -code if code < 0 else code - 128
    if code < 0 or number in {signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE}:
        name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
        hint = " (out of memory, or somebody killed it)" if number == signal.SIGKILL else ""
        return f"Exit code {code}: ended by {name}{hint}"
    return ""


def _in_background(args: BashArguments, ctx: ToolContext, process: Process, notes: list[str]) -> ToolResult:
    task = Task(id=f"b{_digest(ctx.call)[:7]}", command=args.command, output=output_path(ctx.call, args.command))
    started(task, process, ctx, description=args.description or "")
    ctx.spawn_task(follow(task, process, ctx))
    text = (
        f"Command is running in the background with ID {task.id}. Its output goes to {task.output}, which is there "
        "from the first output on: look at it with Read; stop the command with TaskStop."
    )
    user = {"stdout": "", "stderr": "", "interrupted": False, "isImage": False, "backgroundTaskId": task.id}
    return ToolResult(for_model="\n".join([text, *notes]), for_user=user | {"outputPath": str(task.output)})
