"""`fumehood "prompt"`: the options of a run. What they mean is `runner.app`'s, how it looks `runner.cli.drive`'s.

Parsed by argparse: typer converts values by pydantic, and a quarter of the time to the first model
request would be spent on reading the command line.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from runner import __version__
from runner.cli.start import Look, Start
from runner.cli.values import parse_size, read_prompt, repeat_variadic, split_rules
from runner.effects import Mode
from runner.errors import UsageError

USAGE = 'fumehood [OPTIONS] "PROMPT"\n       fumehood COMMAND [OPTIONS] ...'
ABOUT = """\
A coding agent that may do anything, because it does it in a box.

Runs PROMPT in a container made for it; your directory stays untouched until `fumehood apply`.
"""
COMMANDS = """\
commands (only as the first word; -- makes them a prompt):
  diff [SESSION] [PATH]...   what the session changed, as a patch; between checkpoints too
  apply [SESSION] [PATH]...  bring the changes over to your directory
  undo [N]                   take the last N turns back, files and conversation
  redo                       take the last undo back
  rewind MESSAGE|CHECKPOINT  go back to any point; --files, --conversation, --dry-run
  checkpoints [SESSION]      the states that can be gone back to
  show CHECKPOINT:PATH       a file as it was
  fork [SESSION] [POINT]     several sessions from one point: -n N
  compare SESSION...         what sessions came to, side by side
  keep SESSION               keep one fork and discard the others
  discard [SESSION]          drop the session with its changes
  sessions                   list sessions
  shell [SESSION]            a terminal in the box
  port PORT [SESSION]        a server in the box, in your browser
  doctor                     what works on this machine, and what does not
  images list|build          the images that boxes are made from
  clean                      remove what dead sessions left running
  du [SESSION]               what sessions and caches take on the disk
  gc                         collect old checkpoints, leftovers and old caches
  fsck [SESSION]             verify all that is kept
  net COMMAND                what left the box and what was refused: log, explain, test, recorded
  policy COMMAND             what is allowed here and why; check, test and sign policy files
  audit COMMAND              verify, anchor, report or export a session's journal
  trust                      let this repository's settings count; --list, --revoke
"""


def run(arguments: Sequence[str]) -> int:
    """Run a prompt; returns the exit code. Raises UsageError, SystemExit for what argparse refuses or answers."""
    given = _parser().parse_intermixed_args(repeat_variadic(list(arguments)))
    start, look = _start(given), _look(given)
    text = read_prompt(given.words, given.file)
    return int(import_module("runner.cli.drive").drive(start, text, look))  # --help does without it


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fumehood",
        usage=USAGE,
        description=ABOUT,
        epilog=COMMANDS,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("words", nargs="*", metavar="PROMPT", help="what to do; also from standard input and --file")
    parser.add_argument("-v", "--version", action="version", version=f"{__version__} (fumehood)")
    for title, add in (("output", _add_output), ("session", _add_session), ("model", _add_model)):
        add(parser.add_argument_group(title))
    _add_permissions(parser.add_argument_group("permissions"))
    _add_box(parser.add_argument_group("box"))
    return parser


def _add_output(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("-p", "--print", dest="print_only", action="store_true", help="print the reply and end; nobody is asked")
    add("--file", type=Path, metavar="FILE", help="read the prompt from a file (- is standard input)")
    add("--output-format", choices=("text", "json", "stream-json"), default="text", help="how -p prints")
    add("--verbose", action="store_true", help="json: all messages, not only the result")
    add("--include-partial-messages", dest="partial", action="store_true", help="stream-json: pieces of messages too")
    add("-q", "--quiet", action="store_true", help="no progress")


def _add_session(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("-c", "--continue", dest="latest", action="store_true", help="go on with this directory's latest session")
    add("-r", "--resume", metavar="SESSION", help="go on with a session")
    add("--session-id", dest="session", metavar="UUID", default="", help="id of the new session")
    add("--add-dir", type=Path, action="append", default=[], metavar="DIR", help="a further directory to see")
    add("--really", action="store_true", help="also where it is refused: your home, /")


def _add_model(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--model", metavar="MODEL", help="PROVIDER:NAME or NAME; default: FUMEHOOD_MODEL, ANTHROPIC_MODEL")
    add("--fallback-model", default="", metavar="MODELS", help="models to use while it is overloaded")
    add("--max-turns", type=_positive, metavar="N", help="model rounds at most")
    add("--max-budget-usd", type=_amount, metavar="USD", help="cost at most")
    add("--max-thinking-tokens", type=int, metavar="N", help="thinking budget; 0 is off")
    add("--system-prompt", metavar="TEXT", help="replaces the system prompt")
    add("--append-system-prompt", metavar="TEXT", help="added to the system prompt")


def _add_permissions(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--permission-mode", choices=[mode.value for mode in Mode], help="how tool calls are decided")
    add("--dangerously-skip-permissions", dest="bypass", action="store_true", help="mode bypassPermissions")
    add("--allowedTools", "--allowed-tools", dest="allow", action="append", metavar="RULES", help="rules that allow")
    add("--disallowedTools", "--disallowed-tools", dest="deny", action="append", metavar="RULES", help="that deny")
    add("--allow-host", dest="hosts", action="append", default=[], metavar="HOST", help="let the box reach it")
    add("--record-net", action="store_true", help="keep all that the box exchanges with the network, secrets left out")
    add("--record-net-limit", metavar="SIZE", help="at most so much of it (4g); 0 ends it in a session that goes on")
    add("--replay-net", metavar="SESSION|FILE", help="no network: what was recorded answers; '' ends that")
    add("--tools", action="append", metavar="NAMES", help="offer only these tools")
    add("--settings", metavar="FILE|JSON", help="further settings, above those of files")
    add("--setting-sources", metavar="NAMES", help="of user, project, local: whose settings count")
    add("--permission-prompt-tool", dest="prompt_tool", metavar="TOOL", help="with -p: mcp__SERVER__TOOL that is asked")
    add("--mcp-config", action="append", default=[], metavar="FILE|JSON", help="where that server is described")
    add("--strict-mcp-config", action="store_true", help="no other servers; there are none")


def _add_box(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--image", metavar="IMAGE", help="the box's image")
    add("--package", action="append", default=[], metavar="NAME", help="a Debian package added to the image")
    add("--system", choices=("readonly", "writable"), help="writable: commands may install packages")
    add("--runtime", metavar="NAME", help="OCI runtime (runsc, crun ...)")
    add("--cow", choices=("overlay", "reflink", "copy"), help="force how directories are copied on write")
    add("--memory", metavar="SIZE", help="memory of the box")
    add("--cpus", type=_amount, metavar="N", help="CPUs of the box")
    add("--pids", type=_positive, metavar="N", help="processes of the box")
    add("--disk", metavar="SIZE", help="disk budget of the session")
    add("--env", action="append", default=[], metavar="NAME", help="pass a variable into the box")


def _start(given: argparse.Namespace) -> Start:
    if given.bypass and given.permission_mode not in (None, Mode.BYPASS.value):
        raise UsageError("--dangerously-skip-permissions contradicts --permission-mode")
    if sum((given.latest, given.resume is not None, bool(given.session))) > 1:
        raise UsageError("--continue, --resume and --session-id exclude each other")
    if (given.latest or given.resume is not None) and given.add_dir:
        raise UsageError("--add-dir belongs to a new session; one that goes on keeps its directories")
    if given.mcp_config and given.prompt_tool is None:
        raise UsageError("--mcp-config serves --permission-prompt-tool only: MCP servers as tools are not built yet")
    if given.replay_net and (given.record_net or given.record_net_limit is not None):
        raise UsageError("--record-net and --replay-net exclude each other")
    mode = Mode.BYPASS if given.bypass else Mode(given.permission_mode) if given.permission_mode else None
    fields = _named(
        model=given.model,
        fallback_models=split_rules([given.fallback_model]),
        mode=mode,
        image=given.image,
        packages=split_rules(given.package),
        system_writable=given.system == "writable",
        runtime=given.runtime,
        cow=given.cow,
        allow=(*split_rules(given.allow or ()), *(f"Network({host})" for host in given.hosts)),
        deny=split_rules(given.deny or ()),
        settings=_chain().read_given(given.settings, Path.cwd()) if given.settings is not None else None,
        tools=(split_rules(given.tools) or ("",)) if given.tools is not None else None,
        thinking_tokens=given.max_thinking_tokens,
        system_prompt=given.system_prompt,
        append_system_prompt=given.append_system_prompt,
        environment=tuple(given.env),
        record_net=_record_limit(given),
        replay_net=_taping().recording_file(given.replay_net, os.environ) if given.replay_net else given.replay_net,
    )
    if given.setting_sources is not None:
        fields["setting_sources"] = read_sources(given.setting_sources)
    sizes = {name: parse_size(text) for name in ("memory", "disk") if (text := getattr(given, name))}
    return Start(
        fields=fields,
        turn=_named(max_turns=given.max_turns, max_budget_usd=given.max_budget_usd),
        box=_named(cpus=given.cpus, pids=given.pids) | sizes,
        add_dirs=tuple(given.add_dir),
        session=given.session,
        resume=given.resume,
        latest=given.latest,
        really=given.really,
        prompt_tool=given.prompt_tool,
        mcp_config=tuple(given.mcp_config),
    )


def _record_limit(given: argparse.Namespace) -> int | None:
    if given.record_net_limit is not None:
        return parse_size(given.record_net_limit)
    return _taping().LIMIT if given.record_net else None


def _taping() -> ModuleType:
    return import_module("runner.sessions.taping")


def read_sources(text: str) -> tuple[str, ...]:
    """`user,project,local`, or none of them. Raises UsageError."""
    names, known = tuple(name.strip() for name in text.split(",") if name.strip()), _chain().SOURCES
    if unknown := [name for name in names if name not in known]:
        raise UsageError(f"--setting-sources: {unknown[0]!r} is none of {', '.join(known)}")
    return names


def _chain() -> ModuleType:
    """What reads settings: --help does without it."""
    return import_module("runner.sessions.chain")


def _look(given: argparse.Namespace) -> Look:
    return Look(
        format=given.output_format,
        headless=given.print_only or given.output_format != "text",
        verbose=given.verbose,
        partial=given.partial,
        quiet=given.quiet,
    )


def _named(**values: Any) -> dict[str, Any]:
    """What was named on the command line: the rest keeps its default, or what the session had."""
    return {name: value for name, value in values.items() if value not in (None, ()) and value is not False}


def _amount(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return number


def _positive(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)
