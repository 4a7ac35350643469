"""From arguments to a command, and from an error to one line and an exit code."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from runner.errors import FumehoodError
from sandbox.errors import DiskFullError, SandboxError, WorkspaceError

COMMANDS = {
    "diff": "runner.cli.diff",
    "apply": "runner.cli.apply",
    "discard": "runner.cli.discard",
    "undo": "runner.cli.undo",
    "redo": "runner.cli.redo",
    "rewind": "runner.cli.rewind",
    "checkpoints": "runner.cli.checkpoints",
    "show": "runner.cli.show",
    "fork": "runner.cli.fork",
    "compare": "runner.cli.compare",
    "keep": "runner.cli.keep",
    "sessions": "runner.cli.sessions",
    "shell": "runner.cli.shell",
    "port": "runner.cli.port",
    "doctor": "runner.cli.doctor",
    "images": "runner.cli.images",
    "clean": "runner.cli.clean",
    "gc": "runner.cli.gc",
    "du": "runner.cli.du",
    "fsck": "runner.cli.fsck",
    "net": "runner.cli.net",
    "policy": "runner.cli.policy",
    "audit": "runner.cli.audit",
    "trust": "runner.cli.trust",
}
EXIT_INTERNAL = 70
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143


def run_command_line(arguments: Sequence[str]) -> int:
    """Run `fumehood ARGUMENTS`; returns the exit code. Only a first argument names a command."""
    _open_streams()
    try:
        if arguments and arguments[0] in COMMANDS:
            return _run(COMMANDS[arguments[0]], arguments[1:], f"fumehood {arguments[0]}")
        return int(import_module("runner.cli.prompt").run(arguments))
    except SystemExit as end:
        return _code(end)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_INTERRUPTED + 11
    except Exception as error:  # the last resort: a clear line instead of a traceback
        if os.environ.get("FUMEHOOD_DEBUG"):
            raise
        return report(error)


def _open_streams() -> None:
    """A standard stream that the caller closed (`>&-`) leads nowhere; no file of ours takes its number."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", closefd=False))


def _run(module: str, arguments: Sequence[str], name: str) -> int:
    """A command's module holds `app`, a Typer."""
    import typer  # noqa: PLC0415  # start-up time: --version and a prompt do without it

    command = import_module(module)
    typer.main.get_command(command.app)(args=list(arguments), prog_name=name)
    return 0


def _code(end: SystemExit) -> int:
    """What a parser or a command ended with."""
    if end.code is None:
        return 0
    return end.code if isinstance(end.code, int) else 1


def report(error: BaseException) -> int:
    """Say on stderr what went wrong, in one line and a hint; returns the exit code."""
    known = find_known(error)
    if known is None:
        culprit = _innermost(error)
        known = _of_the_machine(culprit)
    if known is None:
        say(f"internal error: {type(culprit).__name__}: {culprit} (FUMEHOOD_DEBUG=1 shows where)")
        return EXIT_INTERNAL
    say(str(known), hint=getattr(known, "hint", ""))
    return known.exit_code


def say(message: str, *, hint: str = "") -> None:
    """One line for the user on stderr, and one more for the hint."""
    from runner.ui.safe import visible  # noqa: PLC0415  # start-up time

    sys.stderr.write(f"fumehood: {visible(' '.join(message.split()))}\n")
    if hint:
        sys.stderr.write(f"  {visible(' '.join(hint.split()))}\n")
    sys.stderr.flush()


def find_known(error: BaseException) -> FumehoodError | SandboxError | None:
    """The error of ours in it: itself, the first in a group, or its cause."""
    if isinstance(error, FumehoodError | SandboxError):
        return error
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            if (known := find_known(inner)) is not None:
                return known
    return None


def _of_the_machine(error: BaseException) -> FumehoodError | SandboxError | None:
    """What the user's own machine did, wherever it was noticed: no disk, no current directory."""
    if not isinstance(error, OSError):
        return None
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        place = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
        hint = "make room where this output goes and where sessions are kept (FUMEHOOD_HOME)"
        return DiskFullError(f"{place}{error.strerror}", hint=hint)
    if isinstance(error, FileNotFoundError) and not _has_directory():
        return WorkspaceError("the current directory is gone", hint="go to one that exists")
    return None


def _has_directory() -> bool:
    try:
        os.getcwd()  # noqa: PTH109  # Path.cwd says the same with an import more
    except OSError:
        return False
    return True


def _innermost(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
