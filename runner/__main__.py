"""The process's front door: the quickest answers (`--version`) before anything is imported."""

from __future__ import annotations

import gc
import sys

YOUNG = 150_000  # objects, at which the collector looks at the young ones: more than a start makes; by default 700


def main() -> int:
    """Run the command line; returns the exit code."""
    gc.set_threshold(YOUNG)
    arguments = sys.argv[1:]
    if arguments in (["--version"], ["-v"]):
        from runner import __version__  # noqa: PLC0415  # start-up time

        sys.stdout.write(f"{__version__} (fumehood)\n")
        return 0
    from runner.cli.entry import run_command_line  # noqa: PLC0415  # start-up time

    return run_command_line(arguments)


if __name__ == "__main__":
    sys.exit(main())
