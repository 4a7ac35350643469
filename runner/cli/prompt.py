"""`fumehood "prompt"`: the options of a run. What they mean is `runner.app`'s, how it looks `runner.cli.drive`'s."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Argument, Option

from runner import __version__
from runner.cli.start import Start
from runner.cli.values import parse_size, read_prompt, repeat_variadic, split_rules
from runner.effects import Mode
from runner.errors import UsageError

rewrite = repeat_variadic
app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)

EPILOG = """\
Commands (when they are the first word; -- makes them a prompt):\n
  diff [SESSION]     what the session changed, as a patch\n
  apply [SESSION]    bring the changes over to your directory\n
  discard [SESSION]  drop the session with its changes\n
  sessions           list sessions\n
  shell [SESSION]    a terminal in the box\n
  doctor             what works on this machine, and what does not\n
  images             list or build images\n
  clean              remove what dead sessions left running
"""


class Format(StrEnum):
    """How output is printed."""

    TEXT = "text"
    JSON = "json"
    STREAM_JSON = "stream-json"


class Cow(StrEnum):
    """How a root is copied on write."""

    OVERLAY = "overlay"
    REFLINK = "reflink"
    COPY = "copy"


class System(StrEnum):
    """Whether the box's own system can be changed (apt)."""

    READONLY = "readonly"
    WRITABLE = "writable"


def _print_version(value: bool) -> None:
    if value:
        typer.echo(f"{__version__} (fumehood)")
        raise typer.Exit


@app.command(epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
def prompt(  # noqa: PLR0917  # the command line is this long
    words: Annotated[list[str] | None, Argument(metavar="PROMPT", help="What to do.", show_default=False)] = None,
    print_only: Annotated[bool, Option("--print", "-p", help="Print the reply and end; nobody is asked.")] = False,
    file: Annotated[
        Path | None, Option("--file", metavar="FILE", help="Read the prompt from a file (- is stdin).")
    ] = None,
    output_format: Annotated[Format, Option("--output-format", help="How -p prints.")] = Format.TEXT,
    verbose: Annotated[bool, Option("--verbose", help="Print every turn in full.")] = False,
    include_partial_messages: Annotated[
        bool, Option("--include-partial-messages", help="stream-json: pieces of messages too.")
    ] = False,
    continue_: Annotated[bool, Option("--continue", "-c", help="Go on with this directory's latest session.")] = False,
    resume: Annotated[str | None, Option("--resume", "-r", metavar="SESSION", help="Go on with a session.")] = None,
    session_id: Annotated[str | None, Option("--session-id", metavar="UUID", help="Id of the new session.")] = None,
    model: Annotated[str | None, Option("--model", metavar="MODEL", help="Model, as PROVIDER:NAME or NAME.")] = None,
    fallback_model: Annotated[
        str | None, Option("--fallback-model", metavar="MODELS", help="Models to use when it is overloaded.")
    ] = None,
    max_turns: Annotated[int | None, Option("--max-turns", metavar="N", min=1, help="Model rounds at most.")] = None,
    max_budget_usd: Annotated[float | None, Option("--max-budget-usd", metavar="USD", help="Cost at most.")] = None,
    max_thinking_tokens: Annotated[
        int | None, Option("--max-thinking-tokens", metavar="N", help="Thinking budget; 0 is off.")
    ] = None,
    permission_mode: Annotated[Mode | None, Option("--permission-mode", help="How tool calls are decided.")] = None,
    dangerously_skip_permissions: Annotated[
        bool, Option("--dangerously-skip-permissions", help="The same as --permission-mode bypassPermissions.")
    ] = False,
    allowed_tools: Annotated[
        list[str] | None, Option("--allowedTools", "--allowed-tools", metavar="RULES", help="Rules that allow.")
    ] = None,
    disallowed_tools: Annotated[
        list[str] | None, Option("--disallowedTools", "--disallowed-tools", metavar="RULES", help="Rules that deny.")
    ] = None,
    tools: Annotated[list[str] | None, Option("--tools", metavar="NAMES", help="Offer only these tools.")] = None,
    system_prompt: Annotated[
        str | None, Option("--system-prompt", metavar="TEXT", help="Replaces the system prompt.")
    ] = None,
    append_system_prompt: Annotated[
        str | None, Option("--append-system-prompt", metavar="TEXT", help="Added to it.")
    ] = None,
    add_dir: Annotated[
        list[Path] | None, Option("--add-dir", metavar="DIR", help="A further directory that the session sees.")
    ] = None,
    image: Annotated[str | None, Option("--image", metavar="IMAGE", help="The box's image.")] = None,
    package: Annotated[
        list[str] | None, Option("--package", metavar="NAME", help="A Debian package added to the image.")
    ] = None,
    system: Annotated[System, Option("--system", help="writable: commands may install packages.")] = System.READONLY,
    runtime: Annotated[str | None, Option("--runtime", metavar="NAME", help="OCI runtime (runsc, crun ...).")] = None,
    cow: Annotated[Cow | None, Option("--cow", help="Force how directories are copied on write.")] = None,
    memory: Annotated[str | None, Option("--memory", metavar="SIZE", help="Memory of the box.")] = None,
    cpus: Annotated[float | None, Option("--cpus", metavar="N", help="CPUs of the box.")] = None,
    pids: Annotated[int | None, Option("--pids", metavar="N", min=16, help="Processes of the box.")] = None,
    disk: Annotated[str | None, Option("--disk", metavar="SIZE", help="Disk budget of the session.")] = None,
    env: Annotated[list[str] | None, Option("--env", metavar="NAME", help="Pass a variable into the box.")] = None,
    really: Annotated[bool, Option("--really", help="Also where it is refused: your home, /.")] = False,
    quiet: Annotated[bool, Option("--quiet", "-q", help="No progress.")] = False,
    version: Annotated[  # noqa: ARG001  # its callback answers
        bool, Option("--version", "-v", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """A coding agent that may do anything, because it does it in a box.

    Runs PROMPT in a container made for it; your directory stays untouched until `fumehood apply`.
    """
    given = _given(
        model=model,
        mode=Mode.BYPASS if dangerously_skip_permissions else permission_mode,
        image=image,
        packages=split_rules(package or ()),
        system_writable=system is System.WRITABLE,
        runtime=runtime,
        cow=cow.value if cow else None,
        allow=split_rules(allowed_tools or ()),
        deny=split_rules(disallowed_tools or ()),
        tools=split_rules(tools) or ("",) if tools is not None else None,
        fallback_models=split_rules([fallback_model or ""]),
        thinking_tokens=max_thinking_tokens,
        system_prompt=system_prompt,
        append_system_prompt=append_system_prompt,
        environment=tuple(env or ()),
    )
    turn = _given(max_turns=max_turns, max_budget_usd=max_budget_usd)
    box = _given(
        memory=parse_size(memory) if memory else None, cpus=cpus, pids=pids, disk=parse_size(disk) if disk else None
    )
    if dangerously_skip_permissions and permission_mode not in (None, Mode.BYPASS):
        raise UsageError("--dangerously-skip-permissions contradicts --permission-mode")
    if sum((continue_, resume is not None, session_id is not None)) > 1:
        raise UsageError("--continue, --resume and --session-id exclude each other")
    if (continue_ or resume) and add_dir:
        raise UsageError("--add-dir belongs to a new session; a session that goes on keeps its directories")
    text = read_prompt(words or (), file)

    from runner.cli.drive import Look, drive  # noqa: PLC0415  # start-up time: --help does without it

    look = Look(
        format=output_format.value,
        headless=print_only or output_format is not Format.TEXT,
        verbose=verbose,
        partial=include_partial_messages,
        quiet=quiet,
    )
    start = Start(
        fields=given,
        turn=turn,
        box=box,
        add_dirs=tuple(add_dir or ()),
        session=session_id or "",
        resume=resume,
        latest=continue_,
        really=really,
    )
    raise typer.Exit(drive(start, text, look))


def _given(**values: Any) -> dict[str, Any]:
    """What was named on the command line: the rest keeps its default, or what the session had."""
    return {name: value for name, value in values.items() if value not in (None, (), False)}
